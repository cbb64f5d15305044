"""Bring a file of candles into the store: read and check all of it, then write it in one transaction."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from candlegraph.errors import BadUserInput
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from candlegraph.zone import zone
from providers.tables.reader import read_table
from resolvers.names import instrument
from server.settings import Settings
from server.wiring import Machine, machine
from storage.batches import Write


async def import_candles(
    settings: Settings,
    file: Path,
    name: tuple[str, str, str],
    *,
    timeframe: str | None,
    timezone: str | None,
    drop_last: bool,
    replaces: bool = False,
) -> str:
    """Import ``file`` as candles of ``name`` (market, provider, symbol); a sentence that says what was done.

    Covers the first row to the last plus one step, without the minutes that are not kept any more (BadUserInput where that
    is all of them). Where it ``replaces``, stored candles between them are withdrawn. InvalidCandles names the rows that are none; nothing is stored then.
    """
    target = instrument(*name)
    asked = None if timeframe is None else Timeframe.parse(timeframe)
    async with machine(settings) as running:
        existing = (await running.services.history.instruments.kept([target])).get(target)
        if existing and timezone and existing.timezone != timezone:
            raise BadUserInput(f"{target} has the time zone {existing.timezone} already, not {timezone}.")
        days = zone(timezone or (existing.timezone if existing else _market_zone(running, target.market)))
        table = await asyncio.to_thread(read_table, file, asked, days, drop_last=drop_last)
        record = await running.services.history.instruments.imported(target, days.name)
        stamps = table.candles.timestamp
        end = table.timeframe.next(int(stamps[-1]), days)
        whole = Write(record.id, table.timeframe, table.candles, Spans([Span(int(stamps[0]), end)]), "i", replaces)
        horizon = await running.store.horizon()
        kept = whole.since(horizon)
        if not len(kept.candles):
            raise BadUserInput(
                f"None of these candles was imported: 1-minute candles before {_day(horizon)} are not kept."
            )
        await _write(running, kept)
    left_out = len(stamps) - len(kept.candles)
    note = f" {left_out:,} were left out: 1-minute candles before {_day(horizon)} are not kept." if left_out else ""
    return f"Imported {len(kept.candles):,} candles of {table.timeframe} into {target}.{note}"


async def _write(running: Machine, kept: Write) -> None:
    columns = (TextColumn("importing"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task("", total=len(kept.candles))
        await running.store.write([kept], progress=lambda rows: progress.advance(task, rows))


def _day(instant: int | None) -> str:
    return datetime.fromtimestamp((instant or 0) / 1000, UTC).date().isoformat()


def _market_zone(running: Machine, market: str) -> str:
    zones = [status.market.timezone for status in running.services.providers.statuses() if status.market.id == market]
    return zones[0] if zones else "UTC"
