"""Shared parts of the commands: running one, reading an instant and printing a table."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate

import click

from candlegraph.errors import BadUserInput, CandlegraphError, ConfigurationError

if TYPE_CHECKING:
    from candlegraph.span import Span
    from server.settings import Settings

_INTEGER = re.compile(r"-?[0-9]{1,19}")
_OVERRIDES = ("host", "port", "data_dir")  # the options that replace a setting
_NUMBERS = frozenset({"open", "high", "low", "close", "volume", "checked", "missing", "extra", "different"})


def command(run: Callable[Concatenate[Settings, ...], Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run a coroutine of the settings as a command, with ``--data-dir`` beside its own options.

    An error of our tree is one line on stderr, with its own exit code.
    """

    @click.option("--data-dir", type=click.Path(path_type=Path), help="Instead of DATA_DIR.")
    @wraps(run)
    def command(**given: object) -> None:
        overrides = {name: given.pop(name) for name in _OVERRIDES if name in given}

        async def work() -> None:
            await run(_settings(**overrides), **given)

        try:
            with asyncio.Runner(loop_factory=_new_loop) as runner:
                runner.run(_stoppable(work()))
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


def _new_loop() -> asyncio.AbstractEventLoop:
    """An event loop: uvloop's where available, which writes to sockets at less cost."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


async def _stoppable(work: Coroutine[object, object, None]) -> None:
    """Await ``work``; SIGTERM cancels it, so that it cleans up, instead of ending the process on the spot."""
    task = asyncio.ensure_future(work)
    if sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


def _settings(**overrides: object) -> Settings:
    from server.settings import Settings

    settings = Settings.read(**overrides)
    level = settings.log_level.upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("ccxt").setLevel(max(logging.INFO, logging.getLogger().level))  # below, it logs headers with keys
    logging.getLogger("asyncpg").setLevel(logging.ERROR)  # its pool logs a traceback a try while the database is away
    return settings


def instant(text: str | None) -> int | None:
    """An option's instant, milliseconds or ISO 8601 with an offset, in milliseconds, UTC. BadUserInput."""
    from schema.scalars import parse_timestamp

    return None if text is None else parse_timestamp(int(text) if _INTEGER.fullmatch(text) else text)


def span_between(since: str | None, until: str | None) -> Span:
    """The span of two options, without end where one is left out. BadUserInput."""
    from candlegraph.span import Span
    from storage.aggregates.verify import ALWAYS

    earliest, latest = instant(since), instant(until)
    span = Span(ALWAYS.since if earliest is None else earliest, ALWAYS.until if latest is None else latest)
    if not span:
        raise BadUserInput("`--since` must lie before `--until`.")
    return span


def print_table(names: tuple[str, ...], rows: list[tuple[object, ...]], width: int = 110) -> None:
    """Print the rows below the ``names`` of the columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in names:
        table.add_column(name, justify="right" if name in _NUMBERS else "left")
    for row in rows:
        table.add_row(*map(str, row))
    # A narrow terminal wraps the lines; to fit them in, digits would have to go.
    Console(width=max(Console().width, width)).print(table)
