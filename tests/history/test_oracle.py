"""Whatever is stored, asked and whatever habits a provider has: the answer is what a naive fold of the truth gives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from candlegraph.answer import Answer, CandleRequest, Fill
from candlegraph.candle import Candles, concat
from candlegraph.clock import MINUTE_MS
from candlegraph.provider import Capabilities, Listing, LiveMode
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import zone
from history.fetch_request import MAX_CALLS_PER_FETCH
from storage.database import Database
from tests.candlegraph import scalar_calendar as scalar
from tests.fakes.upstream import Call, FakeUpstream, minutes
from tests.history.world import DAY_MS, HOUR_MS, T0, World, folded, numbers, rows_of, stop_clock

TIMEFRAMES = ("1m", "1m", "2m", "5m", "7m", "45m", "1h", "4h", "1d", "1d", "3d", "1w", "1mon", "1y")
NATIVE = tuple(map(Timeframe.parse, ("5m", "15m", "1h", "4h", "1d", "1w", "1mon")))
ZONES = ("UTC", "UTC", "America/New_York", "Asia/Kathmandu")


@dataclass(frozen=True)
class Case:
    """A provider, what is stored of it already, and a question."""

    truth: Candles
    now: int
    capabilities: Capabilities
    listing: Listing
    habits: dict[str, object]
    stored: Spans
    stored_native: Spans
    timeframe: str
    limit: int
    since: int | None
    until: int | None
    fill: Fill
    zone: str | None


@st.composite
def truths(draw: st.DrawFn) -> Candles:
    """Clusters of minutes with holes, hours or months apart."""
    start, batches = T0 - draw(st.sampled_from([0, 3 * DAY_MS, 400 * DAY_MS])), []
    start += MINUTE_MS * draw(st.integers(0, 1500))
    for seed in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 260))
        holes = draw(st.lists(st.integers(0, count - 1), max_size=count // 2))
        batches.append(minutes(start, count, holes=holes, seed=seed))
        start += MINUTE_MS * (count + draw(st.integers(0, 90) | st.integers(0, 3000) | st.integers(0, 300_000)))
    return concat(batches)


@st.composite
def cases(draw: st.DrawFn, *, honest: bool = False) -> Case:
    truth = draw(truths().filter(len))
    first, last = int(truth.timestamp[0]), int(truth.timestamp[-1])
    settle = draw(st.sampled_from([0, 0, 30_000, 150_000]))
    kind = draw(st.sampled_from(["amid", "just after", "later"]))
    now = {
        "amid": draw(st.integers(first, last + 2 * MINUTE_MS)),
        "just after": last + draw(st.integers(1, 5 * MINUTE_MS)),
        "later": last + draw(st.integers(0, 40 * DAY_MS)),
    }[kind]
    natives = draw(st.sets(st.sampled_from(NATIVE), max_size=4))
    limited = not honest and draw(st.booleans())
    capabilities = Capabilities(
        (MINUTE, *sorted(natives, key=lambda tf: tf.nominal_ms)),
        LiveMode.POLL,
        max_rows_per_call=draw(st.sampled_from([50, 130, 500, 1500])),
        max_lookback_ms=draw(st.sampled_from([2 * HOUR_MS + 1, 3 * DAY_MS])) if limited else None,
        settle_ms=settle,
    )
    own = draw(st.sampled_from(ZONES))
    ended = now > last + HOUR_MS and draw(st.booleans())
    listing = Listing(
        "S",
        timezone=own,
        first_available=first if draw(st.booleans()) else None,
        ended_at=last + MINUTE_MS if ended else None,
    )
    habits: dict[str, object] = {
        "fillers": draw(st.booleans()),
        "sloppy": draw(st.sampled_from([0, 1, 3])),
        "vouches_to_now": draw(st.booleans()),
        "page_rows": draw(st.sampled_from([None, None, 33])),
        "newest_only": draw(st.sampled_from([None, 20, 400])) if not honest and not limited else None,
    }
    minute = st.integers((first - HOUR_MS) // MINUTE_MS, (last + 2 * HOUR_MS) // MINUTE_MS).map(lambda n: n * MINUTE_MS)
    spans = st.lists(
        st.tuples(minute, st.integers(1, 3000)).map(lambda s: Span(s[0], s[0] + s[1] * MINUTE_MS)), max_size=4
    )
    instant = st.integers(first - 2 * DAY_MS, last + 2 * DAY_MS)
    edge = st.one_of(st.none(), instant, minute, st.sampled_from([0, first, last, last + MINUTE_MS, 9_999_999_999_999]))
    since, until = draw(edge), draw(edge)
    if since is not None and until is not None and since > until:
        since, until = until, since
    return Case(
        truth, now, capabilities, listing, habits, Spans(draw(spans)), Spans(draw(spans)),
        draw(st.sampled_from(TIMEFRAMES)), draw(st.sampled_from([1, 2, 10, 100, 500])), since, until,
        draw(st.sampled_from([Fill.NONE, Fill.NONE, Fill.PREVIOUS])), draw(st.none() | st.sampled_from(ZONES)),
    )  # fmt: skip


async def prepare(case: Case, database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(database, FakeUpstream(capabilities=case.capabilities, **case.habits), case.now)  # type: ignore[arg-type]
    world.lists(case.truth).upstream.listed = {world.symbol: case.listing}
    stop_clock(monkeypatch, world)
    final = Spans([Span(-(10**15), (case.now - case.capabilities.settle_ms) // MINUTE_MS * MINUTE_MS)])
    await world.keeps(*(case.stored & final))
    if len(case.capabilities.timeframes) > 1:
        native, days = case.capabilities.timeframes[-1], zone(case.listing.timezone or "UTC")
        final_native = Spans([Span(-(10**15), native.floor(case.now - case.capabilities.settle_ms, days))])
        covered = Spans(s.outer(native, days) for s in case.stored_native) & final_native
        rows = folded(rows_of(case.truth), native, "UTC" if native.width_ms else days.name)
        made = Candles.from_rows([(stamp, *row) for stamp, row in sorted(rows.items())])
        await world.keeps(*covered, timeframe=native, rows=made)
    return world


def check(case: Case, world: World, ask: CandleRequest, answer: Answer) -> None:
    """Hold an answer against the truth."""
    timeframe, name = ask.series.timeframe, answer.zone.name
    settled = scalar.floor(timeframe, case.now - case.capabilities.settle_ms, name)
    after = scalar.next_open(timeframe, case.now, name)
    hi = after if ask.until is None else min(after, ask.until)
    stamps, flags = answer.candles.timestamp.tolist(), answer.candles.closed.tolist()
    assert stamps == sorted(set(stamps))
    assert len(stamps) <= ask.limit
    assert all(stamp < hi and (ask.since is None or stamp >= ask.since) for stamp in stamps)
    assert flags == [stamp < settled for stamp in stamps]
    assert answer.complete == (not answer.gaps)

    final = folded(rows_of(case.truth), timeframe, name)
    forming = folded(rows_of(world.upstream.seen(world.symbol, case.now)), timeframe, name)
    gaps = Spans(Span(gap.since, gap.until) for gap in answer.gaps)
    assert sum(gap.until - gap.since for gap in answer.gaps) == sum(span.until - span.since for span in gaps)
    assert all(scalar.floor(timeframe, edge, name) == edge for gap in answer.gaps for edge in (gap.since, gap.until)), (
        "a gap is made of whole buckets"
    )

    # The range that the answer stands for.
    if ask.since is not None:
        lo, top = ask.since, hi
        if answer.has_more:
            assert answer.next_since is not None
            top = min(hi, answer.next_since)
    else:
        top, lo = hi, stamps[0] if stamps else (answer.next_before if answer.has_more else None)
        if answer.has_more:
            assert answer.next_before == lo
    known = {stamp for stamp in final if (lo is None or stamp >= lo) and stamp < min(top, settled)}
    hidden = {stamp for stamp in known if any(gap.since <= stamp < gap.until for gap in answer.gaps)}
    for gap in answer.gaps:
        assert gap.until <= settled
        assert lo is None or gap.since >= lo or gap.since >= scalar.floor(timeframe, lo, name)
    shown = {c.timestamp: c for c in answer.candles}
    real = {stamp for stamp, candle in shown.items() if not candle.synthetic}
    assert {stamp for stamp in real if stamp < settled} == known - hidden
    for stamp in real:
        assert numbers(shown[stamp]) == (final if stamp < settled else forming)[stamp]
    if not answer.has_more and ask.since is None and not answer.gaps:
        older = [stamp for stamp in final if stamp < (lo if lo is not None else min(top, settled))]
        permanent = case.capabilities.max_lookback_ms or case.habits["newest_only"]
        assert not older or permanent, "there is more, and it was not said"
    if answer.has_more and len(stamps) < ask.limit and ask.since is not None:
        assert len(world.upstream.calls) > 0, "only the budget of calls ends an answer early"
    honest = not case.capabilities.max_lookback_ms and not case.habits["newest_only"]
    if honest:
        listed, ended = case.listing.first_available, case.listing.ended_at
        for gap in answer.gaps:
            outside = (listed is not None and gap.until <= scalar.floor(timeframe, listed, name)) or (
                ended is not None and gap.since >= ended
            )
            assert outside, gap
        if ask.fill is Fill.PREVIOUS:
            check_filled(timeframe, name, final, answer, min(top, settled), lo)
        tail = {stamp for stamp in forming if settled <= stamp < top and (lo is None or stamp >= lo)}
        assert {stamp for stamp in real if stamp >= settled} == tail
    assert ask.fill is Fill.PREVIOUS or not answer.candles.synthetic.any()


def check_filled(
    timeframe: Timeframe, name: str, final: dict[int, tuple[float, ...]], answer: Answer, end: int, lo: int | None
) -> None:
    """Every settled bucket from the first candle on has a candle, flat if there was no trade."""
    shown = {c.timestamp: c for c in answer.candles}
    since = max(min(final, default=end), lo if lo is not None else 0)
    close = [final[stamp][3] for stamp in sorted(final) if stamp < since][-1:]
    gaps = [(gap.since, gap.until) for gap in answer.gaps]
    for opening in scalar.edges(timeframe, since, end, name):
        if any(a <= opening < b for a, b in gaps):
            continue
        if opening in final:
            close = [final[opening][3]]
            assert not shown[opening].synthetic
        elif close:
            candle = shown[opening]
            assert (candle.synthetic, candle.closed) == (True, True)
            assert numbers(candle) == (*close * 4, 0.0)


def examples(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )


def question(case: Case, world: World) -> CandleRequest:
    return world.question(
        case.timeframe, case.limit, since=case.since, until=case.until, fill=case.fill,
        zone=zone(case.zone) if case.zone else None,
    )  # fmt: skip


async def answer_to(world: World, ask: CandleRequest) -> Answer:
    answer = (await world.history.answer([ask]))[0]
    if isinstance(answer, BaseException):
        raise answer
    return answer


def within_the_edges(call: Call, case: Case) -> Spans:
    """The requested spans without the bucket at either edge: open parts of a page are requested with the adjacent candles."""
    days = zone("UTC" if call.timeframe.width_ms else case.listing.timezone or "UTC")
    return Spans(
        [Span(call.timeframe.shift(call.span.since, 1, days), call.timeframe.shift(call.span.until, -1, days))]
    )


async def check_next_page(case: Case, world: World, ask: CandleRequest, answer: Answer) -> None:
    """An answer from the newest back ends early only where the next page goes on, or says why it cannot."""
    if ask.since is None and answer.has_more and len(answer.candles) < ask.limit and not world.upstream.calls:
        ask = replace(ask, until=answer.next_before)
        older = await answer_to(world, ask)
        check(case, world, ask, older)
        assert len(older.candles) or older.gaps or older.has_more, "there is no more, and more was promised"


@examples(70)
@given(case=cases())
async def test_an_answer_is_what_a_naive_fold_of_the_truth_gives_and_asking_again_is_free(
    case: Case, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await prepare(case, database, monkeypatch)
    ask = question(case, world)
    before = await world.covered()
    answer = await answer_to(world, ask)
    check(case, world, ask, answer)
    first = list(world.upstream.calls)
    assert len(first) <= MAX_CALLS_PER_FETCH * (2 if case.fill is Fill.NONE else 4)
    for call in first:
        if call.timeframe == MINUTE:
            assert not before & within_the_edges(call, case), "what is covered was asked for"

    world.upstream.calls.clear()
    ledger = (await world.store.read_coverage([answer.record.id]))[0]
    again = await answer_to(world, ask)
    check(case, world, ask, again)
    await check_next_page(case, world, ask, again)
    if not answer.has_more:
        assert rows_of(again.candles) == rows_of(answer.candles)
    for call in world.upstream.calls:
        known = ledger.spans.get(call.timeframe, Spans())
        assert not known & within_the_edges(call, case), "what is covered was asked for again"
    assert any(np.asarray(again.candles.timestamp) >= 0) or not len(again.candles)


@examples(35)
@given(case=cases(honest=True))
async def test_paging_gives_every_candle_exactly_once(
    case: Case, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Do not page through months of fillers in steps of half an hour.
    assume(not (case.habits["fillers"] and case.habits["page_rows"]))
    world = await prepare(case, database, monkeypatch)
    ask = question(case, world)
    ask = CandleRequest(ask.series, max(ask.limit, 40), ask.since, ask.until, Fill.NONE, ask.zone)
    pages: list[list[tuple[float, ...]]] = []
    for _ in range(100):
        answer = await answer_to(world, ask)
        check(case, world, ask, answer)
        pages.append(rows_of(answer.candles))
        if not answer.has_more:
            break
        ask = CandleRequest(
            ask.series, ask.limit, answer.next_since, answer.next_before or ask.until, ask.fill, ask.zone
        )
    else:
        pytest.fail("paging does not end")
    pages = pages if case.since is not None else pages[::-1]
    given_rows = [row for page in pages for row in page]
    timeframe, name = ask.series.timeframe, answer.zone.name
    hi = min(scalar.next_open(timeframe, case.now, name), case.until if case.until is not None else 10**15)
    settled = scalar.floor(timeframe, case.now - case.capabilities.settle_ms, name)
    final = folded(rows_of(case.truth), timeframe, name)
    forming = folded(rows_of(world.upstream.seen(world.symbol, case.now)), timeframe, name)
    expected = sorted(
        (stamp, *(final[stamp] if stamp < settled else row))
        for stamp, row in forming.items()
        if stamp < hi and (case.since is None or stamp >= case.since)
    )
    ended = case.listing.ended_at
    if ended is not None:
        expected = [row for row in expected if row[0] < ended]
    assert given_rows == expected
