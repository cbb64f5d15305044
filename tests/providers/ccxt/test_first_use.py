"""What is known of an exchange before ccxt is imported is what ccxt says."""

from __future__ import annotations

import pytest
from ccxt.async_support import exchanges

from candlegraph.provider import LiveMode
from providers.ccxt.exchange import live_source, make_exchange
from providers.ccxt.first_use import declared, first_use_of
from providers.ccxt.provider import Ccxt


def test_the_file_says_what_ccxts_classes_say() -> None:
    """Renew it: python -m providers.ccxt.first_use > /tmp/first_use.toml, then move it to providers/ccxt."""
    now = {name: found for name in exchanges if (found := declared(name))}
    assert {name: first_use_of(name) for name in now} == now
    assert len(now) > 80


@pytest.mark.parametrize(
    ("exchange_id", "source"),
    [("binance", "candles"), ("coinbase", "trades"), ("p2b", "trades"), ("kucoin", "candles"), ("bitso", None)],
)
def test_what_is_streamed_follows_from_the_websocket(exchange_id: str, source: str | None) -> None:
    """P2B has 1m candles by REST, and none shorter than 15 minutes by its websocket."""
    assert live_source(make_exchange(exchange_id, {})) == source
    assert Ccxt(exchange_id).capabilities.live is (LiveMode.STREAM if source else LiveMode.POLL)
