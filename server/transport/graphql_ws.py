"""graphql-transport-ws: every message is checked before it has an effect, and a mistake in one operation ends only that one.

The protocol is https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md. An operation is a task that writes what
its stream yields. Where the peer does not read, the write waits, and with it only this socket's operations: the queue
behind each of them is bounded, by `realtime.topic.Listener`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from candlegraph.errors import CandlegraphError, Overloaded, TokenExpired, Unauthenticated
from candlegraph.timings import Timings
from candlegraph.viewer import User
from resolvers.context import Context
from resolvers.cost_budget import Reservation
from schema.admission import MAX_STREAMED_COST
from schema.broadcast import OperationRefused
from schema.build import Schema
from server.transport.persisted_queries import PersistedQueries

log = logging.getLogger(__name__)


class GraphQLSocket:
    """One socket. It belongs to the account of its `connection_init`, and is closed when the token ends."""

    def __init__(
        self,
        schema: Schema,
        ws: WebSocket,
        context: Context,
        max_operations: int,
        timings: Timings,
        *,
        persisted: PersistedQueries,
    ) -> None:
        """Serve ``ws``, which is accepted."""
        self._schema = schema
        self._persisted = persisted
        self._ws = ws
        self._context = context
        self._timings = timings
        self._max_operations = max_operations
        self._operations: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # the operations, including those that are just ending
        self._unanswered: set[asyncio.Task[None]] = set()  # those that have sent nothing yet
        self._initialised = self._acknowledged = self._leaving = False
        self._closing: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Serve until either side closes; nothing of the socket is left behind."""
        try:
            async with asyncio.timeout(self._timings.socket_init_timeout_s) as patience:
                await self._listen(patience)
        except TimeoutError:
            await self._close(4408, "Connection initialisation timeout")
        except _Closed as closed:
            await self._close(closed.code, closed.reason)
        except WebSocketDisconnect:
            pass
        finally:
            tasks = [*self._tasks, *([self._closing] if self._closing else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def leave(self) -> None:
        """Answer the open queries, then go: after 1001 clients connect again, after a `complete` they would not."""
        self._leaving = True
        if self._unanswered:
            await asyncio.wait(self._unanswered, timeout=self._timings.socket_finish_timeout_s)
        await self._close(1001, "The server is stopping")

    async def _listen(self, patience: asyncio.Timeout) -> None:
        while True:
            received = await self._ws.receive()
            if received["type"] == "websocket.disconnect":
                return
            message = _read(received.get("text"))
            match message["type"]:
                case "connection_init":
                    if self._initialised:
                        raise _Closed(4429, "Too many initialisation requests")
                    self._initialised = True
                    patience.reschedule(None)
                    await self._initialise(message.get("payload") or {})
                case "ping":
                    await self._send('{"type":"pong"}')
                case "subscribe":
                    await self._subscribe(message["id"], message["payload"])
                case "complete":
                    if task := self._operations.pop(message["id"], None):
                        task.cancel()

    async def _initialise(self, payload: dict[str, Any]) -> None:
        """Identify the caller, then acknowledge; an invalid token closes the socket with 4403."""
        sent = {name.lower(): value for name, value in payload.items()}
        shown = sent.get("authorization", (self._context.connection_params or {}).get("Authorization"))
        # A value that is no text is no token either, and does not make the caller anonymous.
        viewer = await self._context.services.accounts.identify(shown if isinstance(shown, str | None) else "Bearer")
        if viewer.refusal:
            # graphql-ws takes 4401 for final; it retries after these two, with a token that was refreshed meanwhile.
            raise _Closed(4403 if isinstance(viewer.refusal, Unauthenticated) else 1013, viewer.refusal.message)
        self._context.viewer = viewer
        self._context.connection_params = payload
        if viewer.user:
            self._closing = asyncio.create_task(self._close_in_time(viewer.user, viewer.expires_at or 0))
        self._acknowledged = True
        await self._send('{"type":"connection_ack"}')

    async def _close_in_time(self, user: User, expires_at: float) -> None:
        reason = "The access token is no longer valid: sign in again."
        try:
            async with asyncio.timeout(max(0, expires_at - time.time())):
                await self._context.services.accounts.revocations.ended(user)
        except TimeoutError:
            reason = TokenExpired().message
        await self._close(4403, reason)

    async def _subscribe(self, id_: str, payload: dict[str, Any]) -> None:
        """Start an operation, unless the socket is at its limit."""
        if not self._acknowledged:
            raise _Closed(4401, "Unauthorized")
        if id_ in self._operations:
            raise _Closed(4409, f"Subscriber for {id_} already exists")
        refusal: CandlegraphError | None = None
        if self._leaving:
            refusal = Overloaded("The server is stopping: connect again in a moment.")
        elif len(self._operations) >= self._max_operations:
            refusal = Overloaded(
                f"A socket carries at most {self._max_operations} operations at once: end one, or open another."
            )
        if refusal:
            await self._send(_error(id_, [{"message": refusal.message, "extensions": {"code": refusal.code}}]))
            return
        task = self._operations[id_] = asyncio.create_task(self._run(id_, payload))
        for group in (self._tasks, self._unanswered):
            group.add(task)
            task.add_done_callback(group.discard)

    async def _run(self, id_: str, payload: dict[str, Any]) -> None:
        last = orjson.dumps({"id": id_, "type": "complete"}).decode()
        budget, address = self._context.services.budget, self._context.origin.address
        reservation = Reservation(budget, address, max_cost=MAX_STREAMED_COST)
        context = replace(self._context, reservation=reservation)
        try:
            with self._persisted.document(payload.get("query"), payload.get("extensions")) as document:
                answer = await self._schema.open(
                    document, payload.get("variables"), payload.get("operationName") or None, context
                )
            head = orjson.dumps({"id": id_, "type": "next"}).decode()[:-1] + ',"payload":'
            async with aclosing(answer):
                async for answered in answer:
                    await self._send(head + answered + "}")
                    if self._unanswered:
                        self._unanswered.discard(asyncio.current_task())
        except OperationRefused as refused:
            last = _error(id_, [error.formatted for error in refused.errors])
        except WebSocketDisconnect:
            return  # its client was faster
        except Exception:
            log.exception("an operation failed unexpectedly")
            last = _error(id_, [{"message": "Something went wrong on the server.", "extensions": {"code": "INTERNAL"}}])
        finally:
            reservation.release()
        # Before the client learns that the operation is over, so that it may use the id again at once.
        self._operations.pop(id_, None)
        with suppress(WebSocketDisconnect):
            await self._send(last)

    async def _send(self, text: str) -> None:
        """Write a text frame: binary ones end every graphql-ws client. WebSocketDisconnect where the peer is gone."""
        try:
            await self._ws.send({"type": "websocket.send", "text": text})
        except RuntimeError as error:  # closed from our side
            raise WebSocketDisconnect(1006) from error

    async def _close(self, code: int, reason: str) -> None:
        with suppress(RuntimeError, WebSocketDisconnect):  # its client may have been faster
            await self._ws.close(code, reason)


class _Closed(Exception):
    """An action of the peer that ends the socket."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason.encode()[:123].decode(errors="ignore")  # as much as fits a close frame


def _error(id_: str, errors: list[Any]) -> str:
    return orjson.dumps({"id": id_, "type": "error", "payload": errors}).decode()


def _read(text: str | None) -> dict[str, Any]:
    """A message of the protocol; anything else closes the socket with 4400."""
    try:
        message = orjson.loads(text if text is not None else b"")
    except orjson.JSONDecodeError:
        what = "no text" if text is None else "no JSON"
        raise _Closed(4400, f"The message is {what}") from None
    if not _is_well_formed(message):
        raise _Closed(4400, "The message is not one of graphql-transport-ws")
    return message  # type: ignore[no-any-return]


def _is_well_formed(message: Any) -> bool:
    if not isinstance(message, dict):
        return False
    payload = message.get("payload")
    if not isinstance(payload, dict | None):
        return False
    match message.get("type"):
        case "connection_init" | "ping" | "pong":
            return True
        case "complete":
            return _is_id(message)
        case "subscribe":
            return (
                _is_id(message)
                and payload is not None
                and isinstance(payload.get("variables"), dict | None)
                and isinstance(payload.get("operationName"), str | None)
                and isinstance(payload.get("extensions"), dict | None)
                and _has_document(payload)
            )
    return False


def _has_document(payload: dict[str, Any]) -> bool:
    """Whether there is a document, or the hash of one."""
    query, is_persisted = payload.get("query"), "persistedQuery" in (payload.get("extensions") or {})
    return isinstance(query, str) or (query is None and is_persisted)


def _is_id(message: dict[str, Any]) -> bool:
    return isinstance(message.get("id"), str) and bool(message["id"])
