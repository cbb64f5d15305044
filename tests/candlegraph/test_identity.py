"""Ids are unique over all types, whatever the names that they are made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlegraph.errors import BadUserInput
from candlegraph.identity import (
    NodeName,
    backfill_id,
    check_new_name,
    decode_name,
    encode_name,
    node_id,
    parse_backfill_id,
    parse_node_id,
    provider_name,
)

odd = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
tricky = st.text(st.sampled_from("ab/:%2F~.-_ 7"), min_size=1, max_size=8) | st.just("backfill:7")
names = odd | tricky
nodes = st.lists(names, min_size=1, max_size=3).map(lambda parts: NodeName(*parts))


@given(st.sets(nodes | st.integers(0, 2**63 - 1), max_size=30))
def test_no_two_objects_have_one_id(objects: set[NodeName | int]) -> None:
    ids = {backfill_id(one) if isinstance(one, int) else node_id(*one) for one in objects}
    assert len(ids) == len(objects)


@given(nodes)
def test_an_id_gives_its_names_back(name: NodeName) -> None:
    assert parse_node_id(node_id(*name)) == name
    assert parse_backfill_id(node_id(*name)) is None


@given(names | st.text(max_size=30))
def test_whatever_is_read_as_an_id_is_the_id_of_what_it_names(text: str) -> None:
    """A cache that asked for an object by any spelling would keep it twice."""
    name, number = parse_node_id(text), parse_backfill_id(text)
    assert name is None or number is None
    assert name is None or node_id(*name) == text
    assert number is None or backfill_id(number) == text


@given(names, names)
def test_what_is_printed_as_a_market_or_a_provider_is_taken_as_an_argument(market: str, provider: str) -> None:
    assert decode_name(encode_name(market)) == market
    assert provider_name(market, encode_name(provider)) == provider
    assert provider_name(market, node_id(market, provider)) == provider


@given(names, names, names)
def test_the_id_of_another_market_s_provider_is_refused(market: str, other: str, provider: str) -> None:
    if market != other:
        with pytest.raises(BadUserInput):
            provider_name(market, node_id(other, provider))


def test_the_forms_of_the_contract() -> None:
    assert node_id("crypto") == "crypto"
    assert node_id("crypto", "binance") == "crypto/binance"
    assert node_id("crypto", "binance", "BTC/USDT") == "crypto/binance/BTC/USDT"
    assert parse_node_id("crypto/binance/BTC/USDT:USDT") == ("crypto", "binance", "BTC/USDT:USDT")
    assert backfill_id(7) == "backfill:7"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a:b", "é", "x" * 65, "a%2Fb", "a\n", ".", ".."])
def test_a_name_that_an_id_would_have_to_encode_is_refused_for_new_ones(name: str) -> None:
    with pytest.raises(BadUserInput, match="provider"):
        check_new_name("provider", name)


@pytest.mark.parametrize("name", ["binance", "my-files_2.v1", "..a", "7", "x" * 64])
def test_any_other_name_is_taken(name: str) -> None:
    check_new_name("provider", name)
    assert encode_name(name) == name
