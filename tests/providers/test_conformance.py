"""Every provider of ours keeps the rules that plugins are held to, and each rule's check bites."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest

from candlegraph import Candles, Span, clock, fold
from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.testing import RETRY_AFTER_S, Conformance, Fault, Subject, SubjectFactory
from candlegraph.timeframe import Timeframe
from providers.ccxt import Ccxt
from providers.demo import Synthetic
from providers.files import MAX_ROWS, Files
from tests.fakes import binance as fakes
from tests.fakes.binance import FakeBinance, FakeExchange, random_candles
from tests.fakes.kraken import FakeKraken

# From Python 3.12.7 on aiohttp warns of an argument that ccxt gives its connector.
pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning")

T0 = 1_735_689_600_000  # 2025-01-01T00:00Z
NOW = T0 + 3 * DAY_MS + 11 * HOUR_MS + 20_000
MINUTES = (NOW - T0) // MINUTE_MS + 1


class _Clock:
    """Stands still until it is moved."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, ms: int) -> None:
        self.now += ms


@contextmanager
def _time(now: int) -> Iterator[_Clock]:
    with patch.object(clock, "now_ms", _Clock(now)) as standing:
        yield standing


@asynccontextmanager
async def synthetic() -> AsyncIterator[Subject]:
    with _time(NOW) as time:
        yield Subject(make=Synthetic, symbol="BTC/USD", advance=time.advance)


@asynccontextmanager
async def files() -> AsyncIterator[Subject]:
    """A folder whose tables are still being written: their last rows are forming."""
    minutes = random_candles(NOW // MINUTE_MS * MINUTE_MS - (MAX_ROWS + 500) * MINUTE_MS, MAX_ROWS + 501, keep=0.9)
    with TemporaryDirectory() as folder, _time(NOW):
        for name in ("1m", "1h", "1d"):
            _write(Path(folder, f"BTCUSD_{name}.csv"), fold(minutes, Timeframe.parse(name)))
        sound = {path: path.read_bytes() for path in Path(folder).iterdir()}

        def fail(fault: Fault | None) -> None:
            for path, body in sound.items():
                path.write_bytes(body if fault is None else b"<html><body>Just a moment...</body></html>")

        yield Subject(
            make=lambda: Files(folder, ""),
            span=Span(int(minutes.timestamp[0]), NOW),
            truth=minutes,
            fail=fail,
            faults=[Fault.HTML],
        )


def _write(path: Path, candles: Candles) -> None:
    rows = (f"{c.timestamp},{c.open},{c.high},{c.low},{c.close},{c.volume}" for c in candles)
    path.write_text("\n".join(["timestamp,open,high,low,close,volume", *rows, ""]), encoding="utf-8")


FAULTS = {
    Fault.SERVER_ERROR: fakes.Fault(status=500, body=b'{"code":-1000,"msg":"An unknown error occurred."}'),
    Fault.RATE_LIMITED: fakes.Fault(status=429, body=b"{}", headers={"Retry-After": str(RETRY_AFTER_S)}),
    Fault.HANG: fakes.Fault(hang=True),
    Fault.TRUNCATED: fakes.Fault(truncate=True),
    Fault.HTML: fakes.HTML,
    Fault.NONSENSE: fakes.Fault(body=b'{"data":null}'),
}


def _failing(fake: FakeExchange, fault: Fault | None) -> None:
    fake.reset()
    for path in ("candles", "markets"):
        fake.fail(FAULTS[fault], times=1_000 if fault else 0, path=path) if fault else None


@asynccontextmanager
async def binance() -> AsyncIterator[Subject]:
    truth = random_candles(T0, MINUTES, keep=0.8)
    async with FakeBinance() as fake:
        fake.add("BTC", "USDT", truth)
        fake.now = NOW
        options = fake.ccxt_options()["binance"]
        with _time(NOW):
            yield Subject(
                make=lambda: Ccxt("binance", options),
                symbol="BTC/USDT",
                span=Span(T0, NOW),
                truth=truth,
                fail=lambda fault: _failing(fake, fault),
            )


@asynccontextmanager
async def kraken() -> AsyncIterator[Subject]:
    truth = random_candles(T0, MINUTES)
    async with FakeKraken() as fake:
        fake.add("BTC", "USD", truth)
        fake.now = NOW
        options = fake.ccxt_options()["kraken"]
        with _time(NOW):
            yield Subject(
                make=lambda: Ccxt("kraken", options),
                symbol="BTC/USD",
                span=Span(NOW - 700 * MINUTE_MS, NOW),
                truth=truth,
                fail=lambda fault: _failing(fake, fault),
            )


class TestOurs(Conformance):
    """Each provider that comes with Candlegraph. A new one: one more name here."""

    subjects = (synthetic, files, binance, kraken)
