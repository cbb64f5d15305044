"""Live candles where the server ends a subscription that fell behind, and where it goes down and comes up again."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from cable import Cable
from candlegraph_client import Client
from candlegraph_client.series import to_ms
from conftest import MINUTE_MS, Server, eventually
from listening import SERIES, Listener, newest

CORRECTION = 2.0


def test_after_a_resync_nothing_is_missing(fast: Server, fast_cable: Cable, tmp_path: Path) -> None:
    """More corrections at once than a listener can be sent: it subscribes again, and gets each of them as a correction."""
    begin, count = to_ms(newest(fast)) - 1_300 * MINUTE_MS, 1_200
    series = "demo/synthetic/ETH/USD"
    heard = Listener(fast_cable.url, series=series, since=begin, corrections=True)
    eventually(lambda: len(heard.closed) >= 1_301)
    connections = fast_cable.connections
    rows = [(begin + i * MINUTE_MS, 1.0, 3.0, 1.0, CORRECTION, 7.0) for i in range(count)]
    fast.store(tmp_path, {series: rows})
    eventually(lambda: len({candle.timestamp for candle in heard.candles if candle.corrected}) >= count)
    before = len(heard.closed)
    eventually(lambda: len(heard.closed) > before)
    heard.stop()
    closed = [to_ms(candle.timestamp) for candle in heard.closed]
    assert closed == list(range(begin, closed[-1] + 1, MINUTE_MS))
    corrected = {to_ms(candle.timestamp): candle.close for candle in heard.candles if candle.corrected}
    assert corrected == {row[0]: CORRECTION for row in rows}
    assert fast_cable.connections > connections


def test_a_restart_of_the_server_loses_and_repeats_nothing(fast: Server) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(fast.another())
        cable = stack.enter_context(Cable(first.url))
        listeners = [Listener(cable.url), Listener(cable.url, asynchronous=True)]
        eventually(lambda: all(len(one.candles) >= 2 for one in listeners))
        first.process.kill()
        first.process.wait()
        since = newest(fast)
        second = stack.enter_context(fast.another())
        cable.lead_to(second.url)
        eventually(lambda: all(one.candles[-1].timestamp > since for one in listeners))
        for one in listeners:
            one.stop()
    with Client(fast.url) as client:
        truth = client.history(SERIES, "1m", since=min(one.candles[0].timestamp for one in listeners))
    for one in listeners:
        got = [(candle.timestamp, candle.close) for candle in one.candles]
        span = truth.loc[got[0][0] : got[-1][0]]
        assert got == list(zip(span.index.to_pydatetime(), span["close"], strict=True))
