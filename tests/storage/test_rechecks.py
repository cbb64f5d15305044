"""An instrument with a suspect answer rests for a while after each question."""

from __future__ import annotations

from dataclasses import replace

from candlegraph.timings import Timings
from storage.database import Database
from storage.rechecks import Suspects

NO_DATABASE = Database("postgresql://nowhere")


def test_an_instrument_rests_after_a_question() -> None:
    suspects = Suspects(NO_DATABASE)
    assert [suspects.wake(1), suspects.wake(1), suspects.wake(2)] == [True, False, True]


def test_a_rest_ends() -> None:
    suspects = Suspects(Database("postgresql://nowhere", timings=replace(Timings(), recheck_pause_s=0)))
    assert [suspects.wake(1), suspects.wake(1)] == [True, True]


def test_at_the_limit_one_rest_ends_and_not_all() -> None:
    suspects = Suspects(NO_DATABASE, max_resting=3)
    assert all(suspects.wake(number) for number in range(5))
    assert [suspects.wake(number) for number in (4, 3, 2)] == [False] * 3
    assert suspects.wake(0)
