"""Live candles over a network that is cut: each closed candle comes once, in order, and corrections come too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cable import Cable
from candlegraph_client import Candle, Client, errors
from candlegraph_client.following import Position
from candlegraph_client.series import to_ms
from conftest import MINUTE_MS, Server, eventually
from listening import SERIES, Listener, newest

CUTS = 6
CORRECTION = 2.0


def test_no_candle_is_missing_or_comes_twice_when_the_network_is_cut(
    fast: Server, fast_cable: Cable, tmp_path: Path
) -> None:
    corrected = Listener(fast_cable.url, corrections=True)
    listeners = [corrected, Listener(fast_cable.url), Listener(fast_cable.url, asynchronous=True)]
    eventually(lambda: all(len(one.candles) >= 2 for one in listeners))
    target = to_ms(corrected.candles[0].timestamp)
    for i in range(CUTS):
        before = [len(one.candles) for one in listeners]
        fast_cable.cut(down=i % 5 == 2)
        if i % 5 == 2:
            if i < 5:
                fast.store(tmp_path, {SERIES: [(target, 1.0, 3.0, 1.0, CORRECTION, 7.0)]})
            since = newest(fast)
            eventually(lambda since=since: newest(fast) > since)
            fast_cable.mend()
        eventually(lambda before=before: all(len(one.candles) > n for one, n in zip(listeners, before, strict=True)))
    eventually(lambda: any(one.corrected for one in corrected.candles))
    for one in listeners:
        one.stop()

    last = max(one.candles[-1].timestamp for one in listeners)
    with Client(fast.url) as client:
        truth = client.history(SERIES, "1m", since=target).loc[:last]
    for one in listeners:
        got = [candle.timestamp for candle in one.closed]
        assert got == [at for at in truth.index.to_pydatetime() if got[0] <= at <= got[-1]]
        assert len(got) > CUTS
        for candle in one.closed[1:]:
            assert candle.close == truth["close"][candle.timestamp]
            assert candle.closed
    [correction] = [candle for candle in corrected.candles if candle.corrected]
    assert (to_ms(correction.timestamp), correction.close, correction.volume) == (target, CORRECTION, 7.0)
    assert fast_cable.connections > 3 * CUTS


def test_history_comes_first_where_since_is_given(fast: Server) -> None:
    with Client(fast.url) as client:
        newest_closed = newest(fast)
        since = to_ms(newest_closed) - 1_500 * MINUTE_MS
        got: list[Candle] = []
        for candle in client.live(SERIES, "1m", since=since):
            got.append(candle)
            if candle.timestamp > newest_closed:
                break
    assert [to_ms(candle.timestamp) for candle in got] == [since + i * MINUTE_MS for i in range(len(got))]


def test_the_forming_candle_comes_too_where_it_is_wanted(fast: Server) -> None:
    with Client(fast.url) as client:
        for candle in client.live(SERIES, "1h", closed_only=False):
            assert not candle.closed
            break


def test_a_longer_timeframe_begins_with_the_candle_that_is_forming(fast: Server) -> None:
    with Client(fast.url) as client:
        before = newest(fast)
        candle = next(iter(client.live(SERIES, "5m")))
    assert to_ms(candle.timestamp) % (5 * MINUTE_MS) == 0
    assert to_ms(candle.timestamp) + 5 * MINUTE_MS >= to_ms(before)


@pytest.mark.parametrize(
    ("series", "options", "kind"),
    [
        ("demo/synthetic/NOPE", {}, errors.NotFound),
        ("demo/synthetic/BTC/USD", {"timezone": "Mars/Base"}, errors.BadUserInput),
    ],
)
def test_a_series_that_cannot_be_had_raises(
    fast: Server, series: str, options: dict[str, str], kind: type[errors.CandlegraphError]
) -> None:
    with Client(fast.url) as client, pytest.raises(kind):
        next(iter(client.live(series, "1m", **options)))


def test_an_event_loop_that_ends_early_is_left_clean(fast: Server) -> None:
    unhandled: list[dict[str, object]] = []

    async def listen() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        with Client(fast.url) as client:
            async for _ in client.live(SERIES, "1m"):
                break

    asyncio.run(listen())
    assert unhandled == []


def test_a_listener_that_fell_behind_goes_on_from_where_it_is_sent() -> None:
    position = Position(first=0, revision="0", since=0)
    node = {"open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0, "closed": True}
    events = [
        {"kind": kind, "caughtUp": False, "nodes": [{"timestamp": at * MINUTE_MS, **node}]}
        for kind, at in [("CLOSE", 1), ("CLOSE", 2), ("SNAPSHOT", 2), ("SNAPSHOT", 3), ("CLOSE", 3), ("CLOSE", 4)]
    ]
    got = [candle for event in events for candle in position.take(event)]  # type: ignore[arg-type]
    assert [to_ms(candle.timestamp) // MINUTE_MS for candle in got] == [1, 2, 3, 4]
