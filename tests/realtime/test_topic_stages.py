"""A topic's way from followed to counted, and back."""

from __future__ import annotations

import pytest

from candlegraph.timeframe import MINUTE
from candlegraph.zone import UTC
from realtime.topic_counter import TopicCounter
from realtime.topic_stages import TopicStage, TopicStages
from storage.topics import TopicKey

KEY = TopicKey(1, "1m", "UTC")
OTHER = TopicKey(1, "5m", "UTC")


def count() -> TopicCounter:
    return TopicCounter(MINUTE, UTC, edge=0, seq=0, corrected=0)


@pytest.fixture
def topics() -> TopicStages:
    return TopicStages()


def test_a_followed_topic_starts_once_and_then_counts(topics: TopicStages) -> None:
    assert topics.follow({KEY})
    assert topics.stage(KEY) is TopicStage.JOINING
    assert topics.start() == [KEY]
    assert topics.start() == []
    assert topics.stage(KEY) is TopicStage.STARTING
    assert topics.started(KEY, count())
    assert topics.stage(KEY) is TopicStage.COUNTING
    assert set(topics.counts) == {KEY}
    assert not topics.follow({KEY})


def test_a_start_that_failed_is_begun_once_more(topics: TopicStages) -> None:
    topics.follow({KEY})
    topics.start()
    topics.postpone(KEY)
    assert topics.uncounted() == [KEY]
    assert topics.start() == [KEY]


@pytest.mark.parametrize("fails", [False, True])
def test_a_topic_that_is_left_while_it_starts_is_not_counted(topics: TopicStages, fails: bool) -> None:
    topics.follow({KEY})
    topics.start()
    topics.follow({OTHER})
    assert topics.stage(KEY) is TopicStage.ABANDONED
    assert KEY not in topics.uncounted()
    if fails:
        topics.postpone(KEY)
    else:
        assert not topics.started(KEY, count())
    assert topics.stage(KEY) is None
    assert topics.counts == {}


def test_a_topic_that_is_followed_again_while_it_starts_is_not_started_twice(topics: TopicStages) -> None:
    topics.follow({KEY})
    topics.start()
    topics.follow(set())
    assert topics.follow({KEY})
    assert topics.start() == []
    assert topics.started(KEY, count())


def test_a_topic_without_followers_loses_its_count(topics: TopicStages) -> None:
    topics.follow({KEY, OTHER})
    for key in topics.start():
        topics.started(key, count())
    assert not topics.follow({OTHER})
    assert topics.stage(KEY) is None
    assert set(topics.counts) == {OTHER}


def test_a_restart_begins_with_every_followed_topic_and_forgets_the_abandoned(topics: TopicStages) -> None:
    gone = TopicKey(1, "1h", "UTC")
    topics.follow({KEY, OTHER, gone})
    topics.start()
    topics.started(KEY, count())
    topics.follow({KEY, OTHER})
    topics.restart()
    assert topics.stage(gone) is None
    assert topics.counts == {}
    assert sorted(topics.start()) == sorted([KEY, OTHER])
