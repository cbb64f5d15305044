"""Imports a file of candles into the store: reads and checks all of it, then writes it in one transaction."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from candlegraph import clock
from candlegraph.candle import Bools, Candles
from candlegraph.errors import BadUserInput, CandlegraphError, InvalidCandles
from candlegraph.evidence import bucket_ends
from candlegraph.identity import check_new_name
from candlegraph.series import Instrument, InstrumentRecord
from candlegraph.timeframe import Timeframe
from candlegraph.zone import Int64s, Zone, zone
from providers.tables.reader import RawTable, Table, read_raw
from resolvers.names import instrument
from schema.scalars import print_datetime
from server.cli.claim import Claim
from server.cli.import_options import ImportOptions
from server.settings import Settings
from server.wiring import Runtime, open_runtime
from storage.batches import CandleWrite
from storage.imports import imported_beside

_MAX_REFUSAL_LINES = 10
_COLUMNS = (TextColumn("importing"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())


@dataclass(frozen=True, slots=True)
class _Kept:
    """The candles of a table that are imported, and how many rows were left out for which reason.

    ``seen`` are the openings of the rows that are evidence: those kept, minutes without a trade too, and the first one
    left out behind them. No claim goes beyond ``until``.
    """

    candles: Candles
    left_out: dict[str, int]
    seen: Int64s
    until: int


@dataclass(frozen=True, slots=True)
class PreparedImport:
    """A table on its way into the store: its target, the write (without the instrument's number), and lines for the user."""

    target: Instrument
    existing: InstrumentRecord | None
    days: Zone
    table: Table
    write: CandleWrite
    lines: tuple[str, ...]

    @property
    def count(self) -> str:
        """The number of candles, in words."""
        return f"{len(self.write.candles):,} candles of {self.table.timeframe}"


async def import_candles(
    settings: Settings, file: Path, name: tuple[str, str, str], options: ImportOptions | None = None
) -> str:
    """Import ``file`` as candles of ``name`` (market, provider, symbol); the lines list what was read, left out and covered.

    InvalidCandles names the rows that are none; BadUserInput if no candle is kept any more. Nothing is stored then.
    """
    target, options = instrument(*name), options or ImportOptions()
    check_new_name("market", target.market)
    check_new_name("provider", target.provider)
    hints = options.hints()
    if not await asyncio.to_thread(file.exists):
        raise InvalidCandles(f"{file.name}: there is no such file")
    async with open_runtime(settings, create=True) as running:
        existing, days = await target_of(running, target, options)
        try:
            raw = await asyncio.to_thread(read_raw, file, hints)
            prepared = await prepare(running, raw, (target, existing, days), options, options.asked)
        except InvalidCandles as error:
            raise InvalidCandles("\n".join(refusal_lines(error, _zone_line(target, days)))) from None
        lines = [*prepared.lines, *_warnings(file, prepared)]
        if options.dry_run:
            return "\n".join(
                [*lines, f"Nothing was stored, this is a dry run: {prepared.count} would go into {target}."]
            )
        with Progress(*_COLUMNS, console=Console(file=sys.stderr), transient=True) as progress:
            task = progress.add_task("", total=len(prepared.write.candles))
            await store(running, [prepared], lambda rows: progress.advance(task, rows))
    return "\n".join([*lines, f"Imported {prepared.count} into {target}."])


def refusal_lines(error: CandlegraphError, *known: str) -> list[str]:
    """At most ten lines about a refused file: the reasons first, then what is ``known`` of it."""
    return "\n".join([error.message, *getattr(error, "__notes__", []), *known]).splitlines()[:_MAX_REFUSAL_LINES]


async def target_of(
    running: Runtime, target: Instrument, options: ImportOptions
) -> tuple[InstrumentRecord | None, Zone]:
    """The stored instrument of a target, None for a new one, and the zone of its days. BadUserInput."""
    existing = (await running.services.history.instruments.get_stored([target])).get(target)
    return existing, zone(_days(running, target, existing, options.timezone))


async def prepare(
    running: Runtime,
    raw: RawTable,
    of: tuple[Instrument, InstrumentRecord | None, Zone],
    options: ImportOptions,
    timeframe: Timeframe | None,
) -> PreparedImport:
    """Read the candles of a table and judge what they cover. InvalidCandles, BadUserInput."""
    target, existing, days = of
    table = await asyncio.to_thread(raw.table, timeframe, days, drop_last=options.drop_last)
    drops = not options.keep_fillers and _drops_fillers(running, target, existing)
    kept = _kept(raw.place.name, table, days, options.until, drops_fillers=drops)
    claim = Claim.of(kept.seen, table.timeframe, days, kept.until, covers=options.covers, sparse=options.sparse)
    if existing and not options.sparse:
        claim = claim.joined(await imported_beside(running.database, existing.id, table.timeframe, claim.spans))
    write = CandleWrite(0, table.timeframe, kept.candles, claim.spans, "i", options.replace)
    write, older = _since(write, await running.store.horizon())
    lines = [*table.facts, _zone_line(target, days), _left_out(kept.left_out | older), *claim.lines()]
    return PreparedImport(target, existing, days, table, write, tuple(lines))


async def store(running: Runtime, prepared: Sequence[PreparedImport], progress: Callable[[int], None]) -> None:
    """Store tables in one transaction, and create their instruments."""
    writes = []
    for one in prepared:
        has_volume = one.table.has_volume
        record = await running.services.history.instruments.get_or_create(
            one.target, one.days.name, has_volume=has_volume
        )
        writes.append(replace(one.write, instrument_id=record.id))
    await running.store.write(writes, progress=progress)


def _zone_line(target: Instrument, days: Zone) -> str:
    return f"Time zone of {target.symbol}: {days.name}."


def _since(write: CandleWrite, horizon: int | None) -> tuple[CandleWrite, dict[str, int]]:
    """The part of a write that is kept, and the number of candles that are too old; BadUserInput if all are."""
    kept, day = write.dropping_before(horizon), print_datetime(horizon or 0)[:10]
    if not len(kept.candles):
        raise BadUserInput(f"None of these candles was imported: 1-minute candles before {day} are not kept.")
    return kept, {f"older than {day}, before which 1m candles are not kept": len(write.candles) - len(kept.candles)}


def _kept(name: str, table: Table, days: Zone, until: int | None, *, drops_fillers: bool) -> _Kept:
    """The final candles to import. InvalidCandles if a row opens in the future, or none is left."""
    now, stamps = clock.now_ms(), table.candles.timestamp
    wanted = np.ones(len(stamps), np.bool_) if until is None else stamps < until
    if (future := wanted & (stamps > now)).any():
        raise _refused(
            name,
            table,
            f"{np.count_nonzero(future):,} of its rows open later than now ({print_datetime(now)}), the first at "
            f"{print_datetime(int(stamps[future.argmax()]))}: correct them, or leave them out with --until now",
        )
    over = bucket_ends(stamps, table.timeframe, days) <= now
    candles = _only(table.candles, wanted & over)
    fillers = candles.fillers() & (drops_fillers and bool(candles.volume.any()))
    left_out = {
        "by --drop-last": len(table.dropped),
        "from --until on": int(np.count_nonzero(~wanted)),
        "not over yet": int(np.count_nonzero(wanted & ~over)),
        "without a trade (flat, no volume)": int(np.count_nonzero(fillers)),
        "repeated": table.rows - len(stamps) - len(table.dropped),
    }
    if not len(candles):
        raise _refused(name, table, f"no row is left to import. {_left_out(left_out)}")
    dropped = np.append(stamps[~(wanted & over)], table.dropped)
    dropped = np.sort(dropped[dropped <= now])[:1]
    end = min(table.timeframe.floor(now, days), int(dropped.min(initial=now)))
    return _Kept(_only(candles, ~fillers), left_out, np.append(candles.timestamp, dropped), end)


def _only(candles: Candles, kept: Bools) -> Candles:
    """Those of the mask; the same object where it has all of them: of a large file each copy is hundreds of megabytes."""
    return candles if kept.all() else candles[kept]


def _refused(name: str, table: Table, reason: str) -> InvalidCandles:
    return InvalidCandles("\n".join([f"{name}: {reason}", *table.facts]))


def _left_out(counts: dict[str, int]) -> str:
    return f"Left out: {', '.join(f'{count:,} {why}' for why, count in counts.items() if count) or 'none'}."


def _warnings(file: Path, prepared: PreparedImport) -> Iterator[str]:
    """Warnings from a look at the file itself."""
    written, table = int(file.stat().st_mtime * 1000), prepared.table
    if table.timeframe.next(int(prepared.write.candles.timestamp[-1]), prepared.days) > written and not len(
        table.dropped
    ):
        yield (
            f"The file was written at {print_datetime(written)}, before its last candle was over: "
            "if that one was still forming, import the file again with --drop-last."
        )


def _days(running: Runtime, target: Instrument, existing: InstrumentRecord | None, wanted: str | None) -> str:
    """The zone of the symbol's days: an existing one keeps its own, a new one has the market's."""
    if existing is None:
        return wanted or _market_zone(running, target.market)
    if wanted and existing.timezone != wanted:
        raise BadUserInput(
            f"{target} has the time zone {existing.timezone} already, not {wanted}: --clock names that of the file's times."
        )
    return existing.timezone


def _market_zone(running: Runtime, market: str) -> str:
    zones = [status.market.timezone for status in running.services.providers.statuses() if status.market.id == market]
    return zones[0] if zones else "UTC"


def _drops_fillers(running: Runtime, target: Instrument, existing: InstrumentRecord | None) -> bool:
    """Whether the provider's own candles come without minutes without a trade."""
    return (existing is None or existing.has_volume) and any(
        status.capabilities.has_volume and status.budget is not None  # None: its capabilities are unknown
        for status in running.services.providers.statuses()
        if (status.market.id, status.id) == (target.market, target.provider)
    )
