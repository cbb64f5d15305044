"""Live candles that survive lost connections: each closed candle once, in order, from where the caller began."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from candlegraph_client.candles import NAMES
from candlegraph_client.errors import CandlegraphError, Conflict, Unauthenticated
from candlegraph_client.loading import load_pages
from candlegraph_client.operations import LIVE, NEWEST, REFRESH, Event, LiveNode, NewestAnswer, RefreshAnswer
from candlegraph_client.series import Series, to_datetime
from candlegraph_client.session import MAX_RETRY_AFTER_S, Session, backoff
from candlegraph_client.subscription import Subscription


@dataclass(frozen=True, slots=True)
class Candle:
    """One candle; ``timestamp`` is the opening of its bucket, aware, in UTC.

    ``closed`` is false for the forming one; ``corrected`` is true where it replaces one that came before.
    """

    timestamp: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float
    closed: bool = True
    corrected: bool = False

    @classmethod
    def of(cls, node: LiveNode, *, corrected: bool = False) -> Candle:
        """Read a candle of the API."""
        numbers = (node["open"], node["high"], node["low"], node["close"], node["volume"])
        return cls(to_datetime(node["timestamp"]), *numbers, node["closed"], corrected)


@dataclass(slots=True)
class Position:
    """How far a listener has come (ms): where it began, its last closed candle, and the corrections it has seen."""

    first: int
    revision: str
    since: int
    last: int | None = None
    corrections: dict[int, Candle] = field(default_factory=dict)

    def take(self, event: Event) -> Iterator[Candle]:
        """The candles of an event that are new to the listener."""
        for node in event["nodes"]:
            opened = node["timestamp"]
            if opened < self.first:
                continue
            if self.last is None or opened > self.last:
                if node["closed"]:
                    self.since = self.last = opened
                yield Candle.of(node)
            elif event["kind"] == "CORRECTION":
                yield from self.corrected(opened, Candle.of(node, corrected=True))

    def corrected(self, opened: int, candle: Candle) -> Iterator[Candle]:
        """The candle, unless it came as a correction already."""
        if self.corrections.get(opened) != candle:
            self.corrections[opened] = candle
            yield candle


class Live:
    """Candles of a series as they close: iterate with `for`, or with `async for`. It never ends by itself."""

    def __init__(
        self, session: Session, series: Series, *, since: int | None, closed_only: bool, corrections: bool
    ) -> None:
        """Listen to nothing yet; see `Client.live`."""
        self._session = session
        self._series = series
        self._since = since
        self._closed_only = closed_only
        self._corrections = corrections

    def __aiter__(self) -> AsyncIterator[Candle]:
        """The candles, in the caller's event loop."""
        return self._follow()

    def __iter__(self) -> Iterator[Candle]:
        """The candles; a thread keeps the connection alive while the caller works."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="candlegraph live", daemon=True)
        thread.start()
        candles = self._follow()

        async def step() -> Candle:
            return await anext(candles)

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await candles.aclose()
            await loop.shutdown_default_executor()

        try:
            while True:
                yield asyncio.run_coroutine_threadsafe(step(), loop).result()
        finally:
            asyncio.run_coroutine_threadsafe(end(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _follow(self) -> AsyncGenerator[Candle, None]:
        position: Position | None = None
        retries, renewed = 0, False
        while True:
            error: CandlegraphError | None = None
            try:
                again = position is not None
                position = position or await self._begin()
                async with Subscription(self._session, LIVE, self._variables(position)) as events:
                    while (event := await events.receive()) is not None and event["kind"] != "RESYNC":
                        retries, renewed = 0, False
                        for candle in await self._candles_of(event, position, again=again):
                            yield candle
            except Unauthenticated:
                token = self._session.token
                if renewed or token is None or not await asyncio.to_thread(self._session.renew, token):
                    raise
                renewed = True
            except CandlegraphError as failed:
                if not failed.may_pass:
                    raise
                error = failed
            pause = min((error.retry_after if error else None) or 0.0, MAX_RETRY_AFTER_S)
            await asyncio.sleep(pause + backoff(retries))
            retries += 1

    def _variables(self, position: Position) -> dict[str, Any]:
        return {
            **self._series.names,
            "since": position.since,
            "timezone": self._series.timezone,
            "closedOnly": self._closed_only,
        }

    async def _candles_of(self, event: Event, position: Position, *, again: bool) -> list[Candle]:
        """The candles of an event for the caller; after a lost connection also the corrections that it missed."""
        found = [candle for candle in position.take(event) if self._corrections or not candle.corrected]
        if again and self._corrections and event["caughtUp"]:
            found += await self._missed_corrections(position)
        return found

    async def _begin(self) -> Position:
        """Where to begin, before the first subscription: what closes while it is being opened is not lost then."""
        variables = {**self._series.names, "timezone": self._series.timezone}
        answer: NewestAnswer = await self._execute(NEWEST, variables)
        series, now = answer["candles"], answer["serverTime"]
        first = self._since
        if first is None:
            first = now - self._series.longest_ms
            for node in series["nodes"]:
                first = max(first, node["end"] if node["closed"] else node["timestamp"])
        return Position(first, series["revision"], first)

    async def _missed_corrections(self, position: Position) -> list[Candle]:
        """What was corrected while the connection was lost. Conflict where that is too much to list."""
        variables = {**self._series.names, "timezone": None, "after": position.revision, "more": False}
        answer: RefreshAnswer = await self._execute(REFRESH, variables)
        changes = answer["changes"]
        if changes is None:
            raise Conflict("Too much was corrected while the connection was lost: read the history again.")
        position.revision = changes["revision"]
        found: list[Candle] = []
        slack = self._series.longest_ms if self._series.timezone else 0
        for changed in changes["changed"]:
            span = (max(changed["since"] - slack, position.first), changed["until"] + slack)
            loaded, _ = await asyncio.to_thread(load_pages, self._session, self._series, span)
            columns = loaded.columns
            for opened, *numbers in zip(*(columns[name].tolist() for name in NAMES), strict=True):
                if position.last is not None and opened <= position.last:
                    candle = replace(Candle(to_datetime(opened), *numbers), corrected=True)
                    found += position.corrected(opened, candle)
        return found

    async def _execute(self, document: str, variables: dict[str, Any]) -> Any:
        return await asyncio.to_thread(self._session.execute, document, variables)
