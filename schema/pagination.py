"""Relay-style pages in the contract: one declaration gives a list its connection and its edge."""

from __future__ import annotations

import strawberry
from strawberry.tools import create_type
from strawberry.types.base import StrawberryList
from strawberry.types.field import StrawberryField


@strawberry.type(description="The position of a page in its list.")
class PageInfo:
    """Resolved from `resolvers.pagination.ListPage`."""

    has_next_page: bool = strawberry.field(description="There are items after it.")
    has_previous_page: bool = strawberry.field(description="There are items before it.")
    start_cursor: str | None = strawberry.field(description="The cursor of its first item.")
    end_cursor: str | None = strawberry.field(description="The cursor of its last item: the `after` of the next page.")


def field(name: str, graphql_type: object, description: str) -> StrawberryField:
    """A field that is resolved by attribute."""
    made: StrawberryField = strawberry.field(graphql_type=graphql_type, description=description)
    made.python_name = name
    return made


def connection(node: type, noun: str, description: str, *more: StrawberryField) -> type:
    """The type of a page of ``node``, resolved from `resolvers.pagination.ListPage`; ``more`` fields come last.

    Strawberry's generic types share one description; here each has its own ``noun``.
    """
    edge = create_type(
        f"{node.__name__}Edge",
        [
            field("cursor", str, "The `after` of a page that begins after it."),
            field("node", node, f"The {noun}."),
        ],
        description=f"A {noun} and its position in the list.",
    )
    return create_type(
        f"{node.__name__}Connection",
        [
            field("edges", StrawberryList(edge), f"The {noun}s with their cursors."),
            field("nodes", StrawberryList(node), f"The {noun}s."),
            field("page_info", PageInfo, "The position of the page."),
            *more,
        ],
        description=description,
    )
