"""Tables of candles: every usual spelling is read, and what is wrong is refused with file, line and reason."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candlegraph import UTC as UTC_ZONE
from candlegraph import Candles, InvalidCandles, Timeframe, zone
from providers.tables import problems, sheet_reader, size, texts
from providers.tables.hints import Hints
from providers.tables.reader import Table, read_table
from providers.tables.timestamps import TIMES

ROOT = Path(__file__).parents[3]
REAL = ROOT.parent / "shared/data"
START = 1_704_067_200_000  # Monday 2024-01-01T00:00:00Z
MINUTE_MS, DAY_MS = 60_000, 86_400_000
HEADER = "timestamp,open,high,low,close,volume"
NEW_YORK = zone("America/New_York")

Read = Callable[..., Table]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write a text as prices.csv and read it."""

    def write_and_read(text: str | bytes, *arguments: object, name: str = "prices.csv", **options: object) -> Table:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_table(path, *arguments, **options)  # type: ignore[arg-type]

    return write_and_read


def rows(*stamps: object, header: str = HEADER) -> str:
    """A CSV with one good candle for each stamp."""
    return "\n".join([header, *(f"{stamp},1,3,0.5,2,10" for stamp in stamps)]) + "\n"


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def stamps(table: Table) -> list[int]:
    return table.candles.timestamp.tolist()  # type: ignore[no-any-return]


def refusal(read: Read, text: str | bytes, *arguments: object, **options: object) -> str:
    with pytest.raises(InvalidCandles) as caught:
        read(text, *arguments, **options)
    return caught.value.message


def same(one: Candles, other: Candles) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.columns, other.columns, strict=True))


def test_polars_is_not_imported_before_a_table_is_read() -> None:
    code = "import sys, providers.tables.reader, providers.files; sys.exit('polars' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


price = st.floats(1e-12, 1e12, allow_nan=False, allow_infinity=False)


@st.composite
def batches(draw: st.DrawFn, timeframe: Timeframe, start: int, zone_name: str = "UTC") -> Candles:
    """Candles with holes; the first are neighbours, so that their steps tell the timeframe."""
    picked = sorted({0, 1, 2, 3, *draw(st.sets(st.integers(4, 40), max_size=20))})
    times = [timeframe.shift(start, step, zone(zone_name)) for step in picked]
    numbers = np.array([sorted(draw(st.tuples(price, price, price, price))) for _ in times])
    volume = draw(st.lists(st.floats(0, 1e15), min_size=len(times), max_size=len(times)))
    low, a, b, high = numbers.T
    return Candles.of(times, a, high, low, b, volume)


def spelt(pattern: str, name: str = "UTC") -> Callable[[int], str]:
    return lambda ms: datetime.fromtimestamp(ms / 1000, ZoneInfo(name)).strftime(pattern)


SPELLINGS: dict[str, Callable[[int], str]] = {
    "seconds": lambda ms: str(ms // 1000),
    "seconds as a float": lambda ms: f"{ms // 1000}.0",
    "milliseconds": str,
    "milliseconds with an exponent": lambda ms: f"{float(ms):.15e}",
    "microseconds": lambda ms: str(ms * 1000),
    "nanoseconds": lambda ms: str(ms * 1_000_000),
    "ISO with Z": spelt("%Y-%m-%dT%H:%M:%SZ"),
    "ISO without seconds": spelt("%Y-%m-%dT%H:%MZ"),
    "ISO with milliseconds": spelt("%Y-%m-%dT%H:%M:%S.000Z"),
    "ISO with an offset": lambda ms: datetime.fromtimestamp(ms / 1000, ZoneInfo("Asia/Kolkata")).isoformat(),
    "ISO with a varying offset": lambda ms: datetime.fromtimestamp(ms / 1000, ZoneInfo("Europe/Paris")).isoformat(),
    "pandas with an offset": spelt("%Y-%m-%d %H:%M:%S+00:00"),
    "an offset without a colon": spelt("%Y-%m-%d %H:%M:%S+0000"),
    "UTC in words": spelt("%Y-%m-%d %H:%M:%S UTC"),
    "local": spelt("%Y-%m-%d %H:%M:%S"),
    "local with a fraction": spelt("%Y-%m-%d %H:%M:%S.000000"),
    "local with T": spelt("%Y-%m-%dT%H:%M:%S"),
    "local without seconds": spelt("%Y-%m-%d %H:%M"),
    "slashes": spelt("%Y/%m/%d %H:%M:%S"),
    "dots": spelt("%Y.%m.%d %H:%M"),
    "compact": spelt("%Y%m%d %H%M%S"),
    "compact ISO": spelt("%Y%m%dT%H%M%SZ"),
    "quoted, with blanks": lambda ms: f'" {ms} "',
}


def as_csv(candles: Candles, spell: Callable[[int], str]) -> bytes:
    lines = [f"{spell(c.timestamp)},{c.open!r},{c.high!r},{c.low!r},{c.close!r},{c.volume!r}" for c in candles]
    return "\n".join([HEADER, *lines, ""]).encode()


@pytest.mark.parametrize("spelling", SPELLINGS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_candles_come_back_equal_to_the_bit_from_any_spelling(
    spelling: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    timeframe = Timeframe.parse(data.draw(st.sampled_from(["1m", "5m", "1h", "4h"])))
    candles = data.draw(batches(timeframe, timeframe.floor(START + data.draw(st.integers(0, 10**10)))))
    folder = tmp_path_factory.mktemp("round")
    text = as_csv(candles, SPELLINGS[spelling])
    (folder / "a.csv").write_bytes(text)
    (folder / "a.csv.gz").write_bytes(gzip.compress(text))
    for path in folder.iterdir():
        table = read_table(path)
        assert table.timeframe == timeframe
        assert same(table.candles, candles)


PARQUET: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "milliseconds": lambda ms: ms,
    "nanoseconds": lambda ms: ms * 1_000_000,
    "seconds as floats": lambda ms: (ms / 1000).cast(pl.Float64),
    "naive datetimes": lambda ms: pl.from_epoch(ms, "ms"),
    "naive nanoseconds": lambda ms: pl.from_epoch(ms, "ms").cast(pl.Datetime("ns")),
    "aware datetimes": lambda ms: pl.from_epoch(ms, "ms").dt.replace_time_zone("UTC"),
    "datetimes of another zone": lambda ms: (
        pl.from_epoch(ms, "ms").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo")
    ),
    "text": lambda ms: pl.from_epoch(ms, "ms").dt.strftime("%Y-%m-%d %H:%M:%S"),
}


@pytest.mark.parametrize("spelling", PARQUET)
@settings(max_examples=10, deadline=None)
@given(candles=batches(Timeframe(15, "m"), START))
def test_candles_come_back_equal_to_the_bit_from_parquet(
    spelling: str, candles: Candles, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("round") / "a.parquet"
    frame = pl.DataFrame(dict(zip(HEADER.split(","), candles.columns, strict=False)))
    frame.with_columns(PARQUET[spelling](pl.col("timestamp")).alias("timestamp")).write_parquet(path)
    table = read_table(path)
    assert table.timeframe == Timeframe(15, "m")
    assert same(table.candles, candles)


@pytest.mark.parametrize("name", ["UTC", "America/New_York", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Apia"])
@pytest.mark.parametrize("timeframe", ["1d", "1w", "1mon", "1y"])
@pytest.mark.parametrize("pattern", ["%Y-%m-%d", "%Y%m%d", "%Y/%m/%d", "%Y-%m-%d 00:00:00"])
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_a_date_is_the_instant_at_which_the_local_day_opens(
    name: str, timeframe: str, pattern: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tf, local = Timeframe.parse(timeframe), zone(name)
    start = tf.floor(at("2018-06-15T12:00:00Z") + data.draw(st.integers(0, 300)) * DAY_MS, local)
    candles = data.draw(batches(tf, start, name))
    days = [date(1970, 1, 1) + timedelta(days=day) for day in local.day_of(candles.timestamp).tolist()]
    dates = dict(zip(candles.timestamp.tolist(), days, strict=True))
    path = tmp_path_factory.mktemp("days") / "a.csv"
    path.write_bytes(as_csv(candles, lambda ms: dates[ms].strftime(pattern)))
    table = read_table(path, None, local)
    assert table.timeframe == tf
    assert same(table.candles, candles)


def test_days_stamped_at_local_midnight_already_are_instants(read: Read) -> None:
    days = NEW_YORK.open_of_day(np.arange(19_790, 19_800))
    table = read(rows(*days.tolist()), None, NEW_YORK)
    assert stamps(table) == days.tolist()
    assert table.timeframe == Timeframe(1, "d")


def test_parquet_dates_are_days_of_the_zone(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    days = [date(2024, 3, 8) + timedelta(days=n) for n in range(5)]
    ones = [1.0] * 5
    pl.DataFrame({"Date": days, "Open": ones, "High": ones, "Low": ones, "Close": ones}).write_parquet(path)
    table = read_table(path, None, NEW_YORK)
    assert stamps(table)[:3] == [
        at("2024-03-08T00:00-05:00"),
        at("2024-03-09T00:00-05:00"),
        at("2024-03-10T00:00-05:00"),
    ]
    assert stamps(table)[3] == at("2024-03-11T00:00-04:00")
    assert not table.has_volume


def test_parquet_numbers_may_be_decimals_texts_or_integers(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame(
        {
            "t": [START, START + MINUTE_MS],
            "o": [Decimal("1.5"), Decimal("1.5")],
            "h": ["2.25", "2.25"],
            "l": [1, 1],
            "c": pl.Series([2.0, 2.0], dtype=pl.Float32),
            "v": [7, 8],
        }
    )
    frame.write_parquet(path)
    (first, _) = read_table(path).candles
    assert (first.open, first.high, first.low, first.close, first.volume) == (1.5, 2.25, 1, 2, 7)


LAYOUTS = {
    "usual": "timestamp,open,high,low,close,volume\n{ms},1,3,0.5,2,10\n",
    "shuffled, capitals": "Volume,Close,Low,High,Open,Timestamp\n10,2,0.5,3,1,{ms}\n",
    "letters": "t,o,h,l,c,v\n{ms},1,3,0.5,2,10\n",
    "Binance with a header": (
        "open_time,open,high,low,close,volume,close_time,quote_volume,count\n{ms},1,3,0.5,2,10,1,77,5\n"
    ),
    "Binance without": "{ms},1,3,0.5,2,10,{ms},77,5,1,2,0\n",
    "NSE": "Date ,series ,OPEN ,HIGH ,LOW ,PREV. CLOSE ,ltp ,close ,VOLUME \n{iso},EQ,1,3,0.5,9,9,2,10\n",
    "Binance since 2025": "{ms}000,1,3,0.5,2,10,{ms}999,77,5,1,2,0\n",
    "ccxt camel case": "openTime,open,high,low,close,volume\n{ms},1,3,0.5,2,10\n",
    "Alpha Vantage": "timestamp,1. open,2. high,3. low,4. close,5. volume\n{iso},1,3,0.5,2,10\n",
    "Yahoo": "Date,Open,High,Low,Close,Adj Close,Volume\n{iso},1,3,0.5,2,1.9,10\n",
    "CryptoDataDownload": (
        "https://www.CryptoDataDownload.com\nunix,date,symbol,open,high,low,close,Volume USDT,Volume BTC\n"
        "{ms},{iso},BTC/USDT,1,3,0.5,2,77,10\n"
    ),
    "MetaTrader 5": (
        "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n{dots}\t{clock}\t1\t3\t0.5\t2\t77\t10\t1\n"
    ),
    "MetaTrader 4": "{dots},{clock},1,3,0.5,2,10\n",
    "Stooq": "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\nX,1,{day},{digits},1,3,0.5,2,10,0\n",
    "date and an epoch in time": "date,time,open,high,low,close,volume\n{iso},{ms},1,3,0.5,2,10\n",
    "pandas index": ",open,high,low,close,volume\n{iso},1,3,0.5,2,10\n",
    "semicolons": "timestamp;open;high;low;close;volume\n{ms};1;3;0.5;2;10\n",
    "tabs and quotes": '"timestamp"\t"open"\t"high"\t"low"\t"close"\t"volume"\n"{ms}"\t"1"\t"3"\t"0.5"\t"2"\t"10"\n',
    "a quoted name": 'timestamp,name,open,high,low,close,volume\n{ms},"Some, Inc.",1,3,0.5,2,10\n',
    "spaces": "timestamp , open, high, low, close, volume\n{ms}, 1, 3, 0.5, 2, 10 \n",
    "a separator at the end": "timestamp,open,high,low,close,volume,\n{ms},1,3,0.5,2,10,\n",
}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_usual_layouts_are_understood(read: Read, layout: str, mark: str, ending: str) -> None:
    when = datetime(2024, 1, 2, 3, 4, tzinfo=UTC)
    ms = int(when.timestamp() * 1000)
    text = LAYOUTS[layout].format(
        ms=ms,
        iso=f"{when:%Y-%m-%d %H:%M:%S}",
        dots=f"{when:%Y.%m.%d}",
        clock=f"{when:%H:%M}",
        compact=f"{when:%Y%m%d %H%M%S}",
        day=f"{when:%Y%m%d}",
        digits=f"{when:%H%M%S}",
    )
    table = read(mark + text.replace("\n", ending), Timeframe(1, "m"))
    (candle,) = table.candles
    assert (candle.timestamp, candle.open, candle.high, candle.low, candle.close) == (ms, 1, 3, 0.5, 2)
    assert candle.volume == 10
    assert table.has_volume


def test_without_a_volume_column_the_volume_is_zero(read: Read) -> None:
    table = read(f"time,open,high,low,close\n{START},1,3,0.5,2\n{START + MINUTE_MS},1,3,0.5,2\n")
    assert table.candles.volume.tolist() == [0, 0]
    assert not table.has_volume


def test_an_unknown_layout_names_the_columns_that_were_found(read: Read) -> None:
    message = refusal(read, "when,open,high,low,adj close\n1,2,3,4,5\n")
    assert message == (
        "prices.csv: no column for time, close among: 'when', 'open', 'high', 'low', 'adj close'. "
        "Name it with --columns time=NAME,close=NAME"
    )


def test_two_columns_of_the_same_name_are_refused(read: Read) -> None:
    assert refusal(read, f"time,open,high,low,close,Close\n{START},1,3,1,2,2\n") == (
        "prices.csv: 2 columns are called close: name one by its number, as in --columns close=2"
    )


GOOD = f"{START},1,3,0.5,2,10"
BAD = {
    f"{START + MINUTE_MS},1,3,0.5,x,10": "'close' has 'x', which is no number (close)",
    f'{START + MINUTE_MS},1,3,0.5,"1,5",10': "'close' has '1,5', which is no number (close)",
    f"{START + MINUTE_MS},1,3,0.5,,10": "'close' is empty (close)",
    f'{START + MINUTE_MS},1,3,0.5," ",10': "'close' is empty (close)",
    f"{START + MINUTE_MS},1,3,0.5,2,": "'volume' is empty (volume)",
    f"{START + MINUTE_MS},1,3,0.5,2": f"it has fewer than 6 fields: '{START + MINUTE_MS},1,3,0.5,2'",
    f"{START + MINUTE_MS},1,3,0.5,2,10,11": f"it has more than 6 fields: '{START + MINUTE_MS},1,3,0.5,2,10,11'",
    f"{START + MINUTE_MS},1,3,0.5,nan,10": "a number is missing, NaN or infinite",
    f"{START + MINUTE_MS},1,inf,0.5,2,10": "a number is missing, NaN or infinite",
    f"{START + MINUTE_MS},1,1e999,0.5,2,10": "a number is missing, NaN or infinite",
    f"{START + MINUTE_MS},1,3,0.5,2,-1": "volume is negative (-1)",
    f"{START + MINUTE_MS},1,3,1.5,2,10": "low is above open, high or close (open 1, high 3, low 1.5, close 2)",
    f"{START + MINUTE_MS},1,1.5,0.5,2,10": "high is below open or close (open 1, high 1.5, low 0.5, close 2)",
    f"{START + 90_000},1,3,0.5,2,10": ("the timestamp is not the opening of a 1m bucket (2024-01-01T00:01:30.000Z)"),
    f"{START},1,3,0.5,2,11": "the same timestamp as 2, with other values",
    f"{START // 1000 + 60},1,3,0.5,2,10": ("the timestamp is in seconds, that of most rows is in milliseconds"),
    "2024-01-01 00:01,1,3,0.5,2,10": "the timestamp is in words, that of most rows is in milliseconds",
    "-5000000000000,1,3,0.5,2,10": "the timestamp is before 1900 or after 2286",
    "99999999999999,1,3,0.5,2,10": "the timestamp is before 1900 or after 2286",
    "-9223372036854775808,1,3,0.5,2,10": "the timestamp is in nanoseconds, that of most rows is in milliseconds",
    f"{START}.5,1,3,0.5,2,10": f"'timestamp' has '{START}.5', a time that is not understood",
    "yesterday,1,3,0.5,2,10": "'timestamp' has 'yesterday', a time that is not understood",
    ",1,3,0.5,2,10": "'timestamp' has '', a time that is not understood",
    "nan,1,3,0.5,2,10": "'timestamp' has 'nan', a time that is not understood",
}


@pytest.mark.parametrize("timeframe", [None, Timeframe(1, "m")], ids=["detected", "given"])
@pytest.mark.parametrize("row", BAD)
def test_a_bad_row_is_refused_with_its_line_and_reason(read: Read, row: str, timeframe: Timeframe | None) -> None:
    others = [f"{START + n * MINUTE_MS},1,3,0.5,2,10" for n in (2, 3, 4)]
    message = refusal(read, "\n".join([HEADER, GOOD, *others, "", row, ""]), timeframe)
    first = message.splitlines()[0]
    assert first.startswith(f"prices.csv:7: {BAD[row]}")
    assert first.endswith("; --skip-bad-rows 1 leaves it out")
    assert len([line for line in message.splitlines() if line.startswith("prices.csv:")]) == 1


def test_the_first_problems_are_listed_and_the_others_counted(read: Read) -> None:
    bad = [f"{START + n * MINUTE_MS},1,3,9,2,10" for n in range(22)]
    lines = refusal(read, "\n".join([HEADER, *bad])).splitlines()
    assert [line.split(" (")[0] for line in lines[:5]] == [
        f"prices.csv:{line}: low is above open, high or close" for line in range(2, 7)
    ]
    assert all(line.endswith("--skip-bad-rows 22 leaves them out") for line in lines[:5])
    assert lines[5:] == ["and 17 more"]


def test_problems_of_all_kinds_come_in_the_order_of_the_file(read: Read) -> None:
    late = f"{START + 60 * MINUTE_MS},1,3,9,2,10"
    text = "\n".join(
        [
            HEADER,
            late,
            "x,1,3,0.5,2,10",
            f"{START + MINUTE_MS},,3,0.5,2,10",
            *rows(*range(START, START + 9 * MINUTE_MS, MINUTE_MS)).splitlines()[1:],
        ]
    )
    option = "--skip-bad-rows 3 leaves them out"
    assert refusal(read, text).splitlines()[:3] == [
        f"prices.csv:2: low is above open, high or close (open 1, high 3, low 9, close 2); {option}",
        f"prices.csv:3: 'timestamp' has 'x', a time that is not understood: --date-format may name its format; {option}",
        f"prices.csv:4: 'open' is empty (open); {option}",
    ]


def test_rows_in_any_order_are_sorted(read: Read) -> None:
    times = [START + n * MINUTE_MS for n in (3, 0, 2, 1, 4)]
    assert stamps(read(rows(*times))) == sorted(times)


def test_equal_duplicates_are_merged(read: Read) -> None:
    assert stamps(read(rows(START, START + MINUTE_MS, START, START + MINUTE_MS))) == [START, START + MINUTE_MS]


def test_empty_lines_hold_nothing_and_still_count(read: Read) -> None:
    text = f"{HEADER}\n\n{GOOD}\n,,,,,\n\n{START + MINUTE_MS},1,3,9,2,10\n\n\n"
    assert refusal(read, text).startswith("prices.csv:6: low is above open, high or close")


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_newest_row_can_be_left_out(read: Read, drop_last: bool) -> None:
    times = [START + 2 * MINUTE_MS, START, START + MINUTE_MS]
    assert len(read(rows(*times), drop_last=drop_last).candles) == 3 - drop_last
    assert stamps(read(rows(*times), drop_last=drop_last))[0] == START


def test_nothing_is_left_where_the_only_row_is_dropped(read: Read) -> None:
    assert "no rows but the newest" in refusal(read, rows(START), Timeframe(1, "m"), drop_last=True)


@pytest.mark.parametrize("size", [64, 97, 300, 4096])
def test_the_size_of_a_block_changes_nothing(read: Read, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    text = rows(*range(START, START + 200 * MINUTE_MS, MINUTE_MS))
    whole = read(text)
    broken = text + f"{START + 200 * MINUTE_MS},1,3,9,2,10\n"
    monkeypatch.setattr(texts, "_BLOCK_BYTES", size)
    assert same(read(text).candles, whole.candles)
    assert same(read(gzip.compress(text.encode()), name="a.csv.gz").candles, whole.candles)
    assert same(read(text.rstrip("\n")).candles, whole.candles)
    assert refusal(read, broken).startswith("prices.csv:202: low is above open, high or close")


def test_a_file_full_of_problems_is_not_read_to_its_end(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(texts, "_HEAD_BYTES", 1000)
    monkeypatch.setattr(sheet_reader, "MAX_PROBLEMS", 50)
    monkeypatch.setattr(problems, "MAX_PROBLEMS", 50)
    message = refusal(read, HEADER + "\n" + "x,1,3,0.5,2,10\n" * 10_000)
    more = re.fullmatch(r"and at least ([\d,]+) more", message.splitlines()[5])
    assert more
    assert int(more[1].replace(",", "")) < 1000


FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.csv", b"", "it is empty"),
    "blank": ("a.csv", b"\n \n\n", "it is empty"),
    "empty gzip": ("a.csv.gz", gzip.compress(b""), "it is empty"),
    "header only": ("a.csv", HEADER.encode(), "it has no rows"),
    "header only, with its end": ("a.csv", HEADER.encode() + b"\r\n", "it has no rows"),
    "cut gzip": (
        "a.csv.gz",
        gzip.compress(os.urandom(9000) + rows(START).encode())[:-60],
        "the gzip file is cut short",
    ),
    "broken gzip": ("a.csv.gz", b"\x1f\x8b" + b"x" * 50, "the gzip file is damaged"),
    "broken zip": ("a.csv", b"PK\x03\x04" + b"x" * 50, "the zip file is damaged"),
    "broken zstd": ("a.csv", b"\x28\xb5\x2f\xfd" + b"x" * 50, "the zstd file is damaged"),
    "broken xz": ("a.csv", b"\xfd7zXZ\x00" + b"x" * 50, "the xz file is damaged"),
    "cut xz": ("a.csv", lzma.compress(rows(START).encode())[:-9], "the xz file is cut short"),
    "broken bzip2": ("a.csv", b"BZh9" + b"x" * 50, "the bzip2 file is damaged"),
    "no parquet": ("a.parquet", rows(START).encode(), "it is no Parquet, Feather or Arrow file"),
    "empty parquet": ("a.parquet", b"", "it is empty"),
    "cut parquet": ("a.parquet", b"PAR1" + b"x" * 99, "it is no Parquet file that can be read: "),
    "broken parquet": ("a.parquet", b"PAR1" + b"x" * 99 + b"PAR1", "it is no Parquet file that can be read: "),
    "prose": (
        "a.csv",
        b"Once upon a time,\nthere was\n",
        "it is no table of candles: it begins with 'Once upon a time,'",
    ),
    "binary": ("a.csv", bytes(range(256)) * 9, "it is no text"),
    "an open quotation": ("a.csv", rows(START, f'"{START}').encode(), "line 3: its quotation marks are not in pairs"),
    "a quotation over lines": ("a.csv", rows(START, f'"{START}\n"').encode(), "line 3: its quotation marks are not in"),
    "an odd quotation": ("a.csv", rows(START, f'"{START}"x').encode(), "line 3: its quotation marks are not in pairs"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_table_is_refused_by_its_name(read: Read, case: str) -> None:
    name, content, reason = FILES[case]
    assert refusal(read, content, Timeframe(1, "m"), name=name).startswith(f"{name}: {reason}")
    assert refusal(read, content, name=name).startswith(f"{name}: {reason}")


def test_what_is_no_file_is_refused_by_its_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path, reason in (
        (tmp_path / "none.csv", "none.csv: there is no such file"),
        (tmp_path, f"{tmp_path.name}: it is a folder"),
        (tmp_path / "pipe.csv", "pipe.csv: it is no regular file"),
    ):
        with pytest.raises(InvalidCandles, match=reason):
            read_table(path)


def test_a_line_without_end_is_no_table(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_BLOCK_BYTES", 1000)
    assert "longer than any row" in refusal(read, b"x" * 5000)


@pytest.mark.parametrize("name", ["a[1].parquet", "a*.parquet", "b=1/a?.parquet", "a[1].csv", "b=1/a*.csv"])
def test_a_path_is_no_pattern(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x[y]" / name
    path.parent.mkdir(parents=True)
    ones = [1.0, 1.0]
    frame = pl.DataFrame({"t": [START, START + MINUTE_MS], "o": ones, "h": ones, "l": ones, "c": ones})
    path.write_text(frame.write_csv()) if path.suffix == ".csv" else path.write_bytes(_parquet(frame))
    assert len(read_table(path).candles) == 2


def _parquet(frame: pl.DataFrame) -> bytes:
    frame.write_parquet(buffer := io.BytesIO())
    return buffer.getvalue()


def test_a_parquet_date_and_time_in_two_columns_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    ones, day = [1.0, 1.0], date(2024, 1, 2)
    columns = {"date": [day, day], "time": [time(1, 2), time(1, 3)], "o": ones, "h": ones, "l": ones, "c": ones}
    pl.DataFrame(columns).write_parquet(path)
    assert stamps(read_table(path)) == [at("2024-01-02T01:02Z"), at("2024-01-02T01:03Z")]


def test_a_parquet_problem_names_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    one = [1.0, 1.0]
    pl.DataFrame({"t": [START, START + MINUTE_MS], "o": one, "h": one, "l": [1.0, None], "c": one}).write_parquet(path)
    with pytest.raises(InvalidCandles) as caught:
        read_table(path, Timeframe(1, "m"))
    assert caught.value.message == "a.parquet: row 2: 'l' is empty (low); --skip-bad-rows 1 leaves it out"


@pytest.mark.parametrize("column", ["t", "o"])
def test_a_parquet_column_of_another_type_is_refused(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.parquet"
    columns = {"t": [START], "o": [1.0], "h": [1.0], "l": [1.0], "c": [1.0]} | {column: [True]}
    pl.DataFrame(columns).write_parquet(path)
    with pytest.raises(InvalidCandles, match=r"^a\.parquet: .*of type Boolean"):
        read_table(path)


def test_a_parquet_file_without_rows_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame(schema=dict.fromkeys("tohlcv", pl.Float64)).write_parquet(path)
    with pytest.raises(InvalidCandles) as caught:
        read_table(path)
    assert caught.value.message == "a.parquet: it has no rows"


@pytest.mark.parametrize("name", ["UTC", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"])
@pytest.mark.parametrize(
    "timeframe", ["1m", "3m", "5m", "15m", "1h", "4h", "12h", "1d", "3d", "1w", "1mon", "3mon", "1y"]
)
def test_the_timeframe_is_detected_from_the_steps(read: Read, timeframe: str, name: str) -> None:
    tf, local = Timeframe.parse(timeframe), zone(name)
    start = tf.ceil(at("2023-12-30T00:00Z"), local)
    times = [tf.shift(start, n, local) for n in range(30) if n not in {4, 5, 9}]
    assert read(rows(*times), None, local).timeframe == tf
    assert read(rows(*times[:2]), None, local).timeframe == tf


def test_a_day_of_23_hours_is_a_day(read: Read) -> None:
    table = read(rows("2024-03-10", "2024-03-11"), None, NEW_YORK)
    assert np.diff(table.candles.timestamp).tolist() == [23 * 3_600_000]
    assert table.timeframe == Timeframe(1, "d")


def test_stock_days_with_weekends_are_days(read: Read) -> None:
    days = [day for n in range(60) if (day := date(2024, 1, 2) + timedelta(days=n)).weekday() < 5]
    assert read(rows(*days)).timeframe == Timeframe(1, "d")


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ([START], "one row does not show its timeframe"),
        ([START, START + 1000, START + 2000], "its rows are 1 seconds apart, and the shortest timeframe is 1m"),
        ([START + 60_000, START + 8 * 60_000], "do not open 7m buckets: they are another span"),
        (
            ["2024-01-02 05:00", "2024-01-03 05:00"],
            "do not open 1d buckets (the first is at 05:00 UTC): name the time zone",
        ),
        ([f"{year}-01-01" for year in (1980, 2020)], "at most ten years"),
    ],
)
def test_a_timeframe_that_cannot_be_detected_must_be_named(read: Read, times: list[object], reason: str) -> None:
    message = refusal(read, rows(*times))
    assert message.startswith("prices.csv: ")
    assert reason in message


def test_a_detected_timeframe_is_named_where_rows_do_not_fit_it(read: Read) -> None:
    times = [START + n * 10 * MINUTE_MS for n in range(9)]
    assert refusal(read, rows(*times, START + 25 * MINUTE_MS)).splitlines() == [
        (
            "prices.csv:11: the timestamp is not the opening of a 10m bucket (2024-01-01T00:25:00.000Z); "
            "--skip-bad-rows 1 leaves it out"
        ),
        "The timeframe 10m was detected from the steps between the rows: name it if it is another.",
    ]


def test_the_smallest_step_is_the_timeframe_of_a_file_with_many_holes(read: Read) -> None:
    times = [START + n * MINUTE_MS for n in (0, 1, 2, 4, 6, 8, 10, 12, 13, 15, 17)]
    assert read(rows(*times)).timeframe == Timeframe(1, "m")


def test_days_of_another_zone_are_refused_with_a_hint(read: Read) -> None:
    midnights = NEW_YORK.open_of_day(np.arange(19_700, 19_710)).tolist()
    message = refusal(read, rows(*midnights), Timeframe(1, "d"))
    assert "do not open 1d buckets (the first is at 05:00 UTC): name the time zone" in message
    assert "--timezone, now UTC" in message


def test_a_time_without_an_offset_is_local_and_one_with_it_is_not(read: Read) -> None:
    for text in ("2024-07-01 09:30", "2024-07-01T13:30:00Z", "2024-07-01 15:30:00+0200"):
        assert stamps(read(rows(text), Timeframe(1, "m"), NEW_YORK)) == [at("2024-07-01T13:30Z")]


REPEATED = ["2024-11-03T05:00Z", "2024-11-03T05:30Z", "2024-11-03T06:00Z", "2024-11-03T06:30Z"]


@pytest.mark.parametrize("falls", [False, True], ids=["ascending", "descending"])
@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2), (0, 2)])
def test_the_order_decides_a_local_time_that_happens_twice(read: Read, kept: tuple[int, ...], falls: bool) -> None:
    clock = ["2024-11-03 01:00", "2024-11-03 01:30"] * 2
    texts = ["2024-11-03 00:00", "2024-11-03 00:30", *(clock[k] for k in kept), "2024-11-03 02:00"]
    table = read(rows(*(reversed(texts) if falls else texts)), Timeframe(30, "m"), NEW_YORK)
    assert stamps(table)[2:-1] == [at(REPEATED[k]) for k in kept]


@pytest.mark.parametrize(
    "texts",
    [
        [f"2024-11-03 0{hour}:{minute}" for hour in range(3) for minute in ("00", "30")],
        ["2024-11-03 01:30"],
        ["2024-11-03 01:00", "2024-11-03 01:30", "2024-11-03 01:00", "2024-11-03 01:30", "2024-11-03 01:00"],
    ],
)
def test_a_local_time_that_happens_twice_is_refused_where_the_order_does_not_tell(read: Read, texts: list[str]) -> None:
    lines = refusal(read, rows(*texts), Timeframe(30, "m"), NEW_YORK).splitlines()
    twice = (
        "this local time happens twice in America/New_York, and the order of the rows does not tell which one is meant"
    )
    assert twice in lines[0]
    assert "--clock -05:00" in lines[-1]
    fixed = Hints(clock=zone("EST"))
    if len(texts) == 6:
        assert stamps(read(rows(*texts), None, NEW_YORK, hints=fixed))[2] == at("2024-11-03T06:00Z")


def test_the_clock_of_a_file_is_apart_from_the_zone_of_its_days(read: Read) -> None:
    text = rows("2024-03-04 15:00:00", "2024-03-04 15:01:00")
    utc = Hints(clock=UTC_ZONE)
    assert stamps(read(text, None, NEW_YORK, hints=utc))[0] == at("2024-03-04T15:00Z")
    assert stamps(read(text, None, NEW_YORK))[0] == at("2024-03-04T20:00Z")
    dates = ("2024-03-07", "2024-03-08", "2024-03-11", "2024-03-12")
    days = read(rows(*dates), None, NEW_YORK, hints=utc)
    assert stamps(days)[1:3] == [at("2024-03-08T05:00Z"), at("2024-03-11T04:00Z")]
    assert days.facts[1] == "Times: dates, days of America/New_York."
    named = Hints(clock=UTC_ZONE, dates=UTC_ZONE)
    assert "do not open 1d buckets" in refusal(read, rows(*dates), Timeframe(1, "d"), NEW_YORK, hints=named)


def test_midnights_are_instants_where_the_candles_are_shorter_than_a_day(read: Read) -> None:
    utc = Hints(clock=UTC_ZONE)
    assert stamps(read(rows("2024-03-04"), Timeframe(1, "m"), NEW_YORK, hints=utc)) == [at("2024-03-04T00:00Z")]
    halves = read(rows("2024-03-04 00:00", "2024-03-04 12:00", "2024-03-05 00:00"), None, NEW_YORK, hints=utc)
    assert stamps(halves)[0] == at("2024-03-04T00:00Z")


@pytest.mark.parametrize(
    ("name", "times", "said"),
    [
        ("1m", [START + n * 60 * MINUTE_MS for n in range(6)], "no row follows another after 1m, they are 1h apart"),
        ("1m", [n * 60_000 for n in range(9)], "no row follows another after 1m"),  # milliseconds of the day as seconds
        ("30m", [START + 30 * MINUTE_MS + n * 60 * MINUTE_MS for n in range(6)], "they are 1h apart"),
        ("1h", [f"2024-01-{day:02} 16:00" for day in (2, 3, 4, 5, 8)], "they are 1d apart"),
        ("1d", ["2024-01-01", "2024-01-08", "2024-01-15"], "they are 7d apart"),
    ],
)
def test_a_named_timeframe_that_no_step_shows_is_refused(read: Read, name: str, times: list[object], said: str) -> None:
    message = refusal(read, rows(*times), Timeframe.parse(name))
    assert message.startswith("prices.csv: ")
    assert said in message
    assert "--sparse" in message
    thin = read(rows(*times), Timeframe.parse(name), hints=Hints(thin=True))
    assert len(thin.candles) == len(times)


HOURS = [f"2024-02-01 {hour:02}:00" for hour in range(24)]
DAYS = [f"2024-01-{day:02}" for day in range(8, 31) if day not in {13, 14, 20, 21, 27, 28}]


@pytest.mark.parametrize(
    "times",
    [
        [*DAYS, *HOURS[9:]],
        [*HOURS, *(f"2024-02-{day:02}" for day in range(3, 12))],
        [*(f"2024-01-01 {hour:02}:00" for hour in range(0, 24, 4)), *(f"2024-01-02 00:{m:02}" for m in range(30))],
        [*(f"2023-{month:02}-01" for month in range(1, 12)), *DAYS],
    ],
    ids=["days, then hours", "hours, then days", "4h, then minutes", "months, then days"],
)
def test_two_timeframes_in_one_file_are_refused(read: Read, times: list[str]) -> None:
    spelt = [time if " " in time else f"{time} 00:00" for time in times]
    message = refusal(read, rows(*spelt))
    assert "it holds two timeframes" in message
    assert "--covers" in message
    assert len(read(rows(*spelt), hints=Hints(thin=True)).candles) == len(times)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.02, 0.1, 0.5, 0.9]))
def test_minutes_of_a_thin_symbol_are_one_timeframe(
    seed: int, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Quiet at first, busier later: no accident of its steps is taken for a coarser grid."""
    draws = np.random.default_rng(seed)
    quiet = np.flatnonzero(draws.random(4000) < share)
    busy = 4000 + np.flatnonzero(draws.random(500) < 0.9)
    times = START + MINUTE_MS * np.concatenate([quiet, busy])
    path = tmp_path_factory.mktemp("thin") / "a.csv"
    path.write_text(rows(*times.tolist()))
    assert read_table(path, Timeframe(1, "m")).timeframe == Timeframe(1, "m")


SYMBOLS = (
    "date,symbol,open,high,low,close,volume\n"
    "2024-01-02,AAPL,100,101,99,100.5,5\n"
    "2024-01-03,AAPL,100,101,99,100.5,5\n"
    "2024-01-04,AAPL,100,101,99,100.5,5\n"
    "2024-01-05,MSFT,300,301,299,300.5,5\n"
    "2024-01-08,MSFT,300,301,299,300.5,5\n"
    "2024-01-09,MSFT,300,301,299,300.5,5\n"
)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_of_two_symbols_in_one_file_one_must_be_chosen(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(SYMBOLS.encode() if kind == "csv" else _parquet(pl.read_csv(io.StringIO(SYMBOLS))))
    with pytest.raises(InvalidCandles) as caught:
        read_table(path)
    assert (
        caught.value.message
        == f"a.{kind}: its rows are of 2 symbols, 'AAPL', 'MSFT': take one of them with --only, or all with --symbol-from column"
    )
    chosen = read_table(path, hints=Hints(symbol="MSFT"))
    assert chosen.candles.open.tolist() == [300, 300, 300]
    with pytest.raises(InvalidCandles, match="no row of 'GOOG', only of 'AAPL', 'MSFT'"):
        read_table(path, hints=Hints(symbol="GOOG"))


def test_a_symbol_is_not_chosen_where_no_column_names_any(read: Read) -> None:
    assert "no column that names symbols" in refusal(read, rows(START, START + 1), hints=Hints(symbol="X"))


@pytest.mark.parametrize(
    ("volumes", "cut"),
    [
        (["10", "11", "12", "1"], True),
        (["10.25", "11.50", "112.75", "12.5"], True),
        (["10", "11", "12", "13"], False),
        (["9", "11", "12", "1"], False),
        (["10.5", "1.25", "12.125", "13.5"], False),
    ],
)
def test_a_last_line_cut_in_its_number_is_refused(read: Read, volumes: list[str], cut: bool) -> None:
    lines = [f"{START + n * MINUTE_MS},1,3,0.5,2,{volume}" for n, volume in enumerate(volumes)]
    text = "\n".join([HEADER, *lines])
    assert len(read(text + "\n").candles) == 4
    assert len(read(text, drop_last=True).candles) == 3
    if cut:
        assert refusal(read, text).startswith("prices.csv:5: the file ends within this line")
    else:
        assert len(read(text).candles) == 4


def test_the_facts_of_a_refused_file_are_reported_too(read: Read) -> None:
    known = (
        "Columns: time 'timestamp', open 'open', high 'high', low 'low', close 'close', volume 'volume'.",
        "Times: in milliseconds since 1970, UTC.",
    )
    table = read(rows(START, START + MINUTE_MS, START + MINUTE_MS))
    assert table.facts == (*known, "Rows: 3 of 1m, from 2024-01-01T00:00:00Z to 2024-01-01T00:01:00Z.")
    assert table.rows == 3
    with pytest.raises(InvalidCandles) as caught:
        read(rows(START, START + MINUTE_MS, START + 90_000))
    assert caught.value.__notes__[:2] == list(known)
    headless = read("".join(f"{START + n * MINUTE_MS},{n + 1},{n + 3},0.5,{n + 2},10\n" for n in range(5)))
    assert headless.facts[0].startswith("Columns: time column 1, open column 2")


def test_the_row_left_out_is_reported(read: Read) -> None:
    table = read(rows(START, START + MINUTE_MS), Timeframe(1, "m"), drop_last=True)
    assert table.dropped.tolist() == [START + MINUTE_MS]
    assert not len(read(rows(START, START + MINUTE_MS)).dropped)


def test_a_local_time_that_does_not_exist_is_refused(read: Read) -> None:
    assert refusal(read, rows("2024-03-10 01:30", "2024-03-10 02:30"), Timeframe(1, "m"), NEW_YORK).startswith(
        "prices.csv:3: this local time does not exist in America/New_York"
    )


def test_a_midnight_that_does_not_exist_opens_its_day_but_no_minute(read: Read) -> None:
    sao_paulo = zone("America/Sao_Paulo")
    text = rows("2018-11-03 00:00", "2018-11-04 00:00")
    assert stamps(read(text, Timeframe(1, "d"), sao_paulo)) == [at("2018-11-03T03:00Z"), at("2018-11-04T03:00Z")]
    assert refusal(read, text, Timeframe(1, "m"), sao_paulo).startswith(
        "prices.csv:3: this local time does not exist in America/Sao_Paulo"
    )


@settings(max_examples=200, deadline=None)
@given(
    minutes=st.integers(at("1971-01-01T00:00Z") // MINUTE_MS, at("2037-12-31T00:00Z") // MINUTE_MS),
    name=st.sampled_from(
        ["America/New_York", "Europe/Dublin", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Gaza"]
    ),
)
def test_local_times_agree_with_zoneinfo(minutes: int, name: str) -> None:
    wall = datetime.fromtimestamp(minutes * 60, UTC).replace(tzinfo=None)
    expected = wall.replace(tzinfo=ZoneInfo(name), fold=0)
    found, skipped = zone(name).instants(np.array([minutes * MINUTE_MS], np.int64))
    exists = expected.astimezone(UTC).astimezone(ZoneInfo(name)).replace(tzinfo=None) == wall
    assert bool(skipped[0]) is not exists
    assert skipped[0] or int(found[0]) == int(expected.timestamp() * 1000)


@pytest.mark.parametrize("bad", ["20240230", "20241301"])
def test_a_number_that_is_no_date_is_refused(read: Read, bad: str) -> None:
    assert refusal(read, rows("20240228", "20240229", bad, "20240301")).startswith(
        "prices.csv:4: the timestamp is no date of any calendar, that of most rows is a date like 20240131"
    )


@pytest.mark.parametrize("clock", ["93000", "930", "0"])
def test_a_clock_that_lost_a_digit_is_not_guessed(read: Read, clock: str) -> None:
    header = "date,time,open,high,low,close,volume"
    text = f"{header}\n20240102,100000,1,3,0.5,2,10\n20240102,{clock},1,3,0.5,2,10\n"
    assert refusal(read, text, Timeframe(1, "m")).startswith(f"prices.csv:3: 'date' and 'time' has '20240102 {clock}'")


@settings(max_examples=150, deadline=None)
@given(
    text=st.lists(st.text('0123456789.,;-:T \t\n\r"eZ+xé\x00', max_size=40), max_size=12).map("\n".join),
    header=st.booleans(),
)
def test_nonsense_is_refused_and_never_crashes(
    text: str, header: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "nonsense.csv"
    path.write_text((HEADER + "\n") * header + text, newline="")
    try:
        table = read_table(path)
    except InvalidCandles as refused:
        assert refused.message.startswith("nonsense.csv")  # noqa: PT017 - either outcome is right
    else:
        assert not table.candles.problems(table.timeframe, TIMES, UTC_ZONE)


def test_real_files_are_read() -> None:
    """If the files are beside the checkout; none is needed."""
    for path in sorted(REAL.glob("*_*_*[0-9mhdwon].csv.gz")):
        _is_read(path)


def _is_read(path: Path) -> None:
    local = NEW_YORK if path.name.startswith("us_") else UTC_ZONE
    table = read_table(path, None, local)
    assert str(table.timeframe) == path.name.split(".")[0].rsplit("_", 1)[1]
    plain = pl.read_csv(io.BytesIO(gzip.decompress(path.read_bytes())), infer_schema_length=None)
    assert stamps(table) == plain["timestamp_ms"].to_list()
    assert table.candles.close.tolist() == plain["close"].to_list()


@pytest.mark.parametrize(
    "unit", [1, 1000, 10**6, 10**9], ids=["seconds", "milliseconds", "microseconds", "nanoseconds"]
)
def test_days_since_1962_are_read_in_any_unit(read: Read, unit: int) -> None:
    """Around 1970 the numbers are short; those of 1969-12-30 and 1970-01-02 are days, not seconds of another year."""
    days = np.arange(-2_921, 19_000, dtype=np.int64)
    table = read(rows(*(days * 86_400 * unit).tolist()))
    assert (table.timeframe, stamps(table)) == (Timeframe(1, "d"), (days * DAY_MS).tolist())


@pytest.mark.parametrize(
    "text", ["1962-01-02", "1962-01-02T00:00:00Z", "19620102", "1900-01-01", "1969-12-30 00:00:00+00:00"]
)
def test_dates_before_1970_are_read(read: Read, text: str) -> None:
    first = datetime.fromisoformat(text if "-" in text else "1962-01-02").replace(tzinfo=UTC)
    spelled = text if "-" in text else "1962-01-02"
    others = [spelled.replace(spelled[:10], (first + timedelta(days=n)).date().isoformat()) for n in range(4)]
    table = read(rows(*(other if "-" in text else other.replace("-", "") for other in others)))
    assert stamps(table) == [int(first.timestamp() * 1000) + n * DAY_MS for n in range(4)]


def test_a_file_without_names_may_begin_before_1970(read: Read) -> None:
    days = range(-3, 3)
    table = read("".join(f"{day * 86_400},{day + 5},{day + 9},0.5,{day + 6},99\n" for day in days))
    assert (table.timeframe, stamps(table)) == (Timeframe(1, "d"), [day * DAY_MS for day in days])


MEMORY = """
import sys
from pathlib import Path
from candlegraph import InvalidCandles
from providers.tables.reader import read_table
small, bomb = map(Path, sys.argv[1:])
def peak():  # that of this program; ru_maxrss begins with that of its parent
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
read_table(small)  # loads polars
before = peak()
try:
    read_table(bomb)
except InvalidCandles as error:
    print(error.message)
print((peak() - before) // 1024)
"""
ROW = "1704067200000,1,3,0.5,2,10\n"


def _write_gzip_bomb(path: Path) -> None:
    """24 million equal rows in about a megabyte: the members of a gzip file are read as one text."""
    member = gzip.compress((ROW * 40_000).encode())
    path.write_bytes(gzip.compress(f"{HEADER}\n".encode()) + member * 600)


def _write_parquet_bomb(path: Path) -> None:
    """13 million equal rows, which take a few bytes each thousand."""
    rows = pl.LazyFrame({name: [1] * 500_000 for name in HEADER.split(",")})
    pl.concat([rows] * 26).sink_parquet(path, compression="zstd", row_group_size=500_000)


def _write_short_parquet_bomb(path: Path) -> None:
    """Fewer rows than are too many, and still more than a file of candles of this size has."""
    rows = pl.LazyFrame({name: [1] * 600_000 for name in HEADER.split(",")})
    pl.concat([rows] * 4).sink_parquet(path, compression="zstd", row_group_size=500_000)


def _write_text_bomb(path: Path) -> None:
    """Times of 10 kB each, all of them the same one of the dictionary."""
    names = HEADER.split(",")
    pl.DataFrame({names[0]: ["7" * 10_000] * 20_000, **{name: [1] * 20_000 for name in names[1:]}}).write_parquet(path)


BOMBS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "gzip": ("a.csv.gz", _write_gzip_bomb, "unpacks to more than 50 times its size"),
    "Parquet": ("a.parquet", _write_parquet_bomb, "more than 12,000,000 rows"),
    "Parquet of fewer rows": ("a.parquet", _write_short_parquet_bomb, "unpacks to more than 50 times its size"),
    "Parquet of long texts": ("a.parquet", _write_text_bomb, "unpacks to more than 50 times its size"),
}


@pytest.mark.parametrize(("name", "write", "reason"), BOMBS.values(), ids=BOMBS)
def test_a_small_file_that_unpacks_to_gigabytes_is_refused_in_one_line_and_in_little_memory(
    tmp_path: Path, name: str, write: Callable[[Path], None], reason: str
) -> None:
    bomb = tmp_path / name
    small = bomb.with_name(f"small{''.join(bomb.suffixes)}")
    if bomb.suffix == ".parquet":
        pl.read_csv(rows(START, START + MINUTE_MS).encode()).write_parquet(small)
    else:
        small.write_bytes(gzip.compress(rows(START, START + MINUTE_MS).encode()))
    write(bomb)
    assert bomb.stat().st_size < 3_500_000
    command = [sys.executable, "-c", MEMORY, str(small), str(bomb)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    assert len(output) == 2, output
    assert output[0].startswith(f"{name}: it ")
    assert reason in output[0]
    assert int(output[1]) < 400, output  # the rows of 50 times its size


def test_a_text_of_too_many_rows_is_refused_while_it_is_counted(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size, "MAX_ROWS", 3)
    assert len(read(rows(*range(START, START + 2 * MINUTE_MS, MINUTE_MS))).candles) == 2
    with pytest.raises(InvalidCandles, match=r"prices\.csv: it has more than 3 rows: split it"):
        read(rows(*range(START, START + 4 * MINUTE_MS, MINUTE_MS)))
    monkeypatch.setattr(size, "MAX_UNPACKED_BYTES", 50)
    with pytest.raises(InvalidCandles, match="unpacks to more than 0 MB"):
        read(rows(START, START + MINUTE_MS))
