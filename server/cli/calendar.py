"""The command `calendar`: gives stored symbols a trading calendar, where no provider does."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from candlegraph.errors import NotFound
from server.cli.command import command

if TYPE_CHECKING:
    from server.settings import Settings


@click.command()
@click.argument("market")
@click.argument("provider")
@click.argument("pattern")
@click.argument("name")
@command
async def calendar(settings: Settings, market: str, provider: str, pattern: str, name: str) -> None:
    """Give the symbols like PATTERN the trading calendar NAME of exchange-calendars, such as XNYS; for imports.

    Their days are made of regular sessions from then on: of the stored days if there are any, else of 1m candles. A symbol
    keeps the calendar that it has. Running servers notice it within half a minute.
    """
    from resolvers.names import provider_of
    from server.wiring import database
    from storage.instruments import Instruments

    names = provider_of(market, provider)
    async with database(settings) as opened:
        instruments = Instruments(opened)
        stored = await instruments.named(*names, None)
        symbols = [one.instrument.symbol for one in stored if fnmatchcase(one.instrument.symbol, pattern)]
        if not symbols:
            raise NotFound("Nothing is stored under that name.")
        given = await instruments.give_calendar(*names, symbols, name)
    click.echo(f"{given} of {len(symbols)} symbols got the trading calendar {name}.")
