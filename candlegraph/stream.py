"""Closing what yields candles: a plugin's stream may be any async iterator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from candlegraph.candle import Candles


@asynccontextmanager
async def closing_stream(stream: AsyncIterator[Candles]) -> AsyncIterator[AsyncIterator[Candles]]:
    """Close a provider's stream on the way out: at once, however it ends. An iterator without ``aclose`` ends by itself."""
    async with AsyncExitStack() as stack:
        if close := getattr(stream, "aclose", None):
            stack.push_async_callback(close)
        yield stream
