"""What is asked of an exchange of the laboratory, and how its answers compare with what it has."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from enum import StrEnum

from candlegraph.provider import Page, Provider
from candlegraph.series import Instrument
from candlegraph.span import Span, Spans
from candlegraph.timeframe import Timeframe
from tests.fakes.exchange_lab.paging import Edge, Paging
from tests.fakes.exchange_lab.wire import CLOSE, HIGH, LOW, OPEN, volume

T0 = 1_704_067_200_000  # 2024-01-01T00:00Z
TIMEFRAMES = tuple(map(Timeframe.parse, ("1m", "15m", "1h", "1d")))


class Shape(StrEnum):
    """When a symbol was traded."""

    DENSE = "dense"
    THIN = "thin"
    NIGHT = "night"
    BEFORE_LISTING = "before listing"
    AFTER_DELISTING = "after delisting"


@dataclass(frozen=True, slots=True)
class Case:
    """A series and a question: ``there`` are the openings of its candles, ``now`` the time at the exchange."""

    timeframe: Timeframe
    there: tuple[int, ...]
    span: Span
    now: int


@dataclass(slots=True)
class Outcome:
    """What came of a question, asked page by page as long as a page brings something."""

    found: dict[int, tuple[float, ...]] = field(default_factory=dict)
    covered: Spans = field(default_factory=Spans)
    calls: int = 0

    def add(self, page: Page, asked: Span) -> None:
        """Keep a page; of its rows those that it vouches for."""
        claim = Span(page.complete_from, page.complete_to) & asked
        if not claim:
            return
        self.covered |= Spans([claim])
        for candle in page.candles.between(claim):
            self.found[candle.timestamp] = (candle.open, candle.high, candle.low, candle.close, candle.volume)


def make_case(draw: random.Random, timeframe: Timeframe, shape: Shape, buckets: int) -> Case:
    """A case; the same for the same draw."""
    opens = [timeframe.shift(T0, i) for i in range(-200, buckets + 200)]
    if shape is Shape.THIN:
        opens = [at for at in opens if draw.random() < 1 / 7]
    elif shape is Shape.NIGHT:
        first, length = draw.randrange(buckets), draw.randrange(20, max(21, buckets // 2))
        opens = [at for i, at in enumerate(opens) if not first <= i - 200 < first + length]
    elif shape is Shape.BEFORE_LISTING:
        opens = opens[200 + draw.randrange(1, buckets) :]
    elif shape is Shape.AFTER_DELISTING:
        opens = opens[: 200 + draw.randrange(1, buckets)]
    now = timeframe.shift(T0, buckets + draw.randrange(1, 150))
    return Case(timeframe, tuple(at for at in opens if at <= now), _span(draw, timeframe, buckets), now)


def question(draw: random.Random, case: Case) -> Case:
    """Another question about the same series."""
    return replace(case, span=_span(draw, case.timeframe, (case.now - T0) // case.timeframe.nominal_ms))


def _span(draw: random.Random, timeframe: Timeframe, buckets: int) -> Span:
    since, until = sorted(draw.sample(range(buckets + 1), 2))
    return Span(timeframe.shift(T0, since), timeframe.shift(T0, until))


def make_paging(draw: random.Random) -> Paging:
    """A kind of paging."""
    return Paging(
        start=draw.choice([Edge.INCLUSIVE, Edge.INCLUSIVE, Edge.EXCLUSIVE]),
        end=draw.choice([Edge.INCLUSIVE, Edge.EXCLUSIVE]),
        keeps_newest=draw.random() < 0.5,
        descending=draw.random() < 0.5,
        cap=draw.choice([None, None, 50, 100, 200, draw.randrange(20, 400)]),
        window=draw.random() < 0.2,
    )


async def walk(provider: Provider, instrument: Instrument, case: Case) -> Outcome:
    """Ask for what is not covered, the oldest first, until nothing is left or nothing more is proved."""
    outcome, given_up = Outcome(), Spans()
    while left := Spans([case.span]) - outcome.covered - given_up:
        piece, before = next(iter(left)), outcome.covered
        outcome.calls += 1
        outcome.add(await provider.fetch(instrument, case.timeframe, piece), piece)
        if outcome.covered == before:
            given_up |= Spans([piece])
    return outcome


def vouched_away(outcome: Outcome, case: Case) -> list[int]:
    """The candles that exist, did not come, and are covered."""
    absent = [at for at in case.there if case.span.since <= at < case.span.until and at not in outcome.found]
    return [at for at in absent if Spans([Span(at, at + 1)]) & outcome.covered]


def missing(outcome: Outcome, case: Case) -> list[int]:
    """The settled candles of the span that did not come."""
    until = case.timeframe.floor(case.now)
    return [at for at in case.there if case.span.since <= at < min(case.span.until, until) and at not in outcome.found]


def wrong(outcome: Outcome) -> list[int]:
    """The candles with other numbers than the exchange has."""
    return [at for at, row in outcome.found.items() if row != (OPEN, HIGH, LOW, CLOSE, volume(at))]
