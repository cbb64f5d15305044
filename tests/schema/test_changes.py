"""The revision of a series, and what changed since: what a client that keeps a copy has to fetch again, and nothing more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlegraph import MINUTE, Candles, Instrument, Timeframe
from candlegraph.series_revision import ChangeMark, SeriesRevision
from candlegraph.span import Span, Spans
from storage import corrections
from storage.batches import CandleWrite
from storage.withdrawals import StoredSeries, withdraw
from tests.fakes.laboratory import MINUTE_MS, T0, ApiWorld

HOUR_MS = 60 * MINUTE_MS


class Copy:
    """A client that keeps the candles of one symbol at one timeframe, and fetches only the listed changes again."""

    def __init__(self, lab: ApiWorld, symbol: str, timeframe: str = "1m") -> None:
        self._lab = lab
        self._name = f'market: "lab", provider: "copied", symbol: "{symbol}", timeframe: "{timeframe}"'
        self.candles: dict[int, float] = {}
        self.revision = ""

    async def fetch(self, since: int = T0, until: int = T0 + 9 * HOUR_MS) -> str:
        """Read a span; the revision that came with it."""
        text = f"{{ candles({self._name}, since: {since}, until: {until}, limit: 5000) {{ revision nodes {{ timestamp close }} }} }}"
        answer = await self._lab.ask(text)
        assert not answer["errors"]
        found = answer["data"]["candles"]
        for stamp in [stamp for stamp in self.candles if since <= stamp < until]:
            del self.candles[stamp]
        self.candles |= {node["timestamp"]: node["close"] for node in found["nodes"]}
        self.revision = self.revision or found["revision"]
        return str(found["revision"])

    async def changes(self) -> Any:
        """What changed since the revision it has."""
        text = f'{{ changes({self._name}, after: "{self.revision}") {{ revision changed {{ since until }} lost {{ since until }} }} }}'
        answer = await self._lab.ask(text)
        assert not answer["errors"]
        return answer["data"]["changes"]

    async def follow(self) -> Any:
        """Fetch again what changed, and nothing else."""
        found = await self.changes()
        for span in [*found["changed"], *found["lost"]]:
            await self.fetch(span["since"], span["until"])
        self.revision = found["revision"]
        return found


def _candles(numbers: range, close: float = 1.0) -> Candles:
    stamps = T0 + MINUTE_MS * np.array(numbers, np.int64)
    return Candles.of(stamps, *[np.full(len(stamps), close)] * 5)


async def _write(
    lab: ApiWorld, symbol: str, candles: Candles, until: int, *, replaces: bool = False, timeframe: Timeframe = MINUTE
) -> StoredSeries:
    record = await lab.services.history.instruments.get_or_create(Instrument("lab", "copied", symbol), "UTC")
    covered = Spans([Span(int(candles.timestamp[0]), T0 + until * MINUTE_MS)])
    await lab.services.history.store.write([CandleWrite(record.id, timeframe, candles, covered, "i", replaces)])
    return StoredSeries(record.id, timeframe, "UTC")


@pytest.mark.parametrize("timeframe", ["1m", "5m", "1h", "7m"])
async def test_a_copy_that_follows_the_changes_is_what_the_server_has(lab: ApiWorld, timeframe: str) -> None:
    symbol = f"A{timeframe}"
    series = await _write(lab, symbol, _candles(range(600)), 600)
    copy = Copy(lab, symbol, timeframe)
    await copy.fetch()
    first = copy.revision
    assert await copy.changes() == {"revision": first, "changed": [], "lost": []}
    await _write(lab, symbol, _candles(range(600, 660)), 660)
    assert await Copy(lab, symbol, timeframe).fetch() == first  # what is added changes nothing
    await _write(lab, symbol, _candles(range(100, 103), 2.0), 103)  # three are corrected
    await _write(lab, symbol, _candles(range(200, 201)), 210, replaces=True)  # nine are withdrawn
    assert await Copy(lab, symbol, timeframe).fetch() != first
    found = await copy.follow()
    width = Timeframe.parse(timeframe)
    expected = Spans(
        Span(a, b).outer(width)
        for a, b in [(T0 + 100 * MINUTE_MS, T0 + 103 * MINUTE_MS), (T0 + 201 * MINUTE_MS, T0 + 210 * MINUTE_MS)]
    )
    assert [(span["since"], span["until"]) for span in found["changed"]] == [(s.since, s.until) for s in expected]
    assert found["lost"] == []
    fresh = Copy(lab, symbol, timeframe)
    await fresh.fetch()
    assert copy.candles == fresh.candles
    lost = await withdraw(lab.services.history.store, series, Spans([Span(T0, T0 + HOUR_MS * 10)]), "a test")
    found = await copy.follow()
    assert [(span["since"], span["until"]) for span in found["lost"]] == [
        (s.since, s.until) for s in Spans(span.outer(width) for span in lost)
    ]
    assert lost
    assert await copy.changes() == {"revision": copy.revision, "changed": [], "lost": []}


async def test_what_its_provider_replaced_is_lost(lab: ApiWorld) -> None:
    """Coverage that a write revokes is in the log as well."""
    series = await _write(lab, "R", _candles(range(100)), 100)
    copy = Copy(lab, "R")
    await copy.fetch()
    revoked = Spans([Span(T0, T0 + 50 * MINUTE_MS)])
    write = CandleWrite(series.instrument_id, MINUTE, Candles.empty(), Spans(), "i", revoked=revoked)
    await lab.services.history.store.write([write])
    found = await copy.changes()
    assert found["lost"] == [{"since": T0, "until": T0 + 50 * MINUTE_MS}]
    assert found["changed"] == [{"since": T0, "until": T0 + 50 * MINUTE_MS}]


async def test_a_coarser_candle_of_the_provider_s_own_does_not_move_a_finer_series(lab: ApiWorld) -> None:
    await _write(lab, "C", _candles(range(100)), 100)
    copy = Copy(lab, "C")
    await copy.fetch()
    hours = Timeframe(1, "h")
    for close in (1.0, 2.0):
        stamps = np.array([T0 + 600 * MINUTE_MS])
        await _write(lab, "C", Candles.of(stamps, *[[close]] * 5), 660, timeframe=hours)
    assert await copy.fetch() == copy.revision
    assert (await copy.changes())["changed"] == []


async def test_too_long_ago_or_of_another_database_is_null(lab: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    await _write(lab, "L", _candles(range(100)), 100)
    copy = Copy(lab, "L")
    await copy.fetch()
    monkeypatch.setattr(corrections, "MAX_LOGGED", 5)
    await _write(lab, "L", _candles(range(5), 3.0), 5)
    assert len((await copy.changes())["changed"]) == 1
    await _write(lab, "L", _candles(range(5, 6), 3.0), 6)
    assert await copy.changes() is None
    copy.revision = "1m.999999999.0"
    assert await copy.changes() is None


@pytest.mark.parametrize("after", ["", "x", "1m", "1m.1", "1m.1.1.1", "1m.-1.0", "1m.1.1-", "0-0", "1m.1.1" * 50])
async def test_what_is_no_revision_is_bad_input(lab: ApiWorld, after: str) -> None:
    await _write(lab, "L", _candles(range(100)), 100)
    text = 'query ($after: String!) { changes(market: "lab", provider: "copied", symbol: "L", after: $after) { revision } }'
    (error,) = (await lab.ask(text, {"after": after}))["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"


_timeframes = st.sampled_from(["1m", "5m", "1h", "1d", "1w", "1mon", "1y"]).map(Timeframe.parse)
_marks = st.builds(ChangeMark, st.integers(0, 10**17), st.integers(0, 10**17))


@given(st.dictionaries(_timeframes, _marks))
def test_a_revision_is_read_as_it_was_written(marks: dict[Timeframe, ChangeMark]) -> None:
    written = SeriesRevision(marks)
    assert SeriesRevision.parse(str(written)) == SeriesRevision({tf: mark for tf, mark in marks.items() if any(mark)})
