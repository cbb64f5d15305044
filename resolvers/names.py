"""Checks of the names in a request, before any lookup."""

from __future__ import annotations

from candlegraph.errors import BadUserInput
from candlegraph.series import Instrument

_LONGEST_NAME = 128


def instrument(market: str, provider: str, symbol: str) -> Instrument:
    """The instrument of a request; BadUserInput for an impossible name."""
    for what, name in (("market", market), ("provider", provider), ("symbol", symbol)):
        check_name(what, name)
    return Instrument(market, provider, symbol)


def check_name(what: str, name: str) -> None:
    """Raise BadUserInput for an impossible name."""
    # PostgreSQL accepts neither a NUL nor half a surrogate pair in a text.
    if not name or len(name) > _LONGEST_NAME or "\0" in name or any("\ud800" <= char <= "\udfff" for char in name):
        raise BadUserInput(f"`{what}` must be a text of 1 to {_LONGEST_NAME} characters.")
