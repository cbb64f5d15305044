"""The topics of one feed, and the stage that each of them is at."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

from realtime.topic_counter import Count
from storage.topics import TopicKey


class Stage(Enum):
    """How far a topic is; one that nobody follows and that no task starts has none."""

    JOINING = auto()  # it is followed and waits for its next start
    STARTING = auto()  # a task catches it up
    ABANDONED = auto()  # so does a task, but nobody follows the topic any more
    COUNTING = auto()  # it has a count, and its events are published


class Topics:
    """Every topic at its stage; only those that are COUNTING have a count."""

    def __init__(self) -> None:
        """No topic yet."""
        self.counts: dict[TopicKey, Count] = {}
        self._stages: dict[TopicKey, Stage] = {}

    def stage(self, key: TopicKey) -> Stage | None:
        """The stage of a topic, if it has one."""
        return self._stages.get(key)

    def follow(self, keys: Iterable[TopicKey]) -> bool:
        """Follow these and no others; True where that adds a topic."""
        wanted = set(keys)
        for key in self._stages.keys() - wanted:
            if self._stages[key] in {Stage.STARTING, Stage.ABANDONED}:
                self._stages[key] = Stage.ABANDONED
            else:
                self._remove(key)
        added = {key for key in wanted if self.stage(key) in {None, Stage.ABANDONED}}
        for key in added:
            self._stages[key] = Stage.STARTING if key in self._stages else Stage.JOINING
        return bool(added)

    def start(self) -> list[TopicKey]:
        """Let every topic that is JOINING start; the caller starts a task for each."""
        keys = [key for key, stage in self._stages.items() if stage is Stage.JOINING]
        self._stages.update(dict.fromkeys(keys, Stage.STARTING))
        return keys

    def started(self, key: TopicKey, count: Count) -> bool:
        """Count a topic from here on; False where nobody follows it any more."""
        if self._stages[key] is Stage.ABANDONED:
            self._remove(key)
            return False
        self._stages[key], self.counts[key] = Stage.COUNTING, count
        return True

    def postpone(self, key: TopicKey) -> None:
        """Have a topic whose start failed start once more."""
        if self._stages[key] is Stage.ABANDONED:
            self._remove(key)
        else:
            self._stages[key] = Stage.JOINING

    def uncounted(self) -> list[TopicKey]:
        """Those that are followed and have no count yet."""
        return [key for key, stage in self._stages.items() if stage in {Stage.JOINING, Stage.STARTING}]

    def restart(self) -> None:
        """Have all of them start once more, now that no task starts any."""
        self._stages = {key: Stage.JOINING for key, stage in self._stages.items() if stage is not Stage.ABANDONED}
        self.counts.clear()

    def _remove(self, key: TopicKey) -> None:
        del self._stages[key]
        self.counts.pop(key, None)
