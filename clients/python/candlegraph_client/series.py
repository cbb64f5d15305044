"""The names and instants that callers give, and spans of time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Self

import numpy as np

from candlegraph_client.errors import BadUserInput

Instant = str | int | date | datetime | np.datetime64
Span = tuple[int, int]  # half-open, milliseconds since the epoch, UTC

OLDEST_MS, END_MS = -2_208_988_800_000, 9_999_999_999_999  # the first and the last Timestamp of the API
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_UNITS_MS |= {"mon": 31 * _UNITS_MS["d"], "y": 366 * _UNITS_MS["d"]}
_TIMEFRAME = re.compile(r"([1-9][0-9]{0,7})(m|h|d|w|mon|y)")


@dataclass(frozen=True, slots=True)
class Series:
    """The candles of one symbol in one timeframe; days and longer open in ``timezone``, or in the symbol's own if None."""

    market: str
    provider: str
    symbol: str
    timeframe: str
    timezone: str | None = None

    @classmethod
    def parse(cls, path: str, timeframe: str, timezone: str | None = None) -> Self:
        """Read `market/provider/symbol`; the symbol may hold slashes. BadUserInput."""
        market, _, rest = path.partition("/")
        provider, _, symbol = rest.partition("/")
        if not (market and provider and symbol):
            raise BadUserInput(f"{path!r} is not market/provider/symbol, such as crypto/binance/BTC/USDT.")
        if not _TIMEFRAME.fullmatch(timeframe):
            raise BadUserInput(f"{timeframe!r} is not a timeframe: give a count and one of m h d w mon y, such as 1h.")
        return cls(market, provider, symbol, timeframe, timezone)

    @property
    def path(self) -> str:
        """The name, as `parse` takes it."""
        return f"{self.market}/{self.provider}/{self.symbol}"

    @property
    def names(self) -> dict[str, str]:
        """The arguments that name it."""
        return {
            "market": self.market,
            "provider": self.provider,
            "symbol": self.symbol,
            "timeframe": self.timeframe,
        }

    @property
    def longest_ms(self) -> int:
        """The length of its longest bucket."""
        unit = self.timeframe.lstrip("0123456789")
        return int(self.timeframe.removesuffix(unit)) * _UNITS_MS[unit]


def to_ms(instant: Instant) -> int:
    """Milliseconds since the epoch; what names no time zone is UTC. BadUserInput."""
    if isinstance(instant, np.datetime64):
        return int(instant.astype("datetime64[ms]").astype(np.int64))
    if isinstance(instant, str):
        try:
            instant = datetime.fromisoformat(instant)
        except ValueError:
            raise BadUserInput(f"{instant!r} is no instant: give ISO 8601, such as 2024-01-01T09:30Z.") from None
    if isinstance(instant, datetime):
        aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
        return (aware - _EPOCH) // timedelta(milliseconds=1)
    if isinstance(instant, date):
        return to_ms(datetime(instant.year, instant.month, instant.day, tzinfo=UTC))
    return int(instant)


def to_datetime(ms: int) -> datetime:
    """An aware datetime, UTC."""
    return _EPOCH + timedelta(milliseconds=ms)


def to_iso(ms: int) -> str:
    """ISO 8601 in UTC, ending in Z."""
    timespec = "milliseconds" if ms % 1000 else "seconds"
    return to_datetime(ms).replace(tzinfo=None).isoformat(timespec=timespec) + "Z"


def union(spans: Iterable[Span], slack: int = 0) -> list[Span]:
    """The spans ascending, those at most ``slack`` apart as one."""
    found: list[Span] = []
    for since, until in sorted(span for span in spans if span[0] < span[1]):
        if found and since <= found[-1][1] + slack:
            found[-1] = (found[-1][0], max(found[-1][1], until))
        else:
            found.append((since, until))
    return found


def subtract(spans: Iterable[Span], taken: Iterable[Span]) -> list[Span]:
    """What is left of the spans."""
    left = union(spans)
    for since, until in taken:
        left = [
            part
            for first, last in left
            for part in ((first, min(last, since)), (max(first, until), last))
            if part[0] < part[1]
        ]
    return left
