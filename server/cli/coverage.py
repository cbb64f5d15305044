"""The commands `coverage forget` and `coverage log`: withdraw coverage, and list what was withdrawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from candlegraph.errors import NotFound
from server.cli.command import command, print_table, span_between

if TYPE_CHECKING:
    from candlegraph.span import Span
    from server.settings import Settings
    from storage.database import Database

FORGOTTEN = "candlegraph coverage forget"


@click.group()
def coverage() -> None:
    """Withdraw claims of coverage, and list what was withdrawn.

    Coverage is the time for which a provider or an import was complete. The server fetches nothing within it again.
    """


@coverage.command()
@click.argument("market")
@click.argument("provider")
@click.argument("pattern")
@click.option("--since", help="Keep the coverage before. Milliseconds, or ISO 8601 with an offset.")
@click.option("--until", help="Keep the coverage from here on. Milliseconds, or ISO 8601 with an offset.")
@command
async def forget(
    settings: Settings, market: str, provider: str, pattern: str, since: str | None, until: str | None
) -> None:
    """Withdraw the coverage of the symbols like PATTERN, so that the server fetches the time between their candles again.

    A stored candle stays, and so does the coverage of its own bucket. Running servers notice it.
    """
    from server.wiring import database

    span = span_between(since, until)
    async with database(settings) as opened:
        rows = await _forget(opened, (market, provider, pattern), span)
    print_table(("symbol", "timeframe", "spans", "uncovered"), rows)


async def _forget(opened: Database, name: tuple[str, str, str], span: Span) -> list[tuple[object, ...]]:
    from candlegraph.span import Spans
    from storage.aggregates.verify import instruments_matching
    from storage.candles import CandleStore
    from storage.change_feed import ChangeFeed
    from storage.instruments import Instruments
    from storage.withdrawals import covered_series, withdraw

    found = await instruments_matching(opened, *name)
    if not found:
        raise NotFound("Nothing is stored under that name.")
    store = CandleStore(opened, ChangeFeed(opened))
    rows: list[tuple[object, ...]] = []
    for record in await Instruments(opened).by_id([instrument_id for instrument_id, _ in found]):
        for series in await covered_series(opened, record):
            lost = await withdraw(store, series, Spans([span]), FORGOTTEN)
            uncovered = sum(part.until - part.since for part in lost)
            rows.append((record.instrument, series.timeframe, len(lost), _duration(uncovered)))
    return rows


@coverage.command()
@click.argument("market", required=False)
@click.argument("provider", required=False)
@click.argument("pattern", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@command
async def log(settings: Settings, market: str | None, provider: str | None, pattern: str | None, limit: int) -> None:
    """List the newest withdrawals: of everything, or of a MARKET, a PROVIDER and the symbols like PATTERN."""
    from schema.scalars import print_datetime
    from server.wiring import database
    from storage.aggregates.verify import like
    from storage.withdrawals import newest_withdrawals

    async with database(settings) as opened:
        found = await newest_withdrawals(opened, market, provider, like(pattern), limit)
    print_table(
        ("withdrawn", "series", "since", "until", "uncovered", "candles", "reason"),
        [
            (
                print_datetime(one.at),
                f"{one.instrument} {one.timeframe}",
                print_datetime(one.span.since),
                print_datetime(one.span.until),
                _duration(one.uncovered),
                one.candles,
                one.reason,
            )
            for one in found
        ],
        width=200,
    )


def _duration(ms: int) -> str:
    """A length of time in days and minutes: ``2d 00:05``."""
    days, minutes = divmod(ms // 60_000, 1440)
    clock = f"{minutes // 60:02}:{minutes % 60:02}"
    return f"{days:,}d {clock}" if days else clock
