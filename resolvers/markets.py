"""Resolvers of markets, providers and symbols: those of plugins, and those of imports."""

from __future__ import annotations

from dataclasses import dataclass

from candlegraph.errors import BadUserInput, NotFound
from candlegraph.provider import Capabilities, Market
from candlegraph.series import Instrument, InstrumentRecord
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from candlegraph.trading_calendar import TradingSession, calendar_of
from candlegraph.upstream import ProviderState, ProviderStatus
from resolvers.context import Context
from resolvers.names import check_name, market_name, provider_of
from resolvers.pagination import ListPage, decode_cursor, encode_cursor, rows_to_read

MAX_SESSIONS = 1_000  # four years


@dataclass(frozen=True, slots=True)
class SymbolPage(ListPage[InstrumentRecord]):
    """One page of symbols, by name, and the number of all of them."""

    total_count: int


async def resolve_markets(context: Context) -> list[Market]:
    """Every market with a plugin or an import, by id."""
    markets = {status.market.id: status.market for status in context.services.providers.statuses()}
    for market, _ in await context.services.history.instruments.stored_providers():
        markets.setdefault(market, Market(market, market, "Imported candles."))
    return [market for _, market in sorted(markets.items())]


async def resolve_providers(context: Context, market_id: str) -> list[ProviderStatus]:
    """The providers of a market, by id. NotFound if the market does not exist."""
    market_id = market_name(market_id)
    await context.services.providers.inspect()
    found = {status.id: status for status in context.services.providers.statuses() if status.market.id == market_id}
    for market, provider in await context.services.history.instruments.stored_providers():
        if market == market_id and provider not in found:
            found[provider] = await imported_provider(context, market, provider)
    if not found:
        known = ", ".join(market.id for market in await resolve_markets(context))
        raise NotFound(f"Unknown market {market_id[:64]!r}: known are {known}.")
    return [status for _, status in sorted(found.items())]


async def resolve_symbols(
    context: Context, market: str, provider: str, search: str | None, *, inactive: bool, first: int, after: str | None
) -> SymbolPage:
    """One page of a provider's symbols whose symbol or name contains ``search`` in any case."""
    ahead = rows_to_read(first)
    market, provider = provider_of(market, provider)
    check_name("search", search or "-")
    start = None if after is None else decode_cursor(after)
    records, total = await context.services.history.listings.search(
        market, provider, text=search, inactive=inactive, after=start, first=ahead
    )
    return SymbolPage(records[:first], _cursor, len(records) > first, start is not None, total)


async def resolve_symbol(context: Context, instrument: Instrument) -> InstrumentRecord:
    """One symbol. NotFound if its provider does not know it."""
    return await context.loaders.record_by_instrument.load(instrument)


async def resolve_sessions(
    context: Context, instrument: Instrument, since: int, until: int
) -> list[TradingSession] | None:
    """The regular sessions of an instrument that overlap a span; None without a calendar. BadUserInput, NotFound."""
    if since > until:
        raise BadUserInput(f"`since` ({since}) lies after `until` ({until}): swap them.")
    calendar = calendar_of(await resolve_symbol(context, instrument))
    if calendar is None:
        return None
    found = calendar.sessions(Span(since, until))
    if len(found) > MAX_SESSIONS:
        raise BadUserInput(
            f"At most {MAX_SESSIONS:,} sessions fit one answer; these are {len(found):,}: ask for a shorter span."
        )
    return found


def _cursor(record: InstrumentRecord) -> str:
    return encode_cursor(record.instrument.symbol)


async def imported_provider(context: Context, market: str, provider: str) -> ProviderStatus:
    """What was imported under the name of a provider that no plugin brings."""
    stored = await context.services.history.instruments.timeframes(market, provider)
    timeframes = sorted(map(Timeframe.parse, stored), key=lambda timeframe: timeframe.nominal_ms)
    return ProviderStatus(
        Market(market, market, "Imported candles."),
        provider,
        provider,
        "Imported candles; no installed plugin fetches more.",
        "",
        ProviderState.READY,
        capabilities=Capabilities(tuple(timeframes)),
    )
