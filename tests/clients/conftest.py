"""A server of this suite's own, and a client of it."""

from tests.server.conftest import http, server

__all__ = ["http", "server"]
