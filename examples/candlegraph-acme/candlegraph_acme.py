"""Candles of Acme's exchange for Candlegraph; ``ACME_URL`` says where it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import aiohttp

from candlegraph import (
    Budget,
    Candles,
    Capabilities,
    Instrument,
    InvalidCandles,
    Listing,
    LiveMode,
    Market,
    Page,
    Provider,
    ProviderRefused,
    ProviderUnavailable,
    RateLimited,
    Span,
    Timeframe,
    UnconfiguredProvider,
    UnknownSymbol,
    Unsupported,
    clock,
)

MARKET = Market("acme", "Acme", "What Acme's exchange trades.")
STEPS = {Timeframe.parse(name): seconds for name, seconds in (("1m", 60), ("1h", 3_600), ("1d", 86_400))}
ROWS = 1_000  # the most that one answer of Acme's holds


def create(environ: Mapping[str, str]) -> Iterable[Provider | UnconfiguredProvider]:
    """The provider, or the reason why there is none: cheap, and without I/O."""
    if url := environ.get("ACME_URL"):
        return [Acme(url)]
    return [UnconfiguredProvider(MARKET, Acme.id, Acme.name, Acme.description, Acme.version, "Set ACME_URL.")]


class Acme:
    """One upstream."""

    api_version = 1
    market, id, name, version = MARKET, "acme", "Acme", "0.1.0"
    description = "Candles of Acme's exchange."
    capabilities = Capabilities(
        tuple(STEPS), LiveMode.POLL, max_rows_per_call=ROWS, settle_ms=5_000, budget=Budget(weight=3_000, per_s=60)
    )

    def __init__(self, url: str) -> None:
        self._url = url
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open what is needed, in the loop that will use it."""
        self._http = self._http or aiohttp.ClientSession(self._url)

    async def close(self) -> None:
        """Let it go."""
        if self._http:
            await self._http.close()

    async def listings(self) -> Sequence[Listing]:
        """Acme's symbols."""
        try:
            rows = await self._get("symbols")  # always open; a stock exchange has a calendar such as XNYS
            return [Listing(row["symbol"], row["title"], active=row["open"], calendar="24/7") for row in rows]
        except (KeyError, TypeError) as error:
            raise ProviderUnavailable("Acme's list of symbols could not be read.") from error

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        """Acme's ``from`` and ``to`` are seconds, and both inclusive; its rows come oldest first."""
        if timeframe not in STEPS:
            raise Unsupported(f"Acme has no {timeframe} candles.")
        asked = {"from": span.since // 1_000, "to": span.until // 1_000, "step": STEPS[timeframe], "limit": ROWS}
        answer = await self._get("candles", symbol=instrument.symbol, **asked)
        try:
            found = Candles.from_rows((row[0] * 1_000, *row[1:]) for row in answer["candles"])
        except (KeyError, TypeError, InvalidCandles) as error:
            raise ProviderUnavailable("Acme's candles could not be read.") from error
        # A full page was cut where it ends; one that is not full says that there is nothing more.
        whole_to = timeframe.next(int(found.timestamp[-1])) if len(found) >= ROWS else span.until
        forming = timeframe.floor(clock.now_ms())
        return Page(found.between(span), span.since, min(whole_to, span.until, forming))

    async def _get(self, path: str, **query: str | int) -> Any:
        """One call, and everything that can come of it in Candlegraph's terms."""
        if self._http is None:
            raise ProviderUnavailable("Acme has not been started.")
        try:
            async with self._http.get(path, params=query) as answer:
                clock.note_date(answer.headers)
                if answer.status == 429:
                    raise RateLimited(retry_after=float(answer.headers.get("Retry-After", 1)))
                if answer.status in {401, 403}:
                    raise ProviderRefused("Acme refuses to answer us.")
                if answer.status == 404 and "symbol" in query:
                    raise UnknownSymbol(f"Acme does not know {query['symbol']!r}.")
                answer.raise_for_status()
                return await answer.json()
        except (aiohttp.ClientError, ValueError) as error:
            raise ProviderUnavailable("Acme does not answer as it should.") from error
