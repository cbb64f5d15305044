"""The machine below the API without a server: a database of its own, the demo market, and a few imported series."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import SecretStr

from candlegraph import MINUTE, Candles, Instrument
from candlegraph.span import Span, Spans
from resolvers.context import Context, Services
from schema.build import Schema, build_schema
from schema.encoding import JsonAnswer
from server.settings import Settings
from server.wiring import open_runtime
from storage.batches import CandleWrite
from storage.candles import CandleStore
from storage.database import Database
from storage.instruments import Instruments
from tests.timings import PATIENT

T0 = 1_714_521_600_000  # 2024-05-01T00:00:00Z
MINUTE_MS = 60_000
ROWS = 120
SYMBOLS = tuple(f"S{i}/USD" for i in range(12))


@dataclass
class ApiWorld:
    """Asks the real schema over a real database."""

    schema: Schema
    database: Database
    services: Services

    async def ask(
        self, document: str, variables: Mapping[str, Any] | None = None, *, name: str | None = None
    ) -> dict[str, Any]:
        """Execute as the server does; the answer as JSON, errors and all."""
        result = await self.schema.execute(
            document,
            variable_values=dict(variables) if variables is not None else None,
            context_value=Context(self.services, "request-1"),
            operation_name=name,
        )
        errors = [error.formatted for error in result.errors or ()]
        answer: dict[str, Any] = json.loads(b"".join(JsonAnswer({"data": result.data, "errors": errors}).pieces()))
        return answer


@asynccontextmanager
async def laboratory(dsn: str) -> AsyncIterator[ApiWorld]:
    """Open one; every symbol of ``lab/bench`` has two hours of minutes from `T0`, all covered. Nothing is cached."""
    async with open_runtime(Settings.read(db_connection_string=SecretStr(dsn), cache_mb=0), timings=PATIENT) as running:
        await _furnish(running.store, running.services.history.instruments)
        yield ApiWorld(build_schema(), running.database, running.services)


async def _furnish(store: CandleStore, instruments: Instruments) -> None:
    stamps = T0 + MINUTE_MS * np.arange(ROWS, dtype=np.int64)
    prices = 100.0 + np.arange(ROWS)
    candles = Candles.of(stamps, prices, prices + 2, prices - 2, prices + 1, np.full(ROWS, 1.5))
    covered = Spans([Span(T0, T0 + ROWS * MINUTE_MS)])
    for symbol in SYMBOLS:
        record = await instruments.get_or_create(Instrument("lab", "bench", symbol), "UTC")
        await store.write([CandleWrite(record.id, MINUTE, candles, covered, "i")])
