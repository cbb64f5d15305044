"""Uploads: `PUT /import/MARKET/PROVIDER/SYMBOL` imports the file in the body of the request.

The libraries of the importer are loaded with the first upload.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from resolvers.context import Context
from server.upload.spool import Spool
from server.wiring import Runtime

MEMORY_BYTES = 1 << 30


def upload_endpoint(
    identify: Callable[[Request], Awaitable[Context]], runtime: Runtime, memory_bytes: int = MEMORY_BYTES
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of uploads, each with so much memory; the spool files of a process that was killed are deleted now."""
    spool = Spool(runtime.settings.data_dir / "uploads")
    spool.sweep()
    opened: list[Any] = []

    async def answer(request: Request) -> Response:
        if not opened:
            module = await asyncio.to_thread(import_module, "server.upload.endpoint")
            opened.append(
                module.UploadEndpoint(identify, runtime, spool, module.UploadLimits(memory_bytes=memory_bytes))
            )
        response: Response = await opened[0].answer(request)
        return response

    return answer
