"""Run the server until it is told to stop."""

from __future__ import annotations

import logging
import signal
import sys

import uvicorn

from server.app import create_app
from server.machine import machine
from server.settings import Settings


async def serve(settings: Settings) -> None:
    """Start everything, listen, and stop everything in order on SIGINT or SIGTERM."""
    async with machine(settings) as running:
        config = uvicorn.Config(
            create_app(running),
            host=settings.host,
            port=settings.port,
            ws="websockets-sansio",
            ws_max_size=65_536,
            ws_per_message_deflate=False,  # costs twice the CPU of a fan-out
            lifespan="off",
            log_config=None,
            access_log=False,  # it would write tokens that somebody put into a URL
            server_header=False,
            timeout_graceful_shutdown=10,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it writes the URL of a socket, and what is in it
        # uvicorn raises the signal it stopped for once more when it has stopped; by default that would end the process
        # before the database is.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        await _Announcing(config).serve()


class _Announcing(uvicorn.Server):
    """Says where it listens, once it does."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        for server in getattr(self, "servers", []):
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                host = f"[{host}]" if ":" in host else host
                sys.stderr.write(f"Candlegraph serves http://{host}:{port}/graphql  (Ctrl-C stops it)\n")
