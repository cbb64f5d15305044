"""A long answer over HTTP: encoded and compressed in pieces, each when the client has taken those before it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from schema.encoding import JsonAnswer


class StreamedAnswer(Response):
    """Writes the pieces of a `JsonAnswer`; `GZipMiddleware` compresses each of them in a thread."""

    def __init__(self, answer: JsonAnswer, status_code: int, headers: Mapping[str, str], media_type: str) -> None:
        """Write nothing yet."""
        self.status_code, self.media_type, self.background = status_code, media_type, None
        self.init_headers(headers)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        """Write until all is sent, or the client is gone."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await run_until_first(self._write(send), disconnected(receive))

    async def _write(self, send: Send) -> None:
        async with aclosing(self._answer.stream()) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def run_until_first(*works: Coroutine[Any, Any, object]) -> None:
    """Run coroutines until the first of them ends, cancel the others, and raise its error."""
    tasks = [asyncio.create_task(work, name="part of an answer") for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def disconnected(receive: Receive) -> None:
    """Wait until the client of a request is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
