"""Markets, providers and pages of symbols."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlegraph.errors import BadUserInput
from candlegraph.provider import Budget, Capabilities, Market
from candlegraph.upstream import CallCounters, CallFailure, ProviderState, ProviderStatus
from resolvers.pagination import decode_cursor, encode_cursor
from tests.fakes.laboratory import SYMBOLS, ApiWorld

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=128)


@given(names)
def test_a_cursor_gives_its_symbol_back(symbol: str) -> None:
    assert decode_cursor(encode_cursor(symbol)) == symbol


@given(st.text())
def test_any_other_text_is_a_symbol_or_refused(cursor: str) -> None:
    with suppress(BadUserInput):
        assert encode_cursor(decode_cursor(cursor))


async def _page(lab: ApiWorld, arguments: str) -> dict[str, Any]:
    page = "{ totalCount nodes { symbol } edges { cursor } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } }"
    answer = await lab.ask(f'{{ symbols(market: "lab", provider: "bench" {arguments}) {page} }}')
    assert not answer["errors"]
    found: dict[str, Any] = answer["data"]["symbols"]
    return found


@pytest.mark.parametrize("size", [1, 5, 12, 100])
async def test_pages_join_to_the_whole_list(lab: ApiWorld, size: int) -> None:
    seen: list[str] = []
    after = ""
    while True:
        page = await _page(lab, f"first: {size} {after}")
        assert page["totalCount"] == len(SYMBOLS)
        assert page["pageInfo"]["hasPreviousPage"] is bool(seen)
        assert [page["edges"][0]["cursor"], page["edges"][-1]["cursor"]] == [
            page["pageInfo"]["startCursor"],
            page["pageInfo"]["endCursor"],
        ]
        seen += [node["symbol"] for node in page["nodes"]]
        if not page["pageInfo"]["hasNextPage"]:
            break
        after = f'after: "{page["pageInfo"]["endCursor"]}"'
    assert seen == sorted(SYMBOLS)


async def test_an_empty_page_still_counts(lab: ApiWorld) -> None:
    page = await _page(lab, "first: 0")
    assert page["nodes"] == []
    assert page["totalCount"] == len(SYMBOLS)
    assert page["pageInfo"]["hasNextPage"] is True


@pytest.mark.parametrize(("text", "count"), [("s1", 3), ("/usd", 12), ("%", 0), ("_", 0), ("\\\\", 0), ("S11/", 1)])
async def test_a_search_is_a_part_of_the_name_in_any_case_and_no_pattern(lab: ApiWorld, text: str, count: int) -> None:
    assert (await _page(lab, f'search: "{text}"'))["totalCount"] == count


async def test_what_was_imported_is_shown_beside_what_plugins_bring(lab: ApiWorld) -> None:
    answer = await lab.ask("{ markets { id name timezone providers { id state market timeframes live hasVolume } } }")
    assert not answer["errors"]
    markets = {market["id"]: market for market in answer["data"]["markets"]}
    assert list(markets) == sorted(markets)
    assert {"demo", "lab"} <= markets.keys()
    (bench,) = markets["lab"]["providers"]
    assert bench == {
        "id": "lab/bench",
        "state": "READY",
        "market": "lab",
        "timeframes": ["1m"],
        "live": "NONE",
        "hasVolume": True,
    }


_HEALTH = """{ providers(market: "m") { id state stateReason retryAt version lastError { message at }
    limits { weight perSeconds concurrent callWeight } counters { calls failures retries rows refusedRows lastCallAt } } }"""


@dataclass
class Shown:
    """Providers that are only looked at."""

    shown: list[ProviderStatus]

    def running(self, market: str, provider: str) -> None:
        """No provider runs."""

    def status(self, market: str, provider: str) -> ProviderStatus | None:
        """One of those shown."""
        return next((one for one in self.statuses() if (one.market.id, one.id) == (market, provider)), None)

    def statuses(self) -> list[ProviderStatus]:
        return self.shown

    async def inspect(self) -> None:
        """They have no data of their own."""


@pytest.mark.parametrize("state", list(ProviderState))
async def test_a_provider_shows_how_it_is_and_what_was_asked_of_it(lab: ApiWorld, state: ProviderState) -> None:
    at = 1_700_000_000_000
    status = ProviderStatus(
        Market("m", "M", ""), "p", "P", "", "7", state, "Because.", at, Capabilities((), call_weight=2.0),
        Budget(6000, 60, 8), CallFailure("It broke.", at), CallCounters(5, 4, 3, 2**40, 1, at),
    )  # fmt: skip
    plain = ProviderStatus(Market("m", "M", ""), "q", "Q", "", "", state)
    services = replace(lab.services, providers=Shown([status, plain]))
    answer = await replace(lab, services=services).ask(_HEALTH)
    assert not answer["errors"]
    shown, bare = answer["data"]["providers"]
    time = "2023-11-14T22:13:20Z"
    assert shown == {
        "id": "m/p", "state": state.value, "stateReason": "Because.", "retryAt": time, "version": "7",
        "lastError": {"message": "It broke.", "at": time},
        "limits": {"weight": 6000.0, "perSeconds": 60.0, "concurrent": 8, "callWeight": 2.0},
        "counters": {
            "calls": 5, "failures": 4, "retries": 3, "rows": float(2**40), "refusedRows": 1.0, "lastCallAt": time,
        },
    }  # fmt: skip
    assert (bare["limits"], bare["lastError"], bare["counters"]["calls"]) == (None, None, 0)


async def test_what_was_asked_of_a_provider_is_counted(lab: ApiWorld) -> None:
    ask = '{ providers(market: "demo") { state counters { calls rows failures } limits { concurrent } } }'
    before = (await lab.ask(ask))["data"]["providers"][0]["counters"]
    candles = 'candles(market: "demo", provider: "synthetic", symbol: "EUR/USD", since: 1500000000000, limit: 7)'
    assert not (await lab.ask(f"{{ {candles} {{ complete }} }}"))["errors"]
    (after,) = (await lab.ask(ask))["data"]["providers"]
    assert after["state"] == "READY"
    assert after["counters"]["calls"] > before["calls"]
    assert after["counters"]["rows"] >= before["rows"] + 7
    assert after["counters"]["failures"] == 0
