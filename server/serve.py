"""Runs the server until a signal stops it."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import resource
import signal
import socket
import sys
from contextlib import ExitStack, suppress

import uvicorn

from candlegraph.errors import ConfigurationError
from candlegraph.timings import Timings
from server.settings import Settings
from server.transport.app import create_app
from server.transport.connections import Connections
from server.transport.log_limit import limit_logs
from server.transport.tcp_connections import TcpConnections, TcpLimits
from server.transport.uvicorn_protocols import protocols
from server.wiring import open_runtime

log = logging.getLogger(__name__)

GC_THRESHOLDS = (20_000, 20, 20)  # Python's 700 would visit the objects of all subscribers each second while many come
OWN_FILES = 256  # of the database, the upstreams, logs and libraries


async def serve(settings: Settings, timings: Timings | None = None) -> None:
    """Start everything, listen, and stop everything in order on SIGINT or SIGTERM."""
    timings = timings or Timings()
    with ExitStack() as stack:
        # Bound before anything starts, so that an address in use fails early; clients are accepted at the end of the start.
        sockets = [stack.enter_context(one) for one in _bind(settings.host, settings.port, timings)]
        await _serve(settings, sockets, timings)


async def _serve(settings: Settings, sockets: list[socket.socket], timings: Timings) -> None:
    async with open_runtime(settings, serving=True, timings=timings) as running:
        app = create_app(running)
        limit_logs()
        config = uvicorn.Config(
            app,
            **protocols(timings, TcpConnections(_tcp_limits(settings), app.state.proxies)),
            proxy_headers=False,  # ours trust no peer that FORWARDED_ALLOW_IPS does not name
            ws_max_size=65_536,
            ws_ping_interval=15,  # a dead peer is detected within 30 s
            ws_ping_timeout=15,
            ws_per_message_deflate=False,  # costs twice the CPU of a fan-out
            lifespan="off",
            log_config=None,
            access_log=False,  # it would write tokens that a user put into a URL
            server_header=False,
            timeout_keep_alive=75,  # clients and proxies should close first: the side that closes may lose a request under way
            timeout_graceful_shutdown=10,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it writes the URL of a socket, and what is in it
        server = _UvicornServer(config, app.state.connections)
        # uvicorn raises the signal it stopped for once more when it has stopped; by default that would end the process
        # before the database is.
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(server, "should_exit", True))
        # The objects of the start stay: the collector need not visit them again. It collects garbage first, or that would stay too.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await server.serve(sockets)


def _tcp_limits(settings: Settings) -> TcpLimits:
    """The caps on TCP connections: as many again as on sockets and streams, so that requests get in beside those.

    Where the process may open fewer files, that is the cap: otherwise one silent client could use them all up.
    """
    wanted, per_address = 2 * settings.max_connections, 2 * settings.max_connections_per_address
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS allows fewer than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    room = wanted if soft == resource.RLIM_INFINITY else max(soft - OWN_FILES, soft // 2)
    if room < settings.max_connections:
        log.warning(
            "the process may open %d files, too few for MAX_CONNECTIONS=%d: at most %d connections are accepted; "
            "raise the limit (ulimit -n, LimitNOFILE) to %d",
            soft,
            settings.max_connections,
            room,
            wanted + OWN_FILES,
        )
    return TcpLimits(min(wanted, room), per_address)


def _bind(host: str, port: int, timings: Timings) -> list[socket.socket]:
    """A socket for each address of a host; ConfigurationError if one is taken or none is ours."""
    bound: list[socket.socket] = []
    failure: OSError | None = None
    unread_ms = round(timings.unread_timeout_s * 1000)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(f"HOST: {host!r} is not an address ({error.strerror}).") from None
    for family, kind, _, _, address in dict.fromkeys(found):
        one = socket.socket(family, kind)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a restart would wait for old connections
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted connections inherit it
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            bound.append(one)
        except OSError as error:
            one.close()
            failure = error
            if error.errno == errno.EADDRINUSE:
                break
    if failure and (not bound or failure.errno == errno.EADDRINUSE):
        for one in bound:
            one.close()
        what = "HOST" if failure.errno == errno.EADDRNOTAVAIL else "PORT"
        raise ConfigurationError(f"{what}: cannot listen on {host} port {port} ({failure.strerror}).")
    return bound


class _UvicornServer(uvicorn.Server):
    """Prints its address once it listens, and closes long-lived connections before it stops."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self._connections = connections

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._connections.close()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in getattr(self, "servers", []):
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                host = f"[{host}]" if ":" in host else host
                sys.stderr.write(f"Candlegraph serves http://{host}:{port}/graphql  (Ctrl-C stops it)\n")
