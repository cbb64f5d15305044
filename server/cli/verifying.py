"""Check what is stored, for the command line, with a bar on a terminal and a line an instrument elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from candlegraph.errors import NotFound
from candlegraph.series import Instrument
from candlegraph.span import Span
from server.settings import Settings
from server.wiring import database
from storage.aggregates.layout import Aggregates, layout_of
from storage.aggregates.refresh import Refresher
from storage.aggregates.verify import Tally, Verification, instruments_matching, totals
from storage.candles import CandleStore
from storage.change_feed import Changes
from storage.relations import read_levels


async def verify_stored(
    settings: Settings, name: tuple[str | None, str | None, str | None], span: Span, *, repair: bool
) -> list[Tally]:
    """Check the instruments of a market, a provider and a pattern of symbols: what was found, a relation each.

    NotFound where something is named and nothing of the name is stored.
    """
    async with database(settings) as opened:
        instruments = await instruments_matching(opened, *name)
        if any(name) and not instruments:
            raise NotFound("Nothing of that name is stored.")
        levels = await read_levels(opened, inactive=True)
        kind = await layout_of(opened)
        refresher = Refresher(opened, kind) if kind is Aggregates.CONTINUOUS else None
        verification = Verification(CandleStore(opened, Changes(opened)), levels, span, repair, refresher)
        tallies = [] if any(name) else await verification.orphans()
        with _progress(len(instruments)) as tell:
            for instrument_id, instrument in instruments:
                found = [tally async for tally in verification.check(instrument_id)]
                tell(instrument, found)
                tallies += found
        return totals(levels, tallies)


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
