"""The commands `import`, `candles`, `verify` and `corrections`."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from candlegraph import clock
from server.cli.command import command, instant, print_table, span_between

if TYPE_CHECKING:
    from candlegraph.candle import Candles
    from candlegraph.span import Span
    from server.settings import Settings
    from storage.corrections import CandleVersion


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--market", required=True, help="The market to import into, new or not.")
@click.option("--provider", required=True, help="The provider to import into, new or not.")
@click.option("--symbol", required=True, help="The symbol of the candles.")
@click.option("--timeframe", help="The length of a candle. Default: the step between the rows.")
@click.option("--timezone", help="The IANA zone of a new symbol's days, and of a file's dates. Default: the market's.")
@click.option("--clock", help="The zone of the file's times without an offset: an IANA name, or -05:00. Default: UTC.")
@click.option("--only", metavar="SYMBOL", help="Import only the rows of this symbol.")
@click.option("--until", help="Omit the rows from here on: an instant, or now.")
@click.option("--drop-last", is_flag=True, help="Omit the last candle: it was still forming.")
@click.option("--keep-fillers", is_flag=True, help="Keep the flat rows without volume, where the provider has none.")
@click.option("--covers", is_flag=True, help="Nothing is missing between the first row and the last.")
@click.option("--sparse", is_flag=True, help="Something may be missing between any two rows.")
@click.option("--replace", is_flag=True, help="Withdraw stored candles of the covered spans that are not in the file.")
@click.option("--dry-run", is_flag=True, help="Print what would be imported, and store nothing.")
@command
async def import_file(
    settings: Settings, file: Path, market: str, provider: str, symbol: str, until: str | None, **options: Any
) -> None:
    """Import a CSV, CSV.gz or Parquet FILE of candles: all of it, or nothing if a row is bad."""
    from server.cli.importing import ImportOptions, import_candles

    end = clock.now_ms() if until == "now" else instant(until)
    click.echo(await import_candles(settings, file, (market, provider, symbol), ImportOptions(until=end, **options)))


@click.command()
@click.argument("market")
@click.argument("provider")
@click.argument("symbol")
@click.option("--timeframe", default="1m", show_default=True)
@click.option("--since", help="Milliseconds, or ISO 8601 with an offset.")
@click.option("--until", help="Milliseconds, or ISO 8601 with an offset.")
@click.option("--limit", type=int)
@click.option("--format", "style", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@command
async def candles(
    settings: Settings,
    market: str,
    provider: str,
    symbol: str,
    timeframe: str,
    since: str | None,
    until: str | None,
    limit: int | None,
    style: str,
) -> None:
    """Print candles, and on stderr their gaps."""
    from candlegraph.series import Series
    from candlegraph.timeframe import Timeframe
    from resolvers.candles import resolve_candles
    from resolvers.context import Context
    from resolvers.names import instrument
    from schema.scalars import print_datetime
    from server.wiring import open_runtime

    async with open_runtime(settings) as running:
        answer = await resolve_candles(
            Context(running.services, "cli"),
            Series(instrument(market, provider, symbol), Timeframe.parse(timeframe)),
            since=instant(since),
            until=instant(until),
            limit=limit,
        )
    _print_candles(answer.candles, style)
    for gap in answer.gaps:
        missing = f"{print_datetime(gap.since)} .. {print_datetime(gap.until)}"
        click.echo(f"missing {missing} {gap.reason}: {gap.detail}", err=True)


def _print_candles(candles: Candles, style: str) -> None:
    from schema.scalars import print_datetime

    names = ("timestamp", "time", "open", "high", "low", "close", "volume", "closed")
    rows = [
        (c.timestamp, print_datetime(c.timestamp), c.open, c.high, c.low, c.close, c.volume, c.closed) for c in candles
    ]
    if style == "json":
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=1))
    elif style == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([names, *rows])
    else:
        print_table(names[1:], [row[1:] for row in rows])


@click.command()
@click.argument("market", required=False)
@click.argument("provider", required=False)
@click.argument("pattern", required=False)
@click.option("--since", help="Check nothing older. Milliseconds, or ISO 8601 with an offset.")
@click.option("--until", help="Check nothing from here on. Milliseconds, or ISO 8601 with an offset.")
@click.option("--repair", is_flag=True, help="Repair wrong buckets, and check them again.")
@click.option(
    "--upstream", is_flag=True, help="Compare stored 1m candles with the provider's instead, and correct them."
)
@click.option(
    "--days", type=click.IntRange(1, 3660), help="With --upstream: so many stored days, newest first. Default: 1."
)
@command
async def verify(
    settings: Settings,
    market: str | None,
    provider: str | None,
    pattern: str | None,
    since: str | None,
    until: str | None,
    repair: bool,
    upstream: bool,
    days: int | None,
) -> None:
    """Check every aggregate against its 1m candles: all, or those of a MARKET, a PROVIDER and the symbols like PATTERN."""
    if upstream:
        if None in {market, provider, pattern} or repair or since is not None or until is not None:
            raise click.UsageError("--upstream takes MARKET PROVIDER PATTERN, and no option but --days.")
        await _verify_upstream(settings, (str(market), str(provider), str(pattern)), days or 1)
        return
    if days is not None:
        raise click.UsageError("--days needs --upstream.")
    await _verify_stored(settings, (market, provider, pattern), span_between(since, until), repair=repair)


async def _verify_stored(
    settings: Settings, name: tuple[str | None, str | None, str | None], span: Span, *, repair: bool
) -> None:
    from server.cli.verifying import verify_stored

    tallies = await verify_stored(settings, name, span, repair=repair)
    print_table(
        ("relation", "checked", "missing", "extra", "different"),
        [(t.relation, t.checked, t.missing, t.extra, t.different) for t in tallies],
    )
    if any(tally.wrong for tally in tallies):
        raise click.exceptions.Exit(1)


async def _verify_upstream(settings: Settings, name: tuple[str, str, str], days: int) -> None:
    from schema.scalars import print_datetime
    from server.cli.verifying import verify_upstream

    checks, unanswered = await verify_upstream(settings, name, days)
    print_table(
        ("symbol", "day", "checked", "missing", "extra", "different", "not corrected"),
        [
            (one, print_datetime(c.day.since)[:10], c.checked, c.missing, c.extra, c.different, c.kept)
            for one, c in checks
        ],
    )
    for one, reason in unanswered:
        click.echo(f"{one} could not be compared: {reason}", err=True)
    if unanswered or any(check.wrong for _, check in checks):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("market", required=False)
@click.argument("provider", required=False)
@click.argument("symbol", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@command
async def corrections(
    settings: Settings, market: str | None, provider: str | None, symbol: str | None, limit: int
) -> None:
    """List the newest changes of candles that were final: of everything, or of a MARKET, a PROVIDER and a SYMBOL."""
    from schema.scalars import print_datetime
    from server.wiring import database
    from storage.corrections import newest_corrections

    def shown(version: CandleVersion | None) -> str:
        return "none" if version is None else " ".join([*map(str, version.numbers), f"({version.source})"])

    async with database(settings) as opened:
        found = await newest_corrections(opened, market, provider, symbol, limit)
    print_table(
        ("corrected", "series", "candle", "old (o h l c v)", "new (o h l c v)"),
        [
            (
                print_datetime(round(c.corrected_at.timestamp() * 1000)),
                f"{c.instrument} {c.timeframe}",
                print_datetime(c.timestamp),
                shown(c.old),
                shown(c.new),
            )
            for c in found
        ],
    )
