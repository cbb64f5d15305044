"""The front door: a client of one server, whose history and live candles are one call away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypedDict, Unpack

from candlegraph_client.candles import Candles, Column, library
from candlegraph_client.errors import BadUserInput
from candlegraph_client.following import Live
from candlegraph_client.loading import load, load_export, load_newest
from candlegraph_client.mirror import Mirror
from candlegraph_client.series import END_MS, OLDEST_MS, Instant, Series, to_ms
from candlegraph_client.session import Session, SessionOptions

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

DEFAULT_LIMIT = 500


class Options(TypedDict, total=False):
    """The arguments of `History` by name.

    ``since`` (inclusive) and ``until`` (exclusive; now if absent) are compared with the openings of the buckets: ISO 8601,
    a date, a datetime or milliseconds since the epoch; what names no time zone is UTC. Without ``since`` the newest
    ``limit`` candles come, 500 by default. ``timezone`` is the IANA zone in which days and longer buckets open.
    ``fetch=False`` reads what is stored and calls no provider; without ``since`` it reads all of it.
    ``cache=True`` keeps a local copy.
    """

    since: Instant | None
    until: Instant | None
    limit: int | None
    timezone: str | None
    fetch: bool
    cache: bool


class LiveOptions(TypedDict, total=False):
    """The arguments of `Client.live` by name.

    ``since`` is where to begin, at most 50,000 candles ago; without it, the candle that is forming now is the first.
    ``closed_only=False`` brings the forming candle too, each time it moves; ``corrections=True`` also closed candles that
    changed afterwards. ``timezone`` is the IANA zone in which days and longer buckets open.
    """

    since: Instant | None
    timezone: str | None
    closed_only: bool
    corrections: bool


class History:
    """Final candles of a series: called for a pandas DataFrame, with methods for other forms."""

    def __init__(self, client: Callable[[], Client]) -> None:
        """Load nothing yet; the client is made with the first call."""
        self._client = client

    def __call__(self, series: str, timeframe: str = "1m", **options: Unpack[Options]) -> pd.DataFrame:
        """A pandas DataFrame: a DatetimeIndex `timestamp` in UTC and five float64 columns; `attrs` describes it.

        See `Options`. BadUserInput, NotFound, and what else `candlegraph_client.errors` lists.
        """
        library("pandas")  # before anything is fetched
        return self.candles(series, timeframe, **options).pandas()

    def polars(self, series: str, timeframe: str = "1m", **options: Unpack[Options]) -> pl.DataFrame:
        """A polars DataFrame: `timestamp` as Datetime("ms", "UTC") and five Float64 columns."""
        library("polars")
        return self.candles(series, timeframe, **options).polars()

    def arrow(self, series: str, timeframe: str = "1m", **options: Unpack[Options]) -> pa.Table:
        """An Arrow table; the metadata `candlegraph` of its schema holds the attrs as JSON."""
        library("pyarrow")
        return self.candles(series, timeframe, **options).arrow()

    def numpy(self, series: str, timeframe: str = "1m", **options: Unpack[Options]) -> dict[str, Column]:
        """Arrays by name: `timestamp` as datetime64[ms] in UTC and five of float64."""
        return self.candles(series, timeframe, **options).numpy()

    def candles(self, series: str, timeframe: str = "1m", **options: Unpack[Options]) -> Candles:
        """The candles with what is known of them: `complete`, `gaps`, `sources`, `revision`; its methods make every form."""
        named = Series.parse(series, timeframe, options.get("timezone"))
        return replace(_load(self._client(), named, options), series=named.path, timeframe=timeframe)


def _load(client: Client, series: Series, options: Options) -> Candles:
    since, until, limit = options.get("since"), options.get("until"), options.get("limit")
    fetch, cache = options.get("fetch", True), options.get("cache", False)
    end = END_MS if until is None else to_ms(until)
    if since is not None and limit is not None:
        raise BadUserInput("Give `since` or `limit`: a limit counts back from the newest candle.")
    if limit is not None and limit < 1:
        raise BadUserInput(f"`limit` ({limit}) is at least 1.")
    if not fetch and (cache or limit is not None):
        raise BadUserInput("`fetch=False` reads what the server has stored: leave `cache` and `limit` out.")
    if since is None:
        if cache:
            raise BadUserInput("Give `since` with `cache=True`: the copy needs a beginning.")
        if fetch:
            return load_newest(client.session, series, end, limit or DEFAULT_LIMIT)
        return load_export(client.session, series, None if until is None else (OLDEST_MS, end)).candles
    span = (to_ms(since), end)
    if span[0] > span[1]:
        raise BadUserInput(f"`since` ({since}) lies after `until` ({until}): swap them.")
    if cache:
        return client.mirror.load(series, span)
    return (load if fetch else load_export)(client.session, series, span).candles


class Client:
    """A client of one server. Its address is ``url``, CANDLEGRAPH_URL or http://127.0.0.1:8000."""

    def __init__(
        self, url: str | None = None, *, cache_folder: Path | None = None, **options: Unpack[SessionOptions]
    ) -> None:
        """Connect with the first request; see `SessionOptions`. Local copies go into ``cache_folder``."""
        self.session = Session(url, **options)
        self.mirror = Mirror(self.session, cache_folder)
        self.history = History(lambda: self)

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.session.close()

    def live(self, series: str, timeframe: str = "1m", **options: Unpack[LiveOptions]) -> Live:
        """Candles as they close: `for candle in client.live(...)`, or `async for`.

        Each closed candle comes once, in order; lost connections are resumed without end. See `LiveOptions`.
        """
        named = Series.parse(series, timeframe, options.get("timezone"))
        since = options.get("since")
        return Live(
            self.session,
            named,
            since=None if since is None else to_ms(since),
            closed_only=options.get("closed_only", True),
            corrections=options.get("corrections", False),
        )
