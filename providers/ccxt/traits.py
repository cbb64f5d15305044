"""The traits of exchanges: one table of ``traits.toml`` for each, read once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files


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
    day_offset: int = 0
    long_buckets: bool = False
    settle_ms: int = 30_000
    volume: Mapping[str, str] = field(default_factory=dict)
    taint: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


def traits_of(exchange_id: str) -> ExchangeTraits:
    """The traits of an exchange; the defaults if it has no table."""
    return _table().get(exchange_id, ExchangeTraits())


@lru_cache(maxsize=1)
def _table() -> Mapping[str, ExchangeTraits]:
    text = files(__package__).joinpath("traits.toml").read_text("utf-8")
    return {
        name: ExchangeTraits(**{**row, "answers": Answers(row.get("answers", Answers.UNKNOWN))})
        for name, row in tomllib.loads(text).items()
    }
