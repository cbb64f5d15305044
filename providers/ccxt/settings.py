"""The settings of exchanges: their ids, their options, and the rate budget that follows from these."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from candlegraph.errors import ConfigurationError
from candlegraph.provider import Budget
from providers.ccxt.exchange import Exchange

_BUDGET_S = 60.0
_CONCURRENT = 8  # 8 pages at once cut the time of 100 pages to a fifth; more only queue
_CREDENTIALS = (
    "apiKey",
    "uid",
    "login",
    "walletAddress",
    "token",
)  # ccxt's names of the options that identify the caller
_ID = re.compile(r"[a-z][a-z0-9]{0,31}")


def budget_of(exchange: Exchange, options: Mapping[str, object]) -> Budget | None:
    """The budget that ccxt allows: a cost of 1 every ``rateLimit`` ms. ccxt's own limiter stays on behind ours.

    At most as many concurrent calls as that limiter starts in half of a call's deadline: more would only wait in it.
    """
    if not exchange.rateLimit:
        return None
    concurrent = max(1, min(_CONCURRENT, int(exchange.timeout / 2 / exchange.rateLimit)))
    credential = "\n".join(f"{name}={options[name]}" for name in _CREDENTIALS if options.get(name))
    return Budget(_BUDGET_S * 1000 / exchange.rateLimit, _BUDGET_S, concurrent, credential)


def read_options(text: str) -> dict[str, dict[str, object]]:
    """Read ``CCXT_OPTIONS``. No error quotes it, because it has keys."""
    text = text.strip()
    if not text:
        return {}
    if not text.startswith(("{", "[")):
        try:
            text = Path(text).read_text("utf-8")
        except (OSError, ValueError):
            raise ConfigurationError("CCXT_OPTIONS: it is neither a JSON object nor a file that can be read.") from None
    try:
        options: object = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigurationError("CCXT_OPTIONS: it is not valid JSON.") from None
    if not isinstance(options, dict) or not all(isinstance(value, dict) for value in options.values()):
        raise ConfigurationError("CCXT_OPTIONS: it must be a JSON object that holds one object for each exchange id.")
    return options


def known_exchanges() -> frozenset[str]:
    """The ids of ccxt's exchanges, without importing ccxt."""
    spec = find_spec("ccxt")
    folders = (spec.submodule_search_locations if spec else None) or ()
    files = (file for folder in folders for file in (Path(folder) / "async_support").glob("*.py"))
    return frozenset(file.stem for file in files if _ID.fullmatch(file.stem))
