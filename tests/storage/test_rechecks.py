"""An instrument with a suspect answer rests for a while after each question."""

from __future__ import annotations

from typing import Any, cast

import pytest

from storage import rechecks as suspects_module
from storage.database import Database
from storage.rechecks import Suspects

NO_DATABASE = cast("Database", cast("Any", None))


def test_an_instrument_rests_after_a_question() -> None:
    suspects = Suspects(NO_DATABASE)
    assert [suspects.wake(1), suspects.wake(1), suspects.wake(2)] == [True, False, True]


def test_a_rest_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects_module, "REST_S", 0)
    suspects = Suspects(NO_DATABASE)
    assert [suspects.wake(1), suspects.wake(1)] == [True, True]


def test_at_the_limit_one_rest_ends_and_not_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects_module, "MAX_RESTING", 3)
    suspects = Suspects(NO_DATABASE)
    assert all(suspects.wake(number) for number in range(5))
    assert [suspects.wake(number) for number in (4, 3, 2)] == [False] * 3
    assert suspects.wake(0)
