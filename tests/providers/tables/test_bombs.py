"""A small file that unpacks to gigabytes is refused in a sentence, before it is in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from candlegraph import InvalidCandles
from providers.tables import size
from providers.tables.hints import Hints
from providers.tables.reader import read_table
from tests.providers.tables.test_tables import HEADER, MEMORY, MINUTE_MS, ROOT, START, rows

NAMES = HEADER.split(",")
RECORD = b'{"t":1704067200000,"o":1,"h":3,"l":0.5,"c":2},'


def _write_rows(path: Path) -> None:
    pl.DataFrame({name: np.ones(2_400_000) for name in NAMES}).write_ipc(path, compression="zstd")


def _write_texts(path: Path) -> None:
    """Times of 100 kB each: a column of two gigabytes in one batch."""
    one = pl.DataFrame({NAMES[0]: ["7" * 100_000] * 2_000, **{name: [1.0] * 2_000 for name in NAMES[1:]}})
    one.write_ipc(path, compression="zstd", compat_level=pl.CompatLevel.oldest())


def _write_other(path: Path) -> None:
    """A column that nothing needs."""
    one = pl.DataFrame({**{name: [1.0] * 2_000 for name in NAMES}, "note": ["7" * 100_000] * 2_000})
    one.write_ipc(path, compression="lz4")


BOMBS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "Arrow rows": ("a.arrow", _write_rows, "unpacks to more than 50 times its size"),
    "Arrow texts": ("a.feather", _write_texts, "unpacks to more than 50 times its size"),
    "Arrow texts of another column": ("a.feather", _write_other, "unpacks to more than 50 times its size"),
    "JSON of empty records": (
        "a.json",
        lambda path: path.write_bytes(b"[" + b"{}," * 4_000_000),
        "JSON without an array of candles",
    ),
    "JSON of records that end": (
        "a.json",
        lambda path: path.write_bytes(b"[" + RECORD + b"{}," * 4_000_000),
        "time that is not understood",
    ),
    "JSON of many names": (
        "a.json",
        lambda path: path.write_bytes(b"[" + b",".join(b'{"k%d":1}' % n for n in range(300_000)) + b"]"),
        "no column for time",
    ),
    "JSON of deep records": ("a.json", lambda path: path.write_bytes(b"[" + b'{"a":' * 1_000_000), "nested deeper"),
    "JSON of one long record": (
        "a.json",
        lambda path: path.write_bytes(b"[" + RECORD + b'{"t":"' + b"7" * 9_000_000),
        "damaged, or longer than any candle",
    ),
}


@pytest.mark.parametrize(("name", "write", "reason"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_of_arrow_or_json_is_refused_in_little_memory(
    tmp_path: Path, name: str, write: Callable[[Path], object], reason: str
) -> None:
    small, bomb = tmp_path / f"small{Path(name).suffix}", tmp_path / name
    frame = pl.read_csv(rows(START, START + MINUTE_MS).encode())
    frame.write_json(small) if name.endswith("json") else frame.write_ipc(small)
    write(bomb)
    command = [sys.executable, "-c", MEMORY, str(small), str(bomb)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    assert 2 <= len(output) <= 11, output
    assert reason in output[0]
    assert int(output[-1]) < 100, output


def test_a_damaged_arrow_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    pl.read_csv(rows(START, START + MINUTE_MS).encode()).write_ipc(path, compression="lz4")
    whole = path.read_bytes()
    for broken in (whole[:-30], whole[:200] + whole[-10:], whole[:-10] + b"\xff\xff\xff\x7fARROW1", b"ARROW1" * 3):
        path.write_bytes(broken)
        with pytest.raises(InvalidCandles, match="Arrow file that can be read"):
            read_table(path)


def test_rows_of_other_symbols_are_not_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size, "MAX_ROWS", 5)
    every = [(START + n * MINUTE_MS, 1.0, 3.0, 0.5, 2.0, 10.0, symbol) for n in range(4) for symbol in ("A", "B")]
    frame = pl.DataFrame(every, schema=[*NAMES, "symbol"], orient="row")
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_csv(tmp_path / "a.csv")
    for name in ("a.parquet", "a.csv"):
        assert len(read_table(tmp_path / name, hints=Hints(symbol="B")).candles) == 4
        with pytest.raises(
            InvalidCandles, match="more than 5 rows: split it into several files, or take one of its symbols"
        ):
            read_table(tmp_path / name)
