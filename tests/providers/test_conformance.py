"""Every provider of ours keeps the rules that plugins are held to, and each rule's check bites."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest

from candlegraph import Candles, Span, clock, fold
from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.testing import (
    RETRY_AFTER_S,
    RULES,
    Conformance,
    Fault,
    Harness,
    RuleBlocked,
    RuleNotApplicable,
    RuleViolation,
    Subject,
)
from candlegraph.timeframe import Timeframe
from providers.alpaca.provider import create as create_alpaca
from providers.ccxt.provider import Ccxt
from providers.demo import Synthetic
from providers.files.pages import MAX_ROWS
from providers.files.provider import Files
from tests.fakes import broken
from tests.fakes import exchange as fakes
from tests.fakes.alpaca import FakeAlpaca, session_candles
from tests.fakes.binance import FakeBinance
from tests.fakes.broken import SYMBOL, Honest
from tests.fakes.exchange import FakeExchange, random_candles
from tests.fakes.kraken import FakeKraken
from tests.timings import PATIENT_CCXT

# From Python 3.12.7 on aiohttp warns of an argument that ccxt gives its connector.
pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning")

T0 = 1_735_689_600_000  # 2025-01-01T00:00Z
NOW = T0 + 3 * DAY_MS + 11 * HOUR_MS + 20_000
MINUTES = (NOW - T0) // MINUTE_MS + 60  # an hour of them is still to come


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
    standing = _Clock(now)
    with patch.multiple(clock, wall_ms=standing, monotonic_ms=standing):
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
            _write(Path(folder), name, fold(minutes, Timeframe.parse(name)))
        yield Subject(
            make=lambda: Files(folder, ""),
            span=Span(int(minutes.timestamp[0]), NOW),
            truth=minutes,  # a file that becomes a web page is answered as it was: see tests/storage/test_files.py
        )


def _write(folder: Path, timeframe: str, candles: Candles) -> None:
    path = folder / f"BTCUSD_{timeframe}.csv"
    rows = (f"{c.timestamp},{c.open},{c.high},{c.low},{c.close},{c.volume}" for c in candles)
    path.write_text("\n".join(["timestamp,open,high,low,close,volume", *rows, ""]), encoding="utf-8")
    os.utime(path, (0, 0))  # no process writes it now


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
    for path in ("candles", "markets") if fault else ():
        fake.fail(FAULTS[fault], times=100, path=path)


@asynccontextmanager
async def binance() -> AsyncIterator[Subject]:
    truth = random_candles(T0, MINUTES, keep=0.8)
    async with FakeBinance() as fake:
        fake.add("BTC", "USDT", truth)
        fake.now = NOW
        options = fake.ccxt_options()["binance"]
        with _time(NOW) as time:

            def advance(ms: int) -> None:
                time.advance(ms)
                fake.now = time.now

            yield Subject(
                make=lambda: Ccxt("binance", options, timings=PATIENT_CCXT),
                symbol="BTC/USDT",
                span=Span(T0, NOW),
                truth=truth,
                fail=lambda fault: _failing(fake, fault),
                advance=advance,
            )


@asynccontextmanager
async def kraken() -> AsyncIterator[Subject]:
    truth = random_candles(T0, MINUTES)
    async with FakeKraken() as fake:
        fake.add("BTC", "USD", truth)
        fake.now = NOW
        options = fake.ccxt_options()["kraken"]
        with _time(NOW) as time:

            def advance(ms: int) -> None:
                time.advance(ms)
                fake.now = time.now

            yield Subject(
                make=lambda: Ccxt("kraken", options, timings=PATIENT_CCXT),
                symbol="BTC/USD",
                span=Span(NOW - 700 * MINUTE_MS, NOW),
                truth=truth,
                fail=lambda fault: _failing(fake, fault),
                advance=advance,
            )


@asynccontextmanager
async def alpaca() -> AsyncIterator[Subject]:
    truth = session_candles("2024-12-23", 9)
    async with FakeAlpaca() as fake:
        fake.free_plan = False
        fake.lists("AAPL", truth)
        fake.now = NOW
        with _time(NOW) as time:

            def advance(ms: int) -> None:
                time.advance(ms)
                fake.now = time.now

            yield Subject(
                make=lambda: next(iter(create_alpaca(fake.environ(ALPACA_FEEDS="sip")))),
                symbol="AAPL",
                span=Span(NOW - 11 * DAY_MS, NOW),
                truth=truth,
                fail=lambda fault: _failing(fake, fault),
                advance=advance,
                streams=False,  # the market is closed
            )


class TestOurs(Conformance):
    """Each provider that comes with Candlegraph. A new one: one more name here."""

    subjects = (synthetic, files, binance, kraken, alpaca)


@asynccontextmanager
async def in_memory(kind: type[Honest]) -> AsyncIterator[Subject]:
    """A provider that is honest, or breaks one rule."""
    made: list[Honest] = []

    def make() -> Honest:
        made.append(kind())
        return made[-1]

    def fail(fault: Fault | None) -> None:
        for provider in made:
            provider.fail(fault)

    with _time(broken.NOW) as time:
        yield Subject(
            make=make,
            symbol=SYMBOL,
            span=Span(broken.T0, broken.NOW),
            truth=broken.TRUTH,
            fail=fail,
            advance=time.advance,
        )


def _breaches(kind: type[Honest]) -> dict[str, str]:
    """The rules that a provider breaks, and what is said of each."""
    breaches: dict[str, str] = {}
    with Harness(lambda: in_memory(kind)) as bench:
        for rule in RULES:
            with suppress(RuleNotApplicable, RuleBlocked):
                try:
                    rule.verify(bench)
                except RuleViolation as breach:
                    breaches[rule.name] = str(breach)
    return breaches


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled tasks have a moment to end, not seconds."""
    monkeypatch.setattr(Harness, "leave_s", 0.05)


def test_every_rule_applies_to_an_honest_provider_that_has_everything_and_none_is_broken(hasty: None) -> None:
    with Harness(lambda: in_memory(Honest)) as bench:
        for rule in RULES:
            rule.verify(bench)


@pytest.mark.parametrize(("kind", "expected"), broken.BROKEN.items(), ids=[kind.__name__ for kind in broken.BROKEN])
def test_a_broken_provider_is_caught_by_the_one_rule_that_it_breaks(
    kind: type[Honest], expected: str, hasty: None
) -> None:
    breaches = _breaches(kind)
    assert list(breaches) == [expected], "\n".join(breaches.values())
    assert "fake.upstream breaks a rule" in breaches[expected]
    assert "The rule is written in docs/providers.md" in breaches[expected]


def test_every_rule_is_broken_by_somebody() -> None:
    assert {rule.name for rule in RULES} == set(broken.BROKEN.values())
