"""The loaders of an operation gather what it asks for: one statement a step, equal questions once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from candlegraph.answer import CandleRequest
from history.fetch_limits import FetchBudget
from history.orchestrator import History
from storage.change_feed import ChangeFeed
from storage.database import SQL, Database
from tests.fakes.laboratory import SYMBOLS, T0, ApiWorld

FIELDS = "{ complete nodes { timestamp close } sources { source } }"
BEHIND = {"listing_ages", "changes_since"}  # now and then, whatever is asked
READ = "instruments_by_key", "coverage_by_instrument", "candles_oldest"


@pytest.fixture
def statements(lab: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each named statement was sent."""
    sent: Counter[str] = Counter()
    fetch = Database.fetch
    names = {statement: name for name, statement in SQL.items()}
    # What is remembered of an instrument for half a minute would spare the statement that is counted here.
    monkeypatch.setattr(lab.database, "timings", replace(lab.database.timings, record_ttl_s=0.0))
    monkeypatch.setattr(ChangeFeed, "is_fresh", property(lambda _: False))

    async def counting(self: Database, statement: str, *arguments: object) -> Sequence[Any]:
        name = names.get(statement, "candles_newest" if " desc limit " in statement else "candles_oldest")
        if name not in BEHIND:
            sent[name] += 1
        return await fetch(self, statement, *arguments)

    monkeypatch.setattr(Database, "fetch", counting)
    return sent


def _aliases(symbols: Sequence[str], extra: str = "") -> str:
    return " ".join(
        f'a{i}: candles(market: "lab", provider: "bench", symbol: "{symbol}", since: {T0}, limit: 5 {extra}) {FIELDS}'
        for i, symbol in enumerate(symbols)
    )


async def test_many_aliases_cost_one_statement_a_step(lab: ApiWorld, statements: Counter[str]) -> None:
    answer = await lab.ask("{ " + _aliases(SYMBOLS) + " }")
    assert not answer["errors"]
    assert all(len(series["nodes"]) == 5 for series in answer["data"].values())
    assert statements == Counter(dict.fromkeys(READ, 1))


async def test_a_batch_costs_what_its_aliases_cost(lab: ApiWorld, statements: Counter[str]) -> None:
    series = ", ".join(f'{{ market: "lab", provider: "bench", symbol: "{symbol}" }}' for symbol in SYMBOLS)
    answer = await lab.ask(f"{{ candlesBatch(series: [{series}], since: {T0}, limit: 5) {FIELDS} }}")
    assert len(answer["data"]["candlesBatch"]) == len(SYMBOLS)
    assert statements == Counter(dict.fromkeys(READ, 1))


async def test_aliases_a_batch_and_symbols_share_the_statements(lab: ApiWorld, statements: Counter[str]) -> None:
    symbols = " ".join(
        f's{i}: symbol(market: "lab", provider: "bench", symbol: "{symbol}") {{ base timezone }}'
        for i, symbol in enumerate(SYMBOLS)
    )
    batch = ", ".join(f'{{ market: "lab", provider: "bench", symbol: "{symbol}" }}' for symbol in SYMBOLS)
    text = f"{{ {_aliases(SYMBOLS)} {symbols} candlesBatch(series: [{batch}], since: {T0}, limit: 7) {FIELDS} }}"
    answer = await lab.ask(text)
    assert not answer["errors"]
    assert statements["candles_oldest"] == 1
    assert statements["coverage_by_instrument"] == 1
    assert statements["instruments_by_key"] <= 2  # one for the symbols, one for the candles


async def test_candles_of_the_symbols_of_a_list_cost_one_statement_a_step(
    lab: ApiWorld, statements: Counter[str]
) -> None:
    text = f'{{ symbols(market: "lab", provider: "bench") {{ nodes {{ candles(since: {T0}, limit: 3) {FIELDS} }} }} }}'
    answer = await lab.ask(text)
    assert len(answer["data"]["symbols"]["nodes"]) == len(SYMBOLS)
    assert {name: statements[name] for name in READ} == dict.fromkeys(READ, 1)


async def test_equal_questions_are_asked_once(lab: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[CandleRequest] = []
    answer = History.answer

    async def noting(self: History, asks: Sequence[CandleRequest], fetch_budget: FetchBudget) -> Any:
        asked.extend(asks)
        return await answer(self, asks, fetch_budget)

    monkeypatch.setattr(History, "answer", noting)
    one = f'candles(market: "lab", provider: "bench", symbol: "S0/USD", since: {T0}, until: {T0 + 60_000})'
    same = one.replace(str(T0), '"2024-05-01T02:00:00+02:00"', 1)
    other = one.replace("until", 'timeframe: "1min", before')
    text = f"{{ a: {one} {FIELDS} b: {same} {FIELDS} c: {other} {{ complete }} d: {one.replace('S0', 'S1')} {FIELDS} }}"
    found = await lab.ask(text)
    assert not found["errors"]
    assert len(asked) == 2
    assert found["data"]["a"] == found["data"]["b"]


async def test_what_one_operation_loaded_another_asks_again(lab: ApiWorld, statements: Counter[str]) -> None:
    for _ in range(2):
        await lab.ask("{ " + _aliases(SYMBOLS[:2]) + " }")
    assert statements == Counter(dict.fromkeys(READ, 2))


async def test_operations_on_one_socket_have_loaders_of_their_own(lab: ApiWorld, statements: Counter[str]) -> None:
    """Strawberry hands one context to all operations of a WebSocket."""
    from resolvers.context import Context  # noqa: PLC0415

    context = Context(lab.services, "socket")
    for _ in range(2):
        result = await lab.schema.execute("{ " + _aliases(SYMBOLS[:1]) + " }", context_value=context)
        assert not result.errors
    assert statements == Counter(dict.fromkeys(READ, 2))


async def test_a_failing_key_fails_alone(lab: ApiWorld, statements: Counter[str]) -> None:
    answer = await lab.ask("{ " + _aliases(["S0/USD", "NOPE", "S1/USD"]) + " }")
    assert [series is None for series in answer["data"].values()] == [False, True, False]
    assert [error["path"] for error in answer["errors"]] == [["a1"]]
    assert statements["candles_oldest"] == 1
