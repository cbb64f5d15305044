"""The traits of exchanges: one table of ``traits.toml`` for each, and one for a kind of its markets that differs; read once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files
from typing import Any

KINDS = ("spot", "swap", "inverse")  # of markets; each has an endpoint of its own


class Answers(StrEnum):
    """The rows that an exchange returns for the requests of ccxt's class."""

    UNKNOWN = "unknown"  # the request and earlier answers decide what a page proves
    FROM_START = "from start"  # the oldest rows from the start on, however far away they are
    WINDOW = "window"  # the rows between start and end, both of them inclusive
    BEFORE_END = "before end"  # the newest rows before the end
    NEWEST = "newest"  # the newest rows that it keeps, for any start


@dataclass(frozen=True, slots=True)
class ExchangeTraits:
    """The properties of an exchange that ccxt does not declare; ``traits.toml`` explains each field."""

    answers: Answers = Answers.UNKNOWN
    rows_per_call: int | None = None
    lookback: int | None = None
    lookback_counts_quiet: bool = True
    until: str | None = None
    counts: Sequence[int] = ()
    offset_step: int | None = None
    history: Mapping[str, object] = field(default_factory=dict)
    day_offset: int = 0
    long_buckets: bool = False
    settle_ms: int = 30_000
    volume: Mapping[str, str] = field(default_factory=dict)
    taint: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


def traits_of(exchange_id: str, kind: str = "") -> ExchangeTraits:
    """The traits of an exchange, or of a kind of its markets; the defaults if it has no table."""
    table = _table()
    return table.get((exchange_id, kind)) or table.get((exchange_id, ""), ExchangeTraits())


def traits_by_kind(exchange_id: str) -> Mapping[str, ExchangeTraits]:
    """The traits of an exchange, and of each kind of its markets that has a table; the first key is empty."""
    own = {kind: traits for (name, kind), traits in _table().items() if name == exchange_id}
    return {"": ExchangeTraits(), **own}


@lru_cache(maxsize=1)
def _table() -> Mapping[tuple[str, str], ExchangeTraits]:
    text = files(__package__).joinpath("traits.toml").read_text("utf-8")
    found = {}
    for name, row in tomllib.loads(text).items():
        own = {kind: row.pop(kind) for kind in KINDS if kind in row}
        found[name, ""] = _traits(row)
        found |= {(name, kind): _traits(row | more) for kind, more in own.items()}
    return found


def _traits(row: Mapping[str, Any]) -> ExchangeTraits:
    return ExchangeTraits(**{**row, "answers": Answers(row.get("answers", Answers.UNKNOWN))})
