"""What operators see: stored series, corrections, sizes, the cost of a backfill, and the state of providers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from candlegraph import MINUTE, Candles, Instrument, Timeframe
from candlegraph.errors import ProviderUnavailable
from candlegraph.provider import Budget, Listing
from candlegraph.span import Span, Spans
from candlegraph.viewer import Viewer
from providers.guard.circuit_breaker import FAILURE_THRESHOLD
from providers.guard.guard import Guard
from resolvers.context import Context, Origin
from schema.encoding import JsonAnswer
from storage.batches import CandleWrite
from storage.counts.series_pages import SAMPLED_ROWS
from storage.database import SQL, Database
from tests.fakes.laboratory import MINUTE_MS, ROWS, SYMBOLS, T0, ApiWorld, laboratory
from tests.fakes.starting import Point, registry
from tests.fakes.upstream import FakeUpstream
from tests.schema.test_backfills import ADA, OWNER, VERA, refusal

HOUR_MS = 60 * MINUTE_MS
LIST = """query ($market: ID, $provider: ID, $search: String, $first: Int! = 50, $after: String) {
  seriesList(market: $market, provider: $provider, search: $search, first: $first, after: $after) {
    nodes { symbol { symbol market provider } timeframe covered { since until } gaps { since until reason detail }
            fetching { since until } rows revision }
    edges { cursor } pageInfo { hasNextPage endCursor } } }"""
CORRECTIONS = """query ($market: ID, $provider: ID, $symbol: String, $first: Int! = 50, $after: String) {
  corrections(market: $market, provider: $provider, symbol: $symbol, first: $first, after: $after) {
    nodes { symbol { symbol } timeframe timestamp at old { close end date closed } new { close end date closed } }
    pageInfo { hasNextPage endCursor hasPreviousPage } } }"""
ESTIMATE = (
    """query ($input: BackfillInput!) { estimateBackfill(input: $input) { symbols calls pieces candles seconds } }"""
)
STORAGE = "{ storage { rows bytes aggregateBytes oldest newest freeBytes } }"


@pytest.fixture
async def lab(new_database: Callable[..., Any], migrated_template: str) -> AsyncIterator[ApiWorld]:
    """A laboratory of this test's own."""
    async with laboratory(await new_database(migrated_template)) as opened:
        yield opened


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each named statement was sent by `Database.fetch`."""
    sent: Counter[str] = Counter()
    names, fetch = {statement: name for name, statement in SQL.items()}, Database.fetch

    async def counting(self: Database, statement: str, *arguments: object) -> Sequence[Any]:
        if (name := names.get(statement, "other")) not in ("changes_since", "users_exist"):
            sent[name] += 1
        return await fetch(self, statement, *arguments)

    monkeypatch.setattr(Database, "fetch", counting)
    return sent


async def ask(
    lab: ApiWorld, text: str, variables: dict[str, Any] | None = None, viewer: Viewer = OWNER
) -> dict[str, Any]:
    """Execute as a viewer, by default as the owner of the machine; the answer as the server encodes it."""
    context = Context(lab.services, "test", viewer=viewer, origin=Origin("127.0.0.1", trusted=viewer is OWNER))
    result = await lab.schema.execute(text, variable_values=variables, context_value=context)
    errors = [error.formatted for error in result.errors or ()]
    answer: dict[str, Any] = json.loads(b"".join(JsonAnswer({"data": result.data, "errors": errors}).pieces()))
    return answer


def candles(minutes: Sequence[int] | np.ndarray, close: float = 100.0, step_ms: int = MINUTE_MS) -> Candles:
    stamps = T0 + step_ms * np.asarray(minutes, np.int64)
    prices = np.full(len(stamps), close)
    return Candles.of(stamps, prices, prices + 2, prices - 2, prices, np.ones(len(stamps)))


def spans(*minutes: tuple[int, int]) -> Spans:
    return Spans(Span(T0 + since * MINUTE_MS, T0 + until * MINUTE_MS) for since, until in minutes)


async def keep(
    lab: ApiWorld, symbol: str, rows: Candles, covered: Spans, timeframe: Timeframe = MINUTE, *, replaces: bool = False
) -> int:
    record = await lab.services.history.instruments.get_or_create(Instrument("lab", "more", symbol), "UTC")
    await lab.services.history.store.write([CandleWrite(record.id, timeframe, rows, covered, "i", replaces)])
    return record.id


async def listed(lab: ApiWorld, **variables: Any) -> dict[str, Any]:
    answer = await ask(lab, LIST, variables, ADA)
    assert not answer["errors"], answer
    page: dict[str, Any] = answer["data"]["seriesList"]
    return page


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        (STORAGE, {}),
        (CORRECTIONS, {}),
        (LIST, {}),
        (ESTIMATE, {"input": {"market": "demo", "provider": "synthetic", "pattern": "*", "since": T0}}),
        ('{ providers(market: "demo") { budgetLeft } }', {}),
        ('{ providers(market: "demo") { breaker } }', {}),
        ('{ providers(market: "demo") { listeners } }', {}),
    ],
)
async def test_what_is_for_operators_is_null_for_others_and_says_why(
    lab: ApiWorld, text: str, variables: dict[str, object]
) -> None:
    for viewer, code in ((VERA, "FORBIDDEN"), (Viewer(), "UNAUTHENTICATED")):
        answer = await ask(lab, text, variables, viewer)
        assert refusal(answer)[0] == code
        (value,) = answer["data"].values()
        assert value is None or [list(one.values()) for one in value] == [[None]]
    assert (await ask(lab, text, variables, ADA))["errors"] == [] or "estimate" in text


async def test_a_series_of_the_list_is_covered_as_its_coverage_says(lab: ApiWorld) -> None:
    await keep(lab, "HOLED", candles([0, 1, 2, 50, 51, 90]), spans((0, 10), (50, 60), (90, 91)))
    (series,) = (await listed(lab, search="holed"))["nodes"]
    text = """{ coverage(market: "lab", provider: "more", symbol: "HOLED") {
                  covered { since until } holes { since until reason detail } rows } }"""
    coverage = (await ask(lab, text))["data"]["coverage"]
    assert series["covered"] == coverage["covered"]
    assert len(series["covered"]) == 3
    assert series["gaps"] == coverage["holes"]
    assert len(series["gaps"]) == 2
    assert series["rows"] == coverage["rows"] == 6
    assert series["symbol"] == {"symbol": "HOLED", "market": "lab", "provider": "more"}


async def test_a_listed_series_has_the_gaps_that_its_provider_can_fill_and_none_is_started(lab: ApiWorld) -> None:
    listing = Listing("BTC/USD", first_available=T0)
    await lab.services.history.instruments.store_list("demo", "synthetic", [listing], "UTC", 0)
    named = await lab.services.history.instruments.get_stored([Instrument("demo", "synthetic", "BTC/USD")])
    (record,) = named.values()
    await lab.services.history.store.write([CandleWrite(record.id, MINUTE, candles([0]), spans((0, 60)))])
    (series,) = (await listed(lab, market="demo"))["nodes"]
    assert [gap["since"] for gap in series["gaps"]][-1] == T0 + HOUR_MS
    assert {gap["reason"] for gap in series["gaps"]} == {"BEFORE_LISTING", "NOT_FETCHED"}
    assert lab.services.providers.running("demo", "synthetic") is None


@pytest.mark.parametrize("first", [1, 5, 60])
async def test_pages_have_each_series_once_in_one_statement(
    lab: ApiWorld, statements: Counter[str], first: int
) -> None:
    for timeframe in ("1h", "1d"):
        step = Timeframe.parse(timeframe)
        await keep(lab, "A", candles([0], step_ms=step.nominal_ms), Spans([Span(T0, T0 + step.nominal_ms)]), step)
    await keep(lab, "A", candles([0]), spans((0, 1)))
    found, after = [], None
    while True:
        statements.clear()
        page = await listed(lab, first=first, after=after)
        assert statements == {"series_page": 1}
        found += [(one["symbol"]["provider"], one["symbol"]["symbol"], one["timeframe"]) for one in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert len(found) == len(set(found)) == len(SYMBOLS) + 3
    assert [name for name in found if name[0] == "more"] == [("more", "A", tf) for tf in ("1d", "1h", "1m")]
    assert [name[1] for name in found if name[0] == "bench"] == sorted(SYMBOLS)


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({"market": "lab"}, 13),
        ({"market": "lab", "provider": "more"}, 1),
        ({"provider": "lab/more"}, 1),
        ({"provider": "more"}, 1),
        ({"market": "lab", "provider": "lab/bench"}, 12),
        ({"market": "demo"}, 0),
        ({"search": "s1"}, 3),
        ({"search": "%"}, 0),
        ({"search": "strasse"}, 1),
    ],
)
async def test_the_list_is_filtered(lab: ApiWorld, wanted: dict[str, str], count: int) -> None:
    await keep(lab, "STRASSE", candles([0]), spans((0, 1)))
    assert len((await listed(lab, **wanted))["nodes"]) == count


@pytest.mark.parametrize(
    "bad",
    [
        {"after": "nonsense"},
        {"after": "W10="},
        {"after": "WyJhIiwgImIiLCAiYyIsIDFd"},
        {"first": -1},
        {"market": "a", "provider": "b/c"},
        {"search": "\0"},
    ],
)
async def test_a_bad_argument_of_the_list_is_refused(lab: ApiWorld, bad: dict[str, Any]) -> None:
    answer = await ask(lab, LIST, bad, ADA)
    assert refusal(answer)[0] == "BAD_USER_INPUT"
    assert answer["data"] == {"seriesList": None}


async def test_of_many_spans_the_newest_thousand_are_shown(lab: ApiWorld) -> None:
    pieces = [(2 * at, 2 * at + 1) for at in range(1200)]
    await keep(lab, "FRAGMENTS", candles([since for since, _ in pieces]), spans(*pieces))
    (series,) = (await listed(lab, search="fragments"))["nodes"]
    covered, gaps = series["covered"], series["gaps"]
    assert len(covered) == 1000
    assert covered[0]["since"] == T0 + 400 * MINUTE_MS
    assert covered[-1]["since"] == T0 + 2398 * MINUTE_MS
    assert len(gaps) == 999, "the time before the first of them is not known here, so it is no gap"
    assert gaps[0] == {
        "since": T0 + 401 * MINUTE_MS, "until": T0 + 402 * MINUTE_MS,
        "reason": "NOT_FETCHED", "detail": "It has not been fetched yet.",
    }  # fmt: skip
    assert series["rows"] == 1200


@pytest.mark.parametrize("every", [1, 3])
async def test_rows_are_counted_up_to_a_thousand_and_then_estimated(lab: ApiWorld, every: int) -> None:
    for length in (900, 6000):
        stored = candles(np.arange(0, length, every))
        await keep(lab, f"ROWS {length}", stored, spans((0, length)))
        (series,) = (await listed(lab, search=f"rows {length}"))["nodes"]
        exact = len(stored) < SAMPLED_ROWS
        assert series["rows"] == pytest.approx(len(stored), abs=0 if exact else every + 1)


async def test_dropped_minutes_are_not_counted(lab: ApiWorld) -> None:
    await keep(lab, "OLD", candles(np.arange(4000)), spans((0, 4000)))
    async with lab.database.connection() as connection:
        horizon = (T0 + 2000 * MINUTE_MS) / 1000
        await connection.execute("update storage_layout set horizon = to_timestamp($1)", horizon)
        await connection.execute("""delete from ohlcv_data where "timestamp" < to_timestamp($1)""", horizon)
    (series,) = (await listed(lab, search="old"))["nodes"]
    assert series["rows"] == pytest.approx(2000, abs=2)


async def test_the_revision_is_that_of_the_candles(lab: ApiWorld) -> None:
    await keep(lab, "FIXED", candles([0, 1]), spans((0, 5)))
    await keep(lab, "FIXED", candles([0], 101.0), spans((0, 1)))
    await keep(lab, "FIXED", candles([0], step_ms=HOUR_MS), spans((0, 60)), Timeframe(1, "h"))
    shown = {one["timeframe"]: one["revision"] for one in (await listed(lab, search="fixed"))["nodes"]}
    for timeframe, revision in shown.items():
        text = (
            f'{{ candles(market: "lab", provider: "more", symbol: "FIXED", timeframe: "{timeframe}") {{ revision }} }}'
        )
        assert (await ask(lab, text))["data"]["candles"]["revision"] == revision != "0"


async def test_what_is_being_fetched_is_shown_until_it_is_done(lab: ApiWorld) -> None:
    number = await keep(lab, "FETCHED", candles([0]), spans((0, 10)))
    claims = lab.services.history.fetcher.claims
    async with claims.acquire((number, MINUTE), Span(T0 + HOUR_MS, T0 + 2 * HOUR_MS), shared=True) as claimed:
        assert claimed
        (series,) = (await listed(lab, search="fetched"))["nodes"]
        assert series["fetching"] == [{"since": T0 + HOUR_MS, "until": T0 + 2 * HOUR_MS}]
    (series,) = (await listed(lab, search="fetched"))["nodes"]
    assert series["fetching"] == []


async def test_corrections_come_newest_first_with_both_versions(lab: ApiWorld, statements: Counter[str]) -> None:
    await keep(lab, "C", candles([0, 1, 2]), spans((0, 5)))
    await keep(lab, "C", candles([1], 101.0), spans((1, 2)))  # changed
    await keep(lab, "C", candles([4], 102.0), spans((4, 5)))  # there was a trade after all
    await keep(lab, "C", candles([0]), spans((0, 1), (2, 3)), replaces=True)  # the third is withdrawn
    await keep(lab, "D", candles([0]), spans((0, 1)))
    await keep(lab, "D", candles([0], 103.0), spans((0, 1)))
    statements.clear()
    answer = await ask(lab, CORRECTIONS, {}, ADA)
    assert statements == {"corrections_page": 1}
    shown = [
        (one["symbol"]["symbol"], (one["timestamp"] - T0) // MINUTE_MS, *((one[age] or {}).get("close") for age in ("old", "new")))
        for one in answer["data"]["corrections"]["nodes"]
    ]  # fmt: skip
    assert shown == [("D", 0, 100, 103), ("C", 2, 100, None), ("C", 4, None, 102), ("C", 1, 100, 101)]
    changed = answer["data"]["corrections"]["nodes"][-1]
    assert changed["new"] == {"close": 101.0, "end": T0 + 2 * MINUTE_MS, "date": "2024-05-01", "closed": True}
    assert changed["timeframe"] == "1m"


async def test_corrections_come_in_pages_and_for_one_symbol(lab: ApiWorld, statements: Counter[str]) -> None:
    hour = Timeframe(1, "h")
    for symbol in ("C", "D"):
        await keep(lab, symbol, candles([0]), spans((0, 60)))
        await keep(lab, symbol, candles([0], step_ms=HOUR_MS), spans((0, 60)), hour)
    for close in range(101, 106):
        for symbol in ("C", "D"):
            await keep(lab, symbol, candles([0], close), spans((0, 1)))
            await keep(lab, symbol, candles([0], close, HOUR_MS), spans((0, 60)), hour)
    for wanted, count, statement in (
        ({}, 20, "corrections_page"),
        ({"provider": "lab/more"}, 20, "corrections_page"),
        ({"market": "demo"}, 0, "corrections_page"),
        ({"symbol": "D"}, 10, "corrections_of_symbol"),
        ({"market": "lab", "provider": "more", "symbol": "D"}, 10, "corrections_of_symbol"),
        ({"market": "lab", "provider": "bench", "symbol": "D"}, 0, "corrections_of_symbol"),
    ):
        found, after = [], None
        while True:
            statements.clear()
            page = (await ask(lab, CORRECTIONS, {**wanted, "first": 3, "after": after}, ADA))["data"]["corrections"]
            assert statements == {statement: 1}
            assert page["pageInfo"]["hasPreviousPage"] == (after is not None)
            found += [(one["symbol"]["symbol"], one["timeframe"], one["new"]["close"]) for one in page["nodes"]]
            after = page["pageInfo"]["endCursor"]
            if not page["pageInfo"]["hasNextPage"]:
                break
        assert len(found) == len(set(found)) == count
        assert [close for *_, close in found] == sorted((close for *_, close in found), reverse=True)
    assert refusal(await ask(lab, CORRECTIONS, {"after": "nonsense"}, ADA))[0] == "BAD_USER_INPUT"


async def test_storage_says_how_much_there_is(lab: ApiWorld) -> None:
    shown = (await ask(lab, STORAGE, viewer=ADA))["data"]["storage"]
    assert shown["rows"] == len(SYMBOLS) * ROWS
    assert (shown["oldest"], shown["newest"]) == (T0, T0 + (ROWS - 1) * MINUTE_MS)
    assert shown["bytes"] > 10_000
    assert shown["aggregateBytes"] > 10_000
    assert shown["freeBytes"] is None or shown["freeBytes"] > 0


async def test_an_empty_database_has_nothing(lab: ApiWorld) -> None:
    async with lab.database.connection() as connection:
        await connection.execute("truncate ohlcv_data, coverage")
    shown = (await ask(lab, STORAGE, viewer=ADA))["data"]["storage"]
    assert (shown["rows"], shown["oldest"], shown["newest"]) == (0, None, None)


async def test_many_rows_are_estimated_by_their_density(lab: ApiWorld) -> None:
    await keep(lab, "BIG", candles(np.arange(150_000)), spans((0, 150_000)))
    async with lab.database.connection() as connection:
        await connection.execute("analyze ohlcv_data")
    await keep(lab, "BIGGER", candles(np.arange(150_000)), spans((0, 150_000)))
    shown = (await ask(lab, STORAGE, viewer=ADA))["data"]["storage"]
    assert shown["rows"] == pytest.approx(300_000 + len(SYMBOLS) * ROWS, rel=0.02)


ORDER = {"market": "demo", "provider": "synthetic", "since": T0, "until": T0 + 10 * 24 * HOUR_MS}
START = "mutation ($input: BackfillInput!) { startBackfill(input: $input) { piecesTotal symbols } }"


@pytest.mark.parametrize(
    "chosen", [{"symbols": ["BTC/USD", "ETH/USD", "BTC/USD"]}, {"pattern": "*"}, {"pattern": "B*"}]
)
async def test_an_estimate_is_what_the_job_then_has(lab: ApiWorld, chosen: dict[str, Any]) -> None:
    await ask(lab, '{ symbols(market: "demo", provider: "synthetic") { totalCount } }')
    (record,) = (
        await lab.services.history.instruments.get_stored([Instrument("demo", "synthetic", "BTC/USD")])
    ).values()
    await lab.services.history.store.write([CandleWrite(record.id, MINUTE, candles([0]), spans((60, 600)))])
    answer = await ask(lab, ESTIMATE, {"input": {**ORDER, **chosen}}, ADA)
    assert not answer["errors"], answer
    estimate = answer["data"]["estimateBackfill"]
    job = (await ask(lab, START, {"input": {**ORDER, **chosen}}, ADA))["data"]["startBackfill"]
    assert estimate["symbols"] == len(job["symbols"])
    assert estimate["calls"] == estimate["pieces"]
    assert estimate["pieces"] == pytest.approx(job["piecesTotal"], abs=1)  # a part may have covered minutes too
    assert estimate["candles"] <= estimate["symbols"] * 14_400 - 540  # one symbol is listed later
    assert "*" in chosen.get("pattern", "")[:1] or estimate["candles"] == estimate["symbols"] * 14_400 - 540
    assert estimate["seconds"] > 0


@dataclass
class Untouched(FakeUpstream):
    """A provider that is never started."""

    starts: int = 0

    async def start(self) -> None:
        self.starts += 1


async def test_an_estimate_asks_and_starts_no_provider(lab: ApiWorld) -> None:
    upstream = Untouched()
    providers = registry(Point("fake.upstream", lambda _: [upstream]))
    history = replace(lab.services.history, providers=providers)
    idle = replace(lab, services=replace(lab.services, history=history, providers=providers))
    order = {"input": {**ORDER, "market": "fake", "provider": "upstream", "pattern": "*"}}
    unread = await ask(idle, ESTIMATE, order, ADA)
    assert refusal(unread) == (
        "NOT_FOUND",
        "The symbols of fake/upstream have not been read yet: ask for its `symbols` first.",
    )
    await history.instruments.store_list("fake", "upstream", [Listing(f"S{i:04}") for i in range(1200)], "UTC", 0)
    answer = await ask(idle, ESTIMATE, order, ADA)
    assert not answer["errors"], answer
    estimate = answer["data"]["estimateBackfill"]
    assert (estimate["symbols"], estimate["candles"]) == (1200, 1200 * 14_400)
    named = {"input": {**order["input"], "pattern": None, "symbols": ["S0001", "NOPE"]}}
    assert refusal(await ask(idle, ESTIMATE, named, ADA))[0] == "NOT_FOUND"
    assert (upstream.starts, upstream.calls) == (0, [])
    assert providers.running("fake", "upstream") is None


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"pattern": "NOPE*"}, "BAD_USER_INPUT", "No symbol of demo/synthetic matches"),
        ({"pattern": "*", "symbols": ["BTC/USD"]}, "BAD_USER_INPUT", "either `symbols` or a `pattern`"),
        ({"pattern": None}, "BAD_USER_INPUT", "either `symbols` or a `pattern`"),
        ({"market": "nowhere"}, "NOT_FOUND", "There is no provider"),
        ({"timeframe": "7m"}, "BAD_USER_INPUT", "has no 7m candles of its own"),
        ({"since": 9_999_999_999_999, "until": None}, "BAD_USER_INPUT", "in the future"),
        ({"priority": 1_000_001}, "BAD_USER_INPUT", "`priority`"),
    ],
)
async def test_a_bad_order_is_estimated_as_badly_as_it_would_start(
    lab: ApiWorld, change: dict[str, object], code: str, said: str
) -> None:
    await ask(lab, '{ symbols(market: "demo", provider: "synthetic") { totalCount } }')
    answer = refusal(await ask(lab, ESTIMATE, {"input": {**ORDER, "pattern": "*", **change}}, ADA))
    assert answer[0] == code
    assert said in answer[1]


async def test_a_page_of_long_lists_is_priced(lab: ApiWorld) -> None:
    text = "query ($n: Int!) { seriesList(first: $n) { nodes { timeframe covered { since } gaps { since } } } }"
    assert (await ask(lab, text, {"n": 50}, ADA))["errors"] == []
    code, message = refusal(await ask(lab, text, {"n": 1000}, ADA))
    assert code == "BAD_USER_INPUT"
    assert "may cost" in message
    assert (await ask(lab, "{ seriesList(first: 400) { nodes { timeframe rows } } }", viewer=ADA))["errors"] == []


PROVIDERS = '{ providers(market: "fake") { budgetLeft breaker listeners limits { weight } } }'


async def test_a_provider_shows_its_budget_and_its_breaker(lab: ApiWorld) -> None:
    upstream = FakeUpstream({"X": candles([0, 1])})
    upstream.capabilities = replace(
        upstream.capabilities, budget=Budget(weight=10, per_s=60, concurrent=2), call_weight=2
    )
    providers = registry(Point("fake.upstream", lambda _: [upstream]))
    shown = replace(lab, services=replace(lab.services, providers=providers))

    async def state() -> tuple[float, str]:
        (one,) = (await ask(shown, PROVIDERS, viewer=ADA))["data"]["providers"]
        assert one["limits"] == {"weight": 10.0}
        return one["budgetLeft"], one["breaker"]

    assert await state() == (10.0, "CLOSED")
    running = await providers.get("fake", "upstream")  # which reads its clock
    assert running is not None
    assert await state() == (8.0, "CLOSED")
    await running.fetch(Instrument("fake", "upstream", "X"), MINUTE, Span(T0, T0 + HOUR_MS))
    assert await state() == (6.0, "CLOSED")
    assert isinstance(running, Guard)
    breaker = running._calls._breaker
    for _ in range(FAILURE_THRESHOLD):
        with pytest.raises(ProviderUnavailable), breaker.record():
            raise ProviderUnavailable
    assert (await state())[1] == "OPEN"
    breaker._open_until = 0.0
    assert (await state())[1] == "HALF_OPEN"
