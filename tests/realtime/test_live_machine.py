"""Anything may happen to a cluster, in any order: the events that each client received, joined over its reconnects, are the truth."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from candlegraph import MINUTE, Candles, LiveMode, Series, Span, Timeframe
from candlegraph.event import EventKind
from candlegraph.series import InstrumentRecord
from candlegraph.span import Spans
from candlegraph.zone import UTC
from realtime import topic as topic_module
from realtime import topic_publisher as publisher_module
from storage.batches import CandleWrite
from tests.fakes.clocks import set_clock
from tests.realtime.world import BTC, START, Exchange, Process
from tests.waiting import eventually

PROCESSES = 3
MOMENT_S = 0.03  # something happens meanwhile, but what does not matter


class Reader:
    """A client that comes back: it keeps the received candles, resumes from its last closed candle, and starts over on RESYNC."""

    def __init__(self, timeframe: str, since: int) -> None:
        self.timeframe = Timeframe.parse(timeframe)
        self.since = since
        self.received: dict[int, tuple[float, ...]] = {}  # by opening; a repeated candle would have been noticed
        self.numbers: dict[int, tuple[EventKind, int]] = {}
        self.wrongs: list[str] = []
        self.excused: set[int] = set()  # corrected before it came back, and older than what it came back for
        self.process: Process | None = None
        self.task: asyncio.Task[None] | None = None
        self.reading = asyncio.Event()  # a slow one does not
        self.reading.set()

    @property
    def resumes_at(self) -> int:
        return max(self.received, default=self.since)

    def connect(self, process: Process, truth: dict[int, tuple[float, ...]]) -> None:
        self.process = process
        self.excused |= {at for at in self.received if at < self.resumes_at and self.received[at] != truth.get(at)}
        self.task = asyncio.create_task(self._listen(process))

    def wrong_about(self, truth: dict[int, tuple[float, ...]]) -> str:
        rows = {at: (self.received.get(at), truth.get(at)) for at in self.received.keys() | truth.keys()}
        wrong = {at: pair for at, pair in sorted(rows.items()) if pair[0] != pair[1]}
        return f"received and true: {wrong}, excused: {self.excused}, from {self.since}, task {self.task}"

    async def cut(self) -> None:
        if self.task:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        self.task = None

    async def _listen(self, process: Process) -> None:
        since, counted = self.resumes_at, None
        async for event in process.hub.subscribe(Series(BTC, self.timeframe), since, UTC):
            await self.reading.wait()
            closed = event.candles[event.candles.closed]
            rows = {int(row[0]): row for row in zip(*(c.tolist() for c in closed.columns[:6]), strict=True)}
            if event.kind is EventKind.RESYNC:
                assert event.resync_from is not None
                self.received = {at: row for at, row in self.received.items() if at < event.resync_from}
                self.task = None
                return
            if event.kind in {EventKind.CLOSE, EventKind.CORRECTION}:
                (at,) = rows
                self._number(event.seq, event.kind, at, counted)
            if event.kind is not EventKind.CORRECTION:
                self._in_order(rows, since)
            if event.kind is not EventKind.UPDATE:
                counted = event.seq
            self.excused -= rows.keys()
            self.received |= {at: row for at, row in rows.items() if at >= self.since}  # older ones are corrected, too

    def knows(self, truth: dict[int, tuple[float, ...]]) -> bool:
        return {at: truth.get(at, row) if at in self.excused else row for at, row in self.received.items()} == truth

    def _number(self, seq: int, kind: EventKind, at: int, before: int | None) -> None:
        if before is not None and seq != before + 1:
            self.wrongs.append(f"{seq} came after {before}")
        if self.numbers.setdefault(seq, (kind, at)) != (kind, at):
            self.wrongs.append(f"{seq} is {kind} of {at}, and was {self.numbers[seq]}")

    def _in_order(self, rows: dict[int, tuple[float, ...]], since: int) -> None:
        """A closed candle comes after all received before it; the one at `since` comes once more."""
        last = max(self.received, default=-1)
        self.wrongs += [f"{at} came after {last}" for at in rows if at <= last and at != since]


class LiveMachine(RuleBasedStateMachine):
    """Candles, corrections, gaps; processes that die, freeze and come back; clients that come, go and dawdle."""

    new_dsn: Callable[[], Coroutine[Any, Any, str]]
    now = START

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.processes: list[Process] = []
        self.frozen: list[Process] = []
        self.readers: list[Reader] = []

    @initialize(live=st.sampled_from([LiveMode.POLL, LiveMode.STREAM]))
    def begin(self, live: LiveMode) -> None:
        LiveMachine.now = START
        self.exchange = Exchange(live)
        self.do(self._begin())

    async def _begin(self) -> None:
        self.dsn = await self.new_dsn()
        for _ in range(PROCESSES):
            self.processes.append(await Process.start(self.dsn, self.exchange))

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        self.runner.run(work)

    def pause(self, seconds: float = MOMENT_S) -> None:
        """Let things happen, but not to their end."""
        self.do(asyncio.sleep(seconds))

    @property
    def alive(self) -> list[Process]:
        return [process for process in self.processes if process not in self.frozen]

    # What the market does

    @rule(minutes=st.integers(1, 7))
    def candles(self, minutes: int) -> None:
        LiveMachine.now += minutes * 60_000
        self.pause()

    @rule(back=st.integers(1, 12), by=st.integers(0, PROCESSES - 1))
    def correction(self, back: int, by: int) -> None:
        """Somebody reads a minute again, and it is not what it was."""
        at = MINUTE.floor(self.now - 5_000) - back * 60_000
        if self.exchange.minute(at):
            self.exchange.correct(at)
            self.do(self._correct(self.alive[by % len(self.alive)], at))

    async def _correct(self, process: Process, at: int) -> None:
        record = (await process.history.listings.find([BTC]))[0]
        assert isinstance(record, InstrumentRecord)
        rows = Candles.from_rows([self.exchange.minute(at)])
        await process.history.store.write([CandleWrite(record.id, MINUTE, rows, Spans([Span(at, at + 60_000)]))])

    @rule()
    def outage(self) -> None:
        """The exchange is away for three minutes."""
        self.exchange.down = True
        LiveMachine.now += 180_000
        self.pause()
        self.exchange.down = False

    # What happens to the cluster

    @rule(which=st.integers(0, PROCESSES - 1))
    def kill(self, which: int) -> None:
        """A process dies without a word; another one is started in its place."""
        self.do(self._replace(which, Process.kill))

    @rule(which=st.integers(0, PROCESSES - 1))
    def stop(self, which: int) -> None:
        self.do(self._replace(which, Process.stop))

    async def _replace(self, which: int, end: Callable[[Process], Coroutine[Any, Any, None]]) -> None:
        process = self.processes[which]
        for reader in self.readers:
            if reader.process is process:
                await reader.cut()
        if process in self.frozen:
            self.frozen.remove(process)
            process.thaw()
        await end(process)
        self.processes[which] = await Process.start(self.dsn, self.exchange)

    @precondition(lambda self: len(self.alive) > 1)
    @rule(which=st.integers(0, PROCESSES - 1))
    def freeze(self, which: int) -> None:
        process = self.alive[which % len(self.alive)]
        process.freeze()
        self.frozen.append(process)
        self.pause(0.6)  # its lease ends

    @precondition(lambda self: self.frozen)
    @rule()
    def thaw(self) -> None:
        self.do(self._thaw())

    async def _thaw(self) -> None:
        self.frozen.pop().thaw()
        await asyncio.sleep(MOMENT_S)

    @rule(which=st.integers(0, PROCESSES - 1), share=st.sampled_from([0.0, 0.3, 1.0]))
    def lose_messages(self, which: int, share: float) -> None:
        self.processes[which].loss = share

    # What clients do

    @precondition(lambda self: len(self.readers) < 6)
    @rule(timeframe=st.sampled_from(["1m", "1m", "5m"]), back=st.integers(0, 30), which=st.integers(0, PROCESSES - 1))
    def subscribe(self, timeframe: str, back: int, which: int) -> None:
        since = Timeframe.parse(timeframe).floor(self.now - back * 60_000)
        self.readers.append(Reader(timeframe, since))
        self.do(self._connect(self.readers[-1], which))

    @precondition(lambda self: self.readers)
    @rule(who=st.integers(0, 5), which=st.integers(0, PROCESSES - 1))
    def cut_and_resume(self, who: int, which: int) -> None:
        """A client comes back to any process."""
        self.do(self._connect(self.readers[who % len(self.readers)], which))

    async def _connect(self, reader: Reader, which: int) -> None:
        await reader.cut()
        reader.reading.set()
        reader.connect(self.alive[which % len(self.alive)], self._truth(reader))
        await asyncio.sleep(MOMENT_S)

    @precondition(lambda self: self.readers)
    @rule(who=st.integers(0, 5), reads=st.booleans())
    def dawdle(self, who: int, reads: bool) -> None:
        reader = self.readers[who % len(self.readers)]
        reader.reading.set() if reads else reader.reading.clear()

    # What must hold in the end

    def teardown(self) -> None:
        try:
            if self.processes:
                self.do(self._settle())
        finally:
            self.do(self._end())
            self.runner.close()

    async def _settle(self) -> None:
        for process in self.processes:
            process.loss = 0.0
            process.thaw()
        self.frozen.clear()
        LiveMachine.now += 120_000
        for reader in self.readers:
            reader.reading.set()
            with suppress(TimeoutError):
                await eventually(lambda reader=reader: self._knows(reader))
            assert reader.knows(self._truth(reader)), reader.wrong_about(self._truth(reader))
        assert not [wrong for reader in self.readers for wrong in reader.wrongs]
        for timeframe in {reader.timeframe for reader in self.readers}:
            meanings: dict[int, tuple[EventKind, int]] = {}
            for reader in self.readers:
                if reader.timeframe == timeframe:
                    for number, meaning in reader.numbers.items():
                        assert meanings.setdefault(number, meaning) == meaning

    async def _knows(self, reader: Reader) -> bool:
        if reader.knows(self._truth(reader)):
            return True
        if reader.task is None or reader.task.done():  # it got a RESYNC, or was refused for a while
            await self._connect(reader, 0)
        return False

    def _truth(self, reader: Reader) -> dict[int, tuple[float, ...]]:
        until = reader.timeframe.floor(MINUTE.floor(self.now - 5_000))
        found = self.exchange.truth(reader.timeframe, reader.since, until)
        return {c.timestamp: (c.timestamp, c.open, c.high, c.low, c.close, c.volume) for c in found}

    async def _end(self) -> None:
        for reader in self.readers:
            await reader.cut()
        for process in self.processes:
            process.thaw()
            await process.stop()


def test_whatever_happens_each_client_gets_the_truth_once_and_in_order(
    postgres_dsn: str, migrated_template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def new_dsn() -> str:
        name = f"machine_{uuid.uuid4().hex[:12]}"
        admin = await asyncpg.connect(postgres_dsn)
        try:
            await admin.execute(f"create database {name} template {migrated_template}")
        finally:
            await admin.close()
        return urlunsplit(urlsplit(postgres_dsn)._replace(path=f"/{name}"))

    set_clock(monkeypatch, lambda: LiveMachine.now)
    monkeypatch.setattr(topic_module, "MAX_QUEUED_EVENTS", 8)
    monkeypatch.setattr(publisher_module, "MAX_EVENTS", 40)
    monkeypatch.setattr(LiveMachine, "new_dsn", staticmethod(new_dsn), raising=False)
    examples = int(os.environ.get("LIVE_EXAMPLES", "8"))
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        LiveMachine,
        settings=settings(
            max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a shorter example takes as long to go wrong
        ),
    )  # fmt: skip
