"""Candles completed in bulk are the answer that plain execution gives: in data, in order and in errors."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
import strawberry
from hypothesis import given, settings
from hypothesis import strategies as st
from strawberry.schema.config import StrawberryConfig

from candlegraph import UTC, Candles, Instrument, InstrumentRecord
from candlegraph.answer import Answer, CandleRequest, Gap, GapReason
from candlegraph.errors import NotFound
from candlegraph.series_candles import SeriesCandles
from history.fetch_limits import NO_LIMITS, FetchBudget
from resolvers.context import Context
from resolvers.turns import Turns
from schema import executor
from schema.build import Schema
from schema.encoding import JsonAnswer, LazyRows
from schema.query import Query
from schema.scalars import SCALARS

STAMPS = 1_700_000_040_000 + np.arange(7) * 60_000


def _batch(symbol: str) -> Candles:
    close = np.array([1.5, -0.0, 1e300, 5e-324, 37005.0, 0.1 + 0.2, 7.0])
    candles = Candles.of(
        STAMPS, close, close + 1, close - 1, close, close, closed=STAMPS[-1] > STAMPS, synthetic=STAMPS[2] == STAMPS
    )
    if symbol == "EMPTY":
        return Candles.empty()
    if symbol == "NAN":
        return Candles.of(STAMPS, close, np.full(7, np.nan), close - 1, close, np.full(7, np.inf))
    if symbol == "LONG":
        close = np.arange(5_000.0)
        return Candles.of(STAMPS[0] + np.arange(5_000) * 60_000, close, close + 1, close - 1, close, close)
    if symbol == "HALF":  # a stamp within a second: its text has milliseconds
        return Candles.of(STAMPS + 500, close, close, close, close, close)
    return candles


def _record(instrument: Instrument) -> InstrumentRecord:
    return InstrumentRecord(1, instrument, None, None, None, "UTC", True, True, None, None)


class Memory:
    """Answers from memory; the symbol says what."""

    async def answer(self, asks: Sequence[CandleRequest], fetch_budget: FetchBudget) -> list[Answer | Exception]:
        return [self._one(ask) for ask in asks]

    def _one(self, ask: CandleRequest) -> Answer | Exception:
        instrument = ask.series.instrument
        if instrument.symbol == "NONE":
            return NotFound("There is none.")
        gaps = (Gap(0, 60_000, GapReason.OUTAGE, None),)
        return Answer(_record(instrument), ask, UTC, _batch(instrument.symbol), gaps, (), False, None, 5)

    @property
    def listings(self) -> Memory:
        return self

    async def find(self, instruments: Sequence[Instrument]) -> list[InstrumentRecord]:
        return [_record(instrument) for instrument in instruments]


def _context() -> Context:
    memory = Memory()
    limits = {"default_points": 500, "max_points": 5000, "fetch_limits": NO_LIMITS, "turns": Turns()}
    services: Any = SimpleNamespace(history=memory, **limits)
    return Context(services, "test")


BULK = Schema(Query, config=StrawberryConfig(scalar_map=SCALARS), execution_context_class=executor.BulkExecutor)
PLAIN = Schema(Query, config=StrawberryConfig(scalar_map=SCALARS))

FIELDS = [
    "timestamp",
    "time",
    "date",
    "end",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "closed",
    "synthetic",
    "__typename",
]
DIRECTIVES = [
    "",
    "",
    "",
    " @skip(if: $yes)",
    " @skip(if: $no)",
    " @include(if: $yes)",
    " @include(if: $no)",
    " @include(if: true)",
]


@st.composite
def selection(draw: st.DrawFn, kind: str, depth: int = 2) -> str:
    """A selection of `Candle` or `CandleColumns`: fields, aliases, inline fragments, spreads, directives, repeats."""
    parts = []
    names = draw(
        st.lists(
            st.sampled_from(FIELDS if kind == "Candle" else [f for f in FIELDS if f not in {"time", "date", "end"}]),
            min_size=1,
            max_size=6,
        )
    )
    for name in names:
        # An alias names its field, so that two of the same alias never conflict.
        alias = draw(st.sampled_from(["", "", f"x_{name.strip('_')}: "]))
        parts.append(alias + name + draw(st.sampled_from(DIRECTIVES)))
    if depth and draw(st.booleans()):
        on = draw(st.sampled_from(["", f" on {kind}"]))
        parts.append(f"...{on}{draw(st.sampled_from(DIRECTIVES))} {draw(selection(kind, depth - 1))}")
    if draw(st.booleans()):
        parts.append(f"...{kind}Part")
    return "{ " + " ".join(draw(st.permutations(parts))) + " }"


@st.composite
def series(draw: st.DrawFn) -> str:
    """A selection of `CandleSeries`."""
    parts = [
        "nodes " + draw(selection("Candle")),
        "more: nodes " + draw(selection("Candle")),
        "nodes " + draw(selection("Candle")),  # merged with the first
        "columns " + draw(selection("CandleColumns")),
        "hasMore",
        "nextSince",
        "gaps { since reason detail }",
        "__typename",
    ]
    return "{ " + " ".join(draw(st.lists(st.sampled_from(parts), min_size=1, max_size=5))) + " }"


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A whole document."""
    symbols = st.sampled_from(["FULL", "FULL", "EMPTY", "NAN", "NONE", "HALF"])
    roots = []
    for number in range(draw(st.integers(1, 3))):
        name = f'market: "m", provider: "p", symbol: "{draw(symbols)}"'
        kind = draw(st.sampled_from(["candles", "symbol", "batch"]))
        if kind == "candles":
            roots.append(f"r{number}: candles({name}) {draw(series())}")
        elif kind == "symbol":
            roots.append(f"r{number}: symbol({name}) {{ symbol candles {draw(series())} }}")
        else:
            many = ", ".join(f'{{market: "m", provider: "p", symbol: "{draw(symbols)}"}}' for _ in range(2))
            roots.append(f"r{number}: candlesBatch(series: [{many}]) {draw(series())}")
    return (
        "query ($yes: Boolean! = true, $no: Boolean! = false) { __typename ...All " + " ".join(roots) + " }"
        " fragment All on Query { __typename }"
        f" fragment CandlePart on Candle {draw(selection('Candle', 0)).replace('...CandlePart', '')}"
        f" fragment CandleColumnsPart on CandleColumns {draw(selection('CandleColumns', 0)).replace('...CandleColumnsPart', '')}"
    )


async def _answer(schema: strawberry.Schema, document: str) -> tuple[bytes, list[Any]]:
    result = await schema.execute(document, context_value=_context())
    errors = sorted((error.formatted for error in result.errors or []), key=str)
    return orjson.dumps(result.data), errors


@settings(max_examples=250, deadline=None)
@given(documents())
async def test_every_shape_of_query_gets_the_answer_of_plain_execution(document: str) -> None:
    """Aliases, fragments, directives, merging, nesting, empty lists, nulls and errors: equal to the byte."""
    bulk, plain = await _answer(BULK, document), await _answer(PLAIN, document)
    # A fragment that no operation of a drawn document uses is an error of validation: of both, in the same words.
    assert bulk == plain


async def test_the_drawn_documents_are_mostly_valid() -> None:
    """Otherwise the property above would compare refusals."""
    document = (
        '{ candles(market: "m", provider: "p", symbol: "FULL") { nodes { x: close ...P } columns { close } } }'
        " fragment P on Candle { timestamp time }"
    )
    data, errors = await _answer(BULK, document)
    assert not errors
    rows = orjson.loads(data)["candles"]["nodes"]
    assert rows[0] == {"x": 1.5, "timestamp": 1_700_000_040_000, "time": "2023-11-14T22:14:00Z"}
    assert len(rows) == 7


async def test_a_batch_is_completed_in_bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path is taken: no candle object is ever made, and no field of one is resolved."""
    for batch in (Candles, SeriesCandles):
        monkeypatch.setattr(batch, "__iter__", lambda self: pytest.fail("candles were made into objects"))
    document = (
        '{ candles(market: "m", provider: "p", symbol: "FULL")'
        " { nodes { timestamp time date end open closed __typename } } }"
    )
    data, errors = await _answer(BULK, document)
    assert not errors
    assert len(orjson.loads(data)["candles"]["nodes"]) == 7


async def test_a_long_batch_is_encoded_in_pieces_and_is_the_answer_of_plain_execution() -> None:
    """No number of it is an object before it is encoded, dates and ends of buckets included."""
    document = (
        '{ candles(market: "m", provider: "p", symbol: "LONG") { nodes { timestamp time date end close closed } } }'
    )
    result = await BULK.execute(document, context_value=_context())
    assert result.data
    assert type(result.data["candles"]["nodes"]) is LazyRows
    plain, errors = await _answer(PLAIN, document)
    assert not errors
    assert b"".join(JsonAnswer(result.data).pieces()) == plain


async def test_a_nan_is_the_error_of_plain_execution() -> None:
    """What must not be in the data is left to the core, which words it and nulls what it must."""
    document = '{ candles(market: "m", provider: "p", symbol: "NAN") { nodes { high } } }'
    data, errors = await _answer(BULK, document)
    assert orjson.loads(data) == {"candles": None}
    assert "Float cannot represent non numeric value" in errors[0]["message"]
