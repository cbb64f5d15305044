"""Objects by their ids, which are unique over all types."""

from __future__ import annotations

from uuid import UUID

from candlegraph.backfill import Backfill
from candlegraph.errors import BadUserInput, NotFound
from candlegraph.identity import NodeName, backfill_id, node_id, parse_backfill_id, parse_node_id
from candlegraph.provider import Market
from candlegraph.series import Instrument, InstrumentRecord
from candlegraph.upstream import ProviderStatus
from resolvers.backfills import resolve_backfill
from resolvers.context import Context
from resolvers.markets import imported_provider, resolve_markets
from resolvers.names import check_name

NodeNoun = Market | ProviderStatus | InstrumentRecord | Backfill


def id_of(node: NodeNoun) -> str:
    """The id of an object."""
    match node:
        case Market():
            return node_id(node.id)
        case ProviderStatus():
            return node_id(node.market.id, node.id)
        case InstrumentRecord():
            name = node.instrument
            return node_id(name.market, name.provider, name.symbol)
        case Backfill():
            return backfill_id(node.id)


async def resolve_node(context: Context, text: str) -> NodeNoun | None:
    """The object with an id, from memory or the store; None where there is none. No provider is asked."""
    if parse_backfill_id(text) is not None:
        try:
            return await resolve_backfill(context, text)
        except NotFound:
            return None
    name = parse_node_id(text)
    if name is None or not _is_possible(name):
        return None
    if name.provider is None:
        return next((market for market in await resolve_markets(context) if market.id == name.market), None)
    if name.symbol is None:
        return await _provider(context, name.market, name.provider)
    wanted = Instrument(name.market, name.provider, name.symbol)
    return (await context.services.history.instruments.get_stored([wanted])).get(wanted)


async def resolve_server_id(context: Context) -> UUID:
    """Which database answers."""
    found: UUID = (await context.services.history.store.database.read("server_id"))[0]["id"]
    return found


async def _provider(context: Context, market: str, provider: str) -> ProviderStatus | None:
    for status in context.services.providers.statuses():
        if (status.market.id, status.id) == (market, provider):
            return status
    if (market, provider) in await context.services.history.instruments.stored_providers():
        return await imported_provider(context, market, provider)
    return None


def _is_possible(name: NodeName) -> bool:
    try:
        for part in filter(None, name):
            check_name("id", part)
    except BadUserInput:
        return False
    return True
