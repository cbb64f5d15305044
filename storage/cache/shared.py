"""The second cache tier, in Redis, for all processes: reads are batched, writes run in the background, any may fail."""

from __future__ import annotations

from collections.abc import Sequence

from candlegraph.batcher import Batcher
from storage.cache.chunks import Chunk, RowBlock, pack_chunk, unpack_chunk
from storage.redis import Redis

KEPT_S = 86_400
MAX_CHUNKS_PER_READ = (
    512  # chunks in one command, 6 MB: more would block Redis and our event loop for longer than a caller waits
)
MAX_QUEUED_CHUNKS = (
    256  # chunks that wait to be written, 3 MB; further ones are dropped, and a later reader writes them
)


class SharedCache:
    """Whole chunks by key; ``database`` is a part of the key, so that databases can share a Redis."""

    def __init__(self, redis: Redis, database: str) -> None:
        """Send no command yet."""
        self._redis = redis
        self._prefix = f"candlegraph:chunk:{database}:"
        self._queued: set[Chunk] = set()
        self._writes: Batcher[None, tuple[Chunk, RowBlock], None] = Batcher(self._write)

    @property
    def is_usable(self) -> bool:
        """Whether Redis is available."""
        return self._redis.reads

    async def load(self, wanted: Sequence[tuple[Chunk, ...]]) -> list[dict[Chunk, RowBlock]]:
        """Return the stored rows of each set of chunks, by one command."""
        chunks = list(dict.fromkeys(chunk for some in wanted for chunk in some))[:MAX_CHUNKS_PER_READ]
        packed = chunks and await self._redis.ask("MGET", *(self._prefix + chunk.name for chunk in chunks))
        if not packed:
            return [{} for _ in wanted]
        read = {chunk: unpack_chunk(chunk, found) for chunk, found in zip(chunks, packed, strict=True) if found}
        return [{c: rows for c in some if (rows := read.get(c)) is not None} for some in wanted]

    def put_later(self, chunk: Chunk, rows: RowBlock) -> None:
        """Queue a chunk to be written in the background."""
        if not self._redis.writes or chunk in self._queued or len(self._queued) >= MAX_QUEUED_CHUNKS:
            return
        self._queued.add(chunk)
        self._writes.submit(None, (chunk, rows)).add_done_callback(lambda _: self._queued.discard(chunk))

    async def close(self) -> None:
        """Stop writing; readers get chunks that were not written from the database."""
        await self._writes.cancel()

    async def _write(self, _: None, chunks: Sequence[tuple[Chunk, RowBlock]]) -> list[None]:
        for chunk, rows in chunks:
            if self._redis.writes:
                await self._redis.ask("SET", self._prefix + chunk.name, pack_chunk(chunk, rows), "EX", KEPT_S)
        return [None] * len(chunks)
