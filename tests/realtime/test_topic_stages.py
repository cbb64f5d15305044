"""A topic's way from followed to counted, and back."""

from __future__ import annotations

import pytest

from candlegraph.timeframe import MINUTE
from candlegraph.zone import UTC
from realtime.topic_counter import Count
from realtime.topic_stages import Stage, Topics
from storage.topics import TopicKey

KEY = TopicKey(1, "1m", "UTC")
OTHER = TopicKey(1, "5m", "UTC")


def count() -> Count:
    return Count(MINUTE, UTC, edge=0, seq=0, corrected=0)


@pytest.fixture
def topics() -> Topics:
    return Topics()


def test_a_followed_topic_starts_once_and_then_counts(topics: Topics) -> None:
    assert topics.follow({KEY})
    assert topics.stage(KEY) is Stage.JOINING
    assert topics.start() == [KEY]
    assert topics.start() == []
    assert topics.stage(KEY) is Stage.STARTING
    assert topics.started(KEY, count())
    assert topics.stage(KEY) is Stage.COUNTING
    assert set(topics.counts) == {KEY}
    assert not topics.follow({KEY})


def test_a_start_that_failed_is_begun_once_more(topics: Topics) -> None:
    topics.follow({KEY})
    topics.start()
    topics.postpone(KEY)
    assert topics.uncounted() == [KEY]
    assert topics.start() == [KEY]


@pytest.mark.parametrize("fails", [False, True])
def test_a_topic_that_is_left_while_it_starts_is_not_counted(topics: Topics, fails: bool) -> None:
    topics.follow({KEY})
    topics.start()
    topics.follow({OTHER})
    assert topics.stage(KEY) is Stage.ABANDONED
    assert KEY not in topics.uncounted()
    if fails:
        topics.postpone(KEY)
    else:
        assert not topics.started(KEY, count())
    assert topics.stage(KEY) is None
    assert topics.counts == {}


def test_a_topic_that_is_followed_again_while_it_starts_is_not_started_twice(topics: Topics) -> None:
    topics.follow({KEY})
    topics.start()
    topics.follow(set())
    assert topics.follow({KEY})
    assert topics.start() == []
    assert topics.started(KEY, count())


def test_a_topic_that_nobody_follows_loses_its_count(topics: Topics) -> None:
    topics.follow({KEY, OTHER})
    for key in topics.start():
        topics.started(key, count())
    assert not topics.follow({OTHER})
    assert topics.stage(KEY) is None
    assert set(topics.counts) == {OTHER}


def test_a_restart_begins_with_every_followed_topic_and_forgets_the_abandoned(topics: Topics) -> None:
    gone = TopicKey(1, "1h", "UTC")
    topics.follow({KEY, OTHER, gone})
    topics.start()
    topics.started(KEY, count())
    topics.follow({KEY, OTHER})
    topics.restart()
    assert topics.stage(gone) is None
    assert topics.counts == {}
    assert sorted(topics.start()) == sorted([KEY, OTHER])
