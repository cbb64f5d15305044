"""Objects with an id that is unique over all types."""

from __future__ import annotations

from collections.abc import Callable

import strawberry
from strawberry import Parent

from resolvers.nodes import NodeNoun, id_of


@strawberry.interface(
    description=(
        "An object with an id that is unique over all types: `crypto` (market), `crypto/binance` (provider), "
        "`crypto/binance/BTC/USDT` (symbol, split at the first two slashes), `backfill:7`. Market and provider names match "
        "[A-Za-z0-9._-]{1,64}."
    )
)
class Node:
    """Resolved from one of `resolvers.nodes.NodeNoun`."""

    @strawberry.field(description="Unique over all types, and stable: caches may merge by it.")
    def id(parent: Parent[NodeNoun]) -> strawberry.ID:
        return strawberry.ID(id_of(parent))


def resolved_from(noun: type) -> Callable[..., bool]:
    """The ``is_type_of`` of a type that implements `Node`."""

    def is_type_of(value: object, _: object) -> bool:
        return isinstance(value, noun)

    return is_type_of
