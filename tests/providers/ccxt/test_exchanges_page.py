"""docs/exchanges.md is what ccxt's classes send and the traits say."""

from __future__ import annotations

from dataclasses import fields

import pytest

from candlegraph.span import Span
from providers.ccxt.exchanges_page import PAGE, renewed, table
from providers.ccxt.sent import SentWindow, read_window
from providers.ccxt.traits import ExchangeTraits, traits_of

pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning")

T = 1_704_067_200_000
ASKED = Span(T, T + 6_000_000)


async def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == renewed(page, await table()), "Renew it: python -m providers.ccxt.exchanges_page"


def test_every_trait_has_a_source() -> None:
    text = PAGE.parents[1].joinpath("providers", "ccxt", "traits.toml").read_text(encoding="utf-8")
    names = [line.strip("[]") for line in text.splitlines() if line.startswith("[")]
    kinds = ("https://", "ccxt alone: ", "assumed: ", *(f"as {name}" for name in names))
    assert [name for name in names if not traits_of(*name.split(".")).source.startswith(kinds)] == []
    assert all(f"# {field.name} " in text for field in fields(ExchangeTraits) if field.name != "source")


@pytest.mark.parametrize(
    ("url", "body", "expected"),
    [
        ("/klines?startTime=1704067200000&limit=5", None, (T, None, 5)),
        ("/klines?from=1704067200&to=1704073200", None, (T, ASKED.until, None)),
        ("/candles?before=1704067199999&after=1704073200000&limit=300", None, (T - 1, ASKED.until, 300)),
        ("/history?after=1704067199999&before=1704073200000", None, (T - 1, ASKED.until, None)),
        ("/klines?to=2024-01-01T01%3A40%3A00.000Z&count=200", None, (None, ASKED.until, 200)),
        ("/candles?createdAtDatetime%5Bgte%5D=2024-01-01T00%3A00%3A00.000Z&_pageSize=100", None, (T, None, 100)),
        ("/kline?time=1704067200&size=501", None, (T, None, 501)),
        ("/history?from=1704067200&to=1704073200000", None, (T, None, None)),  # its `to` is in the year 55970
        ("/kline", '{"limit":5,"start_time":"1704067200000000000"}', (T, None, 5)),
        ("/info", '{"type":"x","req":{"startTime":1704067200000,"endTime":1704073200000}}', (T, ASKED.until, None)),
        ("/candlestick/1min/20240101", None, (T, T + 86_400_000, None)),
        ("/kline?timestamp=1704073200000&limit=5&symbol=S", None, (None, None, 5)),  # when it was sent
        ("/kline?from=soon", "no json", (None, None, None)),
    ],
)
def test_the_window_is_read_from_the_request(
    url: str, body: object, expected: tuple[int | None, int | None, int | None]
) -> None:
    assert read_window(f"https://api.example{url}", body, ASKED) == SentWindow(*expected)
