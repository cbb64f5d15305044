"""Exports of candles as files: `GET /export/candles.{arrow,parquet,csv,jsonl}` and `candlegraph export`.

Their libraries are loaded with the first export.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from resolvers.context import Context


def export_endpoint(
    identify: Callable[[Request], Awaitable[Context]], limits: tuple[int, int, int | None], origins: Sequence[str]
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of exports; ``limits`` are those of `server.export.places.ExportLimits`."""
    opened: list[Any] = []

    async def answer(request: Request) -> Response:
        if not opened:
            module = await asyncio.to_thread(import_module, "server.export.endpoint")
            opened.append(module.ExportEndpoint(identify, module.ExportLimits(*limits), origins))
        response: Response = await opened[0].answer(request)
        return response

    return answer
