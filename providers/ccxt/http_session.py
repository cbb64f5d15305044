"""The HTTP session for ccxt: it follows no redirect and limits the size of answers.

It is imported when an exchange is started, because importing aiohttp takes long.
"""

from __future__ import annotations

from typing import Any

import aiohttp

MAX_BYTES = 32 << 20  # of one answer, unpacked; Binance lists all of its symbols in 15 MB
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class BoundedResponse(aiohttp.ClientResponse):
    """An answer of limited size and without a redirect; otherwise it raises an error, which ccxt passes on."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the head. The target of a redirect must get neither our request nor the keys in it."""
        await super().start(connection)
        if self.status in _REDIRECTS:
            raise aiohttp.ClientPayloadError("The answer is a redirect.")
        return self

    async def read(self) -> bytes:
        """Read the body."""
        if self._body is None:
            parts, size = [], 0
            async for part in self.content.iter_any():
                parts.append(part)
                size += len(part)
                if size > MAX_BYTES:
                    self.close()
                    raise aiohttp.ClientPayloadError("The answer is too long.")
            self._body = b"".join(parts)
        return self._body


def bounded_session(session: aiohttp.ClientSession, *, trust_env: bool) -> aiohttp.ClientSession:
    """A bounded session with the connector of ``session``, which must not be used any more."""
    connector = session.connector
    session.detach()
    return aiohttp.ClientSession(connector=connector, trust_env=trust_env, response_class=BoundedResponse)
