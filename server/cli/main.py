"""The command line: `candlegraph`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from server.cli.backfill import backfill, holes, track, untrack
from server.cli.calendar import calendar
from server.cli.candles import candles, corrections, import_file, verify
from server.cli.command import command, print_table
from server.cli.coverage import coverage
from server.cli.exporting import export
from server.cli.users import user

if TYPE_CHECKING:
    from server.settings import Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="candlegraph", prog_name="candlegraph")
def main() -> None:
    """Collect, store, aggregate and serve OHLCV candles over one GraphQL API."""


for one in (
    import_file,
    candles,
    export,
    verify,
    corrections,
    coverage,
    calendar,
    backfill,
    track,
    untrack,
    holes,
    user,
):
    main.add_command(one)


@main.command()
@click.option("--host", help="Instead of HOST.")
@click.option("--port", type=int, help="Instead of PORT.")
@command
async def serve(settings: Settings) -> None:
    """Run the server until Ctrl-C."""
    from server.serve import serve as run

    await run(settings)


@main.command()
@command
async def migrate(settings: Settings) -> None:
    """Bring the database up to date (`serve` does it by itself)."""
    from server.wiring import database

    async with database(settings):
        click.echo("The database is up to date.")


@main.command()
@command
async def providers(settings: Settings) -> None:
    """List the providers, their states, and the files in FILES_DIR that cannot be served; no upstream is called.

    The counts are of this process: those of a running server are in its API, as ``providers { counters }``.
    """
    from candlegraph.upstream import ProviderState
    from resolvers.context import Context
    from resolvers.markets import resolve_markets, resolve_providers
    from server.wiring import open_runtime

    async with open_runtime(settings) as running:
        context = Context(running.services, "cli")
        statuses = [
            status
            for market in await resolve_markets(context)
            for status in await resolve_providers(context, market.id)
        ]
    print_table(
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
                status.description if status.state is ProviderState.READY else status.reason,
                status.last_failure.message if status.last_failure else "",
            )
            for status in statuses
        ],
    )
    for status in statuses:
        if status.state is ProviderState.READY and status.reason:  # which of its data cannot be served
            for line in status.reason.splitlines():
                click.echo(f"{status.market.id}/{status.id}: {line}")


@main.command()
@command
async def config(settings: Settings) -> None:
    """Print the settings in effect; of a secret only whether it is set."""
    from server.settings import settings_in_effect

    click.echo(settings_in_effect(settings))


@main.command()
def schema() -> None:
    """Print the GraphQL schema."""
    from schema.build import build_schema

    click.echo(build_schema().as_str())


if __name__ == "__main__":
    main()
