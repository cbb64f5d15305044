"""A real TimescaleDB for the suite, compiled to WebAssembly and run by node: one session, no COPY."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from storage.database import Database
from tests.waiting import HANG_S

SCRIPT = Path(__file__).with_name("serve.mjs")
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@contextmanager
def served() -> Iterator[str]:
    """Its address, for as long as it is wanted."""
    node = subprocess.Popen(["node", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert node.stdout is not None
        port = node.stdout.readline().strip()
        assert port, "TimescaleDB did not start: `make test` installs what it needs"
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
    finally:
        node.communicate(timeout=HANG_S)


async def insert_instead_of_copy(
    self: asyncpg.Connection, table: str, *, source: AsyncIterator[bytes], columns: Sequence[str], **_: object
) -> None:
    """Take the place of ``asyncpg.Connection.copy_to_table``: the rows of the stream, inserted."""
    rows = list(_rows(b"".join([part async for part in source])))
    values = zip(*rows, strict=True)
    await self.execute(
        f"""insert into {table} ({", ".join(f'"{name}"' for name in columns)})
            select i, tf, s::"char", t, o, h, l, c, v
            from unnest($1::int4[], $2::text[], $3::text[], $4::timestamptz[], $5::float8[], $6::float8[], $7::float8[],
                        $8::float8[], $9::float8[]) x (i, tf, s, t, o, h, l, c, v)""",
        *map(list, values),
    )


async def stop_jobs(database: Database) -> None:
    """Let no job of TimescaleDB compress a chunk while a test looks at it."""
    async with database.connection() as connection:
        if await connection.fetchval("select exists (select from pg_extension where extname = 'timescaledb')"):
            await connection.execute("select alter_job(job_id, scheduled => false) from timescaledb_information.jobs")


def _rows(stream: bytes) -> Iterator[tuple[Any, ...]]:
    at = 19
    while (count := struct.unpack_from(">h", stream, at)[0]) >= 0:
        at += 2
        fields = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", stream, at)
            fields.append(stream[at + 4 : at + 4 + length])
            at += 4 + length
        owner, timeframe, origin, stamp, *numbers = fields
        yield (
            int.from_bytes(owner, "big"),
            timeframe.decode(),
            origin.decode(),
            _EPOCH + timedelta(microseconds=int.from_bytes(stamp, "big", signed=True)),
            *(struct.unpack(">d", number)[0] for number in numbers),
        )
