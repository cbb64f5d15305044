"""A file of each origin is read as plain csv, json and pyarrow read it, with the rules of the origin written down again here.

Nothing of the importer helps: each line below says where the fields are, what the times mean and what the numbers count.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from candlegraph import UTC as UTC_ZONE
from providers.tables import frames, records
from providers.tables.reader import Table, read_table
from tests.providers.tables.test_origins import MADE, made

Row = tuple[int, float, float, float, float, float]
Time = Callable[[Sequence[str]], float]  # the cells of a row -> seconds since 1970


def number(at: int, per_second: int = 1) -> Time:
    return lambda cells: int(cells[at]) / per_second


def text(pattern: str, *at: int, zone: str = "UTC") -> Time:
    def read(cells: Sequence[str]) -> float:
        moment = datetime.strptime(" ".join(cells[i].strip() for i in at), pattern)  # noqa: DTZ007 - given below
        return (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))).timestamp()

    return read


def cut(length: int, pattern: str, at: int = 0, zone: str = "UTC") -> Time:
    """Only the beginning of a cell is the time."""
    return lambda cells: text(pattern, 0, zone=zone)([cells[at][:length]])


def with_offset(cells: Sequence[str]) -> float:
    moment, offset = cells[0].rsplit(" GMT", 1)
    hours = timezone(timedelta(hours=int(offset[:3])))
    return datetime.strptime(moment, "%d.%m.%Y %H:%M:%S.%f").replace(tzinfo=hours).timestamp()


def of_day(cells: Sequence[str]) -> float:
    return datetime(2024, 1, 16, tzinfo=ZoneInfo("America/New_York")).timestamp() + int(cells[0]) / 1000


@dataclass(frozen=True)
class Plain:
    """Where a file has its fields: header lines, separator, the time, and the positions of o, h, l, c and v."""

    header: int
    time: Time
    at: tuple[int, ...]
    separator: str = ","
    unit: float = 1

    def rows(self, path: Path) -> list[Row]:
        found = []
        for cells in list(csv.reader(path.read_text().splitlines(), delimiter=self.separator))[self.header :]:
            if len(cells) <= max(self.at) or not cells[self.at[0]].strip():
                continue  # a footer, or a holiday
            plain = [float(re.sub(r"[$,]", "", cells[i]).replace("K", "e3")) for i in self.at]
            prices = [value / self.unit for value in plain[:4]]
            volume = plain[4] if len(plain) > 4 else 0.0
            found.append((round(self.time(cells) * 1000), *prices, volume))
        return sorted(found)  # type: ignore[arg-type]


NEW_YORK = "America/New_York"
OHLCV, OHLC = (1, 2, 3, 4, 5), (1, 2, 3, 4)
PLAIN: dict[str, Plain] = {
    "Binance Vision": Plain(0, number(0, 1000), OHLCV),
    "Binance futures": Plain(1, number(0, 10**6), OHLCV),
    "Kraken REST": Plain(0, number(0), (1, 2, 3, 4, 6)),
    "Kraken OHLCVT": Plain(0, number(0), OHLCV),
    "CryptoDataDownload": Plain(2, number(0, 1000), (3, 4, 5, 6, 8)),
    "Poloniex": Plain(1, number(0), (3, 1, 2, 4, 6)),
    "Bybit": Plain(1, number(0, 1000), OHLCV),
    "OKX swaps and futures": Plain(1, number(8, 1000), (1, 2, 3, 4, 6)),
    "OKX": Plain(1, number(8, 1000), OHLCV),
    "OKX candles": Plain(1, number(0, 1000), OHLCV),
    "CoinAPI": Plain(1, cut(19, "%Y-%m-%dT%H:%M:%S"), (4, 5, 6, 7, 8), ";"),
    "CoinMarketCap": Plain(1, cut(10, "%Y-%m-%d"), (5, 6, 7, 8), ";"),
    "yfinance": Plain(3, text("%Y-%m-%d", 0), (4, 2, 3, 1, 5)),
    "Yahoo": Plain(1, text("%Y-%m-%d", 0), (1, 2, 3, 4, 6)),
    "Stooq bulk": Plain(1, text("%Y%m%d", 2), (4, 5, 6, 7, 8)),
    "Stooq": Plain(1, text("%Y-%m-%d", 0), OHLCV),
    "Massive (Polygon) flat files": Plain(1, number(6, 10**9), (2, 4, 5, 3, 1)),
    "Databento": Plain(1, number(0, 10**9), (4, 5, 6, 7, 8), unit=10**9),
    "Alpaca": Plain(1, cut(19, "%Y-%m-%d %H:%M:%S", 1), (2, 3, 4, 5, 6)),
    "IEX": Plain(1, text("%Y-%m-%d %H:%M", 0, 1, zone=NEW_YORK), (5, 3, 4, 6, 8)),
    "Interactive Brokers": Plain(1, cut(17, "%Y%m%d %H:%M:%S", 1, NEW_YORK), (2, 3, 4, 5)),
    "TradingView": Plain(1, number(0), OHLCV),
    "MetaTrader 5": Plain(1, text("%Y.%m.%d %H:%M:%S", 0, 1, zone="EET"), (2, 3, 4, 5, 6), "\t"),
    "MetaTrader 4": Plain(0, text("%Y.%m.%d %H:%M", 0, 1, zone="EET"), (2, 3, 4, 5, 6)),
    "Dukascopy": Plain(1, text("%d.%m.%Y %H:%M:%S.%f", 0), OHLCV),
    "Dukascopy, local time": Plain(1, with_offset, OHLCV),
    "HistData": Plain(0, text("%Y%m%d %H%M%S", 0, zone="EST"), OHLC, ";"),
    "NinjaTrader": Plain(0, text("%Y%m%d %H%M%S", 0), OHLCV, ";"),
    "FirstRate": Plain(0, text("%Y-%m-%d %H:%M:%S", 0, zone=NEW_YORK), OHLCV),
    "Kibot": Plain(0, text("%m/%d/%Y %H:%M", 0, 1, zone=NEW_YORK), (2, 3, 4, 5, 6)),
    "AmiBroker": Plain(1, text("%Y-%m-%d %H:%M:%S", 1), (2, 3, 4, 5, 6)),
    "Barchart": Plain(1, text("%m/%d/%Y", 0), (1, 2, 3, 4, 7)),
    "Lean minutes": Plain(0, of_day, OHLCV, unit=10_000),
    "Lean hours and days": Plain(0, text("%Y%m%d %H:%M", 0), OHLCV, unit=10_000),
    "NSE": Plain(1, text("%d-%b-%Y", 0), (2, 3, 4, 7, 11)),
    "NSE bhavcopy": Plain(1, text("%d-%b-%Y", 10), (2, 3, 4, 5, 8)),
    "NSE bhavcopy since 2024": Plain(1, text("%Y-%m-%d", 0), (2, 3, 4, 5, 7)),
    "Investing.com": Plain(1, text("%b %d, %Y", 0), (2, 3, 4, 1, 5)),
    "Nasdaq.com": Plain(1, text("%m/%d/%Y", 0), (3, 4, 5, 1, 2)),
}


def rows_of(table: Table) -> list[Row]:
    return [(c.timestamp, c.open, c.high, c.low, c.close, c.volume) for c in table.candles]


@pytest.mark.parametrize("name", PLAIN)
def test_each_value_is_that_of_plain_csv(name: str, tmp_path: Path) -> None:
    path = MADE[name].write(tmp_path)
    expected = PLAIN[name].rows(path)
    assert len(expected) == len(MADE[name].candles)
    assert rows_of(read_table(path, None, UTC_ZONE, hints=MADE[name].hints)) == expected


def test_each_origin_of_a_text_is_read_independently() -> None:
    assert set(PLAIN) == set(MADE)


KEYS = ("open", "high", "low", "close", "volume")


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_each_value_is_that_of_pyarrow(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_SLICE_ROWS", 70)
    path, write = (
        tmp_path / f"A.{kind}",
        pyarrow.parquet.write_table if kind == "parquet" else pyarrow.feather.write_feather,
    )
    times = pa.array([c.timestamp * 1000 for c in made(300)], pa.timestamp("us", "America/New_York"))
    write(pa.table({"date": times, **{key: [getattr(c, key) for c in made(300)] for key in KEYS}}), path)
    table = (pyarrow.parquet.read_table if kind == "parquet" else pyarrow.feather.read_table)(path)
    columns = [np.asarray(table[key]).tolist() for key in KEYS]
    expected = [
        (round(t.timestamp() * 1000), *row) for t, *row in zip(table["date"].to_pylist(), *columns, strict=True)
    ]
    assert rows_of(read_table(path)) == expected


@pytest.mark.parametrize("kind", ["arrays", "records"])
def test_each_value_is_that_of_json(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_PART_BYTES", 777)
    path = tmp_path / "a.json"
    moments = [datetime.fromtimestamp(c.timestamp / 1000, UTC).isoformat() for c in made(300)]
    if kind == "arrays":
        path.write_text(
            json.dumps([[c.timestamp, *(str(getattr(c, key)) for key in KEYS)] for c in made(300)], indent=1)
        )
        plain = [(row[0], *map(float, row[1:])) for row in json.loads(path.read_text())]
    else:
        bars = [
            {"t": moment, "extra": {"n": [{"deep": 1}]}, **{key[0]: getattr(c, key) for key in KEYS}}
            for moment, c in zip(moments, made(300), strict=True)
        ]
        path.write_text(json.dumps({"bars": bars, "next": None}))
        plain = [
            (round(datetime.fromisoformat(one["t"]).timestamp() * 1000), *(one[key[0]] for key in KEYS))
            for one in json.loads(path.read_text())["bars"]
        ]
    assert rows_of(read_table(path)) == plain
