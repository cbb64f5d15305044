"""Tables that have types: Parquet, Feather and Arrow files, as frames with columns named by position."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from candlegraph.errors import InvalidCandles
from providers.tables.columns import ColumnLayout, Head, layout_of
from providers.tables.hints import Hints
from providers.tables.size import check_arrow, check_frame

if TYPE_CHECKING:
    import polars as pl

PARQUET, ARROW, FEATHER_1 = b"PAR1", b"ARROW1", b"FEA1"
_SLICE_ROWS = 500_000


def read_frame(path: Path, magic: bytes, hints: Hints) -> tuple[ColumnLayout, Iterator[pl.DataFrame]]:
    """The layout and the rows, frame by frame, of a Parquet, Feather or Arrow file. InvalidCandles, also from the rows."""
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    if magic.startswith(FEATHER_1):
        raise InvalidCandles(
            "it is a Feather file of version 1, which no longer is written: save it as Parquet or as CSV"
        )
    kind = "Parquet" if magic.startswith(PARQUET) else "Arrow"
    with _readable(kind):
        if kind == "Parquet":
            lazy = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        else:
            check_arrow(path)
            lazy = pl.scan_ipc(path, glob=False, hive_partitioning=False)
        check_frame(lazy, path.stat().st_size, keeps_all=hints.symbol is None)
        names = lazy.collect_schema().names()
        layout = layout_of(_head(names, lazy.head(1).collect(), str(path)), hints)
    return layout, _frames(lazy.select([pl.col(names[at]).alias(str(at)) for at in layout.columns]), kind)


def _frames(lazy: pl.LazyFrame, kind: str) -> Iterator[pl.DataFrame]:
    """The rows in slices, so that the file is not in memory twice; the next slice is read in a thread meanwhile."""
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    with _readable(kind), ThreadPoolExecutor(1, "tables") as thread:
        rows = int(lazy.select(pl.len()).collect().item())
        coming: Future[pl.DataFrame] | None = None
        for start in range(0, rows, _SLICE_ROWS):
            found, coming = coming, thread.submit(lazy.slice(start, _SLICE_ROWS).collect)
            if found is not None:
                yield found.result()
        if coming is not None:
            yield coming.result()


def _head(names: list[str], above: pl.DataFrame, file: str) -> Head:
    row = ["" if cell is None else str(cell) for cell in above.row(0)] if above.height else []
    return Head(tuple(names), [row] if row else [], file)


@contextmanager
def _readable(kind: str) -> Iterator[None]:
    """Turn the reader's errors into InvalidCandles."""
    import polars as pl  # noqa: PLC0415 - lazily, see reader.py

    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).splitlines()[0][:200]
    else:
        return
    raise InvalidCandles(f"it is no {kind} file that can be read: {reason}")
