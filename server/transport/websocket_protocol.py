"""uvicorn's WebSocket protocol, which disconnects a peer that reads nothing and parses a few messages at a time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from candlegraph.pass_budget import PassBudget
from candlegraph.timings import Timings
from server.transport.tcp_connections import TcpConnections
from server.transport.write_deadline import WriteDeadline, unsent_bytes

STALLED = 4410
BYTES_PER_PASS = 4_096  # of the messages of all sockets that are parsed in one pass of the event loop
_PIECE = 1_024  # bytes of a socket that are parsed before those of the next one


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSockets."""

    def __init__(self, *given: Any, timings: Timings, tcp: TcpConnections, parsing: PassBudget, **named: Any) -> None:
        """As uvicorn's class, with ``timings``; ``tcp`` counts the connection, and all sockets share ``parsing``."""
        super().__init__(*given, **named)
        self._timings = timings
        self._tcp = tcp
        self._farewell: asyncio.TimerHandle | None = None
        self._unsent = 0  # bytes when the last ping was sent
        self._parsing = parsing
        self._unread = bytearray()  # it is parsed when the application has taken the messages before it
        self._parses = False  # a piece of it waits for its turn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection over from `HttpProtocol`."""
        super().connection_made(transport)
        self._tcp.add(self._peer)
        self._write_deadline = WriteDeadline(self.transport, self._timings.stalled_peer_timeout_s, self._let_go)

    def pause_writing(self) -> None:
        """The write buffer is full: start the deadline for the peer to read."""
        super().pause_writing()
        self._write_deadline.start()

    def resume_writing(self) -> None:
        """The peer has read: stop the deadline."""
        super().resume_writing()
        self._write_deadline.cancel()
        if self._farewell:  # it reads again, and will come to the close frame
            self._say_farewell()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all deadlines, and stop counting the connection."""
        super().connection_lost(exc)
        self._write_deadline.cancel()
        if self._farewell:
            self._farewell.cancel()
        self._tcp.remove(self._peer)

    def data_received(self, data: bytes) -> None:
        """Take data: a packet may hold a thousand messages, and a hundred sockets as many in one pass of the event loop."""
        self._unread += data
        self._parse_later()
        if len(self._unread) > _PIECE and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    async def receive(self) -> Any:
        """The next message of the peer, after those that other sockets have ready."""
        self._parse_later()
        self._read_on()
        message = await super().receive()
        if self._unread and not self.read_paused:  # uvicorn has resumed
            self.read_paused = True
            self.transport.pause_reading()
        return message

    def _parse_later(self) -> None:
        if self._unread and not self._parses and (self.close_sent or self.queue.empty()):
            self._parses = True
            self._parsing.run(self._parse)

    def _parse(self) -> int:
        self._parses = False
        if self.disconnected:
            return 0
        piece = bytes(self._unread[:_PIECE])
        del self._unread[:_PIECE]
        super().data_received(piece)
        self._parse_later()
        self._read_on()
        return len(piece)

    def _read_on(self) -> None:
        """Read from the peer again, if all that it sent is parsed and the application has taken the messages."""
        if self.read_paused and not self._unread and self.queue.empty():
            self.read_paused = False
            self.transport.resume_reading()

    async def run_asgi(self) -> None:
        """Run the application. If it refuses the handshake, uvicorn would log an error about a missing handshake."""
        app = self.app

        async def serve(*given: Any) -> None:
            await app(*given)
            self.handshake_complete |= self.close_sent

        self.app = serve
        await super().run_asgi()

    def send_keepalive_ping(self) -> None:
        """Send a ping, and note how much the peer has not read before it."""
        super().send_keepalive_ping()
        self._unsent = unsent_bytes(self.transport)

    def keepalive_timeout(self) -> None:
        """A ping got no answer: close the socket, unless the peer still reads and has not reached the ping yet.

        uvicorn would close with 1011, after which graphql-ws does not connect again.
        """
        unsent = unsent_bytes(self.transport)
        if 0 < unsent < self._unsent and not self.close_sent:
            self._unsent = unsent
            self.pong_timer = self.loop.call_later(self.ping_timeout or 0, self.keepalive_timeout)
        else:
            self.pong_timer = None
            self._let_go()

    def send_receive_event_to_app(self) -> None:
        """Pass on a whole message. Text that is not UTF-8 closes the socket with 1007; uvicorn would log a server error."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(1007, "The text is not UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    @property
    def _peer(self) -> str:
        return self.client[0] if self.client else ""

    def _let_go(self) -> None:
        self._write_deadline.cancel()
        if not self.close_sent and not self.transport.is_closing():
            self.queue.put_nowait({"type": "websocket.disconnect", "code": STALLED, "reason": "stalled"})
            try:
                self.conn.send_close(STALLED, "The socket was not read from")
            except InvalidState:
                pass  # it is closing already
            else:
                # After the buffered data, and without the application, which waits until the peer takes them.
                self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self._say_farewell()

    def _say_farewell(self) -> None:
        if self._farewell:
            self._farewell.cancel()
        self._farewell = self.loop.call_later(self._timings.farewell_timeout_s, self.transport.abort)
