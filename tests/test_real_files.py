"""Real exchange files: what we fold from the minutes equals what the exchange itself served.

The files may lie beside the checkout and need not: without them nothing is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from candlegraph import UTC, Candles, Instrument, Series, Span, Spans, Timeframe, fold, zone
from candlegraph.answer import CandleRequest
from history.orchestrator import History
from providers.tables.reader import read_table
from storage.aggregates.verify import Verification, totals
from storage.batches import CandleRead, CandleWrite
from storage.candles import CandleStore
from storage.change_feed import ChangeFeed
from storage.database import Database
from storage.instruments import Instruments
from storage.relations import ALL_AGGREGATES

LADDER = ("1m", "5m", "15m", "30m", "1h", "4h", "1d", "1w")
NAMES = ("binance_BTCUSDT_2018", "binance_ETHUSDT_2018", "bittrex_ADABTC_2018")
# The exchange's own 30m file lacks this half hour, 2018-07-22T20:00Z, though it traded in it: its 1m and 5m files say so.
LACKING = {("bittrex_ADABTC_2018", "30m"): {1_532_289_600_000}}


def _load(folder: Path, name: str, timeframe: str) -> Candles | None:
    file = folder / f"{name}_{timeframe}.csv.gz"
    return read_table(file, Timeframe.parse(timeframe), UTC, drop_last=True).candles if file.exists() else None


def _whole(base: Candles, step: str, timeframe: Timeframe) -> Span:
    """The buckets that lie wholly inside what the base file covers."""
    end = Timeframe.parse(step).next(int(base.timestamp[-1]))
    return Span(int(base.timestamp[0]), end).inner(timeframe)


def _differences(ours: Candles, theirs: Candles, lacking: set[int]) -> list[object]:
    """Prices to the bit, volumes within 1e-9 relative."""
    ours = ours[[stamp not in lacking for stamp in ours.timestamp.tolist()]]  # type: ignore[index]
    if ours.timestamp.tolist() != theirs.timestamp.tolist():
        return sorted(set(ours.timestamp.tolist()) ^ set(theirs.timestamp.tolist()))
    return [
        (a, b)
        for a, b in zip(ours, theirs, strict=True)
        if (a.open, a.high, a.low, a.close) != (b.open, b.high, b.low, b.close)
        or a.volume != pytest.approx(b.volume, rel=1e-9)
    ]


@pytest.mark.parametrize("name", NAMES)
async def test_imported_minutes_answer_every_timeframe_as_the_exchange_did(
    name: str, database: Database, shared_data: Path | None
) -> None:
    """Import the 1m file, ask for the others: closed buckets are equal in every column."""
    minutes = shared_data and _load(shared_data, name, "1m")
    if not minutes:
        return
    history = History.create(database, SimpleNamespace(get=_nobody, statuses=list, status=lambda *_: None))
    instrument = Instrument("real", "files", name)
    record = await history.instruments.get_or_create(instrument, "UTC")
    covered = Span(int(minutes.timestamp[0]), int(minutes.timestamp[-1]) + 60_000)
    await history.store.write([CandleWrite(record.id, Timeframe(1, "m"), minutes, Spans([covered]), "i")])
    compared = 0
    for text in LADDER[1:]:
        own = _load(shared_data, name, text)
        timeframe = Timeframe.parse(text)
        span = covered.inner(timeframe)
        if own is None or not span:
            continue
        ask = CandleRequest(Series(instrument, timeframe), 5_000, span.since, span.until)
        answer = (await history.answer([ask]))[0]
        assert not isinstance(answer, BaseException)
        assert answer.complete
        assert _differences(answer.candles, own.between(span), LACKING.get((name, text), set())) == []
        compared += len(answer.candles)
    assert compared > 100


@pytest.mark.parametrize("name", NAMES)
async def test_every_aggregate_relation_is_what_the_exchange_served(
    name: str, database: Database, shared_data: Path | None
) -> None:
    """Where both are there and the minutes are whole. `pytest -s` prints how many of each."""
    minutes = shared_data and _load(shared_data, name, "1m")
    if not shared_data or not minutes:
        return
    store = CandleStore(database, ChangeFeed(database))
    one = (await Instruments(database).get_or_create(Instrument("real", "files", name), "UTC")).id
    covered = Span(int(minutes.timestamp[0]), int(minutes.timestamp[-1]) + 60_000)
    await store.write([CandleWrite(one, Timeframe(1, "m"), minutes, Spans([covered]), "i")])
    found = {}
    for timeframe, relation in ALL_AGGREGATES.items():
        own = _load(shared_data, name, str(timeframe))
        whole = covered.inner(timeframe)
        if own is None or not whole:
            continue
        ours = (await store.read([CandleRead(one, timeframe, whole, 10**6, relation=relation)]))[0]
        wrong = _differences(ours, own.between(whole), LACKING.get((name, str(timeframe)), set()))
        found[relation] = (len(ours), wrong)
        print(f"{name:24} {relation:12} {len(ours):8,} buckets, {len(wrong)} differ")
    assert [wrong for _, wrong in found.values()] == [[]] * len(found)
    assert len(found) >= 4
    assert min(count for count, _ in found.values()) >= 1
    tallies = totals(ALL_AGGREGATES, [tally async for tally in Verification(store, ALL_AGGREGATES).check(one)])
    assert sum(tally.wrong for tally in tallies) == 0


@pytest.mark.parametrize("name", NAMES)
def test_each_file_folds_into_the_next_coarser_ones(name: str, shared_data: Path | None) -> None:
    """1m into 5m, 5m into 15m and so on up to weeks and months."""
    files = {text: _load(shared_data, name, text) for text in (*LADDER, "1mon")} if shared_data else {}
    steps = [text for text in LADDER if files.get(text) is not None]
    pairs: Sequence[tuple[str, str]] = list(pairwise(steps))
    if files.get("1mon") is not None:
        pairs = [*pairs, ("1d", "1mon")]
    for fine, coarse in pairs:
        base, own, timeframe = files[fine], files[coarse], Timeframe.parse(coarse)
        assert base is not None
        assert own is not None
        span = _whole(base, fine, timeframe)
        folded = fold(base, timeframe).between(span)
        assert _differences(folded, own.between(span), LACKING.get((name, coarse), set())) == [], (fine, coarse)


@pytest.mark.parametrize("name", ["us_AAPL", "us_MSFT"])
def test_days_of_new_york_fold_into_its_weeks_and_months(name: str, shared_data: Path | None) -> None:
    """Every day opens at a midnight of New York, in winter and in summer; a week opens on its Monday."""
    if not shared_data:
        return
    new_york = zone("America/New_York")
    table = read_table(shared_data / f"{name}_1d.csv.gz", None, new_york)
    assert str(table.timeframe) == "1d"
    assert table.candles.problems(table.timeframe, Span(0, 2**53), new_york) == {}
    for text, count in (("1w", 679), ("1mon", 157), ("1y", 14)):
        folded = fold(table.candles, Timeframe.parse(text), new_york)
        assert len(folded) == count
        assert folded.volume.sum() == pytest.approx(table.candles.volume.sum(), rel=1e-12)


async def _nobody(market: str, provider: str) -> None:
    return None
