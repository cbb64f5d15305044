"""The command line: `candlegraph`."""

from __future__ import annotations

import asyncio
import csv
import json
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import click

from candlegraph.errors import BadUserInput, CandlegraphError, ConfigurationError
from server.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from candlegraph.job import Selection

P = ParamSpec("P")

_NUMBERS = frozenset({"open", "high", "low", "close", "volume", "checked", "missing", "extra", "different"})


def _command(run: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Run a coroutine as a command: an error of our tree is one line on stderr, and the exit code says so."""

    @wraps(run)
    def command(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            asyncio.run(_stoppable(run(*args, **kwargs)))
        except ConfigurationError as error:
            click.echo(f"candlegraph: {error.message}", err=True)
            sys.exit(2)
        except CandlegraphError as error:
            click.echo(f"candlegraph: {error.message}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            sys.exit(130)
        except asyncio.CancelledError:
            sys.exit(143)

    return command


async def _stoppable(work: Coroutine[object, object, None]) -> None:
    """Await ``work``; SIGTERM cancels it, so that it cleans up, where it would end the process on the spot."""
    task = asyncio.ensure_future(work)
    if sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


def _settings(**overrides: object) -> Settings:
    settings = Settings.read(**overrides)
    level = settings.log_level.upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("ccxt").setLevel(max(logging.INFO, logging.getLogger().level))  # below, it logs headers with keys
    logging.getLogger("asyncpg").setLevel(logging.ERROR)  # its pool writes a traceback a try while the database is away
    return settings


_data_dir = click.option("--data-dir", type=click.Path(path_type=Path), help="Instead of DATA_DIR.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="candlegraph", prog_name="candlegraph")
def main() -> None:
    """Collect, store, aggregate and serve OHLCV candles over one GraphQL API."""


@main.command()
@click.option("--host", help="Instead of HOST.")
@click.option("--port", type=int, help="Instead of PORT.")
@_data_dir
@_command
async def serve(host: str | None, port: int | None, data_dir: Path | None) -> None:
    """Run the server until Ctrl-C."""
    settings = _settings(host=host, port=port, data_dir=data_dir)
    from server.serve import serve as run  # noqa: PLC0415 - the other commands need no web server

    await run(settings)


@main.command()
@_data_dir
@_command
async def migrate(data_dir: Path | None) -> None:
    """Bring the database up to date (`serve` does it by itself)."""
    settings = _settings(data_dir=data_dir)
    from server.machine import database  # noqa: PLC0415

    async with database(settings):
        click.echo("The database is up to date.")


@main.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--market", required=True, help="The market to import into, new or not.")
@click.option("--provider", required=True, help="The provider to import into, new or not.")
@click.option("--symbol", required=True, help="The symbol the candles are of.")
@click.option("--timeframe", help="How long a candle is; found out where it is left out.")
@click.option(
    "--timezone", help="The IANA zone of a daily file's midnights, and of a new symbol. Default: the market's."
)
@click.option("--drop-last", is_flag=True, help="Leave the last candle out: it was still forming.")
@click.option("--replace", is_flag=True, help="Withdraw what is stored between its candles and is not in the file.")
@_data_dir
@_command
async def import_file(  # noqa: PLR0913, PLR0917 - an option each
    file: Path,
    market: str,
    provider: str,
    symbol: str,
    timeframe: str | None,
    timezone: str | None,
    drop_last: bool,
    replace: bool,
    data_dir: Path | None,
) -> None:
    """Import a CSV, CSV.gz or Parquet FILE of candles: all of it, or nothing where a row is bad."""
    settings = _settings(data_dir=data_dir)
    from server.importing import import_candles  # noqa: PLC0415

    name = (market, provider, symbol)
    report = await import_candles(
        settings, file, name, timeframe=timeframe, timezone=timezone, drop_last=drop_last, replaces=replace
    )
    click.echo(report)


@main.command()
@click.argument("market")
@click.argument("provider")
@click.argument("symbol")
@click.option("--timeframe", default="1m", show_default=True)
@click.option("--since", help="Milliseconds, or ISO 8601 with an offset.")
@click.option("--until", help="Milliseconds, or ISO 8601 with an offset.")
@click.option("--limit", type=int)
@click.option("--format", "style", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@_data_dir
@_command
async def candles(  # noqa: PLR0913, PLR0917 - one a command-line option
    market: str,
    provider: str,
    symbol: str,
    timeframe: str,
    since: str | None,
    until: str | None,
    limit: int | None,
    style: str,
    data_dir: Path | None,
) -> None:
    """Print candles, and on stderr what is missing of them."""
    settings = _settings(data_dir=data_dir)
    from candlegraph.series import Series  # noqa: PLC0415
    from candlegraph.timeframe import Timeframe  # noqa: PLC0415
    from resolvers.candles import resolve_candles  # noqa: PLC0415
    from resolvers.context import Context  # noqa: PLC0415
    from resolvers.markets import instrument  # noqa: PLC0415
    from schema.scalars import print_datetime  # noqa: PLC0415
    from server.machine import machine  # noqa: PLC0415

    async with machine(settings) as running:
        answer = await resolve_candles(
            Context(running.services, "cli"),
            Series(instrument(market, provider, symbol), Timeframe.parse(timeframe)),
            since=_instant(since),
            until=_instant(until),
            limit=limit,
        )
    names = ("timestamp", "time", "open", "high", "low", "close", "volume", "closed")
    rows = [
        (c.timestamp, print_datetime(c.timestamp), c.open, c.high, c.low, c.close, c.volume, c.closed)
        for c in answer.candles
    ]
    if style == "json":
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=1))
    elif style == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([names, *rows])
    else:
        _print_table(names[1:], [row[1:] for row in rows])
    for gap in answer.gaps:
        missing = f"{print_datetime(gap.since)} .. {print_datetime(gap.until)}"
        click.echo(f"missing {missing} {gap.reason}: {gap.detail}", err=True)


def _instant(text: str | None) -> int | None:
    from schema.scalars import parse_timestamp  # noqa: PLC0415

    return None if text is None else parse_timestamp(int(text) if text.isdecimal() and len(text) < 20 else text)


def _selection(market: str, provider: str, pattern: str) -> Selection:
    from resolvers.backfills import selection  # noqa: PLC0415

    named = not set("*?[") & set(pattern)
    return selection(market, provider, [pattern] if named else None, None if named else pattern)


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    return console


@main.command()
@click.argument("market", required=False)
@click.argument("provider", required=False)
@click.argument("pattern", required=False)
@click.option("--since", help="From where on: milliseconds, or ISO 8601 with an offset.")
@click.option("--until", help="Up to where; now where it is left out.")
@click.option("--timeframe", default="1m", show_default=True, help="A timeframe of the provider's own.")
@click.option("--priority", type=int, default=0, show_default=True, help="Higher ones go first.")
@click.option("--follow", type=int, metavar="ID", help="Take up a job instead: work on it and show how far it is.")
@click.option("--cancel", type=int, metavar="ID", help="End a job instead; what it has stored stays.")
@click.option("--list", "lists", is_flag=True, help="List the newest jobs instead.")
@_data_dir
@_command
async def backfill(  # noqa: PLR0913, PLR0917 - one a command-line option
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
    data_dir: Path | None,
) -> None:
    """Fetch what is missing of the symbols of PROVIDER that match PATTERN, such as '*/USDT'.

    It works on the job itself, beside any server that runs. Ctrl-C leaves the job where it is, to be taken up again.
    """
    if [follow is not None, cancel is not None, lists, market is not None].count(True) != 1:
        raise click.UsageError("Give MARKET PROVIDER PATTERN and --since, or one of --follow, --cancel and --list.")
    if market is not None and None in {provider, pattern, since}:
        raise click.UsageError("Give MARKET PROVIDER PATTERN and --since.")
    settings = _settings(data_dir=data_dir)
    from candlegraph.job import BackfillOrder  # noqa: PLC0415
    from candlegraph.timeframe import Timeframe  # noqa: PLC0415
    from server import backfilling  # noqa: PLC0415

    if lists:
        await backfilling.list_backfills(settings, _console())
    elif cancel is not None:
        await backfilling.cancel_backfill(settings, cancel, _console())
    elif follow is not None:
        await backfilling.backfill(settings, follow, _console())
    else:
        chosen = _selection(str(market), str(provider), str(pattern))
        span = (_instant(since) or 0, _instant(until))
        order = BackfillOrder(chosen, *span, Timeframe.parse(timeframe), priority)
        await backfilling.backfill(settings, order, _console())


@main.command()
@click.argument("market")
@click.argument("provider")
@click.argument("pattern")
@click.option("--since", help="From where on; the last 30 days where it is left out.")
@_data_dir
@_command
async def track(market: str, provider: str, pattern: str, since: str | None, data_dir: Path | None) -> None:
    """Have the servers keep the 1m candles of matching symbols complete from now on."""
    from server import keeping  # noqa: PLC0415

    settings = _settings(data_dir=data_dir)
    await keeping.track(settings, _selection(market, provider, pattern), _instant(since), _console())


@main.command()
@click.argument("market")
@click.argument("provider")
@click.argument("pattern")
@_data_dir
@_command
async def untrack(market: str, provider: str, pattern: str, data_dir: Path | None) -> None:
    """Keep matching symbols complete no longer; what is stored stays."""
    from server import keeping  # noqa: PLC0415

    await keeping.untrack(_settings(data_dir=data_dir), _selection(market, provider, pattern), _console())


@main.command()
@_data_dir
@_command
async def holes(data_dir: Path | None) -> None:
    """List what is missing of tracked series, and why."""
    from server import keeping  # noqa: PLC0415

    await keeping.print_holes(_settings(data_dir=data_dir), _console())


@main.command()
@click.argument("market", required=False)
@click.argument("provider", required=False)
@click.argument("pattern", required=False)
@click.option("--since", help="Check nothing older. Milliseconds, or ISO 8601 with an offset.")
@click.option("--until", help="Check nothing from here on. Milliseconds, or ISO 8601 with an offset.")
@click.option("--repair", is_flag=True, help="Make what is wrong anew, and check it again.")
@_data_dir
@_command
async def verify(
    market: str | None,
    provider: str | None,
    pattern: str | None,
    since: str | None,
    until: str | None,
    repair: bool,
    data_dir: Path | None,
) -> None:
    """Check that every aggregate is what its 1m candles say: all, or those of a MARKET, a PROVIDER and the symbols like PATTERN."""
    settings = _settings(data_dir=data_dir)
    from candlegraph.span import Span  # noqa: PLC0415
    from server.verifying import verify_stored  # noqa: PLC0415
    from storage.verify import ALWAYS  # noqa: PLC0415

    earliest, latest = _instant(since), _instant(until)
    span = Span(ALWAYS.since if earliest is None else earliest, ALWAYS.until if latest is None else latest)
    if not span:
        raise BadUserInput("`--since` must lie before `--until`.")
    tallies = await verify_stored(settings, (market, provider, pattern), span, repair=repair)
    _print_table(
        ("relation", "checked", "missing", "extra", "different"),
        [(t.relation, t.checked, t.missing, t.extra, t.different) for t in tallies],
    )
    if any(tally.wrong for tally in tallies):
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("market", required=False)
@click.argument("provider", required=False)
@click.argument("symbol", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@_data_dir
@_command
async def corrections(
    market: str | None, provider: str | None, symbol: str | None, limit: int, data_dir: Path | None
) -> None:
    """List the newest changes of candles that were final: of everything, or of a MARKET, a PROVIDER and a SYMBOL."""
    settings = _settings(data_dir=data_dir)
    from schema.scalars import print_datetime  # noqa: PLC0415
    from server.machine import database  # noqa: PLC0415
    from storage.corrections import Version, newest_corrections  # noqa: PLC0415

    def shown(version: Version | None) -> str:
        return "none" if version is None else " ".join([*map(str, version.numbers), f"({version.source})"])

    async with database(settings) as opened:
        found = await newest_corrections(opened, market, provider, symbol, limit)
    _print_table(
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


@main.command()
@_data_dir
@_command
async def providers(data_dir: Path | None) -> None:
    """List the providers, and how each of them is; none of them is asked.

    The counts are of this process: those of a running server are in its API, as ``providers { counters }``.
    """
    settings = _settings(data_dir=data_dir)
    from resolvers.context import Context  # noqa: PLC0415
    from resolvers.markets import resolve_markets, resolve_providers  # noqa: PLC0415
    from server.machine import machine  # noqa: PLC0415

    async with machine(settings) as running:
        context = Context(running.services, "cli")
        statuses = [
            status
            for market in await resolve_markets(context)
            for status in await resolve_providers(context, market.id)
        ]
    _print_table(
        ("market", "provider", "state", "version", "live", "calls", "timeframes", "description", "last error"),
        [
            (
                status.market.id,
                status.id,
                str(status.state),
                status.version,
                str(status.capabilities.live),
                status.counters.calls,
                " ".join(map(str, status.capabilities.timeframes)),
                status.reason or status.description,
                status.last_failure.message if status.last_failure else "",
            )
            for status in statuses
        ],
    )


@main.command()
@_data_dir
@_command
async def config(data_dir: Path | None) -> None:
    """Print the settings in effect; of a secret only whether it is set."""
    from server.settings import settings_in_effect  # noqa: PLC0415

    click.echo(settings_in_effect(_settings(data_dir=data_dir)))


@main.group()
def user() -> None:
    """Make, list, close and reopen accounts, and change their passwords."""


@user.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(["viewer", "operator", "admin"]), default="viewer", show_default=True)
@_data_dir
@_command
async def add_user(name: str, role: str, data_dir: Path | None) -> None:
    """Make an account; the password is asked for, or is the first line of stdin."""
    from candlegraph.viewer import Role  # noqa: PLC0415
    from server.machine import roster  # noqa: PLC0415

    async with roster(_settings(data_dir=data_dir)) as accounts:
        made = await accounts.add(name, _password(), Role(role))
    click.echo(f"{made.name} may sign in, as {made.role.value}.")


@user.command("list")
@_data_dir
@_command
async def list_users(data_dir: Path | None) -> None:
    """List the accounts."""
    from server.machine import database  # noqa: PLC0415
    from storage.users import Users  # noqa: PLC0415

    async with database(_settings(data_dir=data_dir)) as opened:
        rows = [(one.name, one.role.value, "closed" if one.disabled else "open") for one in await Users(opened).every()]
    _print_table(("name", "role", "state"), [*rows])


@user.command("disable")
@click.argument("name")
@_data_dir
@_command
async def disable_user(name: str, data_dir: Path | None) -> None:
    """Close an account: whoever is signed in with it is out within a second."""
    from server.machine import roster  # noqa: PLC0415

    async with roster(_settings(data_dir=data_dir)) as accounts:
        closed = await accounts.disable(name, disabled=True)
    click.echo(f"{closed.name} may not sign in any more.")


@user.command("enable")
@click.argument("name")
@_data_dir
@_command
async def enable_user(name: str, data_dir: Path | None) -> None:
    """Open an account again."""
    from server.machine import roster  # noqa: PLC0415

    async with roster(_settings(data_dir=data_dir)) as accounts:
        opened = await accounts.disable(name, disabled=False)
    click.echo(f"{opened.name} may sign in again.")


@user.command("password")
@click.argument("name")
@_data_dir
@_command
async def change_password(name: str, data_dir: Path | None) -> None:
    """Change a password, which ends every session of the account."""
    from server.machine import roster  # noqa: PLC0415

    async with roster(_settings(data_dir=data_dir)) as accounts:
        changed = await accounts.change_password(name, _password())
    click.echo(f"{changed.name} has a new password; every older sign-in has ended.")


def _password() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


@main.command()
def schema() -> None:
    """Print the GraphQL schema."""
    from schema.build import build_schema  # noqa: PLC0415

    click.echo(build_schema().as_str())


def _print_table(names: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, header_style="bold")
    for name in names:
        table.add_column(name, justify="right" if name in _NUMBERS else "left")
    for row in rows:
        table.add_row(*map(str, row))
    # A narrow terminal wraps the lines; to fit them in, digits would have to go.
    Console(width=max(Console().width, 110)).print(table)


if __name__ == "__main__":
    main()
