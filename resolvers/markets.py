"""Answers about markets, providers and symbols: what plugins bring, and what was imported without one."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from candlegraph.errors import BadUserInput, NotFound
from candlegraph.provider import Capabilities, Market, State, Status
from candlegraph.series import Instrument, Record
from candlegraph.timeframe import Timeframe
from resolvers.context import Context

T = TypeVar("T")
NO_CURSOR = "`after` is not a cursor of this list: pass the `endCursor` of the page before."
MAX_PAGE = 1000
_LONGEST_NAME = 128


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list, and whether there is more on either side of it."""

    items: Sequence[T]
    has_next: bool
    has_previous: bool


@dataclass(frozen=True, slots=True)
class SymbolPage(Page[Record]):
    """One page of symbols, in the order of their names, and how many there are in all."""

    total: int


async def resolve_markets(context: Context) -> list[Market]:
    """Every market that a plugin brings or that something was imported into, by id."""
    markets = {status.market.id: status.market for status in context.services.providers.statuses()}
    for market, _ in await context.services.instruments.pairs():
        markets.setdefault(market, Market(market, market, "Imported candles."))
    return [market for _, market in sorted(markets.items())]


async def resolve_providers(context: Context, market_id: str) -> list[Status]:
    """The providers of a market, by id. NotFound where there is no such market."""
    check_name("market", market_id)
    found = {status.id: status for status in context.services.providers.statuses() if status.market.id == market_id}
    for market, provider in await context.services.instruments.pairs():
        if market == market_id and provider not in found:
            found[provider] = await _imported(context, market, provider)
    if not found:
        known = ", ".join(market.id for market in await resolve_markets(context))
        raise NotFound(f"Unknown market {market_id[:64]!r}: known are {known}.")
    return [status for _, status in sorted(found.items())]


async def resolve_symbols(
    context: Context, market: str, provider: str, search: str | None, *, inactive: bool, first: int, after: str | None
) -> SymbolPage:
    """One page of a provider's symbols, those whose symbol or name holds ``search`` in any case."""
    ahead = look_ahead(first)
    for what, name in (("market", market), ("provider", provider), ("search", search or "-")):
        check_name(what, name)
    start = None if after is None else decode_cursor(after)
    records, total = await context.services.instruments.search(
        market, provider, text=search, inactive=inactive, after=start, first=ahead
    )
    return SymbolPage(records[:first], len(records) > first, start is not None, total)


async def resolve_symbol(context: Context, instrument: Instrument) -> Record:
    """One symbol. NotFound where its provider does not know it."""
    return await context.loaders.record_by_instrument.load(instrument)


def instrument(market: str, provider: str, symbol: str) -> Instrument:
    """Name an instrument as a request does; BadUserInput for what could be no name."""
    for what, name in (("market", market), ("provider", provider), ("symbol", symbol)):
        check_name(what, name)
    return Instrument(market, provider, symbol)


def look_ahead(first: int) -> int:
    """How many to read for a page of ``first``: one more, which says whether there is a next. BadUserInput."""
    if not 0 <= first <= MAX_PAGE:
        raise BadUserInput(f"`first` must be between 0 and {MAX_PAGE}, not {first}.")
    return first + 1


def encode_cursor(symbol: str) -> str:
    """The opaque cursor that stands behind a symbol."""
    return base64.urlsafe_b64encode(symbol.encode()).decode()


def decode_cursor(cursor: str) -> str:
    """The symbol a cursor stands behind; BadUserInput for what is no cursor of ours."""
    try:
        symbol = base64.urlsafe_b64decode(cursor.encode("ascii")).decode()
        check_name("after", symbol)
    except (binascii.Error, ValueError, BadUserInput):
        raise BadUserInput(NO_CURSOR) from None
    return symbol


def check_name(what: str, name: str) -> None:
    """Refuse with BadUserInput what could be no name."""
    # PostgreSQL takes neither a NUL nor half a surrogate pair in a text.
    if not name or len(name) > _LONGEST_NAME or "\0" in name or any("\ud800" <= char <= "\udfff" for char in name):
        raise BadUserInput(f"`{what}` must be a text of 1 to {_LONGEST_NAME} characters.")


async def _imported(context: Context, market: str, provider: str) -> Status:
    stored = await context.services.instruments.timeframes(market, provider)
    timeframes = sorted(map(Timeframe.parse, stored), key=lambda timeframe: timeframe.nominal_ms)
    return Status(
        Market(market, market, "Imported candles."),
        provider,
        provider,
        "Imported candles; no installed plugin brings more.",
        "",
        State.READY,
        capabilities=Capabilities(tuple(timeframes)),
    )
