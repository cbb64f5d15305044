"""The table exchange x case of ``docs/exchanges.md``: what a client gets of the biggest exchanges' local servers.

``python -m tests.fakes.exchange_lab --table`` renews it between the marks of the page. Each question goes through the
history: guard, fetches, store, and the same question again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from candlegraph.answer import Answer, CandleRequest
from candlegraph.clock import DAY_MS, HOUR_MS, MINUTE_MS
from candlegraph.provider import Listing, Page
from candlegraph.series import Instrument, Series
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe
from history.orchestrator import History
from providers.guard.guard import Guard
from storage.aggregates.layout import AggregateLayout
from storage.database import Database
from storage.embedded.postgres import EmbeddedPostgres
from storage.migration.migrate import migrate
from tests.fakes.exchange_lab.cases import T0
from tests.fakes.exchange_lab.sampling import lab_time
from tests.fakes.exchange_lab.server import LabExchange
from tests.fakes.exchange_lab.wire import CLOSE, HIGH, LOW, NOT_BIG, OPEN, WIRES, volume
from tests.fakes.upstream import FakeProviders
from tests.timings import PATIENT

PAGE = Path(__file__).parents[3] / "docs" / "exchanges.md"
BEGIN, END = "<!-- comparison -->\n", "<!-- /comparison -->\n"
NOW = T0 + 40 * DAY_MS
MAX_PAGES = 40
_UNHURRIED = replace(PATIENT, query_deadline_s=300.0, query_finish_s=300.0)
HOUR, DAY = Timeframe(1, "h"), Timeframe(1, "d")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A case: the minutes that have a candle, and a question about them."""

    name: str
    minutes: range | tuple[int, ...]  # ms
    span: Span
    timeframe: Timeframe = MINUTE

    @property
    def expected(self) -> list[int]:
        """The openings of the settled candles in the span."""
        return [at for at in self.opens(self.timeframe) if self.span.since <= at < self.span.until]

    def opens(self, timeframe: Timeframe) -> list[int]:
        """The openings of all candles of a timeframe, ascending."""
        opens: list[int] = np.unique(timeframe.floor_all(np.array(self.minutes, np.int64))).tolist()
        return opens


def _minutes(first: int, last: int, step: int = 1) -> range:
    return range(first, last, step * MINUTE_MS)


def comparisons() -> list[Comparison]:
    """A dense day, a thin market over two days, a night, the time before the first and after the last candle, hours, days."""
    month, day = NOW - 35 * DAY_MS, NOW - 3 * DAY_MS
    two = Span(day - DAY_MS, day + DAY_MS)
    asleep = Span(day + HOUR_MS, day + 9 * HOUR_MS)
    night = tuple(at for at in _minutes(month, NOW) if not asleep.since <= at < asleep.until)
    thin = tuple(at for at in _minutes(month, NOW, 7) if not asleep.since <= at < asleep.until)
    return [
        Comparison("a day", _minutes(month, NOW), Span(day, day + DAY_MS)),
        Comparison("thin", thin, two),
        Comparison("night", night, Span(day, day + DAY_MS)),
        Comparison("before listing", _minutes(day + 5 * HOUR_MS, NOW), Span(day, day + DAY_MS)),
        Comparison("after delisting", _minutes(month, day + 5 * HOUR_MS), Span(day, day + DAY_MS)),
        Comparison("thin hours", thin, Span(NOW - 30 * DAY_MS, NOW - DAY_MS), HOUR),
        Comparison("days", _minutes(month, NOW), Span(NOW - 30 * DAY_MS, NOW - DAY_MS), DAY),
    ]


class _OneAtATime:
    """The provider of a local exchange, which has the candles of the timeframe that is fetched."""

    def __init__(self, lab: LabExchange, case: Comparison) -> None:
        self._lab, self._case, self._turn = lab, case, asyncio.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lab.provider, name)

    async def fetch(self, instrument: Instrument, timeframe: Timeframe, span: Span) -> Page:
        async with self._turn:
            self._lab.timeframe = timeframe
            self._lab.there = self._case.opens(timeframe)
            return await self._lab.provider.fetch(instrument, timeframe, span)

    async def listings(self) -> Sequence[Listing]:
        return [Listing(self._lab.wire.symbol)]

    async def first_available(self, instrument: Instrument) -> int | None:
        return None


@asynccontextmanager
async def _database() -> AsyncIterator[Database]:
    with TemporaryDirectory() as folder:
        postgres = EmbeddedPostgres(Path(folder))
        try:
            database = Database(postgres.start().dsn, timings=_UNHURRIED)
            await database.open()
            await migrate(database, AggregateLayout.TABLES)
            yield database
            await database.close()
        finally:
            postgres.stop()


async def table() -> str:
    """The table: one line for each exchange."""
    cases = comparisons()
    lines = [f"| exchange | {' | '.join(case.name for case in cases)} |\n|---|{'---|' * len(cases)}\n"]
    async with _database() as database:
        for exchange_id in sorted(WIRES.keys() - NOT_BIG):
            cells = [await compare(database, exchange_id, case) for case in cases]
            lines.append(f"| {exchange_id} | {' | '.join(cells)} |\n")
    return "".join(lines)


async def compare(database: Database, exchange_id: str, case: Comparison) -> str:
    """What came of a case: ``equal``, ``honest`` or ``wrong``, and the calls of the question and of its repeat."""
    async with LabExchange(exchange_id) as lab:
        lab.now = NOW
        async with database.connection() as connection:
            await connection.execute("truncate instruments, listings, suspects, fetch_log, changes, claims cascade")
        with lab_time(lab):
            history = History.create(database, FakeProviders([Guard(_OneAtATime(lab, case), backoff_s=0.01)]))
            first, calls = await _ask(history, lab, case), lab.calls
            repeat = await _ask(history, lab, case)
            await history.fetcher.close()
        verdict = max(_verdict(first, case), _verdict(repeat, case), key=("equal", "honest", "wrong").index)
        return f"{verdict} {calls}/{lab.calls - calls}"


async def _ask(history: History, lab: LabExchange, case: Comparison) -> list[Answer]:
    """The pages of the question, as a client follows them."""
    pages: list[Answer] = []
    since: int | None = case.span.since
    while since is not None and len(pages) < MAX_PAGES:
        request = CandleRequest(Series(lab.instrument, case.timeframe), 5_000, since, case.span.until)
        answer = (await history.answer([request]))[0]
        if not isinstance(answer, Answer):
            raise answer
        pages.append(answer)
        since = answer.next_since if answer.has_more else None
    return pages


def _verdict(pages: list[Answer], case: Comparison) -> str:
    found = {candle.timestamp: candle for page in pages for candle in page.candles}
    gaps = [gap for page in pages for gap in page.gaps]
    absent = [at for at in case.expected if at not in found]
    values = {(c.open, c.high, c.low, c.close) for c in found.values()} <= {(OPEN, HIGH, LOW, CLOSE)}
    volumes = case.timeframe != MINUTE or all(c.volume == volume(at) for at, c in found.items())
    explained = all(any(gap.since <= at < gap.until for gap in gaps) for at in absent)
    if not (values and volumes and explained and found.keys() <= set(case.expected)) or pages[-1].has_more:
        return "wrong"
    return "equal" if not absent else "honest"


def renewed(page: str, rows: str) -> str:
    """The page with another table."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + rows + END + rest.split(END)[1]
