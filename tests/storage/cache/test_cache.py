"""The cache answers as the database would, costs it nothing, and is never older than an earlier answer."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from candlegraph.answer import Answer, CandleRequest, Fill, SourceKind
from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.provider import Capabilities, LiveMode
from candlegraph.series import Instrument, InstrumentRecord, Series
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import UTC, zone
from history.orchestrator import History
from storage.batches import CandleWrite
from storage.cache.chunks import BUCKETS_PER_CHUNK, CacheKey, Chunk, pack_chunk, to_block, unpack_chunk
from storage.cache.memory import ENTRY_BYTES, CandleCache
from storage.cache.shared import SharedCache
from storage.database import Database
from storage.redis import Redis
from tests.fakes.upstream import FakeProviders, FakeUpstream, minutes
from tests.fakes.valkey import Valkey
from tests.history.world import DAY_MS, HOUR_MS, T0, World, folded, stop_clock
from tests.history.world import rows_of as plain
from tests.timings import PATIENT
from tests.waiting import HANG_S, eventually

HOUR, DAY = Timeframe.parse("1h"), Timeframe.parse("1d")
ROOMY = 64 << 20
_numbers = itertools.count()


@pytest.fixture(scope="module")
async def database(new_database: Callable[..., Awaitable[str]], migrated_template: str) -> AsyncIterator[Database]:
    """One for all of them: every test has symbols of its own."""
    opened = Database(await new_database(migrated_template), timings=PATIENT)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    running = Valkey()
    yield running
    running.server.stop()


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    client = Redis(valkey.url, timings=replace(PATIENT, redis_probe_interval_s=0.05))
    yield client
    await client.close()


@asynccontextmanager
async def shelved(redis: Redis, capacity: int = 0) -> AsyncIterator[CandleCache]:
    """A cache in front of a shelf of its own."""
    shelf = SharedCache(redis, f"test{next(_numbers)}")
    yield CandleCache(capacity, shelf)
    await shelf.close()


async def written(cache: CandleCache) -> None:
    """Wait until the shelf has everything that was offered."""
    assert cache.shared
    await cache.shared._writes.drain()


@pytest.fixture
def statements(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that goes through the pool, from any sender; cached entries stay valid during a test."""
    monkeypatch.setattr(database, "timings", replace(database.timings, change_freshness_s=60, forming_ttl_s=60))
    sent: list[str] = []
    connection = Database.connection

    @asynccontextmanager
    async def counting(self: Database) -> AsyncIterator[Any]:
        async with connection(self) as real:

            class Counted:
                def __getattr__(self, name: str) -> Any:
                    method = getattr(real, name)
                    if name in {"fetch", "fetchval", "fetchrow", "execute", "copy_to_table"}:
                        return lambda *arguments, **more: (sent.append(str(arguments[0])), method(*arguments, **more))[
                            1
                        ]
                    return method

            yield Counted()

    monkeypatch.setattr(Database, "connection", counting)
    return sent


async def series(history: History, truth: Candles, *spans: Span) -> InstrumentRecord:
    """An imported symbol with its minutes."""
    record = await history.instruments.get_or_create(Instrument("cache", "import", f"C{next(_numbers)}"), "UTC")
    await write(history, record, truth, *spans)
    return record


async def write(
    history: History, record: InstrumentRecord, rows: Candles, *spans: Span, timeframe: Timeframe = MINUTE
) -> None:
    first, last = int(rows.timestamp[0]), timeframe.next(int(rows.timestamp[-1]))
    covered = Spans(spans or [Span(first, last)])
    kept = concat([rows.between(span) for span in covered])
    await history.store.write([CandleWrite(record.id, timeframe, kept, covered, "i", replaces=True)])


async def ask(
    history: History, record: InstrumentRecord, timeframe: str = "1m", limit: int = 500, **more: Any
) -> Answer:
    (answer,) = await history.answer(
        [CandleRequest(Series(record.instrument, Timeframe.parse(timeframe)), limit, **more)]
    )
    if isinstance(answer, BaseException):
        raise answer
    return answer


def kinds(answer: Answer) -> list[SourceKind]:
    return [source.source for source in answer.sources]


def content(answer: Answer) -> tuple[object, ...]:
    """Everything in an answer except its sources."""
    flags = (answer.candles.closed.tolist(), answer.candles.synthetic.tolist())
    return plain(answer.candles), flags, answer.gaps, answer.has_more, answer.next_since, answer.next_before


async def believed(history: History) -> None:
    """Have the history look for changes: what it keeps is believed for two seconds."""
    await history.store.change_feed.poll()


# What it costs


async def test_a_cached_question_costs_no_statement(database: Database, statements: list[str]) -> None:
    history = History.create(database, FakeProviders([]), cache=CandleCache(ROOMY))
    record = await series(history, minutes(T0, 3000))
    await believed(history)
    first = await ask(history, record, limit=1000, until=T0 + 2000 * MINUTE_MS)
    statements.clear()
    again = await ask(history, record, limit=1000, until=T0 + 2000 * MINUTE_MS)
    assert statements == []
    assert content(again) == content(first)
    assert (kinds(first), kinds(again)) == ([SourceKind.STORE], [SourceKind.CACHE])
    assert plain(
        (await ask(history, record, limit=700, since=T0 + 1100 * MINUTE_MS, until=T0 + 1800 * MINUTE_MS)).candles
    )
    assert statements == [], "another question about the same candles"


async def test_the_newest_question_of_a_provider_costs_neither_a_statement_nor_a_call_for_two_seconds(
    database: Database, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = FakeUpstream(capabilities=Capabilities((MINUTE,), LiveMode.POLL, max_rows_per_call=500, settle_ms=0))
    world = World(database, upstream, T0 + 700 * MINUTE_MS + 20_000, cache=CandleCache(ROOMY)).lists(minutes(T0, 1000))
    stop_clock(monkeypatch, world)
    for timeframe in ("1m", "5m", "1h", "1d"):
        await world.ask(timeframe, limit=300)
        await believed(world.history)
        first = await world.ask(timeframe, limit=300)
        calls = world.calls
        statements.clear()
        again = await world.ask(timeframe, limit=300)
        assert (statements, world.calls) == ([], calls), timeframe
        assert content(again) == content(first)
        assert not again.candles.closed[-1]
        assert again.candles.closed[:-1].all()
    await world.fetcher.close()


async def test_the_forming_candle_is_in_no_cache(
    database: Database, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minute by minute, with a settle delay: what is kept is what is final, to the last digit."""
    upstream = FakeUpstream(
        capabilities=Capabilities((MINUTE,), LiveMode.POLL, max_rows_per_call=500, settle_ms=90_000)
    )
    truth = minutes(T0, 1000)
    async with shelved(redis, ROOMY) as cache:
        world = World(database, upstream, T0 + 520 * MINUTE_MS, cache=cache).lists(truth)
        stop_clock(monkeypatch, world)
        for _ in range(12):
            answer = await world.ask(limit=600)
            final = answer.candles[answer.candles.closed]
            assert plain(final) == plain(truth[: len(final)])
            settled = (world.now - 90_000) // MINUTE_MS * MINUTE_MS
            assert all(entry.rows[0].max(initial=0) < settled for entry in cache._entries.values())
            world.now += MINUTE_MS
        await written(cache)
        await world.fetcher.close()


async def test_what_ended_long_ago_is_cached_for_those_who_ask_for_the_newest(
    database: Database, statements: list[str]
) -> None:
    """Years of nothing lie between: the windows that look for candles get long."""
    history = History.create(database, FakeProviders([]), cache=CandleCache(ROOMY))
    record = await series(history, minutes(T0, 3000))
    await believed(history)
    first = await ask(history, record, limit=300)
    statements.clear()
    assert content(await ask(history, record, limit=300)) == content(first)
    assert statements == []


# Never older than an earlier answer


async def test_a_correction_is_seen_at_once_and_by_another_process_after_its_poll(
    database: Database, redis: Redis
) -> None:
    async with shelved(redis, ROOMY) as ours:
        one = History.create(database, FakeProviders([]), cache=ours)
        assert ours.shared
        other = History.create(database, FakeProviders([]), cache=CandleCache(ROOMY, ours.shared))
        truth = minutes(T0, 1024, seed=1)
        record = await series(one, truth)
        watching = [asyncio.create_task(history.store.change_feed.run()) for history in (one, other)]
        question = {"limit": 1000, "until": T0 + 1000 * MINUTE_MS}
        for seed in (2, 3):
            for history in (one, other):
                await ask(history, record, **question)
                await ask(history, record, "1h", **question)
            await written(ours)
            corrected = truth.merge(minutes(T0 + 300 * MINUTE_MS, 7, seed=seed))
            await write(one, record, corrected, Span(T0 + 300 * MINUTE_MS, T0 + 307 * MINUTE_MS))
            assert plain((await ask(one, record, **question)).candles) == plain(corrected[:1000])
            async with asyncio.timeout(HANG_S):
                found = await ask(other, record, **question)
                while plain(found.candles) != plain(corrected[:1000]):
                    await asyncio.sleep(0.02)
                    found = await ask(other, record, **question)
            hours = folded(plain(corrected), HOUR)
            for history in (one, other):
                found = await ask(history, record, "1h", limit=17, until=T0 + 17 * HOUR_MS)
                assert plain(found.candles) == [(stamp, *row) for stamp, row in hours.items()][:17]
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


async def test_minutes_take_the_place_of_a_cached_native_answer(database: Database) -> None:
    history = History.create(database, FakeProviders([]), cache=CandleCache(ROOMY))
    truth = minutes(T0, 2 * 1440)
    coarse = Candles.from_rows([(T0 + n * HOUR_MS, 1, 9, 1, 2, 5) for n in range(48)])
    record = await history.instruments.get_or_create(Instrument("cache", "import", f"C{next(_numbers)}"), "UTC")
    await write(history, record, coarse, timeframe=HOUR)
    for timeframe in (HOUR, DAY):
        for _ in range(2):
            assert set((await ask(history, record, str(timeframe))).candles.close.tolist()) == {2.0}
    await write(history, record, truth)
    for timeframe in (HOUR, DAY):
        found = plain((await ask(history, record, str(timeframe))).candles)
        assert found == [(stamp, *row) for stamp, row in folded(plain(truth), timeframe).items()]


async def test_a_listing_that_turns_out_to_begin_earlier_is_no_longer_answered_from_the_cache(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour that begins with the listing counts as known; it does not any more once the listing began before."""
    upstream = FakeUpstream(capabilities=Capabilities((MINUTE,), LiveMode.NONE, max_rows_per_call=500, settle_ms=0))
    truth = minutes(T0, 240)
    world = World(database, upstream, T0 + DAY_MS, cache=CandleCache(ROOMY)).lists(truth)
    stop_clock(monkeypatch, world)
    record = await world.record()
    for first in (30, 10):
        async with database.connection() as connection:
            at = (T0 + first * MINUTE_MS) / 1000
            await connection.execute(
                "update instruments set first_available = to_timestamp($1) where id = $2", at, record.id
            )
        world.instruments._records.clear()
        answer = await world.ask("1h", limit=10, since=T0, until=T0 + 2 * HOUR_MS)
        expected = folded(plain(truth[truth.timestamp >= T0 + first * MINUTE_MS]), HOUR)
        assert plain(answer.candles) == [(stamp, *row) for stamp, row in expected.items()][:2]
    await world.fetcher.close()


# As the database would


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Asks, writes of minutes (right ones, and corrections) and of native candles, and time that goes by."""
    minute = st.integers(0, 6 * 1440)
    span = st.tuples(minute, st.integers(1, 2000)).map(
        lambda s: Span(T0 + s[0] * MINUTE_MS, T0 + (s[0] + s[1]) * MINUTE_MS)
    )
    instant = st.none() | minute.map(lambda n: T0 + n * MINUTE_MS)
    frame = st.sampled_from(["1m", "1m", "5m", "7m", "1h", "4h", "24h", "1d", "1w", "1mon"])
    zones = st.sampled_from([None, None, "America/New_York", "Asia/Kathmandu"])
    fill = st.sampled_from([Fill.NONE, Fill.NONE, Fill.PREVIOUS])
    limits = st.sampled_from([1, 10, 300, 1500])
    asked = st.tuples(st.just("ask"), frame, limits, instant, instant, fill, zones)
    wrote = st.tuples(st.just("write"), span, st.sampled_from([0, 0, 1, 2]), st.booleans())
    native = st.tuples(st.just("native"), span, st.sampled_from(["5m", "1h", "1d"]))
    return draw(st.lists(st.one_of(asked, asked, wrote, native, st.tuples(st.just("again"))), min_size=4, max_size=18))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(story=stories(), capacity=st.sampled_from([ROOMY, 30_000, 0]))
async def test_answers_are_the_same_with_the_cache_and_without(
    story: list[tuple[Any, ...]], capacity: int, database: Database, redis: Redis
) -> None:
    truths = [minutes(T0, 8 * 1440, holes=range(0, 8 * 1440, 11), seed=seed) for seed in range(3)]
    async with shelved(redis, capacity) as cache:
        plainly, cached = (
            History.create(database, FakeProviders([])),
            History.create(database, FakeProviders([]), cache=cache),
        )
        alone = History.create(database, FakeProviders([]), cache=CandleCache(capacity or 100_000))
        record = await series(plainly, truths[0], Span(T0 + DAY_MS, T0 + DAY_MS + 900 * MINUTE_MS))
        asked: list[dict[str, Any]] = []
        for kind, *what in story:
            if kind == "write":
                span, seed, elsewhere = what
                await write((plainly if elsewhere else cached), record, truths[seed], span)
            elif kind == "native":
                span, timeframe = what[0], Timeframe.parse(what[1])
                rows = folded(plain(truths[0]), timeframe)
                made = Candles.from_rows([(stamp, *row[:4], row[4] + 1) for stamp, row in rows.items()])
                await write(cached, record, made, span.outer(timeframe), timeframe=timeframe)
            elif kind == "ask":
                timeframe, limit, since, until, fill, name = what
                since, until = (until, since) if since and until and since > until else (since, until)
                asked.append(
                    {"timeframe": timeframe, "limit": limit, "since": since, "until": until, "fill": fill,
                     "zone": name and zone(name)}
                )  # fmt: skip
            await written(cache)
            for history in (cached, alone):
                await believed(history)
            for question in asked if kind == "again" else asked[-1:]:
                expected = content(await ask(plainly, record, **question))
                for history in (cached, alone):
                    assert content(await ask(history, record, **question)) == expected
        assert cache.size <= capacity


async def test_paging_loses_and_repeats_nothing_while_candles_arrive(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = FakeUpstream(capabilities=Capabilities((MINUTE,), LiveMode.POLL, max_rows_per_call=500, settle_ms=0))
    truth = minutes(T0, 3000, holes=range(0, 3000, 7))
    world = World(database, upstream, T0 + 1500 * MINUTE_MS, cache=CandleCache(ROOMY)).lists(truth)
    stop_clock(monkeypatch, world)
    newest = await world.ask(limit=100)
    pages, before = [newest.candles], newest.next_before
    while before is not None:
        world.now += 3 * MINUTE_MS
        page = await world.ask(limit=100, until=before)
        await world.ask(limit=50)  # another query fetches the new ones
        pages, before = [page.candles, *pages], page.next_before
    walked = concat(pages)
    assert plain(walked[walked.closed]) == plain(truth.between(Span(0, T0 + 1500 * MINUTE_MS)))
    pages, since = [], T0
    while True:
        page = await world.ask(limit=130, since=since)
        pages.append(page.candles)
        world.now += 2 * MINUTE_MS
        if page.next_since is None:
            break
        since = page.next_since
    walked = concat(pages)
    final = walked[walked.closed]
    assert plain(final) == plain(truth[: len(final)])
    assert len(final) >= len(truth.between(Span(0, world.now - 3 * MINUTE_MS)))
    await world.fetcher.close()


async def test_fifty_symbols_cold_cost_one_statement_a_relation_and_equal_ones_are_asked_once(
    database: Database, redis: Redis, statements: list[str]
) -> None:
    async with shelved(redis, ROOMY) as cache:
        history = History.create(database, FakeProviders([]), cache=cache)
        truth = minutes(T0, 600)
        records = [await series(history, truth) for _ in range(50)]
        asks = [CandleRequest(Series(r.instrument, MINUTE), 100, until=T0 + 500 * MINUTE_MS) for r in records]
        hours = [CandleRequest(Series(r.instrument, HOUR), 5, since=T0) for r in records]
        await believed(history)
        statements.clear()
        answers = await history.answer(asks + hours)
        assert all(isinstance(answer, Answer) and len(answer.candles) in {100, 5} for answer in answers)
        sent = Counter(
            "coverage" if "join coverage" in s else "candles" if "string_agg" in s else s[:25]
            for s in statements
            if "listings" not in s and "changes" not in s  # now and then, whatever is asked
        )
        assert sent == {"candles": 2, "coverage": 1, "select i.*\nfrom unnest($1": 1}
        statements.clear()
        await history.answer(asks + hours)
        assert [s for s in statements if "changes" not in s] == []


# How much it holds


def test_its_size_is_that_of_its_memory_within_a_tenth() -> None:
    record = InstrumentRecord(1, Instrument("m", "p", "S"), None, None, None, "UTC", True, True, T0, None)
    for step in (1, 40, 10**9):
        held = []
        for _ in range(3):  # what else of this process allocates meanwhile only adds to it
            cache = CandleCache(1 << 30)
            batches = [minutes(T0, 5000, seed=seed)[::step] for seed in range(3)]
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for revision in range(40):
                edition = CacheKey.create(record, revision, MINUTE, UTC)
                cache.put(edition, Span(T0, T0 + 5000 * MINUTE_MS), batches[revision % 3])
            held.append(tracemalloc.get_traced_memory()[0] - before)
            tracemalloc.stop()
        assert cache.size == sum(ENTRY_BYTES + entry.rows.nbytes for entry in cache._entries.values())
        assert 0.9 < cache.size / min(held) < 1.1, (step, cache.size, held)


async def test_it_never_outgrows_its_bound_under_concurrent_queries(database: Database) -> None:
    cache = CandleCache(100_000)
    history = History.create(database, FakeProviders([]), cache=cache)
    truth = minutes(T0, 4000)
    record = await series(history, truth)
    dice = random.Random(1)

    async def browse() -> None:
        for _ in range(25):
            first = dice.randrange(3000)
            answer = await ask(history, record, limit=dice.choice([5, 200, 900]), since=T0 + first * MINUTE_MS)
            assert plain(answer.candles) == plain(truth[first : first + len(answer.candles)])
            assert 0 < cache.size <= 100_000

    await asyncio.gather(*(browse() for _ in range(8)))
    assert cache.size == sum(entry.size for entry in cache._entries.values())


async def test_an_answer_keeps_no_more_alive_than_itself_and_cannot_spoil_what_is_kept(database: Database) -> None:
    history = History.create(database, FakeProviders([]), cache=CandleCache(ROOMY))
    record = await series(history, minutes(T0, 600))
    question = {"limit": 40, "until": T0 + 100 * MINUTE_MS}
    await ask(history, record, **question)
    answer = await ask(history, record, **question)
    assert kinds(answer) == [SourceKind.CACHE]
    with pytest.raises(ValueError, match="read-only"):
        answer.candles.close[0] = 0


# What is shared


async def test_what_one_process_read_another_has_from_the_shelf(
    database: Database, redis: Redis, statements: list[str]
) -> None:
    async with shelved(redis, ROOMY) as cache:
        one = History.create(database, FakeProviders([]), cache=cache)
        record = await series(one, minutes(T0, 3000))
        question = {"limit": 1000, "until": T0 + 2000 * MINUTE_MS}
        expected = content(await ask(one, record, **question))
        await written(cache)
        assert cache.shared
        other = History.create(database, FakeProviders([]), cache=CandleCache(0, cache.shared))
        await believed(other)
        await ask(other, record, "5m", limit=1)
        statements.clear()
        answer = await ask(other, record, **question)
        assert (statements, kinds(answer)) == ([], [SourceKind.CACHE])
        assert content(answer) == expected


async def test_a_chunk_is_shared_only_once_it_is_whole(database: Database, redis: Redis, valkey: Valkey) -> None:
    async with shelved(redis, ROOMY) as cache:
        history = History.create(database, FakeProviders([]), cache=cache)
        truth = minutes(T0, 1500)
        record = await series(history, truth, Span(T0, T0 + 700 * MINUTE_MS))
        await ask(history, record, limit=700)
        await written(cache)
        client = valkey.server.client()
        whole = len(client.keys(f"{cache.shared._prefix}*"))  # type: ignore[union-attr]
        chunks = CacheKey.create(record, 0, MINUTE, UTC).chunks(Span(T0, T0 + 700 * MINUTE_MS))
        assert whole == sum(c.span.since >= T0 and c.span.until <= T0 + 700 * MINUTE_MS for c in chunks) > 0
        await write(history, record, truth, Span(T0 + 700 * MINUTE_MS, T0 + 1100 * MINUTE_MS))
        await ask(history, record, limit=1100)
        await written(cache)
        assert len(client.keys(f"{cache.shared._prefix}*")) > whole  # type: ignore[union-attr]
        assert all(0 < client.ttl(key) <= 86_400 for key in client.keys(f"{cache.shared._prefix}*"))  # type: ignore[union-attr]
        client.close()


async def test_databases_that_share_a_redis_have_names_of_their_own(
    new_database: Callable[..., Awaitable[str]], migrated_template: str
) -> None:
    """Clones as well, which have the same id."""
    names = set()
    for _ in range(2):
        opened = Database(await new_database(migrated_template), timings=PATIENT)
        await opened.open()
        names.add((await opened.read("database_name"))[0]["name"])
        await opened.close()
    assert len(names) == 2


@given(noise=st.binary(max_size=200), cut=st.integers(0, 500), flip=st.integers(0, 10**6))
def test_only_what_was_packed_for_this_very_chunk_is_unpacked(noise: bytes, cut: int, flip: int) -> None:
    chunk, rows = Chunk("1:1:1m:UTC:7", Span(T0, T0 + BUCKETS_PER_CHUNK * MINUTE_MS)), to_block(minutes(T0, 10))
    packed = pack_chunk(chunk, rows)
    found = unpack_chunk(chunk, packed)
    assert found is not None
    assert np.array_equal(found, rows)
    spoilt = bytearray(packed)
    spoilt[flip % len(packed)] ^= 1 + flip % 255
    others = [
        noise,
        packed[:cut] if cut < len(packed) else packed + noise + b"x",
        pack_chunk(replace(chunk, name="other"), rows),
    ]
    assert [unpack_chunk(chunk, other) for other in others] == [None] * 3
    if not 1 <= flip % len(packed) <= 3:  # the padding of the header
        assert unpack_chunk(chunk, bytes(spoilt)) is None


# A Redis that fails


@asynccontextmanager
async def clients(history: History, record: InstrumentRecord, truth: Candles) -> AsyncIterator[Counter[str]]:
    """Eight of them that ask all the time; how many answers were right, wrong, or none."""
    counts: Counter[str] = Counter()
    ended = asyncio.Event()

    async def browse(dice: random.Random) -> None:
        while not ended.is_set():
            first = dice.randrange(len(truth) - 1000)
            try:
                answer = await ask(history, record, limit=1000, since=T0 + first * MINUTE_MS)
                counts["right" if plain(answer.candles) == plain(truth[first : first + 1000]) else "wrong"] += 1
            except Exception:  # noqa: BLE001 - counted
                counts["failed"] += 1
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(browse(random.Random(n))) for n in range(8)]
    try:
        yield counts
    finally:
        ended.set()
        await asyncio.gather(*tasks)


async def answered(counts: Counter[str], more: int = 60) -> None:
    """Wait for so many more answers."""
    async with asyncio.timeout(HANG_S):
        target = counts.total() + more
        await eventually(lambda: counts.total() >= target)


def stopped(valkey: Valkey) -> Callable[[], None]:
    valkey.signal(signal.SIGSTOP)
    return lambda: valkey.signal(signal.SIGCONT)


def flushed(valkey: Valkey) -> Callable[[], None]:
    with valkey.server.client() as client:
        client.flushall()
    return lambda: None


def filled(valkey: Valkey) -> Callable[[], None]:
    def set_memory(size: str) -> None:
        with valkey.server.client() as client:
            client.config_set("maxmemory", size)

    set_memory("1mb")
    return lambda: set_memory("0")


def littered(valkey: Valkey) -> Callable[[], None]:
    """Other bytes in the place of every chunk."""
    dice = random.Random(3)
    with valkey.server.client() as client:
        keys = client.keys("candlegraph:chunk:*")
        values = [client.get(key) for key in keys]
        spoilt = [b"", dice.randbytes(5000), values[0][:-48], b"\x02" + values[0][1:], *values]
        for number, key in enumerate(keys):
            client.set(key, spoilt[number % len(spoilt)])
        client.delete(keys[0])
        client.rpush(keys[0], "a list")
    return lambda: None


@pytest.mark.parametrize(
    ("fault", "problem"), [(stopped, "answer"), (flushed, None), (filled, "memory"), (littered, None)]
)
async def test_whatever_happens_to_redis_no_question_fails_or_is_answered_wrong(
    fault: Callable[[Valkey], Callable[[], None]],
    problem: str | None,
    database: Database,
    redis: Redis,
    valkey: Valkey,
) -> None:
    redis.timings = replace(redis.timings, redis_timeout_s=0.25)
    async with shelved(redis) as cache:
        history = History.create(database, FakeProviders([]), cache=cache)
        truth = minutes(T0, 6000)
        record = await series(history, truth)
        async with clients(history, record, truth) as counts:
            await answered(counts)
            mend = fault(valkey)
            try:
                await answered(counts)
                if problem == "memory":  # it takes nothing new, and something new is offered
                    assert cache.shared
                    cache.shared.put_later(Chunk("new", Span(0, 1)), to_block(truth))
                if problem:
                    await eventually(lambda: problem in (redis.problem or ""))
                await answered(counts)
            finally:
                mend()
            await eventually(lambda: redis.problem is None)
            await answered(counts)
        assert set(counts) == {"right"}, counts
        await written(cache)


async def test_a_killed_redis_fails_no_query_and_its_successor_is_used(
    database: Database,
) -> None:
    running = [Valkey()]
    redis = Redis(running[0].url, timings=replace(PATIENT, redis_probe_interval_s=0.05))
    try:
        async with shelved(redis) as cache:
            history = History.create(database, FakeProviders([]), cache=cache)
            truth = minutes(T0, 6000)
            record = await series(history, truth)
            async with clients(history, record, truth) as counts:
                await answered(counts)
                running[0].signal(signal.SIGKILL)
                await answered(counts, 200)
                assert redis.problem
                running.append(Valkey(running[0].port))
                await eventually(lambda: redis.problem is None)
                await answered(counts)
            assert set(counts) == {"right"}, counts
            await written(cache)
            with running[1].server.client() as client:
                assert client.keys(f"{cache.shared._prefix}*")  # type: ignore[union-attr]
    finally:
        await redis.close()
        for valkey in running:
            valkey.server.stop()


async def test_only_the_calls_that_detect_a_hanging_redis_wait_for_it(
    database: Database, redis: Redis, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.timings = replace(redis.timings, redis_probe_interval_s=60, redis_timeout_s=0.25)
    async with shelved(redis) as cache:
        history = History.create(database, FakeProviders([]), cache=cache)
        record = await series(history, minutes(T0, 3000))
        await ask(history, record, limit=600)
        await written(cache)
        valkey.signal(signal.SIGSTOP)
        try:
            await ask(history, record, limit=600)
            assert redis.problem
            assert redis._client

            async def waits(*_: object) -> None:
                raise AssertionError("it was asked")

            monkeypatch.setattr(redis._client, "execute_command", waits)
            for _ in range(5):
                assert len((await ask(history, record, limit=600)).candles) == 600
        finally:
            valkey.signal(signal.SIGCONT)
