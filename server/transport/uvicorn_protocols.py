"""The web server's protocols: they disconnect a peer that sends nothing, too much or garbage, or that reads nothing.

They extend uvicorn's own, which wait for such peers until the network gives up, and accept a request head of any size.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from candlegraph.errors import Overloaded
from candlegraph.pass_budget import PassBudget
from candlegraph.timings import Timings
from server.transport.tcp_connections import TcpConnections
from server.transport.websocket_protocol import BYTES_PER_PASS, WebSocketProtocol
from server.transport.write_deadline import WriteDeadline

SLOW_BODY = "candlegraph.slow_body"  # an extension of the scope: a function without arguments
MAX_HEAD_BYTES = 65_536  # of the request line, the headers, and the framing of chunks in a body
MAX_HEADERS = 100
MAX_URL_BYTES = 32_768
MAX_DISCARDED_BYTES = 4_194_304  # that a refused peer may still send
_PIECE = 16_384  # bytes per call of the parser, which has no limits of its own


class HttpProtocol(HttpToolsProtocol):
    """HTTP, including event streams."""

    def __init__(self, *given: Any, timings: Timings, tcp: TcpConnections, **named: Any) -> None:
        """As uvicorn's class, with ``timings``; ``tcp`` counts the connection."""
        super().__init__(*given, **named)
        self._timings = timings
        self._tcp = tcp
        self._counted = False
        self._arrival: asyncio.TimerHandle | None = None  # the deadline of the request that is arriving
        self._in_message = self._in_head = False
        self._head_bytes = self._body_bytes = 0
        self._slow_scope: object = None  # the request whose body may take as long as it makes progress
        self._body_bytes_before = 0
        self._refused = False
        self._discarded_bytes = 0
        self._write_deadline: WriteDeadline | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and wait for its first byte."""
        super().connection_made(transport)
        self._write_deadline = WriteDeadline(transport, self._timings.stalled_peer_timeout_s, transport.abort)
        if refusal := self._tcp.refusal(self._peer):
            self._refuse(503 if isinstance(refusal, Overloaded) else 429, refusal.code, refusal.message, 5)
            return
        self._tcp.add(self._peer)
        self._counted = True
        self._expect(self._timings.first_byte_timeout_s)

    def data_received(self, data: bytes) -> None:
        """Pass data to the parser in pieces, and refuse a head that is too long."""
        for start in range(0, len(data), _PIECE):
            if self._is_over:
                self._discard(data)
                return
            piece = data[start : start + _PIECE]
            if not self._in_message:
                self._in_message = self._in_head = True
                self._head_bytes = 0
                self._expect(self._timings.head_timeout_s)
            body_before = self._body_bytes
            super().data_received(piece)
            if not self._in_message:
                continue
            self._head_bytes += len(piece) - (self._body_bytes - body_before)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, "HEADERS_TOO_LARGE", f"The head of a request is at most {MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """A request begins, perhaps pipelined right after another."""
        if self._is_over:
            return
        super().on_message_begin()
        if not self._in_message:
            self._in_message = self._in_head = True
            self._head_bytes = 0
            self._expect(self._timings.head_timeout_s)

    def on_url(self, url: bytes) -> None:
        """Receive a part of the URL."""
        if self._is_over:
            return
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._refuse(414, "URI_TOO_LONG", f"A URL is at most {MAX_URL_BYTES} bytes long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a header, of the head or as a trailer of a chunked body."""
        if self._is_over:
            return
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._refuse(431, "HEADERS_TOO_LARGE", f"A request has at most {MAX_HEADERS} headers.")

    def on_headers_complete(self) -> None:
        """The head is complete: start the deadline of the body."""
        if self._is_over:
            return
        self._in_head = False
        self._expect(self._timings.body_timeout_s)
        super().on_headers_complete()
        scope: Any = self.scope
        scope.setdefault("extensions", {})[SLOW_BODY] = partial(self._allow_slow_body, scope)

    def _allow_slow_body(self, scope: object) -> None:
        """The application takes a long body: its deadline begins again whenever a part of it has arrived."""
        self._slow_scope, self._body_bytes_before = scope, self._body_bytes

    def on_body(self, body: bytes) -> None:
        """Receive a part of the body."""
        self._body_bytes += len(body)
        if not self._is_over:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived: stop its deadline."""
        if self._is_over:  # the request was refused: the running deadline is that of the farewell
            return
        self._in_message = self._in_head = False
        _cancel(self._arrival)
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to `WebSocketProtocol`, which counts it again."""
        _cancel(self._arrival)
        if self._write_deadline:
            self._write_deadline.cancel()
        self._uncount()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not HTTP."""
        self._refuse(400, "BAD_REQUEST", msg)

    def pause_writing(self) -> None:
        """The write buffer is full: start the deadline for the peer to read."""
        super().pause_writing()
        if self._write_deadline:
            self._write_deadline.start()

    def resume_writing(self) -> None:
        """The peer has read: stop the deadline."""
        super().resume_writing()
        if self._write_deadline:
            self._write_deadline.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all deadlines, and stop counting the connection."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        _cancel(self._arrival)
        if self._write_deadline:
            self._write_deadline.cancel()
        self._uncount()

    @property
    def _peer(self) -> str:
        return self.client[0] if self.client else ""

    def _uncount(self) -> None:
        if self._counted:
            self._counted = False
            self._tcp.remove(self._peer)

    def _expect(self, timeout_s: float) -> None:
        """Start the deadline for the next part of the request."""
        _cancel(self._arrival)
        self._arrival = self.loop.call_later(timeout_s, self._is_late, timeout_s)

    def _is_late(self, timeout_s: float) -> None:
        if self.flow.read_paused:  # we have paused reading: the rest may have arrived already
            self._expect(timeout_s)
        elif self._slow_scope is self.scope and self._body_bytes > self._body_bytes_before:
            self._body_bytes_before = self._body_bytes
            self._expect(timeout_s)
        elif self._in_head:
            self._refuse(408, "REQUEST_TIMEOUT", "The head of the request did not arrive in time.")
        else:
            self.transport.abort()

    def _refuse(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        """Send an error and close the connection; if an answer is being sent, only close it."""
        if self._is_over:
            return
        self._refused = True
        _cancel(self._arrival)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self.transport.close()
            return
        body = orjson.dumps({"errors": [{"message": message, "extensions": {"code": code}}]})
        head = [STATUS_LINE[status], b"content-type: application/json; charset=utf-8\r\n"]
        head += [b"x-content-type-options: nosniff\r\ncontent-length: %d\r\n" % len(body)]
        head += [b"retry-after: %d\r\n" % retry_after] if retry_after else []
        self.transport.write(b"".join([*head, b"connection: close\r\n\r\n", body]))
        if not self._counted or not self.transport.can_write_eof():
            self.transport.close()
            return
        # Do not close at once: data that the peer still sends would reset the connection before it reads the answer.
        self.transport.write_eof()
        self._arrival = self.loop.call_later(self._timings.farewell_timeout_s, self.transport.abort)

    def _discard(self, data: bytes) -> None:
        self._discarded_bytes += len(data)
        if self._discarded_bytes > MAX_DISCARDED_BYTES:
            self.transport.abort()

    @property
    def _is_over(self) -> bool:
        return self._refused or self.transport.is_closing() or self.parser is None


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer:
        timer.cancel()


def protocols(timings: Timings, tcp: TcpConnections | None = None) -> dict[str, Any]:
    """The options of ``uvicorn.Config`` that make it use these protocols."""
    ours: dict[str, Any] = {"timings": timings, "tcp": TcpConnections() if tcp is None else tcp}
    parsing = PassBudget(BYTES_PER_PASS)
    return {"http": partial(HttpProtocol, **ours), "ws": partial(WebSocketProtocol, parsing=parsing, **ours)}
