"""What a file shows is used, an option decides what it leaves open, and nothing else is guessed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC as TZ
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from candlegraph import UTC, InvalidCandles, Timeframe, zone
from providers.tables import texts
from providers.tables.containers import members_of
from providers.tables.hints import Hints
from providers.tables.reader import read_table
from tests.providers.tables.test_tables import HEADER, MEMORY, MINUTE_MS, ROOT, ROW, START, Read, at, read, rows, stamps

__all__ = ["read"]  # a fixture
NEW_YORK = zone("America/New_York")
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def refusal(read: Read, text: str, *arguments: object, **options: object) -> str:
    with pytest.raises(InvalidCandles) as caught:
        read(text, *arguments, **options)
    return caught.value.message


def drifting(*times: object, header: str = HEADER, order: str = "ohlcv", separator: str = ",") -> str:
    """Rows whose close is the next open."""
    lines = [header] * bool(header)
    for n, time in enumerate(times):
        values = {"o": 100.5 + n, "h": 103.5 + n, "l": 99.5 + n / 2, "c": 101.5 + n, "v": 5000 + n, "w": 101 + n}
        lines.append(separator.join(map(str, [time, *(values[key] for key in order)])))
    return "\n".join([*lines, ""])


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(data)
    return sink.getvalue().to_pybytes()


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return buffer.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zip": lambda data: archive(a=data),
    "zst": zstd,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "two streams of xz": lambda data: lzma.compress(data[:50]) + lzma.compress(data[50:]),
    "two streams of bz2": lambda data: bz2.compress(data[:50]) + bz2.compress(data[50:]),
    "two frames of zst": lambda data: zstd(data[:50]) + zstd(data[50:]),
}


@pytest.mark.parametrize("kind", PACKED)
def test_each_container_is_known_by_its_first_bytes(read: Read, kind: str) -> None:
    times = [START + n * MINUTE_MS for n in range(300)]
    assert stamps(read(PACKED[kind](rows(*times).encode()), name="a.dat")) == times


@pytest.mark.parametrize("kind", ["zst", "bz2", "xz", "zip"])
def test_a_container_that_is_cut_short_is_refused(read: Read, kind: str) -> None:
    packed = PACKED[kind](rows(*range(START, START + 900 * MINUTE_MS, MINUTE_MS)).encode())
    assert "file is " in refusal(read, packed[: len(packed) * 2 // 3])  # type: ignore[arg-type]


def test_an_archive_of_several_tables_names_them(read: Read, tmp_path: Path) -> None:
    packed = archive(one=rows(START).encode(), two=rows(START + MINUTE_MS).encode())
    assert "holds 2 files (one, two)" in refusal(read, packed, name="a.zip")  # type: ignore[arg-type]
    assert members_of(tmp_path / "a.zip") == ["one", "two"]
    chosen = read_table(tmp_path / "a.zip", Timeframe(1, "m"), hints=Hints(member="two"))
    assert stamps(chosen) == [START + MINUTE_MS]


def _bomb(kind: str) -> bytes:
    """86 MB of equal rows, of which 64 MB are read; bzip2 would pack them for a minute, so each part is packed once."""
    pack, part = PACKED[kind], (ROW * 40_000).encode()
    if kind == "zip":
        return pack(f"{HEADER}\n".encode() + part * 80)
    return pack(f"{HEADER}\n".encode()) + pack(part) * 80


@pytest.mark.parametrize("kind", ["zip", "zst", "bz2", "xz"])
def test_a_bomb_of_each_container_is_refused_in_little_memory(tmp_path: Path, kind: str) -> None:
    small, bomb = tmp_path / f"small.{kind}", tmp_path / f"bomb.{kind}"
    small.write_bytes(PACKED[kind](rows(START, START + MINUTE_MS).encode()))
    bomb.write_bytes(_bomb(kind))
    assert bomb.stat().st_size < 1_500_000
    command = [sys.executable, "-c", MEMORY, str(small), str(bomb)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    assert len(output) == 2, output
    assert "unpacks to more than 50 times its size" in output[0]
    assert int(output[1]) < 300, output  # the rows of 64 MB, and some blocks


def test_an_xz_file_that_asks_for_much_memory_is_refused(read: Read) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 512 << 20}]
    message = refusal(read, lzma.compress(rows(START).encode(), filters=filters))  # type: ignore[arg-type]
    assert "needs more than 100 MB to unpack" in message


TIMES = [START + n * MINUTE_MS for n in range(5)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_line_ends_and_separators_change_nothing(
    read: Read,
    encoding: str,
    ending: str,
    separator: str,
) -> None:
    text = "Kurse für Aktien\n" + drifting(*TIMES).replace(",", separator)
    table = read(text.replace("\n", ending).encode(encoding))
    assert stamps(table) == TIMES
    assert table.candles.close[4] == 105.5


@pytest.mark.parametrize(
    ("cells", "hints", "expected"),
    [
        ("1.100,5;1.101,5;1.099,5;1.101,0;4.787.699", {}, (1100.5, 4_787_699)),
        ("1100,5;1101,5;1099,5;1101;4787699", {}, (1100.5, 4_787_699)),
        ('"1,100.50";"1,101.50";"1,099.50";"1,101.00";"4,787,699"', {}, (1100.5, 4_787_699)),
        ("1'100.5;1'101.5;1'099.5;1'101;4'787'699", {}, (1100.5, 4_787_699)),
        ("1 100.5;1 101.5;1 099.5;1 101;4 787 699", {}, (1100.5, 4_787_699)),
        ("$1100.5;$1101.5;$1099.5;$1101;4.787699M", {}, (1100.5, 4_787_699)),
        ("1,100;1,101;1,099;1,101;7", {"decimal": ","}, (1.1, 7)),
        ("1,100;1,101;1,099;1,101;7", {"decimal": "."}, (1100, 7)),
        ("110050;110150;109950;110100;7", {"scale": 0.01}, (1100.5, 7)),
    ],
)
def test_numbers_are_read_in_every_style(
    read: Read,
    cells: str,
    hints: dict[str, object],
    expected: tuple[float, float],
) -> None:
    text = HEADER.replace(",", ";") + "".join(f"\n{time};{cells}" for time in TIMES) + "\n"
    table = read(text, hints=Hints(**hints))  # type: ignore[arg-type]
    assert (table.candles.open[0], table.candles.volume[0]) == expected


def test_a_comma_that_may_be_either_is_asked_for(read: Read) -> None:
    text = HEADER.replace(",", ";") + "".join(f"\n{time};1,100;1,101;1,099;1,101;7" for time in TIMES) + "\n"
    assert "--decimal , or --decimal ." in refusal(read, text)


def test_remarks_repeated_headers_and_footers_are_left_out_and_that_is_said(read: Read) -> None:
    lines = drifting(*TIMES).splitlines()
    text = "\n".join(
        [
            "# made by hand",
            "",
            *lines,
            lines[0],
            "# a remark",
            f"{START + 5 * MINUTE_MS},1,3,0.5,2,9",
            "Total: 6 rows",
            "End",
            "",
        ]
    )
    table = read(text)
    assert len(table.candles) == 6
    assert "Left out: 1 repeated header lines." in table.facts
    assert any(fact.startswith("Left out: 2 lines of words behind the last row (from line 12)") for fact in table.facts)
    assert "it has fewer than 6 fields: 'Total: 6 rows'" in refusal(
        read, text + f"{START + 6 * MINUTE_MS},1,3,0.5,2,9\n"
    )


WRITTEN = {
    "%d/%m/%Y": None, "%m/%d/%Y": None, "%d-%m-%Y": None, "%d.%m.%Y": None, "%d-%b-%Y": None, "%b %d, %Y": None,
    "%d %B %Y": None, "%m/%d/%y": None, "%a %b %d, %Y": None, "%Y%m%d%H%M%S": None, "%Y%m%d%H%M": None,
    "%d.%m.%Y %H:%M:%S": None, "%m/%d/%Y %I:%M:%S %p": None, "%Y-%m-%d %I-%p": None, "%d/%m/%Y %H:%M": None,
    "%Y%m%d %H:%M:%S US/Eastern": "US/Eastern", "%Y-%m-%d %H:%M:%S EST": "EST", "%d.%m.%Y %H:%M:%S.000 GMT+0100": "Etc/GMT-1",
}  # fmt: skip


@pytest.mark.parametrize("pattern", WRITTEN)
def test_spellings_of_dates_are_understood(read: Read, pattern: str) -> None:
    is_day = not any(code in pattern for code in ("%H", "%I"))
    local = zone(WRITTEN[pattern]) if WRITTEN[pattern] and WRITTEN[pattern] != "Etc/GMT-1" else UTC
    step = timedelta(days=1) if is_day else timedelta(hours=1)
    walls = [datetime(2024, 1, 15, 0 if is_day else 9, tzinfo=TZ) + n * step for n in range(5)]
    expected = local.instants(
        np.array([int((w - datetime(1970, 1, 1, tzinfo=TZ)).total_seconds() * 1000) for w in walls])
    )[0]
    table = read(drifting(*(f'"{wall.strftime(pattern)}"' for wall in walls)))
    shift = HOUR_MS if "GMT+0100" in pattern else 0
    assert stamps(table) == (expected - shift).tolist()


def test_a_date_whose_day_may_be_the_month_is_asked_for(read: Read) -> None:
    text = drifting(*(f"0{n}/02/2024" for n in range(1, 6)))
    assert "--date-format %d/%m/%Y or --date-format %m/%d/%Y" in refusal(read, text)
    days = read(text, hints=Hints(date_format="%d/%m/%Y"))
    assert (str(days.timeframe), stamps(days)[0]) == ("1d", at("2024-02-01T00:00Z"))
    months = read(text.replace("/02/", "/01/"), hints=Hints(date_format="%m/%d/%Y"))
    assert (str(months.timeframe), stamps(months)[1]) == ("1mon", at("2024-02-01T00:00Z"))
    assert "which is no time of --date-format '%d %m'" in refusal(read, text, hints=Hints(date_format="%d %m"))


def test_a_date_that_is_not_understood_lists_what_is(read: Read) -> None:
    message = refusal(read, drifting(*TIMES[:3], "the fourth"))
    assert message.startswith("prices.csv:5: 'timestamp' has 'the fourth'")
    assert "31-Jan-2024" in message.splitlines()[-1]
    assert len(message.splitlines()) <= 10


def test_columns_may_be_named_and_numbered(read: Read) -> None:
    named = drifting(*TIMES, header="when,first,top,bottom,final,traded")
    chosen = {"time": "when", "open": "first", "high": "top", "low": "bottom", "close": "final", "volume": "6"}
    assert read(named, hints=Hints(columns=chosen)).candles.volume[0] == 5000
    assert read(named, hints=Hints(columns=chosen | {"volume": ""})).has_volume is False
    numbers = {"time": "1", "open": "5", "high": "3", "low": "4", "close": "2"}
    found = read(drifting(*TIMES, header="", order="chlov"), hints=Hints(columns=numbers))
    assert (found.candles.open[0], found.has_volume) == (100.5, False)
    missing = {"time": "nothing"}
    assert "--columns time=nothing: there is no such column" in refusal(
        read, drifting(*TIMES), hints=Hints(columns=missing)
    )


def test_bad_rows_are_left_out_up_to_a_number_and_each_is_printed(read: Read) -> None:
    lines = drifting(*(START + n * MINUTE_MS for n in range(9))).splitlines()
    lines[3] = f"{START + 2 * MINUTE_MS},1,3,9,2,10"
    lines[5] = f"{START + 4 * MINUTE_MS},x,3,0.5,2,10"
    text = "\n".join([*lines, ""])
    assert "--skip-bad-rows 2 leaves them out" in refusal(read, text)
    assert "--skip-bad-rows 2 leaves them out" in refusal(read, text, hints=Hints(bad_rows=1))
    table = read(text, hints=Hints(bad_rows=2))
    assert (len(table.candles), table.rows) == (7, 7)
    left_out = [fact for fact in table.facts if fact.startswith("Left out by --skip-bad-rows")]
    assert [fact.split(": ")[1] for fact in left_out] == ["prices.csv:4", "prices.csv:6"]


def test_rows_before_an_instant_are_not_read(read: Read) -> None:
    text = drifting(*TIMES).replace(f"{START},100.5,103.5", f"{START},100.5,1")
    assert stamps(read(text, hints=Hints(since=START + MINUTE_MS))) == TIMES[1:]


FRIDAYS = [date(2024, 1, 5) + timedelta(weeks=n) for n in range(6)]
MONTH_ENDS = ["2024-01-31", "2024-02-29", "2024-03-29", "2024-04-30", "2024-05-31", "2024-06-28"]
WEEKDAYS = [day for n in range(16) if (day := date(2024, 1, 2) + timedelta(days=n)).weekday() < 5]


@pytest.mark.parametrize(
    ("times", "zone_name", "first", "timeframe"),
    [
        (FRIDAYS, "UTC", "2024-01-01T00:00Z", "1w"),
        ([*FRIDAYS[:3], date(2024, 1, 25), *FRIDAYS[4:]], "UTC", "2024-01-01T00:00Z", "1w"),
        (MONTH_ENDS, "UTC", "2024-01-01T00:00Z", "1mon"),
        (["2022-12-31", "2023-12-31", "2024-12-31"], "UTC", "2022-01-01T00:00Z", "1y"),
        ([f"{day}T14:30:00Z" for day in WEEKDAYS], "UTC", "2024-01-02T00:00Z", "1d"),
        ([f"{day} 16:00" for day in WEEKDAYS], "America/New_York", "2024-01-02T05:00Z", "1d"),
        ([f"{date(2024, 1, 2) + timedelta(days=n)} 23:59:59" for n in range(9)], "UTC", "2024-01-02T00:00Z", "1d"),
        ([START + n * MINUTE_MS + 59_999 for n in range(9)], "UTC", "2024-01-01T00:00Z", "1m"),
    ],
    ids=[
        "fridays",
        "a holiday",
        "months",
        "years",
        "the opening bell",
        "the closing bell",
        "the last second",
        "the last ms",
    ],
)
def test_stamps_that_name_the_same_span_are_renamed_with_a_word(
    read: Read,
    times: Sequence[object],
    zone_name: str,
    first: str,
    timeframe: str,
) -> None:
    table = read(drifting(*times), None, zone(zone_name))
    assert (str(table.timeframe), stamps(table)[0], len(table.candles)) == (timeframe, at(first), len(times))
    assert any("Renamed to" in fact for fact in table.facts)


SUNDAYS = [date(2024, 1, 7) + timedelta(weeks=n) for n in range(6)]


def test_weeks_on_a_sunday_need_the_option(read: Read) -> None:
    text = drifting(*SUNDAYS)
    assert "--stamps close" in refusal(read, text)
    assert stamps(read(text, hints=Hints(stamps="close")))[0] == at("2024-01-01T00:00Z")
    assert "do not open 1w buckets" in refusal(read, text, hints=Hints(stamps="open"))


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([START + n * HOUR_MS + 30 * MINUTE_MS for n in range(9)], ("open at :30", "import a finer file")),
        ([START + n * HOUR_MS + 15 * MINUTE_MS for n in range(9)], ("open at :15", "import a finer file")),
        ([f"2024-01-0{1 + n // 6} {2 + n % 6 * 4:02}:00" for n in range(12)], ("--clock", "import a finer file")),
        ([f"2024-01-{n:02}T14:30:00Z" for n in range(1, 20)], ("--timezone", "import a finer file")),
        (
            [
                f"{day}T22:00:00Z"
                for n in range(16)
                if (day := date(2024, 1, 7) + timedelta(days=n)).weekday() not in {4, 5}
            ],
            ("--timezone", "finer file"),
        ),
    ],
    ids=["half hours", "quarters", "a broker's 4h", "days that never close", "days of currencies"],
)
def test_candles_of_another_span_are_never_moved(read: Read, times: Sequence[object], words: Sequence[str]) -> None:
    message = refusal(read, drifting(*times))
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1


def _session(first: str, last: str, days: int = 4) -> list[int]:
    found: list[int] = []
    for n in range(days):
        day = f"2024-01-{8 + n:02}T"
        found += range(at(f"{day}{first}Z"), at(f"{day}{last}Z") + 1, MINUTE_MS)
    return found


def test_sessions_prove_that_stamps_name_ends_or_openings(read: Read) -> None:
    ends = read(drifting(*_session("14:31", "21:00")))
    assert stamps(ends)[0] == at("2024-01-08T14:30Z")
    assert any("sessions begin one step after the bell" in fact for fact in ends.facts)
    opens = read(drifting(*_session("14:30", "20:59")))
    assert stamps(opens)[0] == at("2024-01-08T14:30Z")
    assert not any("Renamed" in fact for fact in opens.facts)
    kept = read(drifting(*_session("14:31", "21:00")), hints=Hints(stamps="open"))
    assert stamps(kept)[0] == at("2024-01-08T14:31Z")
    moved = read(drifting(*TIMES), hints=Hints(stamps="close"))
    assert stamps(moved)[0] == START - MINUTE_MS


def test_a_file_of_ninjatrader_is_decided_by_its_sessions_or_by_the_option(read: Read) -> None:
    def text(times: Sequence[int]) -> str:
        spelled = [
            str(np.datetime64(time, "ms").astype("datetime64[s]")).translate({45: None, 58: None}).replace("T", " ")
            for time in times
        ]
        return drifting(*spelled, header="", separator=";")

    assert "--stamps close if" in refusal(read, text(TIMES))
    assert stamps(read(text(TIMES), hints=Hints(stamps="close")))[0] == START - MINUTE_MS
    assert stamps(read(text(_session("14:31", "21:00"))))[0] == at("2024-01-08T14:30Z")


@pytest.mark.parametrize("column", ["Volume MA", "vol_change_pct", "Volume USD", "quote_volume", "VWAP", "volume_sma"])
def test_what_is_no_volume_is_never_taken_for_one(read: Read, column: str) -> None:
    table = read(drifting(*TIMES, header=HEADER.replace("volume", column)))
    assert table.has_volume is False
    assert not table.candles.volume.any()
    assert read(drifting(*TIMES, header=HEADER + f",{column}", order="ohlcvw")).candles.volume[0] == 5000


@pytest.mark.parametrize("cell", ["-", "", "-1", "null", "N/A"])
def test_a_volume_that_no_row_has_is_unknown(read: Read, cell: str) -> None:
    text = HEADER + "".join(f"\n{time},1,3,0.5,2,{cell}" for time in TIMES) + "\n"
    table = read(text)
    assert (table.has_volume, table.candles.volume.tolist()) == (False, [0] * 5)
    assert any(fact.startswith("Volume: unknown") for fact in table.facts)
    assert "volume" in refusal(read, text.replace(f"2,{cell}\n", "2,7\n", 1)) if cell != "-1" else True


@pytest.mark.parametrize(("moved", "known"), [(True, False), (False, True)], ids=["prices moved", "no price moved"])
def test_zeros_are_no_volume_where_prices_moved(read: Read, moved: bool, known: bool) -> None:
    cells = "1,3,0.5,2,0" if moved else "2,2,2,2,0"
    assert read(HEADER + "".join(f"\n{time},{cells}" for time in TIMES) + "\n").has_volume is known


def test_tick_volume_is_used_only_where_the_volume_is_zero_throughout(read: Read) -> None:
    head = "time,open,high,low,close,tick_volume,volume"
    for volume, expected in ((0, 77), (5, 5)):
        text = head + "".join(f"\n{time},1,3,0.5,2,77,{volume * (time == TIMES[0])}" for time in TIMES) + "\n"
        assert read(text).candles.volume[0] == expected


@pytest.mark.parametrize(
    ("order", "volume"),
    [
        ("ohlcv", 5000),
        ("chlov", 5000),
        ("ochlv", 5000),
        ("lhocv", 5000),
        ("ohlcwv", 5000),
        ("ohlcw", None),
        ("ohlc", None),
    ],
)
@pytest.mark.parametrize("falls", [False, True])
def test_the_order_of_columns_without_names_is_proved(
    read: Read,
    order: str,
    volume: float | None,
    falls: bool,
) -> None:
    times = [date(2024, 1, 1) + timedelta(days=n) for n in range(12)]
    lines = drifting(*times, header="", order=order).splitlines()
    table = read("\n".join([*(lines[::-1] if falls else lines), ""]))
    first = next(iter(table.candles))
    assert (first.open, first.high, first.low, first.close) == (100.5, 103.5, 99.5, 101.5)
    assert (table.has_volume, first.volume) == (volume is not None, volume or 0)
    assert any(fact.startswith("No header: high and low bound the others") for fact in table.facts)


def test_an_order_that_is_not_proved_is_asked_for(read: Read) -> None:
    text = "".join(f"2024-01-0{n},100,101.5,99.5,101,10\n" for n in range(1, 6))
    message = refusal(read, text)
    assert "the columns 2 and 5 is the open" in message
    assert "--columns time=1,open=2,high=3,low=4,close=5,volume=6" in message
    unbounded = "".join(f"2024-01-0{n},1,9,5,2,7\n2024-02-0{n},9,1,5,2,7\n" for n in range(1, 6))
    assert "no four of its columns can be open, high, low and close" in refusal(read, unbounded)


def test_of_several_tickers_one_is_taken_by_name(read: Read) -> None:
    head = (
        "Price,Close,Close,High,High,Low,Low,Open,Open,Volume,Volume\nTicker"
        + ",AAPL,MSFT" * 5
        + "\nDate"
        + "," * 10
        + "\n"
    )
    text = head + "".join(f"2024-01-0{n},2,20,3,30,0.5,5,1,10,7,70\n" for n in range(1, 6))
    assert "'AAPL', 'MSFT': take one of them with --only" in refusal(read, text)
    assert read(text, hints=Hints(symbol="MSFT")).candles.high[0] == 30


def test_a_high_a_float_step_below_the_close_is_raised_and_no_more(read: Read) -> None:
    high, close = 186.86000061035156, 186.86000061035159
    text = drifting(*TIMES[:3]) + f"{TIMES[3]},186,{high!r},185,{close!r},9\n"
    table = read(text)
    assert table.candles.high[3] == close
    assert "High: raised by a float step in 1 rows." in table.facts
    assert "high is below open or close" in refusal(read, text.replace(repr(high), "186.8600006"))


def test_a_bad_row_at_the_end_is_no_footer(read: Read) -> None:
    assert refusal(read, rows(*TIMES) + f"{TIMES[-1] + MINUTE_MS},1,x,0.5,2,10\n").startswith("prices.csv:7: ")
    assert refusal(read, rows(*TIMES) + f"{TIMES[-1] + MINUTE_MS},1\n").startswith("prices.csv:7: ")


def test_each_block_may_spell_its_times_otherwise(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_BLOCK_BYTES", 200)
    monkeypatch.setattr(texts, "_HEAD_BYTES", 200)
    times = [START + n * MINUTE_MS for n in range(60)]
    written = [f"{np.datetime64(time, 'ms')}Z" for time in times]
    mixed = [*written[:20], *(text.replace("T", " ") for text in written[20:40]), *written[40:]]
    assert stamps(read(rows(*written))) == stamps(read(rows(*mixed))) == times
    bad = refusal(read, rows(*written[:50], "2024-13-01T00:50:00.000Z", *written[51:]))
    assert bad.startswith("prices.csv:52: 'timestamp' has '2024-13-01T00:50:00.000Z'")
