"""The topics of one feed, and the stage that each of them is at."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

from realtime.topic_counter import TopicCounter
from storage.topics import TopicKey


class TopicStage(Enum):
    """How far a topic is; one that nobody follows and that no task starts has none."""

    JOINING = auto()  # it is followed and waits for its next start
    STARTING = auto()  # a task catches it up
    ABANDONED = auto()  # so does a task, but nobody follows the topic any more
    COUNTING = auto()  # it has a count, and its events are published


class TopicStages:
    """Every topic at its stage; only those that are COUNTING have a count."""

    def __init__(self) -> None:
        """No topic yet."""
        self.counts: dict[TopicKey, TopicCounter] = {}
        self._stages: dict[TopicKey, TopicStage] = {}

    def stage(self, key: TopicKey) -> TopicStage | None:
        """The stage of a topic, if it has one."""
        return self._stages.get(key)

    def follow(self, keys: Iterable[TopicKey]) -> bool:
        """Follow these and no others; True where that adds a topic."""
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
        """Let every topic that is JOINING start; the caller starts a task for each."""
        keys = [key for key, stage in self._stages.items() if stage is TopicStage.JOINING]
        self._stages.update(dict.fromkeys(keys, TopicStage.STARTING))
        return keys

    def started(self, key: TopicKey, count: TopicCounter) -> bool:
        """Count a topic from here on; False where nobody follows it any more."""
        if self._stages[key] is TopicStage.ABANDONED:
            self._remove(key)
            return False
        self._stages[key], self.counts[key] = TopicStage.COUNTING, count
        return True

    def postpone(self, key: TopicKey) -> None:
        """Have a topic whose start failed start once more."""
        if self._stages[key] is TopicStage.ABANDONED:
            self._remove(key)
        else:
            self._stages[key] = TopicStage.JOINING

    def uncounted(self) -> list[TopicKey]:
        """Those that are followed and have no count yet."""
        return [key for key, stage in self._stages.items() if stage in {TopicStage.JOINING, TopicStage.STARTING}]

    def restart(self) -> None:
        """Have all of them start once more, now that no task starts any."""
        self._stages = {
            key: TopicStage.JOINING for key, stage in self._stages.items() if stage is not TopicStage.ABANDONED
        }
        self.counts.clear()

    def _remove(self, key: TopicKey) -> None:
        del self._stages[key]
        self.counts.pop(key, None)
