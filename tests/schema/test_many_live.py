"""Many series on one subscription, as a client reads them: the errors have the path of their series, and the others go on."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from resolvers.context import Context
from schema.broadcast import OperationRefused
from schema.build import Schema, build_schema
from tests.fakes.laboratory import MINUTE_MS, ROWS, SYMBOLS, T0, ApiWorld

SCHEMA: Schema = build_schema()
MANY = """subscription ($series: [LiveSeriesInput!]!, $timezone: String) { candlesMany(series: $series, timezone: $timezone) {
  market provider symbol timeframe event { kind seq caughtUp resyncFrom nodes { timestamp date end closed } } } }"""


def _series(symbol: str, **more: Any) -> dict[str, Any]:
    return {"market": "lab", "provider": "bench", "symbol": symbol, "since": T0, **more}


async def _take(lab: ApiWorld, variables: dict[str, Any], count: int) -> list[dict[str, Any]]:
    stream = await SCHEMA.open(MANY, variables, None, Context(lab.services, "test"))
    found = [orjson.loads(await anext(stream)) for _ in range(count)]
    await stream.aclose()
    return found


async def test_a_series_that_fails_is_null_with_an_error_of_its_path_and_the_others_go_on(lab: ApiWorld) -> None:
    series = [
        _series(SYMBOLS[0]),
        _series("NOPE"),
        _series("a\0b"),
        _series(SYMBOLS[1], provider="lab/bench", timeframe="60m"),
        _series(SYMBOLS[2], provider="demo/synthetic"),
    ]
    payloads = await _take(lab, {"series": series}, 5)
    received = {one["data"]["candlesMany"]["symbol"]: one for one in payloads}
    for symbol, code in (("NOPE", "NOT_FOUND"), ("a\0b", "BAD_USER_INPUT"), (SYMBOLS[2], "BAD_USER_INPUT")):
        (error,) = received[symbol]["errors"]
        assert error["path"] == ["candlesMany", "event"]
        assert error["extensions"]["code"] == code
        assert received[symbol]["data"]["candlesMany"]["event"] is None
    minutes, hours = received[SYMBOLS[0]]["data"]["candlesMany"], received[SYMBOLS[1]]["data"]["candlesMany"]
    assert (minutes["market"], minutes["provider"], minutes["timeframe"]) == ("lab", "bench", "1m")
    assert [node["timestamp"] for node in minutes["event"]["nodes"]] == [T0 + MINUTE_MS * n for n in range(ROWS)]
    assert hours["timeframe"] == "1h"
    assert [node["end"] - node["timestamp"] for node in hours["event"]["nodes"]] == [60 * MINUTE_MS] * 2
    assert minutes["event"]["caughtUp"]
    assert hours["event"]["caughtUp"]


async def test_dates_are_those_of_the_zone_that_is_asked_for(lab: ApiWorld) -> None:
    """Also below a day, where all zones share one grid."""
    (payload,) = await _take(lab, {"series": [_series(SYMBOLS[0])], "timezone": "America/New_York"}, 1)
    assert {node["date"] for node in payload["data"]["candlesMany"]["event"]["nodes"]} == {"2024-04-30"}


@pytest.mark.parametrize("count", [0, 101])
async def test_too_few_and_too_many_series_are_refused(lab: ApiWorld, count: int) -> None:
    with pytest.raises(OperationRefused) as refused:
        await SCHEMA.open(MANY, {"series": [_series(SYMBOLS[0])] * count}, None, Context(lab.services, "test"))
    assert [error.extensions["code"] for error in refused.value.errors] == ["BAD_USER_INPUT"]


async def test_all_series_that_fail_end_the_subscription(lab: ApiWorld) -> None:
    stream = await SCHEMA.open(MANY, {"series": [_series("NOPE"), _series("NO")]}, None, Context(lab.services, "test"))
    assert len([payload async for payload in stream]) == 2
