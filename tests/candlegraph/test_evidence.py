"""What rows prove: runs of rows, broken at holes far beyond the usual ones of the same file."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from candlegraph import UTC, Span, Spans, Timeframe, zone
from candlegraph.evidence import ANY_HOLE_MS, NO_HOLE_MS, bridges, longest_hole, runs

NEW_YORK = zone("America/New_York")
MINUTE_MS, DAY_MS = 60_000, 86_400_000
ONE_MINUTE = Timeframe(1, "m")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def minutes(since: str, count: int) -> NDArray[np.int64]:
    return at(since) + MINUTE_MS * np.arange(count, dtype=np.int64)


def sessions(days: list[str]) -> NDArray[np.int64]:
    """390 minutes from 09:30 New York on each day."""
    return np.concatenate([minutes(f"{day}T09:30-05:00", 390) for day in days])


def business_days(since: str, until: str, *holidays: str) -> list[str]:
    days = np.arange(since, until, dtype="datetime64[D]")
    return [str(day) for day in days[np.is_busday(days, holidays=list(holidays))]]


def opens(days: list[str], local: object = NEW_YORK) -> NDArray[np.int64]:
    return local.open_of_day(np.array(days, "datetime64[D]").astype(np.int64))  # type: ignore[attr-defined, no-any-return]


JANUARY = business_days("2024-01-02", "2024-02-01", "2024-01-15")
CASES: dict[str, tuple[str, NDArray[np.int64], object, int]] = {
    "24/7, no hole": ("1m", minutes("2024-03-04T15:00Z", 5000), UTC, 1),
    "24/7, quiet minutes": ("1m", minutes("2024-03-04T15:00Z", 5000)[::7], UTC, 1),
    "one row": ("1m", minutes("2024-03-04T15:00Z", 1), UTC, 1),
    "a wrong year": ("1m", np.append(minutes("2024-03-04T15:00Z", 5), at("2204-03-04T15:05Z")), UTC, 2),
    "two months missing": (
        "1m",
        np.concatenate([minutes("2024-02-01T00:00Z", 5), minutes("2024-04-01T00:00Z", 5)]),
        UTC,
        2,
    ),
    "an outage of two days": (
        "1m",
        np.concatenate([minutes("2024-02-01T00:00Z", 500), minutes("2024-02-03T08:20Z", 500)]),
        UTC,
        1,
    ),
    "nights, weekends and a long weekend": ("1m", sessions(JANUARY), NEW_YORK, 1),
    "a session of a week alone": ("1m", sessions(JANUARY[3:8]), NEW_YORK, 1),
    "sessions without three weeks": (
        "1m",
        sessions([d for d in JANUARY if not "2024-01-05" < d < "2024-01-26"]),
        UTC,
        2,
    ),
    "days of stocks": ("1d", opens(business_days("2023-12-04", "2024-01-27", "2023-12-25", "2024-01-01")), NEW_YORK, 1),
    "days of stocks, closed for six": (
        "1d",
        opens(business_days("2001-08-01", "2001-10-01", "2001-09-03", *[f"2001-09-{d}" for d in (11, 12, 13, 14)])),
        NEW_YORK,
        1,
    ),
    "days of stocks, a month missing": (
        "1d",
        opens([d for d in business_days("2023-01-02", "2023-06-01") if d[:7] != "2023-03"]),
        NEW_YORK,
        2,
    ),
    "a long weekend with a change of the clock": ("1d", opens(["2023-11-03", "2023-11-07"]), NEW_YORK, 1),
    "a thin symbol with days between trades": (
        "1m",
        at("2024-01-01T00:00Z") + MINUTE_MS * np.cumsum([5000, 7100, 6900, 7000, 5100, 4900, 9000, 20_000, 300]),
        UTC,
        1,
    ),
    "weeks": ("1w", Timeframe(1, "w").edges(at("2023-01-02T00:00Z"), at("2024-01-01T00:00Z")), UTC, 1),
    "weeks, one missing": (
        "1w",
        np.delete(Timeframe(1, "w").edges(at("2023-01-02T00:00Z"), at("2024-01-01T00:00Z")), 9),
        UTC,
        2,
    ),
    "months": ("1mon", Timeframe(1, "mon").edges(at("2020-01-01T00:00Z"), at("2024-01-01T00:00Z")), UTC, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_ends_at_a_hole_far_beyond_the_usual_ones(case: str) -> None:
    name, stamps, local, count = CASES[case]
    timeframe = Timeframe.parse(name)
    found = runs(stamps, timeframe, local)  # type: ignore[arg-type]
    assert len(found) == count
    spans = list(found)
    assert spans[0].since == stamps[0]
    assert spans[-1].until == timeframe.next(int(stamps[-1]), local)  # type: ignore[arg-type]


def test_the_runs_around_a_hole_of_two_months_are_these() -> None:
    stamps = np.concatenate([minutes("2024-02-01T00:00Z", 5), minutes("2024-04-01T00:00Z", 5)])
    assert runs(stamps, ONE_MINUTE) == Spans(
        [
            Span(at("2024-02-01T00:00Z"), at("2024-02-01T00:05Z")),
            Span(at("2024-04-01T00:00Z"), at("2024-04-01T00:05Z")),
        ]
    )


def test_two_holes_of_a_kind_are_an_accident_and_three_are_usual() -> None:
    def spaced(*days: float) -> NDArray[np.int64]:
        return at("2024-01-01T00:00Z") + (np.cumsum([0, *days]) * DAY_MS).astype(np.int64)

    assert longest_hole(spaced(5, 5), ONE_MINUTE) == 3 * DAY_MS
    assert longest_hole(spaced(5, 4.5, 5), ONE_MINUTE) == 4 * (5 * DAY_MS - MINUTE_MS)
    assert longest_hole(spaced(1, 1, 1, 5, 4.5, 5, 30), ONE_MINUTE) == 4 * (5 * DAY_MS - MINUTE_MS)
    assert longest_hole(spaced(1, 5, 20), ONE_MINUTE) == 3 * DAY_MS


def test_nothing_proves_nothing() -> None:
    assert runs(np.empty(0, np.int64), ONE_MINUTE) == Spans()


@given(
    steps=st.lists(st.integers(1, 200_000), max_size=60),
    name=st.sampled_from(["1m", "1d"]),
)
def test_every_row_is_claimed_and_any_hole_or_none_overrule(steps: list[int], name: str) -> None:
    timeframe = Timeframe.parse(name)
    index = 300_000 + np.cumsum([0, *(step if name == "1m" else step % 90 + 1 for step in steps)])
    stamps = timeframe.open_at(index.astype(np.int64), NEW_YORK)
    found = runs(stamps, timeframe, NEW_YORK)
    each = Spans(Span(s, timeframe.next(s, NEW_YORK)) for s in stamps.tolist())
    assert each - found == Spans()
    assert runs(stamps, timeframe, NEW_YORK, NO_HOLE_MS) == each
    (whole,) = runs(stamps, timeframe, NEW_YORK, ANY_HOLE_MS)
    assert Spans([whole]) | found == Spans([whole])


def test_a_hole_to_a_row_beside_a_run_is_bridged_where_it_is_short_enough() -> None:
    run = Spans([Span(at("2024-02-01T00:00Z"), at("2024-02-01T00:05Z"))])
    near = np.array([at("2024-01-01T00:00Z"), at("2024-01-31T23:50Z"), at("2024-02-09T00:00Z")])
    before = Span(at("2024-01-31T23:51Z"), at("2024-02-01T00:00Z"))
    after = Span(at("2024-02-01T00:05Z"), at("2024-02-09T00:00Z"))
    assert bridges(run, near, ONE_MINUTE, UTC, 3 * DAY_MS) == Spans([before])
    assert bridges(run, near, ONE_MINUTE, UTC, 9 * DAY_MS) == Spans([before, after])
    assert bridges(run, near[:0], ONE_MINUTE, UTC, 9 * DAY_MS) == Spans()
