"""Whatever a client fetches, a cache that merges by id mixes nothing up, and every id leads back to its object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from candlegraph import MINUTE, Candles, Instrument
from candlegraph.backfill import BackfillRequest, SymbolSelection
from candlegraph.span import Span, Spans
from storage.batches import CandleWrite
from tests.fakes.laboratory import T0, ApiWorld

# Stored before names had rules, or named to be mistaken for something else.
ODD = [
    ("files", "files", "files"),
    ("lab", "lab", "lab/lab"),
    ("demo", "synthetic2", "BTC/USD"),
    ("mine", "synthetic", "BTC/USD"),
    ("a", "b/c", "d"),
    ("a/b", "c", "d"),
    ("a%2Fb", "c", "d"),
    ("a", "b", "c/d"),
    ("backfill:7", "backfill:7", "backfill:7"),
    ("Börse", "ein Anbieter", "Äpfel/€"),
    ("~", "~", "~"),
]
EVERYTHING = """{
  markets { __typename id name providers { __typename id provider market name
    symbols(first: 100) { nodes { __typename id market provider symbol } } } }
  backfills { nodes { __typename id market provider symbols } } }"""
PLAIN = {"__typename", "id", "name", "provider", "market", "symbol"}
NODE = """query ($id: ID!) { node(id: $id) { __typename id
    ... on Market { name } ... on Provider { provider market name } ... on Symbol { market provider symbol }
    ... on Backfill { market provider symbols } } }"""


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object with an id, as a normalising cache finds them."""
    if isinstance(value, list):
        for item in value:
            yield from _objects(item)
    elif isinstance(value, dict):
        if "id" in value and "__typename" in value:
            yield {name: inner for name, inner in value.items() if name in PLAIN}
        for inner in value.values():
            yield from _objects(inner)


@pytest.fixture(scope="module")
async def furnished(lab: ApiWorld) -> ApiWorld:
    instruments, store = lab.services.history.instruments, lab.services.history.store
    ones = [[1.0]] * 5
    for name in ODD:
        record = await instruments.get_or_create(Instrument(*name), "UTC")
        covered = Spans([Span(T0, T0 + 60_000)])
        await store.write([CandleWrite(record.id, MINUTE, Candles.of([T0], *ones), covered, "i")])
    for _ in range(2):
        await lab.services.backfills.start(
            BackfillRequest(SymbolSelection("demo", "synthetic", ("BTC/USD",)), T0, T0 + 3_600_000)
        )
    return lab


async def test_a_cache_that_merges_by_id_alone_keeps_every_object_apart(furnished: ApiWorld) -> None:
    answer = await furnished.ask(EVERYTHING)
    # The symbols of a provider without its settings are null.
    assert {error["extensions"]["code"] for error in answer["errors"]} <= {"PROVIDER_UNAVAILABLE"}
    cache: dict[str, dict[str, Any]] = {}
    for one in _objects(answer["data"]):
        assert cache.setdefault(one["id"], one) == one
    kinds = {one["__typename"] for one in cache.values()}
    assert kinds == {"Market", "Provider", "Symbol", "Backfill"}
    symbols = {one["id"] for one in cache.values() if one["__typename"] == "Symbol"}
    assert {"a/b%2Fc/d", "a%2Fb/c/d", "a/b/c/d", "a%252Fb/c/d", "demo/synthetic/BTC/USD"} <= symbols
    assert "backfill:1" in cache


async def test_every_id_leads_back_to_its_object(furnished: ApiWorld) -> None:
    answer = await furnished.ask(EVERYTHING)
    for one in _objects(answer["data"]):
        found = await furnished.ask(NODE, {"id": one["id"]})
        assert not found["errors"]
        node = found["data"]["node"]
        assert {name: node[name] for name in one} == one


async def test_every_name_that_is_printed_can_be_asked_with(furnished: ApiWorld) -> None:
    """The short name and the id of a provider alike."""
    text = """query ($m: ID!, $p: ID!, $s: String!) { symbol(market: $m, provider: $p, symbol: $s) { id }
        candles(market: $m, provider: $p, symbol: $s, limit: 1) { nodes { timestamp } } }"""
    for market, provider, symbol in ODD:
        answer = await furnished.ask(
            "query ($id: ID!) { node(id: $id) { ... on Symbol { id market provider symbol } } }",
            {"id": "/".join([_id(market), _id(provider), symbol])},
        )
        node = answer["data"]["node"]
        for short in (node["provider"], f"{node['market']}/{node['provider']}"):
            found = await furnished.ask(text, {"m": node["market"], "p": short, "s": node["symbol"]})
            assert not found["errors"], (market, short)
            assert found["data"]["symbol"]["id"] == node["id"]
            assert found["data"]["candles"]["nodes"] == [{"timestamp": T0}]


def _id(name: str) -> str:
    return quote(name, safe="").replace("~", "%7E")


@pytest.mark.parametrize("provider", ["mine/synthetic", "demo2/synthetic", "demo/synthetic/BTC/USD", "/synthetic"])
async def test_the_id_of_another_market_s_provider_is_bad_input(furnished: ApiWorld, provider: str) -> None:
    text = 'query ($p: ID!) { symbols(market: "demo", provider: $p) { totalCount } }'
    (error,) = (await furnished.ask(text, {"p": provider}))["errors"]
    assert error["extensions"]["code"] in {"BAD_USER_INPUT", "NOT_FOUND"}
    if provider.count("/") == 1 and not provider.startswith("/"):
        assert error["extensions"]["code"] == "BAD_USER_INPUT"


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "//", "nowhere", "demo/absent", "demo/synthetic/NOPE", "demo/", "/demo", "demo/synthetic/", "demo:synthetic",
        "d%65mo", "demo/synthetic:BTC/USD", "demo:synthetic:BTC/USD", "7", "backfill:", "backfill:077", "backfill:999999",
        "backfill:-1", "backfill:" + "9" * 19, "backfill:" + "9" * 40, "x" * 10_000, "a\0b", "demo/synthetic/\0", "%00",
    ],
)  # fmt: skip
async def test_what_does_not_exist_is_null_and_no_provider_is_asked(furnished: ApiWorld, text: str) -> None:
    before = [status.counters.calls for status in furnished.services.providers.statuses()]
    answer = await furnished.ask(NODE, {"id": text})
    assert answer == {"data": {"node": None}, "errors": []}
    assert [status.counters.calls for status in furnished.services.providers.statuses()] == before


async def test_the_database_has_an_id_that_stays_and_the_server_a_clock(furnished: ApiWorld) -> None:
    first, second = [(await furnished.ask("{ serverId serverTime }"))["data"] for _ in range(2)]
    assert first["serverId"] == second["serverId"]
    assert len(first["serverId"]) == 36
    assert first["serverTime"] <= second["serverTime"]
