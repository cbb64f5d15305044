"""The pages of the front door: files of the built bundle, under a stricter policy than GraphiQL's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"cache-control": "no-cache", "content-security-policy": _POLICY, "referrer-policy": "same-origin"}


def page_endpoint(file: Path) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that answers with a page; everything it names lies under ``static/`` beside it."""

    async def answer(_: Request) -> Response:
        if not await asyncio.to_thread(file.is_file):
            return PlainTextResponse("The page is not built: run `make install`.\n", 404)
        return FileResponse(file, media_type="text/html", headers=_HEADERS)

    return answer
