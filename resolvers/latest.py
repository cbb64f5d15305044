"""The newest candles of many symbols: named, or a page of those that match a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from candlegraph.errors import BadUserInput, NotFound
from candlegraph.latest import Latest, LatestCandles
from candlegraph.timeframe import Timeframe
from candlegraph.trading_calendar import SessionFilter, TradingCalendar, calendar_zone, installed
from candlegraph.zone import Zone, zone
from history.latest import LatestRequest, latest_candles
from resolvers.context import Context
from resolvers.names import check_name, provider_of
from resolvers.pagination import MAX_PAGE, Edge, decode_cursor, encode_cursor, rows_to_read

LatestNodes = LatestCandles | list[Latest]


@dataclass(frozen=True, slots=True, eq=False)
class LatestEdges:
    """The symbols of a page with their cursors."""

    nodes: LatestNodes
    cursors: Sequence[str]

    def __iter__(self) -> Iterator[Edge[Latest]]:
        """Edge after edge, as objects."""
        return (Edge(cursor, node) for cursor, node in zip(self.cursors, self.nodes, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class LatestPage:
    """Symbols with their newest candles; ``missing`` are the requested symbols that do not exist."""

    nodes: LatestNodes
    symbols: Sequence[str]
    missing: Sequence[str]
    has_next_page: bool = False
    has_previous_page: bool = False

    @property
    def edges(self) -> LatestEdges:
        """The symbols with their cursors."""
        return LatestEdges(self.nodes, list(map(encode_cursor, self.symbols)))

    @property
    def start_cursor(self) -> str | None:
        """The cursor of the first symbol."""
        return encode_cursor(self.symbols[0]) if self.symbols else None

    @property
    def end_cursor(self) -> str | None:
        """The cursor of the last symbol."""
        return encode_cursor(self.symbols[-1]) if self.symbols else None

    @property
    def page_info(self) -> LatestPage:
        """The page itself has its position."""
        return self


@dataclass(frozen=True, slots=True)
class LatestBuckets:
    """The buckets of the newest candles; ``timezone`` None: each symbol's own."""

    timeframe: Timeframe
    timezone: str | None = None
    session: SessionFilter = SessionFilter.ALL


async def resolve_latest(
    context: Context,
    names: tuple[str, str],
    symbols: Sequence[str] | None,
    pattern: str | None,
    buckets: LatestBuckets,
    first: int,
    after: str | None,
) -> LatestPage:
    """The newest candles of symbols of a provider (market, provider), from the store. BadUserInput, NotFound, Unavailable."""
    market, provider = provider_of(*names)
    if (symbols is None) == (pattern is None):
        raise BadUserInput("Give either `symbols` or a `pattern`.")
    timeframe, session = buckets.timeframe, buckets.session
    days = None if buckets.timezone is None else zone(buckets.timezone)
    # The guess is right for nearly all symbols; the others are read again.
    calendar = await context.services.history.instruments.calendar_of(market, provider)
    grid, noun = _grid(timeframe, session, days, calendar)
    request = LatestRequest(market, provider, timeframe, grid or _market_zone(context, market), calendar=noun)
    if symbols is None:
        check_name("pattern", pattern or "")
        start = None if after is None else decode_cursor(after)
        request = replace(request, pattern=_regular(pattern or ""), after=start, first=rows_to_read(first))
    else:
        request = replace(request, symbols=_named(symbols, after))
    found = await latest_candles(context.services.history, request)
    if not len(found):
        await _check_provider(context, market, provider)
    nodes = await _in_their_zones(context, request, found, days, session)
    page = _page(nodes, first if symbols is None else MAX_PAGE)
    existing = set(found.records.symbol)
    missing = [name for name in dict.fromkeys(symbols or ()) if name not in existing]
    return LatestPage(
        page, found.records.symbol[: len(page)], missing, len(found) > len(page), symbols is None and after is not None
    )


def _named(symbols: Sequence[str], after: str | None) -> Sequence[str]:
    if not 1 <= len(symbols) <= MAX_PAGE:
        raise BadUserInput(f"`symbols` names 1 to {MAX_PAGE:,} symbols, not {len(symbols):,}.")
    if after is not None:
        raise BadUserInput("`after` goes with a `pattern`: `symbols` are all answered at once.")
    for name in symbols:
        check_name("symbols", name)
    return symbols


def _page(nodes: LatestNodes, size: int) -> LatestNodes:
    """The first ``size`` of them."""
    if len(nodes) <= size:
        return nodes
    return nodes[:size] if isinstance(nodes, list) else nodes.first(size)


def _grid(
    timeframe: Timeframe, session: SessionFilter, days: Zone | None, calendar: str | None
) -> tuple[Zone | None, TradingCalendar | None]:
    """The zone of the buckets of the symbols with a calendar, or ``days``, and the calendar."""
    noun = installed().get(calendar or "")
    return (days, None) if noun is None else (calendar_zone(noun, timeframe, session, days) or days, noun)


async def _in_their_zones(
    context: Context, request: LatestRequest, found: LatestCandles, days: Zone | None, session: SessionFilter
) -> LatestNodes:
    """Read symbols of another zone or calendar than the requested one again, in their own."""
    ours = (days or request.zone).name, request.calendar and request.calendar.name
    zones = [days.name if days else name for name in found.records.timezone]
    kinds = list(zip(zones, found.records.calendar, strict=True))
    if set(kinds) <= {ours}:
        return found
    nodes = {node.symbol.instrument.symbol: node for node in found}
    for kind in sorted(set(kinds) - {ours}, key=str):
        symbols = [symbol for symbol, its in zip(found.records.symbol, kinds, strict=True) if its == kind]
        buckets, noun = _grid(request.timeframe, session, days, kind[1])
        again = replace(
            request, zone=buckets or zone(kind[0]), calendar=noun, symbols=symbols, pattern=None, after=None
        )
        nodes |= {node.symbol.instrument.symbol: node for node in await latest_candles(context.services.history, again)}
    return [nodes[symbol] for symbol in found.records.symbol]


def _market_zone(context: Context, market: str) -> Zone:
    """The zone of most symbols of a market."""
    found = (s.market.timezone for s in context.services.providers.statuses() if s.market.id == market)
    return zone(next(found, "UTC"))


async def _check_provider(context: Context, market: str, provider: str) -> None:
    """NotFound for an unknown provider."""
    known = {(status.market.id, status.id) for status in context.services.providers.statuses()}
    if (market, provider) not in known | set(await context.services.history.instruments.stored_providers()):
        raise NotFound(f"There is no provider {provider[:64]!r} in a market {market[:64]!r}: see `markets`.")


def _regular(pattern: str) -> str:
    """A shell pattern as a regular expression of PostgreSQL: ``*``, ``?``, ``[abc]`` and ``[!abc]``."""
    parts = re.split(r"(\*|\?|\[!?\]?[^\]]*\])", pattern)
    return "^" + "".join(_part(part, special=bool(at % 2)) for at, part in enumerate(parts)) + "$"


def _part(text: str, *, special: bool) -> str:
    if not special:
        return "".join(map(_escaped, text))
    if text in "*?":
        return {"*": ".*", "?": "."}[text]
    inside = text[1:-1]
    negated = inside.startswith("!")
    escaped = "".join(char if char == "-" else _escaped(char) for char in inside[negated:])
    return f"[{'^' if negated else ''}{escaped}]"


def _escaped(char: str) -> str:
    return char if char.isalnum() or not char.isascii() or char in "_ " else "\\" + char
