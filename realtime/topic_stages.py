"""The topics of one feed, each at its stage."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

from realtime.topic_counter import TopicCounter
from storage.topics import TopicKey


class TopicStage(Enum):
    """The stage of a topic; a topic without followers and without a starting task has none."""

    JOINING = auto()  # it has followers and waits for its next start
    STARTING = auto()  # a task catches it up
    ABANDONED = auto()  # a task catches it up, but the last follower has left
    COUNTING = auto()  # it has a counter, and its events are published


class TopicStages:
    """Every topic with its stage; only topics at COUNTING have a counter."""

    def __init__(self) -> None:
        """Start without topics."""
        self.counts: dict[TopicKey, TopicCounter] = {}
        self._stages: dict[TopicKey, TopicStage] = {}

    def stage(self, key: TopicKey) -> TopicStage | None:
        """The stage of a topic, if it has one."""
        return self._stages.get(key)

    def follow(self, keys: Iterable[TopicKey]) -> bool:
        """Follow these topics and no others; True if that adds one."""
        wanted = set(keys)
        for key in self._stages.keys() - wanted:
            if self._stages[key] in {TopicStage.STARTING, TopicStage.ABANDONED}:
                self._stages[key] = TopicStage.ABANDONED
            else:
                self._remove(key)
        added = {key for key in wanted if self.stage(key) in {None, TopicStage.ABANDONED}}
        for key in added:
            self._stages[key] = TopicStage.STARTING if key in self._stages else TopicStage.JOINING
        return bool(added)

    def start(self) -> list[TopicKey]:
        """Move every topic that is JOINING to STARTING; the caller starts a task for each."""
        keys = [key for key, stage in self._stages.items() if stage is TopicStage.JOINING]
        self._stages.update(dict.fromkeys(keys, TopicStage.STARTING))
        return keys

    def started(self, key: TopicKey, count: TopicCounter) -> bool:
        """Count a topic from here on; False if its last follower has left."""
        if self._stages[key] is TopicStage.ABANDONED:
            self._remove(key)
            return False
        self._stages[key], self.counts[key] = TopicStage.COUNTING, count
        return True

    def postpone(self, key: TopicKey) -> None:
        """Move a topic whose start failed back to JOINING."""
        if self._stages[key] is TopicStage.ABANDONED:
            self._remove(key)
        else:
            self._stages[key] = TopicStage.JOINING

    def uncounted(self) -> list[TopicKey]:
        """The followed topics without a counter."""
        return [key for key, stage in self._stages.items() if stage in {TopicStage.JOINING, TopicStage.STARTING}]

    def restart(self) -> None:
        """Move all topics back to JOINING; no start task may be running."""
        self._stages = {
            key: TopicStage.JOINING for key, stage in self._stages.items() if stage is not TopicStage.ABANDONED
        }
        self.counts.clear()

    def _remove(self, key: TopicKey) -> None:
        del self._stages[key]
        self.counts.pop(key, None)
