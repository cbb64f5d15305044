"""Checks of the store, for the command line, with a bar on a terminal and a line an instrument elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from candlegraph.errors import BadUserInput, NotFound
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE
from history.upstream_check import DayCheck, check_days, stored_days
from server.settings import Settings
from server.wiring import database, open_runtime
from storage.aggregates.layout import AggregateLayout, stored_layout
from storage.aggregates.refresh import AggregateRefresher
from storage.aggregates.verify import Tally, Verification, instruments_matching, totals
from storage.candles import CandleStore
from storage.change_feed import ChangeFeed
from storage.database import Database
from storage.migration.upgrade import task_tallies, withdrawal_tallies
from storage.relations import read_aggregates


async def verify_stored(
    settings: Settings, name: tuple[str | None, str | None, str | None], span: Span, *, repair: bool
) -> list[Tally]:
    """Check the instruments of a market, a provider and a pattern of symbols: one tally for each relation.

    NotFound if nothing is stored under a name that is given.
    """
    async with database(settings) as opened:
        instruments = await instruments_matching(opened, *name)
        if any(name) and not instruments:
            raise NotFound("Nothing is stored under that name.")
        levels = await read_aggregates(opened, inactive=True)
        kind = await stored_layout(opened)
        refresher = AggregateRefresher(opened, kind) if kind is AggregateLayout.CONTINUOUS else None
        verification = Verification(CandleStore(opened, ChangeFeed(opened)), levels, span, repair, refresher)
        tallies = [] if any(name) else await verification.orphans()
        with _progress(len(instruments)) as tell:
            for instrument_id, instrument in instruments:
                found = [tally async for tally in verification.check(instrument_id)]
                tell(instrument, found)
                tallies += found
        await _print_withdrawals(opened)
        return totals(levels, tallies)


async def verify_upstream(
    settings: Settings, name: tuple[str, str, str], days: int
) -> tuple[list[tuple[Instrument, DayCheck]], list[tuple[Instrument, str]]]:
    """Compare the newest stored days of each symbol with the provider's and correct them; and which symbols it left off at.

    NotFound if nothing is stored under the name.
    """
    checks: list[tuple[Instrument, DayCheck]] = []
    unanswered: list[tuple[Instrument, str]] = []
    async with open_runtime(settings) as running:
        history = running.services.history
        found = await instruments_matching(running.database, *name)
        if not found:
            raise NotFound("Nothing is stored under that name.")
        upstream = await history.providers.get(name[0], name[1])
        if upstream is None:
            raise NotFound(f"No provider serves {name[0]}/{name[1]}: it was imported.")
        if MINUTE not in upstream.capabilities.timeframes:
            raise BadUserInput(f"{upstream.name} has no 1m candles to compare with.")
        for record in await history.instruments.by_id([instrument_id for instrument_id, _ in found]):
            covered = (await history.coverage_cache.load([record.id]))[0].spans.get(MINUTE, Spans())
            compared, error = await check_days(history.revisions, record, upstream, stored_days(covered, days))
            checks += [(record.instrument, check) for check in compared]
            if error:
                unanswered.append((record.instrument, error.message))
    return checks, unanswered


async def _print_withdrawals(opened: Database) -> None:
    """Print the checks after an upgrade, and the withdrawals."""
    for tally in await task_tallies(opened):
        click.echo(f"upgrade, {tally.step}: {tally.done:,} of {tally.tasks:,} series checked", err=True)
    for reason, count, uncovered, candles in await withdrawal_tallies(opened):
        click.echo(
            f"{reason}: {count:,} withdrawals, {uncovered // 60_000:,} minutes uncovered, {candles:,} candles corrected",
            err=True,
        )


@contextmanager
def _progress(instruments: int) -> Iterator[Callable[[Instrument, list[Tally]], None]]:
    console = Console(file=sys.stderr)
    if not console.is_terminal:

        def line(instrument: Instrument, tallies: list[Tally]) -> None:
            if tallies:
                checked, wrong = sum(tally.checked for tally in tallies), sum(tally.wrong for tally in tallies)
                click.echo(f"{instrument}: {checked} checked, {wrong} wrong", err=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("verifying", total=instruments)
        yield lambda instrument, _: progress.update(task, advance=1, description=instrument.symbol[:32])
