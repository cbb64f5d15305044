"""The names in a request: checked before anything looks them up."""

from __future__ import annotations

from candlegraph.errors import BadUserInput
from candlegraph.identity import decode_name, provider_name
from candlegraph.series import Instrument

_LONGEST_NAME = 128


def instrument(market: str, provider: str, symbol: str) -> Instrument:
    """The instrument a request names; BadUserInput for an impossible name, and for a provider of another market."""
    names = provider_of(market, provider)
    check_name("symbol", symbol)
    return Instrument(*names, symbol)


def market_name(market: str) -> str:
    """The market that the argument ``market`` names."""
    check_name("market", name := decode_name(market))
    return name


def provider_of(market: str, provider: str) -> tuple[str, str]:
    """The market and the provider that two arguments name; the latter may be a short name or an id."""
    name = market_name(market)
    check_name("provider", short := provider_name(name, provider))
    return name, short


def check_name(what: str, name: str) -> None:
    """Refuse an impossible name with BadUserInput."""
    # PostgreSQL takes neither a NUL nor half a surrogate pair in a text.
    broken = "\0" in name or (not name.isascii() and any("\ud800" <= char <= "\udfff" for char in name))
    if not name or len(name) > _LONGEST_NAME or broken:
        raise BadUserInput(f"`{what}` must be a text of 1 to {_LONGEST_NAME} characters.")
