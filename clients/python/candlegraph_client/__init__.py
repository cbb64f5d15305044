"""Candles of a Candlegraph server: `history` as a DataFrame, `live` as they close.

Both use a client of the server at CANDLEGRAPH_URL, or at http://127.0.0.1:8000; `Client` makes one of your own.
"""

from __future__ import annotations

from functools import cache
from typing import Unpack

from candlegraph_client import errors
from candlegraph_client.candles import Candles
from candlegraph_client.client import Client, History, LiveOptions, Options
from candlegraph_client.errors import CandlegraphError
from candlegraph_client.following import Candle, Live


@cache
def default_client() -> Client:
    """The client that `history` and `live` use; it is made with the first call."""
    return Client()


history = History(default_client)


def live(series: str, timeframe: str = "1m", **options: Unpack[LiveOptions]) -> Live:
    """Candles as they close; see `Client.live`."""
    return default_client().live(series, timeframe, **options)


__all__ = [
    "Candle",
    "CandlegraphError",
    "Candles",
    "Client",
    "History",
    "Live",
    "LiveOptions",
    "Options",
    "default_client",
    "errors",
    "history",
    "live",
]
