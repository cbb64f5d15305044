"""Ids that are unique over all types, and the names that they are made of.

A market is `crypto`, a provider `crypto/binance`, a symbol `crypto/binance/BTC/USDT` and a backfill `backfill:7`. Names of
markets and providers are percent-encoded in an id: stored ones may have other characters than the rule now allows.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from candlegraph.errors import BadUserInput

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BACKFILL = "backfill:"
_MAX_BACKFILL_DIGITS = 19


def check_new_name(what: str, name: str) -> None:
    """Refuse the name of a market or a provider that an id would have to encode; BadUserInput."""
    if not _NAME.fullmatch(name) or not name.strip("."):
        raise BadUserInput(
            f"The name of a {what} is 1 to 64 letters, digits, dots, underscores and hyphens of ASCII, and more than dots, "
            f"not {name[:64]!r}."
        )


class NodeName(NamedTuple):
    """The names in an id: a market; with ``provider`` one of its providers; with ``symbol`` also one of its symbols."""

    market: str
    provider: str | None = None
    symbol: str | None = None


def node_id(market: str, provider: str | None = None, symbol: str | None = None) -> str:
    """The id of a market, a provider or a symbol."""
    parts = [encode_name(market)]
    if provider is not None:
        parts.append(encode_name(provider))
    if symbol is not None:
        parts.append(symbol)
    return "/".join(parts)


def backfill_id(number: int) -> str:
    """The id of a backfill."""
    return f"{_BACKFILL}{number}"


def parse_node_id(text: str) -> NodeName | None:
    """The names in an id; None if no market, provider or symbol can have that id."""
    market, *rest = text.split("/", 2)
    name = NodeName(unquote(market), *map(unquote, rest[:1]), *rest[1:])
    return name if all(name[: 1 + len(rest)]) and node_id(*name) == text else None


def parse_backfill_id(text: str) -> int | None:
    """The number in the id of a backfill; None if no backfill can have that id."""
    number = text.removeprefix(_BACKFILL)
    plain = number.isascii() and number.isdecimal() and len(number) <= _MAX_BACKFILL_DIGITS
    return int(number) if plain and backfill_id(int(number)) == text else None


def encode_name(name: str) -> str:
    """The name of a market or a provider as the API prints it: itself, unless it has characters that an id encodes."""
    # Half a surrogate pair is in no stored name; a request may have it.
    return quote(name, safe="", errors="surrogatepass").replace("~", "%7E")


def decode_name(text: str) -> str:
    """The name that the API printed as ``text``; a text that it never prints is a name as it stands."""
    name = unquote(text)
    return name if encode_name(name) == text else text


def provider_name(market: str, text: str) -> str:
    """The short name of a provider of ``market`` (its name), from a short name or an id; BadUserInput: of another market."""
    parsed = parse_node_id(text)
    if parsed is None or parsed.provider is None:
        return decode_name(text)
    if parsed.symbol is not None or parsed.market != market:
        raise BadUserInput(f"`provider` {text[:130]!r} is not of the market {market[:64]!r}.")
    return parsed.provider
