"""The bus: brings live messages to every process of a cluster, through Redis where there is one, else through PostgreSQL.

Messages may be lost: a process detects a missed one by the sequence number of the next, or when it reads the store, once a
second. So plain publish and subscribe is enough, and the bus may be unavailable for any length of time. Redis streams would
keep what the database keeps anyway, and sharded channels pay off only when one channel is too much for one node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import orjson

from candlegraph import errors
from candlegraph.batcher import Batcher
from candlegraph.candle import Candles
from candlegraph.errors import CandlegraphError, ProviderUnavailable
from storage.topics import TopicKey

log = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES = 7_500  # bytes of a message: NOTIFY takes fewer than 8,000
MAX_QUEUED_MESSAGES = 10_000  # messages; further ones are lost while nothing can be sent


@dataclass(frozen=True, slots=True)
class TopicMessage:
    """A leader's message about a topic; ``kind``: C closed, X corrected, R restart, U the forming candle and the position.

    ``candles`` are the affected one (for ``R`` the earliest), for ``U`` those of the buckets that are not settled, or none.
    ``seq`` and ``edge`` are the position after the event, as in `storage.topics.TopicPosition`.
    """

    key: TopicKey
    kind: str
    seq: int
    edge: int
    epoch: int
    candles: Candles


@dataclass(frozen=True, slots=True)
class PositionRequest:
    """``process`` follows a topic and asks its leader for the position; a ``key`` of None reports a released lease."""

    key: TopicKey | None
    process: str


@dataclass(frozen=True, slots=True)
class TopicFailure:
    """The leader's reason why it cannot give the position of a topic."""

    key: TopicKey
    error: CandlegraphError


BusMessage = TopicMessage | PositionRequest | TopicFailure
BusSubscriber = Callable[[BusMessage], None]


class Transport(Protocol):
    """A transport to other processes."""

    async def send(self, payloads: Sequence[str]) -> bool:
        """Send to every process, including ours; return whether that worked. Raises nothing."""
        ...


class Bus:
    """Brings messages to every process, to this one first and at once.

    The queue of outgoing messages is here and not in the batcher: it is bounded, and forming candles conflate in it.
    """

    def __init__(self, name: str) -> None:
        """``name`` identifies this process."""
        self.name = name
        self._subscribers: list[BusSubscriber] = []
        self._transports: Sequence[Transport] = ()
        self._outgoing: dict[object, BusMessage] = {}
        self._sender: Batcher[None, None, None] = Batcher(self._send)

    def connect(self, transports: Sequence[Transport]) -> None:
        """Send through the first of ``transports`` that works; all of them call `receive`."""
        self._transports = transports

    def subscribe(self, subscriber: BusSubscriber) -> None:
        """Call ``subscriber`` with every message from now on."""
        self._subscribers.append(subscriber)

    def publish(self, message: BusMessage, *, others: bool) -> None:
        """Deliver to this process at once and, with ``others``, to the other processes, batched per turn of the event loop."""
        self._deliver(message)
        if others and self._transports and len(self._outgoing) < MAX_QUEUED_MESSAGES:
            # Of a topic's queued forming candles only the newest is sent.
            key = (message.key, "U") if isinstance(message, TopicMessage) and message.kind == "U" else object()
            if not self._outgoing:
                self._sender.submit(None, None)
            self._outgoing.pop(key, None)
            self._outgoing[key] = message

    def receive(self, payload: str | bytes) -> None:
        """Deliver a payload of another process; ignore anything that is no message of ours."""
        try:
            sender, *messages = orjson.loads(payload)
            decoded = [] if sender == self.name else [_decoded(str(sender), fields) for fields in messages]
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, CandlegraphError):
            log.warning("the bus received something that is not a message")
            return
        for message in decoded:
            self._deliver(message)

    async def close(self) -> None:
        """Send the queued messages."""
        await self._sender.drain()

    async def _send(self, _: None, asked: Sequence[None]) -> Sequence[None]:
        batch, self._outgoing = list(self._outgoing.values()), {}
        payloads = list(_batches(self.name, map(_encoded, batch)))
        for transport in self._transports:
            if await transport.send(payloads):
                break
        return asked

    def _deliver(self, message: BusMessage) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber(message)
            except Exception:
                log.exception("a message could not be applied")


def _encoded(message: BusMessage) -> str:
    key = [message.key.instrument_id, message.key.timeframe, message.key.zone] if message.key else []
    if isinstance(message, PositionRequest):
        return orjson.dumps(["F", *key]).decode()
    if isinstance(message, TopicFailure):
        error = message.error
        return orjson.dumps(["E", *key, type(error).__name__, error.message[:500], error.retry_after]).decode()
    rows = [[int(c.timestamp), c.open, c.high, c.low, c.close, c.volume] for c in message.candles]  # few
    return orjson.dumps([message.kind, *key, message.seq, message.edge, message.epoch, rows]).decode()


def _decoded(sender: str, fields: list[Any]) -> BusMessage:
    kind, *rest = fields
    key = TopicKey(int(rest[0]), str(rest[1]), str(rest[2])) if rest else None
    if kind == "F":
        return PositionRequest(key, sender)
    if key is None or kind not in {"C", "X", "R", "U", "E"}:
        raise ValueError(kind)
    if kind == "E":
        return TopicFailure(key, _error(*rest[3:]))
    seq, edge, epoch, rows = rest[3:]
    candles = Candles.from_rows(rows)
    if kind == "U":
        candles = candles.with_closed(np.zeros(len(candles), np.bool_))
    return TopicMessage(key, kind, int(seq), int(edge), int(epoch), candles)


def _error(name: str, message: str, retry_after: float | None) -> CandlegraphError:
    kind = getattr(errors, name, None)
    if not isinstance(kind, type) or not issubclass(kind, CandlegraphError):
        kind = ProviderUnavailable
    return kind(message, retry_after=retry_after)


def _batches(sender: str, messages: Iterable[str]) -> Iterable[str]:
    """JSON arrays, each with the sender's name and then messages, and each below the size limit."""
    head = orjson.dumps(sender).decode()
    batch, size = [head], len(head) + 2
    for message in messages:
        length = len(message.encode()) + 1
        if size + length > MAX_PAYLOAD_BYTES and len(batch) > 1:
            yield f"[{','.join(batch)}]"
            batch, size = [head], len(head) + 2
        batch.append(message)
        size += length
    yield f"[{','.join(batch)}]"
