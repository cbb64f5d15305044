"""The declarations of ccxt's classes for use before ccxt is imported: ``first_use.toml``, which this module writes.

``python -m providers.ccxt.first_use > providers/ccxt/first_use.toml`` renews it; no network is used.
"""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from candlegraph.errors import ConfigurationError
from candlegraph.timeframe import MINUTE
from providers.ccxt.exchange import declared_limit, live_source, make_exchange, native_timeframes
from providers.ccxt.traits import traits_of

_HEAD = "# What ccxt's classes say: what the forming minute is made of, and how many rows one call brings. Written by first_use.py."


@dataclass(frozen=True, slots=True)
class FirstUse:
    """The declarations of an exchange before its first use: ``live`` as in `LiveSource`, empty if it is polled."""

    live: str = ""
    rows: int | None = None


def first_use_of(exchange_id: str) -> FirstUse:
    """The declarations in the file; empty for an exchange that is newer than the file."""
    return _table().get(exchange_id, FirstUse())


@lru_cache(maxsize=1)
def _table() -> dict[str, FirstUse]:
    text = files(__package__).joinpath("first_use.toml").read_text("utf-8")
    return {name: FirstUse(**row) for name, row in tomllib.loads(text).items()}


def declared(exchange_id: str) -> FirstUse | None:
    """The declarations of ccxt's class now; None if it has no candles."""
    try:
        exchange = make_exchange(exchange_id, {})
    except ConfigurationError:
        return None
    streams = MINUTE in native_timeframes(traits_of(exchange_id), exchange.timeframes or {})
    return FirstUse((live_source(exchange) or "") if streams else "", declared_limit(exchange))


def rendered(found: dict[str, FirstUse]) -> str:
    """The content of the file."""
    lines = [_HEAD]
    for name, row in sorted(found.items()):
        rows = "" if row.rows is None else f", rows = {row.rows}"
        lines.append(f'{name} = {{ live = "{row.live}"{rows} }}')
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    from ccxt.async_support import exchanges

    every = {name: found for name in exchanges if (found := declared(name))}
    sys.stdout.write(rendered(every))
