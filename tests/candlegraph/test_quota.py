"""A budget counted over a window that slides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from candlegraph.provider import Budget
from candlegraph.rate_budget import WINDOW_SLOTS, SlidingWindow

pauses = st.lists(st.floats(0, 0.5), min_size=1, max_size=300)


@given(pauses, st.integers(1, 20), st.floats(0.01, 100), st.sampled_from([0.3, 1.0, 2.5]), st.sampled_from([0.8, 1.0]))
def test_whenever_one_tries_no_window_holds_more_than_the_budget(
    tries: list[float], most: int, per_s: float, weight: float, share: float
) -> None:
    """Attempts come at any time, not only after the requested wait."""
    window, now = SlidingWindow(Budget(most, per_s)), 1000.0
    spent: list[float] = []
    for pause in tries:
        now += pause * per_s
        if window.spend(now, weight, share) == 0:
            spent.append(now)
    for start in spent:
        inside = [one for one in spent if start <= one < start + per_s]
        assert weight * len(inside) <= max(most * share, weight) + 1e-9


@given(st.lists(st.floats(0, 0.1), min_size=1, max_size=60), st.floats(0.01, 100))
def test_a_caller_that_waits_as_long_as_requested_can_go_and_never_waits_much_longer_than_needed(
    tries: list[float], per_s: float
) -> None:
    budget = Budget(5, per_s)
    window, now = SlidingWindow(budget), 1000.0
    spent: list[float] = []
    for pause in tries:
        now += pause * per_s
        while wait := window.spend(now, 1, 1.0):
            assert wait <= max(spent[-5] + per_s * (1 + 1 / WINDOW_SLOTS) - now, 0) + 0.002
            now += wait
        spent.append(now)


def test_what_is_spent_at_the_end_of_a_slot_is_not_forgotten_with_it() -> None:
    window = SlidingWindow(Budget(1, 60))
    assert window.spend(0.99, 1, 1.0) == 0
    assert window.spend(60.5, 1, 1.0) > 0, "59.5 s later"
    assert window.spend(61.0, 1, 1.0) == 0


def test_what_is_taken_back_can_be_spent_again() -> None:
    window = SlidingWindow(Budget(3, 60))
    assert [window.spend(10, 1, 1.0) == 0 for _ in range(4)] == [True, True, True, False]
    window.refund(10, 2)
    assert [window.spend(10, 1, 1.0) == 0 for _ in range(3)] == [True, True, False]
