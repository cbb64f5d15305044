"""Random kinds of paging x shapes x timeframes, asked through ccxt's unmodified classes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from unittest.mock import patch

from candlegraph import clock
from providers.ccxt.observations import Observations
from tests.fakes.exchange_lab.cases import (
    TIMEFRAMES,
    Case,
    Shape,
    make_case,
    make_paging,
    missing,
    question,
    vouched_away,
    walk,
    wrong,
)
from tests.fakes.exchange_lab.paging import Edge, Paging
from tests.fakes.exchange_lab.server import LabExchange

# What their classes send: start, end and count; start and end; start and count; end and count (twice); a count and an offset;
# a day in the path; start and count to an exchange that is known to answer from the start on.
CARRIERS = ("bitvavo", "kucoin", "whitebit", "extended", "upbit", "p2b", "bitbank", "tokocrypto")
QUESTIONS = 3  # of a series: the later ones are judged by what the earlier ones showed


@dataclass(slots=True)
class Tally:
    """What came of some cases: calls and candles."""

    cases: int = 0
    calls: int = 0
    most_calls: int = 0
    expected: int = 0
    missing: int = 0
    vouched_away: int = 0
    wrong: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count another one in."""
        for name in ("cases", "calls", "expected", "missing", "vouched_away", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.most_calls = max(self.most_calls, other.most_calls)
        self.failures += other.failures

    def __str__(self) -> str:
        """One line."""
        return (
            f"cases {self.cases}, calls {self.calls} (at most {self.most_calls}), candles {self.expected}, "
            f"unavailable {self.missing}, vouched away {self.vouched_away}, wrong {self.wrong}"
        )


def paging_for(carrier: str, draw: random.Random) -> Paging:
    """A kind of paging; where the traits of ``carrier`` say how it pages, that one."""
    paging = make_paging(draw)
    if carrier == "upbit":
        return replace(paging, end=Edge.EXCLUSIVE, keeps_newest=True, cap=200)
    if carrier == "extended":
        return replace(paging, keeps_newest=True)
    if carrier == "p2b":
        return replace(paging, keeps_newest=True, cap=500)
    if carrier == "bitbank":
        return replace(paging, start=Edge.INCLUSIVE, end=Edge.EXCLUSIVE, cap=None)
    if carrier == "tokocrypto":
        return replace(
            paging, start=Edge.INCLUSIVE, keeps_newest=False, cap=draw.choice([None, 100, 1_000]), window=False
        )
    return paging


@contextmanager
def lab_time(lab: LabExchange) -> Iterator[None]:
    """Let our clock be the exchange's."""
    with patch.multiple(clock, wall_ms=lambda: lab.now, monotonic_ms=lambda: lab.now):
        yield


async def run_cases(carrier: str, cases: int, seed: int) -> Tally:
    """Ask about so many series, `QUESTIONS` times each."""
    draw, tally = random.Random(f"{carrier} {seed}"), Tally()
    async with LabExchange(carrier) as lab:
        timeframes = [each for each in TIMEFRAMES if each in lab.provider.capabilities.timeframes]
        if carrier == "bitbank":  # a day a call
            timeframes = timeframes[:2]
        with lab_time(lab):
            while tally.cases < cases:
                timeframe = draw.choice(timeframes)
                lab.paging, shape = paging_for(carrier, draw), draw.choice(list(Shape))
                case = make_case(draw, timeframe, shape, draw.choice([30, 150, 400, 1_200]))
                lab.provider._seen = Observations(lab.provider._traits.rows_per_call)
                for _ in range(QUESTIONS):
                    await ask(lab, case, tally)
                    case = question(draw, case)
    return tally


async def ask(lab: LabExchange, case: Case, tally: Tally) -> None:
    """Ask one question, and compare."""
    lab.there, lab.timeframe, lab.now = list(case.there), case.timeframe, case.now
    outcome = await walk(lab.provider, lab.instrument, case)
    lost, bad = vouched_away(outcome, case), wrong(outcome)
    tally.cases += 1
    tally.calls += outcome.calls
    tally.most_calls = max(tally.most_calls, outcome.calls)
    tally.expected += sum(case.span.since <= at < case.span.until for at in case.there)
    tally.missing += len(missing(outcome, case))
    tally.vouched_away += len(lost)
    tally.wrong += len(bad)
    if lost or bad:
        tally.failures.append(f"{lab.id} {lab.paging} {case.timeframe} {case.span}: {len(lost)} lost from {lost[:1]}")
