"""A window is planned by what is covered: what the store answers, what is missing, what no call can bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from candlegraph.answer import GapReason
from candlegraph.clock import MINUTE_MS, OLDEST_MS
from candlegraph.provider import Capabilities
from candlegraph.series import Instrument, InstrumentRecord
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from candlegraph.zone import UTC, zone
from history.plan import Plan
from storage.coverage import Coverage
from storage.relations import ALL_AGGREGATES, BASE_RELATION
from tests.history.world import DAY_MS, HOUR_MS, T0

HOUR, DAY = Timeframe.parse("1h"), Timeframe.parse("1d")
NOW = T0 + 12 * HOUR_MS + 90_000  # the second minute of an hour is forming
RECORD = InstrumentRecord(1, Instrument("m", "p", "s"), None, None, None, "UTC", True, True, None, None)
PROVIDER = Capabilities(timeframes=(MINUTE, HOUR), settle_ms=0, max_rows_per_call=100)


def plan(
    covered: Mapping[Timeframe, list[Span]],
    timeframe: Timeframe = MINUTE,
    provider: Capabilities | None = PROVIDER,
    **listing: int,
) -> Plan:
    ledger = Coverage({base: Spans(spans) for base, spans in covered.items()})
    return Plan(replace(RECORD, **listing), provider, ledger, ALL_AGGREGATES, timeframe, UTC, UTC, NOW)


def at(minute: int) -> int:
    return T0 + minute * MINUTE_MS


def hours(first: int, last: int) -> Span:
    return Span(T0 + first * HOUR_MS, T0 + last * HOUR_MS)


@pytest.mark.parametrize(
    ("covered", "timeframe", "window", "final", "missing"),
    [
        pytest.param({}, MINUTE, hours(0, 2), [], [hours(0, 2)], id="nothing is covered"),
        pytest.param(
            {MINUTE: [hours(0, 2)]}, MINUTE, hours(0, 2), [(hours(0, 2), BASE_RELATION)], [], id="all of it is covered"
        ),
        pytest.param(
            {MINUTE: [Span(at(10), at(20)), Span(at(30), at(40))]}, MINUTE, Span(at(0), at(60)),
            [(Span(at(10), at(20)), BASE_RELATION), (Span(at(30), at(40)), BASE_RELATION)],
            [Span(at(0), at(10)), Span(at(20), at(30)), Span(at(40), at(60))], id="fragments",
        ),
        pytest.param(
            {MINUTE: [Span(at(-30), at(170))]}, HOUR, hours(0, 3), [(hours(0, 2), "ohlcv_1h")], [hours(2, 3)],
            id="a bucket counts once all of its minutes are covered",
        ),
        pytest.param(
            {MINUTE: [hours(0, 1)], HOUR: [hours(0, 3)]}, HOUR, hours(0, 3),
            [(hours(0, 1), "ohlcv_1h"), (hours(1, 3), BASE_RELATION)], [], id="aggregates before the provider's own hours",
        ),
        pytest.param(
            {HOUR: [hours(0, 12)]}, MINUTE, hours(0, 1), [], [hours(0, 1)], id="hours do not answer minutes"
        ),
    ],
)  # fmt: skip
def test_a_window_is_answered_where_its_buckets_are_covered_and_is_missing_elsewhere(
    covered: Mapping[Timeframe, list[Span]],
    timeframe: Timeframe,
    window: Span,
    final: list[tuple[Span, str]],
    missing: list[Span],
) -> None:
    planned = plan(covered, timeframe).window(window)
    assert [(part.span, part.stored_spans[0].relation) for part in planned.final] == final
    assert list(planned.missing) == missing
    assert planned.covered == Spans(span for span, _ in final)


def test_forming_candles_answer_the_tail_once_they_are_at_hand() -> None:
    ours = plan({MINUTE: [hours(0, 12), Span(at(720), at(721))]}, HOUR)
    planned = ours.window(hours(11, 13))
    assert (planned.tail, list(planned.missing)) == ((), [hours(12, 13)])
    with_live = ours.with_forming(planned, [MINUTE])
    assert [(part.span, part.forming) for part in with_live.tail] == [(hours(12, 13), MINUTE)]
    assert [stretch.span for stretch in with_live.tail[0].stored_spans] == [Span(at(720), at(721))]
    assert (list(with_live.missing), with_live.final) == ([], planned.final)
    assert with_live == ours.window(hours(11, 13), [MINUTE])


def test_forming_candles_do_not_answer_a_tail_whose_final_minutes_are_missing() -> None:
    planned = plan({MINUTE: [hours(0, 12)]}, HOUR).window(hours(11, 13), [MINUTE])
    assert (planned.tail, list(planned.missing)) == ((), [hours(12, 13)])


def test_what_is_planned_around_a_window_extends_its_parts_and_leaves_what_it_lacks() -> None:
    ours = plan({MINUTE: [Span(at(-100), at(30)), Span(at(200), at(300))]})
    window = Span(at(0), at(60))
    around = ours.window(window, head=Span(at(-256), at(256)))
    assert [part.span for part in around.final] == [Span(at(-100), at(30))]
    assert around.missing == ours.window(window).missing == Spans([Span(at(30), at(60))])


def test_settled_buckets_that_the_cache_has_are_neither_planned_nor_missing() -> None:
    planned = plan({}, HOUR).window(hours(10, 13), head=Span(0, 0))
    assert (planned.final, list(planned.missing)) == ((), [hours(12, 13)])


@pytest.mark.parametrize(
    ("listing", "traits", "timeframe", "expected"),
    [
        ({}, {}, MINUTE, []),
        ({"first_available": at(90)}, {}, HOUR, [(GapReason.BEFORE_LISTING, hours(0, 1))]),
        ({"ended_at": at(90)}, {}, HOUR, [(GapReason.AFTER_DELISTING, hours(2, 12))]),
        ({}, {"delay_ms": 2 * HOUR_MS}, HOUR, [(GapReason.UNAVAILABLE, hours(10, 12))]),
        ({}, {"max_lookback_ms": 2 * HOUR_MS}, HOUR, [(GapReason.UNAVAILABLE, hours(0, 11))]),
    ],
)
def test_what_no_call_can_bring_is_not_missing_and_has_its_reason(
    listing: dict[str, int], traits: dict[str, int], timeframe: Timeframe, expected: list[tuple[GapReason, Span]]
) -> None:
    ours = plan({}, timeframe, replace(PROVIDER, **traits), **listing)  # type: ignore[arg-type]
    planned = ours.window(hours(0, 12))
    assert [(item.reason, item.span) for item in planned.unreachable] == expected
    assert planned.missing == Spans([hours(0, 12)]) - Spans(span for _, span in expected)


@pytest.mark.parametrize(
    ("traits", "expected"),
    [
        ({"max_lookback_candles": 120}, "The provider keeps only its newest 120 candles of each timeframe."),
        ({"max_lookback_ms": 30 * DAY_MS}, "The provider keeps only the candles of the last 30 days."),
        ({"max_lookback_ms": 2 * HOUR_MS}, "The provider keeps only the candles of the last 2 hours."),
        ({"max_lookback_ms": HOUR_MS}, "The provider keeps only the candles of the last 60 minutes."),
    ],
)
def test_a_gap_before_what_a_provider_keeps_says_how_much_it_keeps(traits: dict[str, int], expected: str) -> None:
    ours = plan({}, MINUTE, replace(PROVIDER, timeframes=(MINUTE,), **traits))  # type: ignore[arg-type]
    gap = ours.window(hours(-1_000, -998)).unreachable[0]
    assert (gap.reason, gap.detail) == (GapReason.UNAVAILABLE, expected)


@pytest.mark.parametrize(
    ("span", "timeframe", "covered", "expected"),
    [
        pytest.param(hours(0, 5), HOUR, [], MINUTE, id="300 minutes are three calls"),
        pytest.param(hours(0, 6), HOUR, [], HOUR, id="360 minutes are four: hours are asked for"),
        pytest.param(hours(0, 6), HOUR, [hours(0, 1)], MINUTE, id="those that are known cost no call"),
        pytest.param(Span(T0 - 90 * DAY_MS, T0), DAY, [], HOUR, id="days are made of hours"),
        pytest.param(Span(T0 - 90 * DAY_MS, T0), MINUTE, [], MINUTE, id="minutes of nothing but minutes"),
    ],
)
def test_minutes_are_asked_for_while_they_are_cheap(
    span: Span, timeframe: Timeframe, covered: list[Span], expected: Timeframe
) -> None:
    assert plan({MINUTE: covered}, timeframe).choose_timeframe(span) == expected


def test_a_provider_is_asked_from_the_listing_to_the_forming_candle() -> None:
    ours = plan({}, HOUR, first_available=at(90))
    assert ours.fetchable(hours(0, 24), MINUTE) == Span(at(90), at(722))
    assert ours.fetchable(hours(0, 24), HOUR) == hours(1, 13)


def test_a_provider_is_asked_for_nothing_from_before_1970_unless_it_says_so() -> None:
    old, modern = Span(-2 * DAY_MS, -DAY_MS), Span(0, DAY_MS)
    early = replace(PROVIDER, earliest_ms=OLDEST_MS)
    assert plan({}).window(old).missing == Spans()
    assert [(item.reason, item.span) for item in plan({}).unreachable(old)] == [(GapReason.UNAVAILABLE, old)]
    assert plan({}).window(modern).missing == Spans([modern])
    for ours in (plan({}, provider=early), plan({}, first_available=-3 * DAY_MS)):
        assert ours.window(old).missing == Spans([old])
        assert ours.fetchable(old, HOUR) == old


def test_the_hours_of_a_day_are_used_where_its_zone_counted_whole_hours() -> None:
    """Paris was 9 minutes and 21 seconds ahead till 1911: days that begin before are folded of minutes."""
    paris = zone("Europe/Paris")
    for year, nests in ((1905, False), (1912, False), (1925, True), (1962, True), (2024, True)):
        start = HOUR.floor(int((year - 1970) * 365.2425 * DAY_MS))
        ledger = Coverage({MINUTE: Spans([Span(start, start + 5 * DAY_MS)])})
        ours = Plan(replace(RECORD, timezone=paris.name), None, ledger, ALL_AGGREGATES, DAY, paris, paris, NOW)
        (part,) = ours.window(Span(start, start + 5 * DAY_MS).inner(DAY, paris)).final
        assert part.stored_spans[0].relation == ("ohlcv_1h" if nests else BASE_RELATION), year
