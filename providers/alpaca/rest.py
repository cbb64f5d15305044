"""Alpaca's REST interface: sends requests with the account's keys, translates errors, and converts bars to candles.

No error has one of aiohttp's as its cause, because some of those include the request, and with it the keys.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from json import JSONDecoder

import aiohttp
import numpy as np
import orjson

from candlegraph import clock
from candlegraph.candle import Candles
from candlegraph.errors import (
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    RateLimited,
    UnknownSymbol,
    Unsupported,
)

MAX_BODY = 32 << 20  # bytes; the longest answer, the list of all assets, is about 13 MB

_LONGEST_WAIT_S = 3_600.0
_KEYS_REFUSED = "Alpaca refuses the keys: look at ALPACA_API_KEY, ALPACA_API_SECRET and, for those of a live account, ALPACA_TRADING_URL."


class RecentRefused(ProviderRefused):
    """Alpaca's plan does not include the last 15 minutes of this feed."""


@dataclass(frozen=True, slots=True)
class AlpacaAccount:
    """A pair of keys and the hosts that accept them; its `repr` leaves the keys out."""

    key: str = field(repr=False)
    secret: str = field(repr=False)
    data_url: str
    trading_url: str
    stream_url: str


class RestClient:
    """The connections of one provider to Alpaca's two REST hosts."""

    def __init__(self, account: AlpacaAccount) -> None:
        """Open nothing yet."""
        self.account = account
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Create a pool of connections; send no request yet."""
        if self._http is None:
            self._http = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None)
            )

    async def close(self) -> None:
        """Close the connections."""
        http, self._http = self._http, None
        if http:
            await http.close()

    async def get(self, url: str, params: Mapping[str, str], deadline_s: float) -> bytes:
        """The body of a 200, at most `MAX_BODY` bytes; every other outcome is a ProviderError."""
        if self._http is None:
            raise ProviderUnavailable("Alpaca has not been started.")
        keys = {"APCA-API-KEY-ID": self.account.key, "APCA-API-SECRET-KEY": self.account.secret}
        try:
            # A redirect would carry the keys to another host.
            request = self._http.get(url, params=params, headers=keys, allow_redirects=False)
            async with asyncio.timeout(deadline_s), request as response:
                body = await _body(response)
        except TimeoutError:
            raise ProviderUnavailable("Alpaca did not answer in time.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ProviderUnavailable(f"Alpaca could not be reached or broke off ({type(error).__name__}).") from None
        clock.note_date(response.headers)
        if response.status != 200:
            raise _error(response.status, response.headers, body)
        return body


async def _body(response: aiohttp.ClientResponse) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_BODY:
            response.close()
            raise unreadable()
        chunks.append(chunk)
    return b"".join(chunks)


def _error(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """The error of a status. Wrong keys and a plan without the data both give 403, with different messages."""
    text = body[:2_000].decode(errors="replace").lower()
    if status == 429:
        return RateLimited("Alpaca asks us to slow down.", retry_after=_retry_after(headers))
    if status in {401, 403} and "subscription" in text:
        return RecentRefused() if "recent" in text else ProviderRefused("Alpaca's plan does not include this feed.")
    if status in {401, 403}:
        return ProviderRefused(_KEYS_REFUSED)
    if status in {400, 422}:
        if "invalid symbol" in text:
            return UnknownSymbol("Alpaca does not know this symbol.")
        return Unsupported(f"Alpaca does not support this request (HTTP {status}).")
    return ProviderUnavailable(f"Alpaca answered with HTTP {status}.", retry_after=_retry_after(headers))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until the limit ends: X-Ratelimit-Reset is an instant (s since the epoch), Retry-After a duration."""
    number = re.compile(r"[0-9]{1,15}")
    if number.fullmatch(reset := headers.get("X-Ratelimit-Reset", "")):
        wait = int(reset) - clock.now_ms() / 1000
    elif number.fullmatch(after := headers.get("Retry-After", "")):
        wait = float(after)
    else:
        return None
    return min(max(wait, 0.0), _LONGEST_WAIT_S)


def unreadable() -> ProviderUnavailable:
    """The error for an answer of another shape than expected."""
    return ProviderUnavailable("Alpaca sent an answer that could not be read.")


def json_of(body: bytes | str) -> object:
    """The body as JSON; ProviderUnavailable if it is not JSON."""
    try:
        parsed: object = orjson.loads(body)
    except ValueError:
        raise unreadable() from None
    return parsed


def objects_of(body: bytes) -> Iterator[object]:
    """The elements of a JSON array, one by one: a parser that gets 13 MB at once blocks every other thread."""
    decode, step = JSONDecoder().raw_decode, re.compile(r"\s*(,|\]\s*\Z)\s*")
    try:
        text = body.decode().strip()
        opened = re.match(r"\[\s*", text)
        if not opened:
            raise unreadable()
        at, end = opened.end(), len(text) - 1
        if text[end] == "]" and at == end:
            return
        while True:
            item, at = decode(text, at)
            yield item
            separator = step.match(text, at)
            if not separator:
                raise unreadable()
            if separator[1] != ",":
                return
            at = separator.end()
    except ValueError:
        raise unreadable() from None


def candles_of(rows: Sequence[Mapping[str, object]]) -> Candles:
    """Candles from bars of REST or the stream, in any order; the last bar of an instant counts. ProviderUnavailable."""
    try:
        texts = [row["t"] for row in rows]
        if not all(isinstance(text, str) and text.endswith("Z") for text in texts):
            raise unreadable()
        stamps = np.array([str(text)[:-1] for text in texts], "datetime64[ms]")
        numbers = np.array([[row[name] for name in "ohlcv"] for row in rows], np.float64).reshape(len(rows), 5)
    except (KeyError, TypeError, ValueError):
        raise unreadable() from None
    if np.isnat(stamps).any():
        raise unreadable()
    return Candles.of(stamps.astype(np.int64), *numbers.T).sorted()
