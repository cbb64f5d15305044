"""What an import covers and what it says: runs of rows, rows that are not over, minutes without a trade."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from candlegraph import Instrument, Series, Timeframe, clock
from candlegraph.answer import Answer, CandleRequest
from candlegraph.errors import BadUserInput, InvalidCandles
from server.cli.import_options import ImportOptions
from server.cli.importing import import_candles
from server.settings import Settings
from server.wiring import open_runtime
from storage.relations import ALL_AGGREGATES
from tests.fakes.clocks import set_clock
from tests.server.cli.test_cli import Command, cli  # noqa: F401 - a fixture
from tests.server.cli.test_importing import NAME, minutes, refused
from tests.server.running import run, serving

HEADER = "timestamp,open,high,low,close,volume\n"
LAB, ALPACA, BINANCE = ("lab", "bench"), ("stocks", "bench"), ("crypto", "binance")
FIVE = Timeframe(5, "m")
MINUTE_MS, DAY_MS = 60_000, 86_400_000


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


class Desk:
    """Imports into a database of its own, and what is known afterwards."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.settings = Settings.read(db_connection_string=SecretStr(dsn), redis_url=None)
        self.dsn, self.folder, self.files = dsn, folder, 0

    def write(self, rows: Iterable[str]) -> Path:
        self.files += 1
        path = self.folder / f"file{self.files}.csv"
        path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
        return path

    async def take(self, symbol: str, rows: Iterable[str], pair: tuple[str, str] = LAB, **options: object) -> list[str]:
        """Import rows; the lines it says."""
        said = await import_candles(self.settings, self.write(rows), (*pair, symbol), ImportOptions(**options))  # type: ignore[arg-type]
        return said.splitlines()

    async def covered(self, symbol: str) -> list[tuple[int, int]]:
        return [
            (round(span.lower.timestamp() * 1000), round(span.upper.timestamp() * 1000))
            for row in await self._fetch("covered from coverage c join instruments i on i.id = c.instrument_id", symbol)
            for span in row["covered"]
        ]

    async def rows(self, symbol: str) -> int:
        return len(await self._fetch("1 from ohlcv_data c join instruments i on i.id = c.instrument_id", symbol))

    async def _fetch(self, what: str, symbol: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(f"select {what} where symbol = $1", symbol))
        finally:
            await connection.close()

    async def answer(self, symbol: str, timeframe: str, since: str, until: str) -> Answer:
        async with open_runtime(self.settings) as running:
            series = Series(Instrument(*LAB, symbol), Timeframe.parse(timeframe))
            (answer,) = await running.services.history.answer([CandleRequest(series, 5000, at(since), at(until))])
        assert not isinstance(answer, BaseException)
        return answer


@pytest.fixture
async def desk(database_dsn: str, tmp_path: Path) -> Desk:
    return Desk(database_dsn, tmp_path)


def row(stamp: object, *, volume: float = 1) -> str:
    return f"{stamp},100,101.5,99.5,101,{volume}"


def filler(stamp: object) -> str:
    return f"{stamp},90,90,90,90,0"


def days(since: str, until: str, *holidays: str) -> list[str]:
    first, last = date.fromisoformat(since), date.fromisoformat(until)
    every = (first + timedelta(days=n) for n in range((last - first).days))
    return [row(day) for day in every if day.weekday() < 5 and str(day) not in holidays]


def each(since: str, count: int, step: int = MINUTE_MS) -> list[str]:
    return [row(at(since) + n * step) for n in range(count)]


HOLE = [*each("2024-01-31T23:50Z", 5), *each("2024-04-01T00:00Z", 5)]


async def test_a_hole_of_two_months_is_not_covered_without_an_option(desk: Desk) -> None:
    said = await desk.take("HOLE", HOLE)
    runs = [
        (at("2024-01-31T23:50Z"), at("2024-01-31T23:55Z")),
        (at("2024-04-01T00:00Z"), at("2024-04-01T00:05Z")),
    ]
    assert await desk.covered("HOLE") == runs
    assert any("1 longer than 3d is not covered" in line for line in said)
    assert not (await desk.answer("HOLE", "1d", "2024-02-01T00:00Z", "2024-03-01T00:00Z")).complete
    await desk.take("WHOLE", HOLE, covers=True)
    assert await desk.covered("WHOLE") == [(runs[0][0], runs[1][1])]
    await desk.take(
        "EACH", [row(at("2024-04-01T00:00Z") + n * 2 * MINUTE_MS) for n in range(3)], timeframe="1m", sparse=True
    )
    assert [until - since for since, until in await desk.covered("EACH")] == [MINUTE_MS] * 3
    with pytest.raises(BadUserInput, match="--covers and --sparse exclude each other"):
        await desk.take("NONE", HOLE, covers=True, sparse=True)


DECEMBER = days("2023-12-04", "2023-12-30", "2023-12-25")
JANUARY = days("2024-01-02", "2024-01-27", "2024-01-15")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "in reverse"])
async def test_files_of_a_month_each_give_what_one_file_gives(desk: Desk, order: tuple[int, ...]) -> None:
    await desk.take("ONE", DECEMBER + JANUARY, timezone="America/New_York")
    for month in order:
        said = await desk.take("TWO", (DECEMBER, JANUARY)[month], timezone="America/New_York")
    assert "This joins the imported candles beside it." in said[-2]
    assert await desk.covered("TWO") == await desk.covered("ONE")
    for timeframe in ("1w", "1mon"):
        one, two = [await desk.answer(s, timeframe, "2023-12-01T05:00Z", "2024-02-01T05:00Z") for s in ("ONE", "TWO")]
        assert two.candles.same_as(one.candles)
    weeks = await desk.answer("TWO", "1w", "2023-12-04T05:00Z", "2024-01-22T05:00Z")
    assert (weeks.complete, len(weeks.candles)) == (True, 7)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1)])
async def test_minutes_without_a_row_at_the_end_of_a_month_cost_no_hour(desk: Desk, order: tuple[int, ...]) -> None:
    months = [
        each("2024-01-31T20:00Z", 221),
        [*each("2024-02-01T00:03Z", 100), *each("2024-02-29T22:00Z", 100)],
        each("2024-03-01T00:04Z", 100),
    ]
    for month in order:
        await desk.take("MONTHS", months[month], covers=month == 1)
    (span,) = await desk.covered("MONTHS")
    assert span == (at("2024-01-31T20:00Z"), at("2024-03-01T01:44Z"))
    hours = await desk.answer("MONTHS", "1h", "2024-01-31T23:00Z", "2024-02-01T01:00Z")
    assert (hours.complete, len(hours.candles)) == (True, 2)


async def test_the_usual_holes_of_the_files_beside_it_count_for_a_file_of_one_week(desk: Desk) -> None:
    """Minutes of New York's sessions: the long weekend before the last week is one of a kind with the others only together."""

    def sessions(first: str) -> list[str]:
        opening = at(f"{first}T14:30Z")
        return [row(opening + day * DAY_MS + n * MINUTE_MS) for day in range(5) for n in range(390)]

    weeks = [sessions(day) for day in ("2024-01-01", "2024-01-08", "2024-01-15", "2024-01-22", "2024-01-30")]
    for week in weeks[:4]:
        await desk.take("WEEKS", week)
    assert len(await desk.covered("WEEKS")) == 1
    await desk.take("WEEKS", weeks[4])
    assert len(await desk.covered("WEEKS")) == 1
    await desk.take("LAST", weeks[3])
    await desk.take("LAST", weeks[4])
    assert len(await desk.covered("LAST")) == 2


async def test_a_file_is_not_joined_over_what_a_provider_brought(desk: Desk) -> None:
    await desk.take("MIXED", each("2024-01-01T00:00Z", 10))
    connection = await asyncpg.connect(desk.dsn)
    await connection.execute("update ohlcv_data set source = 'a' where \"timestamp\" = '2024-01-01T00:09Z'")
    await connection.close()
    await desk.take("MIXED", each("2024-01-01T00:20Z", 10))
    assert len(await desk.covered("MIXED")) == 2


async def test_a_row_that_is_not_over_is_left_out_and_the_one_before_it_is_covered(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, lambda: at("2024-05-01T00:12:01Z"))
    quiet = [r for r in each("2024-05-01T00:00Z", 13) if not r.startswith(str(at("2024-05-01T00:11Z")))]
    said = await desk.take("NOW", quiet)
    assert "Left out: 1 not over yet." in said
    assert await desk.rows("NOW") == 11
    assert await desk.covered("NOW") == [(at("2024-05-01T00:00Z"), at("2024-05-01T00:12Z"))]
    await desk.take("CUT", quiet[:-1], drop_last=True)
    assert await desk.covered("CUT") == [(at("2024-05-01T00:00Z"), at("2024-05-01T00:10Z"))]


async def test_rows_of_the_future_refuse_a_file_unless_left_out(desk: Desk) -> None:
    rows = [*each("2024-03-04T15:00Z", 5), row(at("2204-03-04T15:05Z"))]
    with pytest.raises(InvalidCandles, match=r"1 of its rows open later than now .* 2204-03-04T15:05:00Z.*--until now"):
        await desk.take("TYPO", rows)
    with pytest.raises(InvalidCandles, match="later than now"):
        await desk.take("TYPO", rows, until=at("2250-01-01T00:00Z"))
    assert await desk.rows("TYPO") == 0
    said = await desk.take("TYPO", rows, until=clock.now_ms())
    assert "Left out: 1 from --until on." in said
    assert await desk.covered("TYPO") == [(at("2024-03-04T15:00Z"), at("2024-03-04T15:05Z"))]
    await desk.take("PART", each("2024-03-04T15:00Z", 5), until=at("2024-03-04T15:03Z"))
    assert await desk.covered("PART") == [(at("2024-03-04T15:00Z"), at("2024-03-04T15:03Z"))]
    with pytest.raises(InvalidCandles, match=r"no row is left to import\. Left out: 5 from --until on"):
        await desk.take("PART", each("2024-03-04T15:00Z", 5), until=0)


# A bucket of 5m that begins with a minute without a trade, and a last minute that was cut behind a quiet one.
FAULTS = [
    filler(at("2024-05-01T00:00Z")),
    *each("2024-05-01T00:01Z", 8),
    row(at("2024-05-01T00:10Z")),
]


@pytest.mark.parametrize(
    ("pair", "keep", "kept"),
    [(BINANCE, False, 8), (BINANCE, True, 9), (LAB, False, 9)],
    ids=["as its provider does", "kept", "no provider"],
)
async def test_minutes_without_a_trade_are_dropped_where_the_provider_drops_them(
    desk: Desk, pair: tuple[str, str], keep: bool, kept: int
) -> None:
    said = await desk.take("F/USDT", FAULTS, pair, drop_last=True, keep_fillers=keep)
    assert await desk.rows("F/USDT") == kept
    assert any("1 without a trade" in line for line in said) is (kept == 8)
    # The minute 00:09 has no row, and the last row, which is dropped, proves that it has no trade.
    assert await desk.covered("F/USDT") == [(at("2024-05-01T00:00Z"), at("2024-05-01T00:10Z"))]
    connection = await asyncpg.connect(desk.dsn)
    (first, second) = await connection.fetch(
        f"select open, low, volume from {ALL_AGGREGATES[FIVE]} order by bucketed_time"
    )
    await connection.close()
    assert tuple(first) == ((100, 99.5, 4) if kept == 8 else (90, 90, 4))
    assert tuple(second) == (100, 99.5, 4)


async def test_nothing_is_dropped_of_a_file_without_any_volume(desk: Desk) -> None:
    flat = [filler(at("2024-05-01T00:00Z") + n * MINUTE_MS) for n in range(5)]
    await desk.take("FX/USDT", flat, BINANCE)
    assert await desk.rows("FX/USDT") == 5


NAIVE = [row(f"2024-03-04 15:0{n}:00") for n in range(6)]


async def test_naive_times_are_utc_whatever_the_zone_of_the_symbol(desk: Desk) -> None:
    said = await desk.take("NAIVE", NAIVE, ALPACA)
    assert await desk.covered("NAIVE") == [(at("2024-03-04T15:00Z"), at("2024-03-04T15:06Z"))]
    assert said[1:4] == [
        "Times: without an offset, read as UTC.",
        "Rows: 6 of 1m, from 2024-03-04T15:00:00Z to 2024-03-04T15:05:00Z.",
        "Time zone of NAIVE: America/New_York.",
    ]
    await desk.take("NAIVE", days("2024-03-04", "2024-03-09"), ALPACA)
    assert (at("2024-03-04T05:00Z"), at("2024-03-09T05:00Z")) in await desk.covered("NAIVE")
    for zone, moved in (("America/New_York", 5), ("-05:00", 5), ("+0530", -5.5), ("EST", 5)):
        await desk.take(zone, NAIVE, ALPACA, clock=zone)
        assert (await desk.covered(zone))[0][0] == at("2024-03-04T15:00Z") + moved * 3_600_000
    with pytest.raises(BadUserInput, match="has the time zone America/New_York already, not UTC: --clock"):
        await desk.take("NAIVE", NAIVE, ALPACA, timezone="UTC")
    with pytest.raises(BadUserInput, match="Unknown time zone"):
        await desk.take("NAIVE", NAIVE, ALPACA, clock="+25")


async def test_a_file_written_before_its_last_candle_was_over_is_pointed_out(desk: Desk) -> None:
    said = await desk.take("LATE", days("2024-03-04", "2024-03-09"))
    assert not any("was written" in line for line in said)
    path = desk.write(each("2024-03-04T15:00Z", 5))

    os.utime(path, times=(at("2024-03-04T15:04:30Z") / 1000,) * 2)
    said = (await import_candles(desk.settings, path, (*LAB, "LATE2"))).splitlines()
    assert "The file was written at 2024-03-04T15:04:30Z, before its last candle was over" in said[-2]


FILES = {
    "a year in the future": ([*each("2024-03-04T15:00Z", 5), row("2204-03-04 15:05")], (), "--until now"),
    "a second hour alone": (
        [row(f"2024-11-03 0{hour}:{minute}:00") for hour in range(3) for minute in ("00", "30")],
        ("--clock", "America/New_York"),
        "happens twice",
    ),
    "hours named minutes": (each("2024-01-02T00:00Z", 6, 3_600_000), ("--timeframe", "1m"), "--sparse"),
    "two timeframes": (
        [*each("2024-01-02T00:00Z", 6, DAY_MS), *each("2024-01-08T01:00Z", 20, 3_600_000)],
        (),
        "it holds two timeframes",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_refusal_names_the_option_that_decides_and_says_what_is_known(
    cli: Command,  # noqa: F811
    tmp_path: Path,
    case: str,
) -> None:
    rows, options, word = FILES[case]
    file = tmp_path / "a.csv"
    file.write_text(HEADER + "\n".join(rows) + "\n")
    if case == "a year in the future":
        file.write_text(file.read_text().replace("2204-03-04 15:05", str(at("2204-03-04T15:05Z"))))
    known = refused(cli("import", str(file), *NAME, "NO", *options), word)
    assert any(line.startswith("Columns: time 'timestamp', open 'open'") for line in known)
    assert any(line.startswith("Times: ") for line in known)
    assert known[-1] == "Time zone of NO: UTC."


def test_two_symbols_and_a_cut_line_are_refused(cli: Command, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "a.csv"
    head = "date,symbol,open,high,low,close,volume\n"
    lines = [f"2024-01-0{n},{name},1,2,1,2,5{n}" for name, n in zip("AAAABBBB", range(1, 9), strict=True)]
    file.write_text(head + "\n".join(lines) + "\n")
    refused(cli("import", str(file), *NAME, "A"), "2 symbols, 'A', 'B'", "--only")
    assert "Imported 4 candles" in cli("import", str(file), *NAME, "A", "--only", "A").stdout
    file.write_text(head + "\n".join(lines[:3]) + "\n2024-01-04,A,1,2,1,2,5")
    refused(cli("import", str(file), *NAME, "A"), "a.csv:5", "--drop-last")


async def test_a_dry_run_says_all_and_stores_nothing_also_while_the_server_runs(tmp_path: Path) -> None:
    file, data = minutes(tmp_path / "m.csv", 50), str(tmp_path / "data")
    with serving(tmp_path / "log", DATA_DIR=data):
        result = _dry(file, data)
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        assert [line.split(":")[0] for line in lines] == [
            "Columns",
            "Times",
            "Rows",
            "Time zone of DRY",
            "Left out",
            "Holes",
            "Covered",
            "Nothing was stored, this is a dry run",
        ]
        assert lines[-1].endswith("50 candles of 1m would go into DRY (lab/bench).")
        assert "Unknown market 'lab'" in run("candles", "lab", "bench", "DRY", DATA_DIR=data).stderr


def _dry(file: Path, data: str) -> subprocess.CompletedProcess[str]:
    return run("import", str(file), *NAME, "DRY", "--dry-run", DATA_DIR=data)
