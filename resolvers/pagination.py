"""Pages of a list: the number of items to read for one, and the cursors between them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from candlegraph.errors import BadUserInput
from resolvers.names import check_name

T = TypeVar("T")
MAX_PAGE = 1000
NO_CURSOR = "`after` is not a cursor of this list: pass the `endCursor` of the page before."


@dataclass(frozen=True, slots=True)
class Edge(Generic[T]):
    """An item of a page, and its cursor."""

    cursor: str
    node: T


@dataclass(frozen=True, slots=True)
class ListPage(Generic[T]):
    """A page of a list, and whether the list has more on either side of it."""

    nodes: Sequence[T]
    cursor_of: Callable[[T], str]
    has_next_page: bool
    has_previous_page: bool

    @property
    def edges(self) -> list[Edge[T]]:
        """The items with their cursors."""
        return [Edge(self.cursor_of(node), node) for node in self.nodes]

    @property
    def start_cursor(self) -> str | None:
        """The cursor of the first item; None on an empty page."""
        return self.cursor_of(self.nodes[0]) if self.nodes else None

    @property
    def end_cursor(self) -> str | None:
        """The cursor of the last item; None on an empty page."""
        return self.cursor_of(self.nodes[-1]) if self.nodes else None

    @property
    def page_info(self) -> ListPage[T]:
        """The page again: it has the fields of `PageInfo`."""
        return self


def rows_to_read(first: int) -> int:
    """The number of items to read for a page of ``first``: one more shows whether there is a next page. BadUserInput."""
    if not 0 <= first <= MAX_PAGE:
        raise BadUserInput(f"`first` must be between 0 and {MAX_PAGE}, not {first}.")
    return first + 1


def encode_cursor(name: str) -> str:
    """The opaque cursor of an item by its name."""
    return base64.urlsafe_b64encode(name.encode()).decode()


def decode_cursor(cursor: str) -> str:
    """The name in a cursor; BadUserInput for anything that is no cursor of ours."""
    name = decode_text(cursor)
    try:
        check_name("after", name)
    except BadUserInput:
        raise BadUserInput(NO_CURSOR) from None
    return name


def decode_text(cursor: str) -> str:
    """The text in a cursor; BadUserInput if it holds none."""
    try:
        return base64.urlsafe_b64decode(cursor.encode("ascii")).decode()
    except (binascii.Error, ValueError):
        raise BadUserInput(NO_CURSOR) from None


def encode_number(number: int) -> str:
    """The opaque cursor of an item by its number."""
    return encode_cursor(f"#{number}")


def decode_number(cursor: str, largest: int) -> int:
    """The number in a cursor, at most ``largest``; BadUserInput for anything that is no cursor of ours."""
    text = decode_cursor(cursor)
    if not re.fullmatch("#[0-9]{1,19}", text) or int(text[1:]) > largest:
        raise BadUserInput(NO_CURSOR)
    return int(text[1:])
