"""The newest candle of many symbols: what `candles` says of each, in one statement."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from candlegraph import MINUTE, Candles, Instrument, Timeframe, zone
from candlegraph.candle import concat
from candlegraph.span import Span, Spans
from schema import executor as executor_module
from storage.batches import CandleWrite
from storage.database import Database
from tests.fakes.clocks import set_clock
from tests.fakes.laboratory import MINUTE_MS, T0, ApiWorld, laboratory

DAY_MS = 1440 * MINUTE_MS
NOW = T0 + 3 * DAY_MS + 615 * MINUTE_MS + 20_000  # 10:15:20 of the fourth day
FIELDS = "symbol { symbol id } candle { timestamp date end open high low close volume closed } current previousClose"
ASK = f"""query ($symbols: [String!], $pattern: String, $timeframe: Timeframe! = "1d", $timezone: String, $first: Int! = 100,
    $after: String) {{ latest(market: "lab", provider: "many", symbols: $symbols, pattern: $pattern, timeframe: $timeframe,
    timezone: $timezone, first: $first, after: $after) {{
      nodes {{ {FIELDS} }} edges {{ cursor node {{ {FIELDS} }} }} missing pageInfo {{ hasNextPage endCursor }} }} }}"""
# What is covered of each symbol, in minutes from T0.
UNTIL = 3 * 1440 + 615
COVERED: dict[str, list[tuple[int, int]]] = {
    "WHOLE": [(0, UNTIL)],  # up to the last minute that is over
    "BEHIND": [(0, UNTIL - 1)],  # up to the one before
    "YESTERDAY": [(0, 3 * 1440)],
    "HOLE TODAY": [(0, 3 * 1440 + 100), (3 * 1440 + 200, UNTIL)],
    "HOLE YESTERDAY": [(0, 2 * 1440 + 700), (2 * 1440 + 800, UNTIL)],
    "FROM NOON": [(2 * 1440 + 720, 3 * 1440 + 615)],
    "OLD": [(0, 1440 + 30)],
    "PART": [(5, 300)],
}
QUIET = "QUIET"  # everything is covered, and nothing was traded for an hour
THIN = "THIN"  # nothing was traded on the third day


def _candles(minutes: np.ndarray) -> Candles:
    stamps = T0 + MINUTE_MS * minutes.astype(np.int64)
    close = 100 + (minutes * 7919 % 1000) / 10
    return Candles.of(stamps, close - 1, close + 3, close - 4, close, 1 + minutes % 5)


@pytest.fixture(scope="module")
async def many(new_database: Callable[..., Any], migrated_template: str) -> AsyncIterator[ApiWorld]:
    """Symbols that differ in what is known of them."""
    async with laboratory(await new_database(migrated_template)) as lab:
        for symbol, pieces in [*COVERED.items(), (QUIET, [(0, UNTIL)]), (THIN, [(0, UNTIL)])]:
            record = await lab.services.history.instruments.get_or_create(Instrument("lab", "many", symbol), "UTC")
            minutes = concat([_candles(np.arange(*piece)) for piece in pieces])
            if symbol == QUIET:
                minutes = minutes[minutes.timestamp < T0 + (UNTIL - 60) * MINUTE_MS]
            if symbol == THIN:
                day = (minutes.timestamp - T0) // DAY_MS
                minutes = minutes[day != 2]
            spans = Spans(Span(T0 + a * MINUTE_MS, T0 + b * MINUTE_MS) for a, b in pieces)
            await lab.services.history.store.write([CandleWrite(record.id, MINUTE, minutes, spans, "i")])
        yield lab


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, lambda: NOW)


async def _latest(lab: ApiWorld, **variables: Any) -> dict[str, Any]:
    answer = await lab.ask(ASK, variables)
    assert not answer["errors"], answer
    page: dict[str, Any] = answer["data"]["latest"]
    assert [edge["node"] for edge in page["edges"]] == page["nodes"]
    return page


@pytest.mark.parametrize("timezone", [None, "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize("timeframe", ["1m", "5m", "7m", "1h", "4h", "1d", "3d"])
async def test_it_is_the_newest_candle_that_is_known_and_says_whether_a_newer_one_can_exist(
    many: ApiWorld, timeframe: str, timezone: str | None
) -> None:
    """Of each symbol the newest bucket that is covered from its opening on, worked out of the minutes one by one."""
    names = [*COVERED, QUIET, THIN]
    nodes = (await _latest(many, symbols=names, timeframe=timeframe, timezone=timezone))["nodes"]
    assert [node["symbol"]["symbol"] for node in nodes] == names
    for node in nodes:
        assert node == _expected(node["symbol"]["symbol"], Timeframe.parse(timeframe), timezone or "UTC") | {
            "symbol": node["symbol"]
        }, node["symbol"]["symbol"]


def _expected(symbol: str, timeframe: Timeframe, name: str) -> dict[str, Any]:
    days = zone(name)
    pieces = Spans(Span(T0 + a * MINUTE_MS, T0 + b * MINUTE_MS) for a, b in COVERED.get(symbol, [(0, UNTIL)]))
    rows = {}
    for span in pieces:
        for candle in _candles(np.arange((span.since - T0) // MINUTE_MS, (span.until - T0) // MINUTE_MS)):
            quiet = symbol == QUIET and candle.timestamp >= T0 + (UNTIL - 60) * MINUTE_MS
            thin = symbol == THIN and (candle.timestamp - T0) // DAY_MS == 2
            if not quiet and not thin:
                rows[candle.timestamp] = candle
    settled, buckets = timeframe.floor(NOW, days), {}
    for stamp in sorted(rows):
        buckets.setdefault(timeframe.floor(stamp, days), []).append(rows[stamp])
    known = []
    for opened, inside in buckets.items():
        end = timeframe.next(opened, days)
        part = pieces & Spans([Span(opened, end)])
        first = next(iter(part))
        if first.since == opened and len(list(part)) == 1 and (first.until == end or end > settled):
            known.append((opened, end, inside))
    if not known:
        return {"candle": None, "current": False, "previousClose": None}
    opened, end, inside = known[-1]
    covered = next(span for span in pieces if span.since <= opened < span.until)
    previous = known[-2] if len(known) > 1 else None
    joined = previous and previous[0] >= covered.since
    date = np.datetime64(int(days.day_of(np.array([opened]))[0]), "D").astype(str)
    return {
        "candle": {
            "timestamp": opened, "date": str(date), "end": end, "open": inside[0].open,
            "high": max(one.high for one in inside), "low": min(one.low for one in inside), "close": inside[-1].close,
            "volume": pytest.approx(sum(one.volume for one in inside)), "closed": end <= settled,
        },
        "current": covered.until >= (settled if end <= settled else MINUTE.floor(NOW)),
        "previousClose": previous[2][-1].close if joined and previous else None,
    }  # fmt: skip


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the database."""
    sent: list[str] = []
    fetch = Database.fetch

    async def counting(self: Database, statement: str, *arguments: object) -> Any:
        sent.append(statement)
        return await fetch(self, statement, *arguments)

    monkeypatch.setattr(Database, "fetch", counting)
    return sent


async def test_a_thousand_symbols_are_one_statement_and_ask_no_provider(
    new_database: Callable[..., Any], migrated_template: str, statements: list[str]
) -> None:
    async with laboratory(await new_database(migrated_template)) as lab:
        instruments, store = lab.services.history.instruments, lab.services.history.store
        writes = []
        for number in range(1_000):
            record = await instruments.get_or_create(Instrument("lab", "many", f"S{number:04}"), "UTC")
            covered = Spans([Span(T0, T0 + 60 * MINUTE_MS)])
            writes.append(CandleWrite(record.id, MINUTE, _candles(np.arange(number % 60, 60)), covered, "i"))
        await store.write(writes)
        names = [f"S{number:04}" for number in reversed(range(1_000))]
        calls = [status.counters.calls for status in lab.services.providers.statuses()]
        statements.clear()
        page = await _latest(lab, symbols=names, timeframe="1h")
        reads = [statement for statement in statements if "ohlcv" in statement or "from instruments" in statement]
        # Where the process knows a trading calendar, it looks first whether the provider has one.
        assert len([statement for statement in reads if "select calendar" not in statement]) == 1
        assert [node["symbol"]["symbol"] for node in page["nodes"]] == names
        assert page["nodes"][-1]["candle"]["open"] == 99.0
        assert [status.counters.calls for status in lab.services.providers.statuses()] == calls


async def test_symbols_that_do_not_exist_are_named_and_the_others_answered(many: ApiWorld) -> None:
    page = await _latest(many, symbols=["NOPE", "WHOLE", "NO", "NOPE", "OLD", "WHOLE"])
    assert [node["symbol"]["symbol"] for node in page["nodes"]] == ["WHOLE", "OLD", "WHOLE"]
    assert page["missing"] == ["NOPE", "NO"]


async def test_a_pattern_is_paged_in_the_order_of_names(many: ApiWorld) -> None:
    seen, after = [], None
    while True:
        page = await _latest(many, pattern="*", first=3, after=after)
        seen += [node["symbol"]["symbol"] for node in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert seen == sorted([*COVERED, QUIET, THIN])


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("HOLE*", ["HOLE TODAY", "HOLE YESTERDAY"]), ("?LD", ["OLD"]), ("[OP]*", ["OLD", "PART"]), ("OL", []), (".*", []),
        ("[!A-V]*", ["WHOLE", "YESTERDAY"]), ("O(L|D)D", []), ("*T", ["PART", "QUIET"]), ("[", []), ("\\", []),
    ],
)  # fmt: skip
async def test_a_pattern_is_one_of_the_shell_s(many: ApiWorld, pattern: str, found: list[str]) -> None:
    page = await _latest(many, pattern=pattern)
    assert [node["symbol"]["symbol"] for node in page["nodes"]] == found


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({}, "BAD_USER_INPUT"),
        ({"symbols": [], "pattern": None}, "BAD_USER_INPUT"),
        ({"symbols": ["A"], "pattern": "*"}, "BAD_USER_INPUT"),
        ({"symbols": ["A"] * 1_001}, "BAD_USER_INPUT"),
        ({"pattern": "*", "first": 1_001}, "BAD_USER_INPUT"),
        ({"symbols": ["A"] * 1_000, "timeframe": "1y", "timezone": "Asia/Tokyo"}, "BAD_USER_INPUT"),
    ],
)
async def test_what_cannot_be_answered_is_refused(many: ApiWorld, variables: dict[str, Any], code: str) -> None:
    answer = await many.ask(ASK, variables)
    assert [error["extensions"]["code"] for error in answer["errors"]] == [code]


async def test_an_unknown_provider_is_not_found(many: ApiWorld) -> None:
    answer = await many.ask('{ latest(market: "lab", provider: "absent", pattern: "*") { missing } }')
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["NOT_FOUND"]


async def test_pages_completed_in_bulk_are_those_of_plain_execution(
    many: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk = await _latest(many, symbols=[*COVERED, QUIET])
    monkeypatch.setattr(executor_module.BulkExecutor, "_columns", lambda *_: None)
    assert await _latest(many, symbols=[*COVERED, QUIET]) == bulk


async def test_days_are_those_of_each_symbol_where_no_zone_is_asked_for(many: ApiWorld) -> None:
    """One of them opens its days in New York."""
    record = await many.services.history.instruments.get_or_create(
        Instrument("lab", "many", "NY/WHOLE"), "America/New_York"
    )
    span = Spans([Span(T0, T0 + UNTIL * MINUTE_MS)])
    await many.services.history.store.write([CandleWrite(record.id, MINUTE, _candles(np.arange(UNTIL)), span, "i")])
    nodes = (await _latest(many, symbols=["WHOLE", "NY/WHOLE"]))["nodes"]
    assert [node["candle"]["timestamp"] for node in nodes] == [T0 + 3 * DAY_MS, T0 + 3 * DAY_MS + 240 * MINUTE_MS]
    assert [node["candle"]["date"] for node in nodes] == ["2024-05-04", "2024-05-04"]
