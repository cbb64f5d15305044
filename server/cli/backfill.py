"""The commands `backfill`, `track`, `untrack` and `holes`: fetch history, and keep it complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from server.cli.command import command, instant

if TYPE_CHECKING:
    from rich.console import Console

    from candlegraph.backfill import SymbolSelection
    from server.settings import Settings

PAGE_SIZE = 500


def _job(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    """The number of a job, from its id in the API, such as `backfill:7`, or from the number alone."""
    if text is None:
        return None
    from candlegraph.identity import parse_backfill_id

    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else parse_backfill_id(text)
    if number is None:
        raise click.BadParameter(f"{text!r} is not the id of a backfill, such as backfill:7.")
    return number


@click.command()
@click.argument("market", required=False)
@click.argument("provider", required=False)
@click.argument("pattern", required=False)
@click.option("--since", help="The beginning: milliseconds, or ISO 8601 with an offset.")
@click.option("--until", help="The end. Default: now.")
@click.option("--timeframe", default="1m", show_default=True, help="A timeframe of the provider's own.")
@click.option("--priority", type=int, default=0, show_default=True, help="Higher ones go first.")
@click.option("--follow", callback=_job, metavar="ID", help="Resume a job instead: work on it and show its progress.")
@click.option("--cancel", callback=_job, metavar="ID", help="End a job instead; its stored candles stay.")
@click.option("--list", "lists", is_flag=True, help="List the newest jobs instead.")
@command
async def backfill(
    settings: Settings,
    market: str | None,
    provider: str | None,
    pattern: str | None,
    since: str | None,
    until: str | None,
    timeframe: str,
    priority: int,
    follow: int | None,
    cancel: int | None,
    lists: bool,
) -> None:
    """Fetch the missing candles of the symbols of PROVIDER that match PATTERN, such as '*/USDT'.

    The command works on the job itself, beside any running server. Ctrl-C leaves the job where it is, to be resumed.
    """
    if [follow is not None, cancel is not None, lists, market is not None].count(True) != 1:
        raise click.UsageError("Give MARKET PROVIDER PATTERN and --since, or one of --follow, --cancel and --list.")
    if market is not None and None in {provider, pattern, since}:
        raise click.UsageError("Give MARKET PROVIDER PATTERN and --since.")
    from candlegraph.backfill import BackfillRequest
    from candlegraph.timeframe import Timeframe
    from server.cli import backfill_display as backfilling

    if lists:
        await backfilling.list_backfills(settings, _console())
    elif cancel is not None:
        await backfilling.cancel_backfill(settings, cancel, _console())
    elif follow is not None:
        await backfilling.backfill(settings, follow, _console())
    else:
        chosen = _selection(str(market), str(provider), str(pattern))
        span = (instant(since) or 0, instant(until))
        order = BackfillRequest(chosen, *span, Timeframe.parse(timeframe), priority)
        await backfilling.backfill(settings, order, _console())


@click.command()
@click.argument("market")
@click.argument("provider")
@click.argument("pattern")
@click.option("--since", help="The beginning. Default: the last 30 days.")
@command
async def track(settings: Settings, market: str, provider: str, pattern: str, since: str | None) -> None:
    """Track matching symbols: from now on the servers keep their 1m candles complete."""
    from schema.scalars import print_datetime
    from server.wiring import open_runtime

    selection, earliest, console = _selection(market, provider, pattern), instant(since), _console()
    async with open_runtime(settings) as running:
        tracked = await running.services.tracking.track(selection, earliest, None)
    for one in tracked:
        console.print(
            f"{one.record.instrument} is kept complete from {print_datetime(one.since)} on.",
            highlight=False,
            markup=False,
        )
    console.print("A running server fills the holes.", highlight=False)


@click.command()
@click.argument("market")
@click.argument("provider")
@click.argument("pattern")
@command
async def untrack(settings: Settings, market: str, provider: str, pattern: str) -> None:
    """Stop tracking matching symbols; stored candles stay."""
    from server.wiring import open_runtime

    selection, console = _selection(market, provider, pattern), _console()
    async with open_runtime(settings) as running:
        count = await running.services.tracking.untrack(selection)
    console.print(f"{count} of them {'was' if count == 1 else 'were'} tracked; stored candles stay.", highlight=False)


@click.command()
@command
async def holes(settings: Settings) -> None:
    """List the gaps of tracked series, with reasons."""
    from rich.table import Table

    from schema.scalars import print_datetime
    from server.wiring import open_runtime

    table, console = Table("symbol", "since", "until", "minutes", "reason", "detail", box=None), _console()
    after = count = 0
    async with open_runtime(settings) as running:
        while page := await running.services.tracking.page(PAGE_SIZE, after):
            for one in page:
                count += 1
                for gap in one.gaps:
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


def _selection(market: str, provider: str, pattern: str) -> SymbolSelection:
    from resolvers.backfills import selection

    named = not set("*?[") & set(pattern)
    return selection(market, provider, [pattern] if named else None, None if named else pattern)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    return console
