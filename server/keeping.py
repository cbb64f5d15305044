"""The commands `track`, `untrack` and `holes`: series that are kept complete."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from candlegraph.job import Selection
from schema.scalars import print_datetime
from server.machine import machine
from server.settings import Settings

PAGE = 500


async def track(settings: Settings, selection: Selection, since: int | None, console: Console) -> None:
    """Keep symbols complete; a server does the work."""
    async with machine(settings) as running:
        tracked = await running.services.tracking.track(selection, since, None)
    for one in tracked:
        console.print(
            f"{one.record.instrument} is kept complete from {print_datetime(one.since)} on.",
            highlight=False,
            markup=False,
        )
    console.print("A running server fills the holes.", highlight=False)


async def untrack(settings: Settings, selection: Selection, console: Console) -> None:
    """Keep them so no longer."""
    async with machine(settings) as running:
        count = await running.services.tracking.untrack(selection)
    console.print(f"{count} of them {'was' if count == 1 else 'were'} tracked; what is stored stays.", highlight=False)


async def print_holes(settings: Settings, console: Console) -> None:
    """Print what is missing of tracked series, and why."""
    table = Table("symbol", "since", "until", "minutes", "reason", "detail", box=None)
    after = count = 0
    async with machine(settings) as running:
        while page := await running.services.tracking.page(PAGE, after):
            for one in page:
                count += 1
                for gap in one.holes:
                    span = (
                        print_datetime(gap.since),
                        print_datetime(gap.until),
                        f"{(gap.until - gap.since) // 60_000:,}",
                    )
                    table.add_row(str(one.record.instrument), *span, gap.reason, gap.detail or "")
            after = page[-1].record.id
    if table.row_count:
        console.print(table)
    console.print(f"{count:,} tracked series, {table.row_count:,} holes.", highlight=False)
