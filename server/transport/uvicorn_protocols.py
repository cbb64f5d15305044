"""The web server's protocols: they cut off a peer that does not read, does not answer or sends garbage.

They are uvicorn's own, which wait for such peers as long as the network does.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from candlegraph.timings import Timings

STALLED = 4410


class HttpProtocol(HttpToolsProtocol):
    """HTTP, event streams too."""

    _patience: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, timings: Timings, **named: Any) -> None:
        """As uvicorn's, with ``timings``."""
        super().__init__(*given, **named)
        self._timings = timings

    def pause_writing(self) -> None:
        """The peer does not take the buffered data: give it a while."""
        super().pause_writing()
        self._patience = self.loop.call_later(self._timings.stalled_peer_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The peer has taken it."""
        super().resume_writing()
        _cancel(self._patience)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        _cancel(self._patience)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSockets."""

    _patience: asyncio.TimerHandle | None = None

    def __init__(self, *given: Any, timings: Timings, **named: Any) -> None:
        """As uvicorn's, with ``timings``."""
        super().__init__(*given, **named)
        self._timings = timings

    def pause_writing(self) -> None:
        """The peer does not take the buffered data: give it a while."""
        super().pause_writing()
        self._patience = self.loop.call_later(self._timings.stalled_peer_timeout_s, self._let_go)

    def resume_writing(self) -> None:
        """The peer has taken it."""
        super().resume_writing()
        _cancel(self._patience)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        _cancel(self._patience)

    async def run_asgi(self) -> None:
        """Let the application serve. Where it refuses the handshake, uvicorn would log that it made none."""
        app = self.app

        async def serve(*given: Any) -> None:
            await app(*given)
            self.handshake_complete |= self.close_sent

        self.app = serve
        await super().run_asgi()

    def keepalive_timeout(self) -> None:
        """A ping got no answer. uvicorn closes with 1011, after which graphql-ws does not connect again."""
        self._let_go()

    def send_receive_event_to_app(self) -> None:
        """A message is whole: a text that is no UTF-8 closes with 1007, which uvicorn also logs as a failure of ours."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.send_close(1007, "The text is not UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def _let_go(self) -> None:
        _cancel(self._patience)
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
        self._patience = self.loop.call_later(self._timings.farewell_timeout_s, self.transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer:
        timer.cancel()


def protocols(timings: Timings) -> dict[str, Any]:
    """The options of ``uvicorn.Config`` that make it use these protocols."""
    return {"http": partial(HttpProtocol, timings=timings), "ws": partial(WebSocketProtocol, timings=timings)}
