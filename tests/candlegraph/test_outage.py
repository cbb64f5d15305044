"""An outage is logged when it begins, once a minute while it lasts, and once when it is over."""

from __future__ import annotations

import pytest

from candlegraph.errors import Unavailable
from candlegraph.outage import Outage


class Clock:
    """Seconds that the test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outage(clock: Clock) -> Outage:
    return Outage("renewing the leases", clock=clock)


def test_five_minutes_of_four_failures_a_second_are_six_warnings_with_how_long(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5 * 60 * 4):
        outage.begin("The storage is away.")
        clock.now += 0.25
    outage.begin("The storage is away.")
    outage.end()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 7
    assert [record.getMessage() for record in caplog.records] == [
        "renewing the leases fails: The storage is away.",
        *(f"renewing the leases has failed for {60 * n} s: The storage is away." for n in range(1, 6)),
        "renewing the leases works again after 300 s",
    ]


def test_what_comes_and_goes_is_logged_once_a_minute_too(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(60):
        outage.begin("The storage is away.")
        clock.now += 0.5
        outage.end()
        clock.now += 0.5
    assert len(caplog.records) == 2, "the first outage, and its end"


def test_a_success_without_an_outage_is_not_logged(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    outage.end()
    with outage.recording():
        pass
    assert caplog.records == []
    assert outage.reason is None


def test_a_watched_block_records_our_errors_and_lets_others_through(outage: Outage) -> None:
    with outage.recording():
        raise Unavailable("The storage is away.")
    assert outage.reason == "The storage is away."
    with pytest.raises(KeyError), outage.recording():
        raise KeyError
    assert outage.reason == "The storage is away."
    with outage.recording():
        pass
    assert outage.reason is None
