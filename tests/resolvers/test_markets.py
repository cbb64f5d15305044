"""Markets, providers and pages of symbols."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlegraph.errors import BadUserInput
from resolvers.markets import decode_cursor, encode_cursor
from tests.fakes.laboratory import SYMBOLS, Laboratory

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=128)


@given(names)
def test_a_cursor_gives_its_symbol_back(symbol: str) -> None:
    assert decode_cursor(encode_cursor(symbol)) == symbol


@given(st.text())
def test_any_other_text_is_a_symbol_or_refused(cursor: str) -> None:
    with suppress(BadUserInput):
        assert encode_cursor(decode_cursor(cursor))


async def _page(lab: Laboratory, arguments: str) -> dict[str, Any]:
    page = "{ totalCount nodes { symbol } edges { cursor } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } }"
    answer = await lab.ask(f'{{ symbols(market: "lab", provider: "bench" {arguments}) {page} }}')
    assert not answer["errors"]
    found: dict[str, Any] = answer["data"]["symbols"]
    return found


@pytest.mark.parametrize("size", [1, 5, 12, 100])
async def test_pages_join_to_the_whole_list(lab: Laboratory, size: int) -> None:
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


async def test_an_empty_page_still_counts(lab: Laboratory) -> None:
    page = await _page(lab, "first: 0")
    assert page["nodes"] == []
    assert page["totalCount"] == len(SYMBOLS)
    assert page["pageInfo"]["hasNextPage"] is True


@pytest.mark.parametrize(("text", "count"), [("s1", 3), ("/usd", 12), ("%", 0), ("_", 0), ("\\\\", 0), ("S11/", 1)])
async def test_a_search_is_a_part_of_the_name_in_any_case_and_no_pattern(
    lab: Laboratory, text: str, count: int
) -> None:
    assert (await _page(lab, f'search: "{text}"'))["totalCount"] == count


async def test_what_was_imported_is_shown_beside_what_plugins_bring(lab: Laboratory) -> None:
    answer = await lab.ask("{ markets { id name timezone providers { id state market timeframes live hasVolume } } }")
    assert not answer["errors"]
    markets = {market["id"]: market for market in answer["data"]["markets"]}
    assert list(markets) == sorted(markets)
    assert {"demo", "lab"} <= markets.keys()
    (bench,) = markets["lab"]["providers"]
    assert bench == {
        "id": "bench",
        "state": "READY",
        "market": "lab",
        "timeframes": ["1m"],
        "live": "NONE",
        "hasVolume": True,
    }
