"""An instrument with a suspect answer rests for a while after each question."""

from __future__ import annotations

from dataclasses import replace

from candlegraph.timings import Timings
from storage.database import Database
from storage.rechecks import Rechecks

NO_DATABASE = Database("postgresql://nowhere")


def test_an_instrument_rests_after_a_question() -> None:
    suspects = Rechecks(NO_DATABASE)
    assert [suspects.is_due(1), suspects.is_due(1), suspects.is_due(2)] == [True, False, True]


def test_a_rest_ends() -> None:
    suspects = Rechecks(Database("postgresql://nowhere", timings=replace(Timings(), recheck_pause_s=0)))
    assert [suspects.is_due(1), suspects.is_due(1)] == [True, True]


def test_at_the_limit_one_rest_ends_and_not_all() -> None:
    suspects = Rechecks(NO_DATABASE, max_resting=3)
    assert all(suspects.is_due(number) for number in range(5))
    assert [suspects.is_due(number) for number in (4, 3, 2)] == [False] * 3
    assert suspects.is_due(0)
