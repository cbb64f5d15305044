"""A listener of live candles."""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime
from typing import Any

from candlegraph_client import Candle, Client
from conftest import Server, eventually

SERIES = "demo/synthetic/BTC/USD"


class Listener:
    """Collects the candles of a subscription in a thread of its own, until it is stopped."""

    def __init__(self, url: str, *, series: str = SERIES, asynchronous: bool = False, **options: Any) -> None:
        self.candles: list[Candle] = []
        self.fault: BaseException | None = None
        self._client = Client(url)
        self._live = self._client.live(series, "1m", **options)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, args=(asynchronous,), daemon=True)
        self._thread.start()

    def _run(self, asynchronous: bool) -> None:
        try:
            asyncio.run(self._iterate_async()) if asynchronous else self._iterate()
        except BaseException as error:  # noqa: BLE001 - the test shows it
            self.fault = error

    def _iterate(self) -> None:
        for candle in self._live:
            self.candles.append(candle)
            if self._stopped:
                break

    async def _iterate_async(self) -> None:
        async for candle in self._live:
            self.candles.append(candle)
            if self._stopped:
                break

    @property
    def closed(self) -> list[Candle]:
        """Without corrections."""
        return [candle for candle in self.candles if not candle.corrected]

    def stop(self) -> None:
        """Stop with the next candle."""
        self._stopped = True
        eventually(lambda: not self._thread.is_alive())
        self._client.close()
        assert self.fault is None


def newest(server: Server) -> datetime:
    """The newest closed candle."""
    with Client(server.url) as client:
        return client.history(SERIES, "1m", limit=1).index[-1].to_pydatetime()
