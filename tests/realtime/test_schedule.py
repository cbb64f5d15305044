"""When a feed reads next."""

from __future__ import annotations

import pytest

from candlegraph.series import Instrument
from realtime.schedule import jittered_s, offset_s, pause_s

LATE_S = (3.0, 10.0)


@pytest.mark.parametrize(
    ("until_final_s", "pause"),
    [
        pytest.param(2.0, 2.0, id="when the minute becomes final"),
        pytest.param(45.0, 30.0, id="no later than the period"),
        pytest.param(0.0, 3.0, id="again soon after it was due"),
        pytest.param(-1.0, 2.0, id="counted from when it was due"),
        pytest.param(-3.0, 7.0, id="then a second time"),
        pytest.param(-10.0, 30.0, id="then each period"),
        pytest.param(-3_600.0, 30.0, id="however late it is"),
    ],
)
def test_the_next_read_is_when_the_minute_becomes_final_and_then_soon_after(until_final_s: float, pause: float) -> None:
    assert pause_s(until_final_s, 30.0, LATE_S) == pause


def test_each_symbol_keeps_its_own_place_within_the_spread() -> None:
    places = [offset_s(Instrument("lab", "exchange", f"S{n}"), 2.0) for n in range(50)]
    assert places == [offset_s(Instrument("lab", "exchange", f"S{n}"), 2.0) for n in range(50)]
    assert all(0 <= place < 2 for place in places)
    assert len(set(places)) > 40


def test_the_wait_after_failures_grows_to_its_maximum() -> None:
    assert all(0.1 <= jittered_s(1, 60.0) <= 2 for _ in range(200))
    waits = [jittered_s(30, 60.0) for _ in range(200)]
    assert max(waits) > 2
    assert max(waits) <= 60
