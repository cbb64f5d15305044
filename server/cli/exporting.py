"""The command `export`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from server.cli.command import command, instant

if TYPE_CHECKING:
    from history.export import ExportRequest, SeriesExport
    from server.settings import Settings

_SHOWN_GAPS = 10
_FORMATS = ("parquet", "arrow", "csv", "jsonl")


@click.command()
@click.argument("market")
@click.argument("provider")
@click.argument("pattern")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--timeframe", default="1m", show_default=True)
@click.option("--since", help="Milliseconds, or ISO 8601 with an offset. Default: the first stored candle.")
@click.option("--until", help="Milliseconds, or ISO 8601 with an offset. Default: the last final candle.")
@click.option("--timezone", help="The IANA zone of days and longer. Default: the symbol's.")
@click.option(
    "--session",
    type=click.Choice(["ALL", "REGULAR", "EXTENDED"], case_sensitive=False),
    default="ALL",
    help="Which trading counts below a day, for symbols with a trading calendar. Default: ALL.",
)
@click.option(
    "--format", "kind", type=click.Choice(_FORMATS), help="Default: by the suffix of TARGET; in a folder parquet."
)
@click.option(
    "--folder", is_flag=True, help="TARGET is a folder: a file a year and symbol; only changed years are written."
)
@command
async def export(
    settings: Settings,
    market: str,
    provider: str,
    pattern: str,
    target: Path,
    timeframe: str,
    since: str | None,
    until: str | None,
    timezone: str | None,
    session: str,
    kind: str | None,
    *,
    folder: bool,
) -> None:
    """Write stored candles of the symbols like PATTERN into TARGET: a file, or with --folder a folder kept up to date.

    No provider is called: what is not stored is listed as missing, in the sidecar JSON and on stderr.
    """
    from candlegraph.timeframe import Timeframe
    from candlegraph.trading_calendar import SessionFilter
    from candlegraph.zone import zone
    from history.export import ExportRequest
    from resolvers.names import provider_of

    chosen = kind or ("parquet" if folder else target.suffix.removeprefix("."))
    if chosen not in _FORMATS:
        raise click.UsageError(f"Name the --format, or give TARGET one of the suffixes {', '.join(_FORMATS)}.")
    buckets = zone(timezone) if timezone else None
    span = instant(since), instant(until)
    names, trading = provider_of(market, provider), SessionFilter(session.upper())
    request = ExportRequest(*names, Timeframe.parse(timeframe), (), pattern, *span, buckets, session=trading)
    await _write(settings, request, target, chosen, folder=folder)


async def _write(settings: Settings, request: ExportRequest, target: Path, kind: str, *, folder: bool) -> None:
    from history.export import open_export
    from resolvers.context import Context
    from resolvers.nodes import resolve_server_id
    from server.export.files import FileExport
    from server.wiring import open_runtime

    async with open_runtime(settings) as running:
        history = running.services.history
        exports = await open_export(history, request)
        server_id = str(await resolve_server_id(Context(running.services, "cli")))
        with _progress(exports) as report:
            writer = FileExport(history, server_id, kind, report)
            if folder:
                rows, files = await writer.write_folder(exports, target)
            else:
                rows, files = await writer.write_file(exports, target), 1
    for one in exports:
        _print_gaps(one)
    click.echo(f"Wrote {rows:,} candles of {len(exports)} series into {files} files of {target}.")


@contextmanager
def _progress(exports: Sequence[SeriesExport]) -> Iterator[Callable[[SeriesExport, int, int], None]]:
    """A bar over the time that the series span, where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("exporting {task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task("", total=sum(one.span.until - one.span.since for one in exports))
        before = {}
        total = 0
        for one in exports:
            before[id(one.record)] = total - one.span.since
            total += one.span.until - one.span.since

        def report(one: SeriesExport, reached: int, _: int) -> None:
            done = before[id(one.record)] + reached
            shown.update(task, completed=done, description=one.record.instrument.symbol)

        yield report


def _print_gaps(one: SeriesExport) -> None:
    from schema.scalars import print_datetime

    name = one.record.instrument.symbol
    for gap in one.gaps[:_SHOWN_GAPS]:
        span = f"{print_datetime(gap.since)} .. {print_datetime(gap.until)}"
        click.echo(f"{name}: missing {span} {gap.reason}: {gap.detail}", err=True)
    if len(one.gaps) > _SHOWN_GAPS:
        click.echo(f"{name}: and {len(one.gaps) - _SHOWN_GAPS:,} more gaps; the sidecar JSON lists them.", err=True)
