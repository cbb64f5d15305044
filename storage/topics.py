"""Topics and their events: the rows that all processes of a cluster share about live series."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from candlegraph.batcher import Batcher
from candlegraph.errors import Unavailable
from candlegraph.timeframe import Timeframe
from storage.database import SQL, Database, to_ms
from storage.leases import LeaseLost, Leases, LeaseToken


class TopicConflict(Unavailable):
    """Another writer has appended events to the topic meanwhile: read it again."""


@dataclass(frozen=True, slots=True, order=True)
class TopicKey:
    """A series in a time zone, as subscribers follow it."""

    instrument_id: int
    timeframe: str
    zone: str


@dataclass(frozen=True, slots=True)
class FollowedTopic:
    """A topic, its provider, and the processes that follow it."""

    key: TopicKey
    market: str
    provider: str
    processes: frozenset[uuid.UUID]


@dataclass(frozen=True, slots=True)
class TopicEvent:
    """A closed (``C``) or corrected (``X``) candle of a topic, or a restart after too many events (``R``); ``opened`` in ms."""

    kind: str
    opened: int
    seq: int = 0


@dataclass(frozen=True, slots=True)
class TopicPosition:
    """A topic's position: its first ``seq`` events cover every candle that opens before ``edge``'s bucket, and none after it.

    ``corrected`` is the last row of ``corrections`` among the events.
    """

    seq: int
    edge: int
    epoch: int = 0
    corrected: int = 0


@dataclass(frozen=True, slots=True)
class TopicAppend:
    """The events to append to a topic after its first ``seq``; with them it reaches ``edge`` and ``corrected``."""

    key: TopicKey
    seq: int
    events: Sequence[TopicEvent]
    edge: int
    corrected: int


class TopicStore:
    """The relations ``follows``, ``live_topics`` and ``live_events``, and the leases of one process."""

    def __init__(self, database: Database, process: uuid.UUID | None = None) -> None:
        """Use a database; ``process`` is the unique name of this process."""
        self.database = database
        self.process = process or uuid.uuid4()
        self.leases = Leases(database, self.process)
        # A batch may be retried, because `live_append` is idempotent.
        self._append: Batcher[LeaseToken, Sequence[TopicAppend], dict[TopicKey, int | None]]
        self._append = Batcher(self._append_all, repeats_alone=True)
        # So does `live_open` open a topic; a hundred feeds may begin at once.
        self._open: Batcher[LeaseToken, tuple[TopicKey, int], TopicPosition | None]
        self._open = Batcher(self._open_all, repeats_alone=True)
        self._corrections: Batcher[None, tuple[int, int], list[tuple[int, int]]]
        self._corrections = Batcher(lambda _, asked: self._corrections_of_all(asked), repeats_alone=True)

    async def follow(self, keys: Sequence[TopicKey]) -> None:
        """Follow these topics for the next seconds."""
        await self._fetch("follow", *_columns(keys), self.process, self.database.timings.follow_ttl_s)

    async def unfollow(self, keys: Sequence[TopicKey]) -> None:
        """Stop following these topics."""
        await self._fetch("unfollow", self.process, *_columns(keys))

    async def followed(self) -> list[FollowedTopic]:
        """The topics that any process follows, and the tracked ones."""
        found: dict[TopicKey, FollowedTopic] = {}
        for row in await self._fetch("follows_all"):
            key = TopicKey(row["instrument_id"], row["timeframe"], row["zone"])
            processes = frozenset(row["processes"]) | (found[key].processes if key in found else frozenset())
            found[key] = FollowedTopic(key, row["market"], row["provider"], processes)
        return list(found.values())

    async def open_topic(self, key: TopicKey, edge: int, held: LeaseToken) -> TopicPosition:
        """Start a topic at ``edge``, or resume it, to count its events. LeaseLost."""
        position = await self._open.submit(held, (key, edge))
        if position is None:
            raise LeaseLost
        return position

    async def _open_all(self, held: LeaseToken, asked: Sequence[tuple[TopicKey, int]]) -> list[TopicPosition | None]:
        edges = dict(asked)
        rows = await self._fetch(
            "live_open", held.name, held.epoch, held.holder,
            *_columns(list(edges)), list(edges.values()), self.database.timings.topic_resumption_s,
        )  # fmt: skip
        found = {
            TopicKey(row["instrument_id"], row["timeframe"], row["zone"]): TopicPosition(
                row["seq"], to_ms(row["edge"]), held.epoch, row["corrected"]
            )
            for row in rows
        }
        return [found.get(key) for key, _ in asked]

    async def append(self, held: LeaseToken, steps: Sequence[TopicAppend]) -> dict[TopicKey, int]:
        """Append events to topics; a repeated step changes nothing. Return the new sequence number of each topic.

        LeaseLost: nothing was written. TopicConflict: nothing was written for the topics that are not at their step's ``seq``.
        """
        seqs = await self._append.submit(held, steps)
        if len(seqs) < len(steps):
            raise LeaseLost
        counted = {key: seq for key, seq in seqs.items() if seq is not None}
        if len(counted) < len(steps):
            raise TopicConflict
        return counted

    async def _append_all(
        self, held: LeaseToken, asked: Sequence[Sequence[TopicAppend]]
    ) -> list[dict[TopicKey, int | None]]:
        steps = sorted((step for steps in asked for step in steps), key=lambda step: step.key)
        events = [(step.key, n, one) for step in steps for n, one in enumerate(step.events, 1)]
        rows = await self._fetch(
            "live_append", held.name, held.epoch, held.holder,
            *_columns([step.key for step in steps]), [step.seq for step in steps], [step.edge for step in steps],
            [step.corrected for step in steps], [len(step.events) for step in steps],
            *_columns([key for key, _, _ in events]), [n for _, n, _ in events],
            [one.kind for _, _, one in events], [one.opened for _, _, one in events],
        )  # fmt: skip
        seqs = {TopicKey(row["instrument_id"], row["timeframe"], row["zone"]): row["seq"] for row in rows}
        return [{step.key: seqs[step.key] for step in steps if step.key in seqs} for steps in asked]

    async def corrections(self, instrument_id: int, after: int) -> list[tuple[int, int]]:
        """The final minutes that were corrected after the row ``after`` of ``corrections``: row and opening (ms), in order."""
        return await self._corrections.submit(None, (instrument_id, after))

    async def _corrections_of_all(self, asked: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        oldest: dict[int, int] = {}
        for instrument_id, after in asked:
            oldest[instrument_id] = min(after, oldest.get(instrument_id, after))
        found: dict[int, list[tuple[int, int]]] = {instrument_id: [] for instrument_id in oldest}
        for row in await self._fetch("live_corrections", list(oldest), list(oldest.values())):
            found[row["instrument_id"]].append((row["id"], to_ms(row["timestamp"])))
        return [[row for row in found[instrument_id] if row[0] > after] for instrument_id, after in asked]

    async def positions(self, keys: Sequence[TopicKey]) -> dict[TopicKey, TopicPosition]:
        """The positions of topics."""
        return {
            TopicKey(row["instrument_id"], row["timeframe"], row["zone"]): TopicPosition(
                row["seq"], to_ms(row["edge"]), row["epoch"]
            )
            for row in await self._fetch("live_state", *_columns(keys))
        }

    async def events_since(self, key: TopicKey, seq: int, most: int) -> list[TopicEvent]:
        """The events of a topic since ``seq``, the oldest ``most`` of them; events older than minutes are deleted."""
        rows = await self._fetch("live_missed", key.instrument_id, key.timeframe, key.zone, seq, most)
        return [TopicEvent(row["kind"], to_ms(row["opened"]), row["seq"]) for row in rows]

    async def earliest_change_since(self, key: TopicKey, seq: int) -> int | None:
        """The opening (ms) of the earliest candle with a stored event since ``seq``."""
        rows = await self._fetch("live_earliest", key.instrument_id, key.timeframe, key.zone, seq)
        earliest: int | None = to_ms(rows[0]["opened"])
        return earliest

    async def sweep(self) -> None:
        """Delete events that no follower needs any more."""
        await self._fetch("live_sweep")
        await self._fetch("follows_sweep")

    async def _fetch(self, name: str, *arguments: object) -> Sequence[Any]:
        async with self.database.connection() as connection:
            return await connection.fetch(SQL[name], *arguments)  # type: ignore[no-any-return]


def _columns(keys: Sequence[TopicKey]) -> list[list[object]]:
    return [[key.instrument_id for key in keys], [key.timeframe for key in keys], [key.zone for key in keys]]


def timeframe_of(key: TopicKey) -> Timeframe:
    """Its timeframe."""
    return Timeframe.parse(key.timeframe)
