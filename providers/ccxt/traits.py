"""What is special about an exchange: one table of ``traits.toml`` for each, read once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class ExchangeTraits:
    """What an exchange does that ccxt does not say; each field is a key of ``traits.toml``.

    ``volume`` maps a kind of market (``spot``, ``swap``, ``inverse``) to the unit of its volume.
    """

    answers: str = ""
    lookback: int | None = None  # rows
    day_offset: int = 0  # hours
    volume: Mapping[str, str] = field(default_factory=dict)
    taint: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


def traits_of(exchange_id: str) -> ExchangeTraits:
    """The traits of an exchange; the defaults where nothing is special about it."""
    return _table().get(exchange_id, ExchangeTraits())


@lru_cache(maxsize=1)
def _table() -> Mapping[str, ExchangeTraits]:
    text = files(__package__).joinpath("traits.toml").read_text("utf-8")
    return {name: ExchangeTraits(**row) for name, row in tomllib.loads(text).items()}
