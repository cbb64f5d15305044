"""How the processes of a cluster tell each other what happens live: through Redis where there is one, else through PostgreSQL.

Messages may be lost: whoever misses one sees it by the count of the next, or by looking at the store each second. So plain
publish and subscribe is enough, and the bus may be away for as long as it likes. Redis streams would keep what the store
keeps anyway, and sharded channels only pay once one channel is more than a node can carry.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import orjson

from candlegraph.candle import Candles
from storage.live import TopicKey

log = logging.getLogger(__name__)

LARGEST = 7_500  # bytes of a message: NOTIFY takes fewer than 8,000


@dataclass(frozen=True, slots=True)
class Message:
    """What a leader says of a topic: ``kind`` C closed, X corrected, R start again, U forming (also: nothing happened).

    ``candles``: the one meant, none where it has to be read. ``seq`` after it, ``edge`` as in `storage.live.Standing`.
    """

    key: TopicKey
    kind: str
    seq: int
    edge: int
    epoch: int
    candles: Candles


@dataclass(frozen=True, slots=True)
class Follow:
    """Somebody began to follow something: leaders, look."""


class Line(Protocol):
    """A way to other processes."""

    async def send(self, payloads: Sequence[str]) -> None:
        """Send to everybody, ourselves included, or lose it; raises nothing."""
        ...


Hear = Callable[[Message | Follow], None]


class Bus:
    """Brings messages to every process, to this one first and at once."""

    def __init__(self, name: str) -> None:
        """``name`` tells this process from others."""
        self._name = name
        self._hearers: list[Hear] = []
        self._line: Line | None = None
        self._outgoing: list[str] = []
        self._sending: asyncio.Task[None] | None = None

    def connect(self, line: Line) -> None:
        """Use ``line`` to reach the others; it calls `receive`."""
        self._line = line

    def hear(self, hearer: Hear) -> None:
        """Call ``hearer`` with every message from now on."""
        self._hearers.append(hearer)

    def publish(self, message: Message | Follow, *, others: bool) -> None:
        """Tell this process at once, and ``others`` in a moment: what is said in one turn of the loop travels together."""
        self._deliver(message)
        if others and self._line:
            self._outgoing.append(_encoded(message))
            if self._sending is None or self._sending.done():
                self._sending = asyncio.create_task(self._send())

    def receive(self, payload: str | bytes) -> None:
        """Take in what another process said; anything that is no message of ours is left alone."""
        try:
            sender, *messages = orjson.loads(payload)
            if sender == self._name:
                return
            for message in map(_decoded, messages):
                self._deliver(message)
        except (orjson.JSONDecodeError, ValueError, TypeError, KeyError, IndexError):
            log.warning("something else than a message came over the bus")

    async def close(self) -> None:
        """Send what is left."""
        if self._sending:
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _send(self) -> None:
        await asyncio.sleep(0)
        while self._outgoing and self._line:
            messages, self._outgoing = self._outgoing, []
            await self._line.send(list(_batches(self._name, messages)))

    def _deliver(self, message: Message | Follow) -> None:
        for hearer in self._hearers:
            try:
                hearer(message)
            except Exception:
                log.exception("a message could not be taken in")


def _encoded(message: Message | Follow) -> str:
    if isinstance(message, Follow):
        return "[]"
    key, candles = message.key, message.candles
    rows = [[int(c.timestamp), c.open, c.high, c.low, c.close, c.volume] for c in candles]  # one or none
    return orjson.dumps(
        [key.instrument_id, key.timeframe, key.zone, message.kind, message.seq, message.edge, message.epoch, rows]
    ).decode()


def _decoded(fields: list[object]) -> Message | Follow:
    if not fields:
        return Follow()
    instrument_id, timeframe, zone, kind, seq, edge, epoch, rows = fields
    candles = Candles.from_rows(rows)  # type: ignore[arg-type]
    if kind == "U":
        candles = candles.with_closed(np.zeros(len(candles), np.bool_))
    return Message(
        TopicKey(int(instrument_id), str(timeframe), str(zone)),  # type: ignore[call-overload]
        str(kind), int(seq), int(edge), int(epoch), candles,  # type: ignore[call-overload]
    )  # fmt: skip


def _batches(sender: str, messages: list[str]) -> Iterable[str]:
    """Messages as JSON arrays behind the sender's name, each small enough."""
    batch, size = [f'"{sender}"'], len(sender) + 4
    for message in messages:
        if size + len(message) + 1 > LARGEST and len(batch) > 1:
            yield f"[{','.join(batch)}]"
            batch, size = batch[:1], len(sender) + 4
        batch.append(message)
        size += len(message) + 1
    yield f"[{','.join(batch)}]"
