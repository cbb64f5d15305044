"""An upstream in this process that server processes ask over HTTP, and the plugin ``remote.tape`` that they ask it with.

Every call is counted here, for all callers, including those that were cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import aiohttp
import numpy as np
import orjson
from aiohttp import web

from candlegraph.candle import Candles
from candlegraph.errors import ProviderUnavailable, RateLimited
from candlegraph.provider import Budget, Capabilities, Listing, LiveMode, Market, Page
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe

ROWS = 1_000
Refusal = Callable[[str, int], Awaitable[web.Response | None]]


@dataclass
class Remote:
    """The upstream; ``async with`` starts and stops it. ``asked`` is the symbol and the beginning of every call."""

    truth: dict[str, Candles] = field(default_factory=dict)
    latency_s: float = 0.0
    refuse: Refusal | None = None  # answers instead, where it answers anything
    asked: list[tuple[str, int]] = field(default_factory=list)
    answered: list[tuple[str, int]] = field(default_factory=list)  # those of it that were answered with candles
    url: str = ""

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_get("/symbols", self._symbols)
        app.router.add_get("/candles", self._candles)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self._runner.cleanup()

    async def _symbols(self, request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(sorted(self.truth)))

    async def _candles(self, request: web.Request) -> web.Response:
        symbol, since, until = request.query["symbol"], int(request.query["since"]), int(request.query["until"])
        self.asked.append((symbol, since))
        if self.refuse and (refusal := await self.refuse(symbol, since)):
            return refusal
        await asyncio.sleep(self.latency_s)
        self.answered.append((symbol, since))
        rows = self.truth[symbol].between(Span(since, until))[:ROWS]
        return web.Response(body=np.column_stack(rows.columns[:6]).astype(np.float64).tobytes())


def variables(remote: Remote, folder: Path) -> dict[str, str]:
    """The environment of a process that has the plugin; ``folder`` is where it is installed."""
    info = folder / "remote_tape-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: remote-tape\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[candlegraph.providers]\nremote.tape = tests.fakes.remote:create\n")
    root = Path(__file__).parents[2]
    return {"PYTHONPATH": f"{root}:{folder}", "REMOTE_URL": remote.url}


class RemoteProvider:
    """The provider."""

    api_version = 1
    market = Market("remote", "Remote", "Nothing here is real.")
    id = "tape"
    name = "Tape"
    description = "Not real."
    version = "1"
    capabilities = Capabilities(
        (MINUTE,),
        LiveMode.NONE,
        max_rows_per_call=ROWS,
        settle_ms=0,
        budget=Budget(1e6, 1, concurrent=64),
        deadline_s=5,
    )

    def __init__(self, url: str) -> None:
        """Remember where it is."""
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open a session."""
        self._session = aiohttp.ClientSession(self._url)

    async def close(self) -> None:
        """Close it."""
        if self._session:
            await self._session.close()

    async def _get(self, path: str, **query: object) -> bytes:
        assert self._session
        try:
            async with self._session.get(path, params={name: str(value) for name, value in query.items()}) as response:
                if response.status == 429:
                    raise RateLimited(retry_after=float(response.headers["Retry-After"]))
                if response.status != 200:
                    raise ProviderUnavailable(f"It says {response.status}.")
                return await response.read()
        except aiohttp.ClientError as error:
            raise ProviderUnavailable from error

    async def listings(self) -> Sequence[Listing]:
        """Every symbol of the truth."""
        return [Listing(symbol) for symbol in orjson.loads(await self._get("/symbols"))]

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        """At most a thousand minutes."""
        body = await self._get("/candles", symbol=instrument.symbol, since=span.since, until=span.until)
        rows = np.frombuffer(body).reshape(-1, 6)
        candles = Candles.of(rows[:, 0].astype(np.int64), *(rows[:, i] for i in range(1, 6)))
        cut = len(candles) == ROWS
        return Page(candles, span.since, int(candles.timestamp[-1]) + 60_000 if cut else span.until)


def create(environ: Mapping[str, str]) -> Iterable[RemoteProvider]:
    """The provider, where the environment names its upstream."""
    return [RemoteProvider(environ["REMOTE_URL"])] if "REMOTE_URL" in environ else []
