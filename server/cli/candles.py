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
@click.argument("files", nargs=-1, required=True)
@click.option("--market", required=True, help="The market to import into, new or not.")
@click.option("--provider", required=True, help="The provider to import into, new or not.")
@click.option("--symbol", help="The symbol of all candles. Default: that of each file's name.")
@click.option("--symbol-from", type=click.Choice(["name", "column"]), help="Where the symbols of many files are.")
@click.option("--timeframe", help="The length of a candle. Default: the step between the rows.")
@click.option("--timezone", help="The IANA zone of a new symbol's days, and of a file's dates. Default: the market's.")
@click.option("--clock", help="The zone of the file's times without an offset: an IANA name, or -05:00. Default: UTC.")
@click.option("--columns", metavar="FIELD=COLUMN,...", help="The columns of time, open, high, low, close and volume.")
@click.option("--date-format", metavar="FORMAT", help="How dates or times are written, such as %d/%m/%Y.")
@click.option("--decimal", type=click.Choice([",", "."]), help="The decimal sign. Default: as the numbers show.")
@click.option("--scale", type=float, help="Multiply prices by this. Default: 1, or the unit of the kind of file.")
@click.option("--stamps", type=click.Choice(["open", "close"]), help="The end of a candle that a time names.")
@click.option(
    "--skip-bad-rows", type=click.IntRange(0), default=0, metavar="N", help="Omit up to N rows that are none."
)
@click.option("--only", metavar="SYMBOL", help="Import only the rows of this symbol.")
@click.option("--from", "since", help="Omit the rows before: an instant.")
@click.option("--until", help="Omit the rows from here on: an instant, or now.")
@click.option("--drop-last", is_flag=True, help="Omit the last candle: it was still forming.")
@click.option("--keep-fillers", is_flag=True, help="Keep the flat rows without volume, where the provider has none.")
@click.option("--covers", is_flag=True, help="Nothing is missing between the first row and the last.")
@click.option("--sparse", is_flag=True, help="Something may be missing between any two rows.")
@click.option("--replace", is_flag=True, help="Withdraw stored candles of the covered spans that are not in the file.")
@click.option("--dry-run", is_flag=True, help="Print what would be imported, and store nothing.")
@command
async def import_file(
    settings: Settings,
    files: tuple[str, ...],
    market: str,
    provider: str,
    symbol: str | None,
    symbol_from: str | None,
    since: str | None,
    until: str | None,
    **options: Any,
) -> None:
    """Import FILES of candles: tables, folders, patterns and archives. Each file as a whole, or not at all."""
    from server.cli.bulk_import import Into, import_many, is_one_table, sources_of
    from server.cli.import_options import ImportOptions
    from server.cli.importing import import_candles

    if symbol is not None and symbol_from is not None:
        raise click.UsageError("--symbol and --symbol-from exclude each other.")
    end = clock.now_ms() if until == "now" else instant(until)
    given = ImportOptions(since=instant(since), until=end, **options)
    if symbol is not None and is_one_table(files):
        click.echo(await import_candles(settings, Path(files[0]), (market, provider, symbol), given))
        return
    into = Into(market, provider, symbol, symbol_from)

    def show(line: str, is_refusal: bool) -> None:
        click.echo(f"candlegraph: {line}" if is_refusal else line, err=is_refusal)

    if not await import_many(settings, sources_of(files), into, given, show):
        raise click.exceptions.Exit(1)


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
