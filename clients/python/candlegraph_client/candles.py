"""Candles as columns with what is known of them, and their other forms: a DataFrame, an Arrow table, numpy arrays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from candlegraph_client.errors import MissingLibrary
from candlegraph_client.notebook import EDGE_ROWS, to_html
from candlegraph_client.operations import Gap, Source
from candlegraph_client.series import Span, to_iso

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

NUMBERS = ("open", "high", "low", "close", "volume")
NAMES = ("timestamp", *NUMBERS)
METADATA_KEY = b"candlegraph"

Column = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Candles:
    """Final candles of one series, ascending and unique, with what is known of them.

    ``columns`` are equally long: ``timestamp`` int64 (ms, UTC), the others float64. Gaps and sources are ascending, their
    instants milliseconds (UTC). ``timezone`` is the zone in which days and longer buckets open.
    """

    columns: Mapping[str, Column]
    gaps: tuple[Gap, ...] = ()
    sources: tuple[Source, ...] = ()
    revision: str = "0"
    timezone: str = "UTC"
    server_id: str | None = None
    series: str = ""
    timeframe: str = ""

    @classmethod
    def of(cls, columns: Mapping[str, Any]) -> Candles:
        """Make arrays of sequences."""
        types = {"timestamp": np.int64}
        return cls({name: np.asarray(columns[name], types.get(name, np.float64)) for name in NAMES})

    def __len__(self) -> int:
        """How many there are."""
        return len(self.columns["timestamp"])

    def within(self, since: int, until: int) -> Candles:
        """Those that open in a span, with its gaps and sources."""
        first, last = np.searchsorted(self.columns["timestamp"], [since, until])
        return replace(
            self,
            columns={name: column[first:last] for name, column in self.columns.items()},
            gaps=tuple(cut(self.gaps, since, until)),
            sources=tuple(cut(self.sources, since, until)),
        )

    def patched(self, span: Span, part: Candles) -> Candles:
        """These, but in ``span`` those of ``part``."""
        before, after = self.within(-(2**62), span[0]), self.within(span[1], 2**62)
        part = part.within(*span)
        return replace(
            part,
            columns={
                name: np.concatenate([one.columns[name] for one in (before, part, after)], dtype=column.dtype)
                for name, column in part.columns.items()
            },
            gaps=(*before.gaps, *part.gaps, *after.gaps),
            sources=(*before.sources, *part.sources, *after.sources),
            revision=self.revision,
        )

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.gaps

    @property
    def attrs(self) -> dict[str, Any]:
        """What is known of them, in values that JSON has; instants are ISO 8601 in UTC."""
        spans: list[list[dict[str, Any]]] = [
            [{**one, "since": to_iso(one["since"]), "until": to_iso(one["until"])} for one in listed]
            for listed in (self.gaps, self.sources)
        ]
        return {
            "series": self.series,
            "timeframe": self.timeframe,
            "timezone": self.timezone,
            "complete": self.complete,
            "gaps": spans[0],
            "sources": spans[1],
            "revision": self.revision,
            "server_id": self.server_id,
        }

    def pandas(self) -> pd.DataFrame:
        """A pandas DataFrame: a DatetimeIndex `timestamp` in UTC and five float64 columns; its `attrs` are these."""
        pandas = library("pandas")
        opened = self.columns["timestamp"].astype("datetime64[ms]")
        index = pandas.DatetimeIndex(opened, tz="UTC", name="timestamp")
        frame = pandas.DataFrame({name: self.columns[name] for name in NUMBERS}, index=index)
        frame.attrs = self.attrs
        return cast("pd.DataFrame", frame)

    def polars(self) -> pl.DataFrame:
        """A polars DataFrame: `timestamp` as Datetime("ms", "UTC") and five Float64 columns."""
        polars = library("polars")
        frame = polars.DataFrame(dict(self.columns))
        opened = polars.col("timestamp").cast(polars.Datetime("ms")).dt.replace_time_zone("UTC")
        return cast("pl.DataFrame", frame.with_columns(opened))

    def arrow(self) -> pa.Table:
        """An Arrow table; the metadata `candlegraph` of its schema holds the attrs as JSON."""
        return arrow_table(self, self.attrs)

    def numpy(self) -> dict[str, Column]:
        """Arrays by name: `timestamp` as datetime64[ms] in UTC and five of float64."""
        opened = self.columns["timestamp"].astype("datetime64[ms]")
        return {"timestamp": opened} | {name: self.columns[name] for name in NUMBERS}

    def __repr__(self) -> str:
        """The series, how many candles, and whether they are complete."""
        state = "complete" if self.complete else f"incomplete, gaps: {len(self.gaps):,}"
        return f"<Candles {self.series} {self.timeframe}: {len(self):,}, {state}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        at = sorted({*range(len(self))[: EDGE_ROWS + 1], *range(len(self))[-EDGE_ROWS:]})
        rows = [
            [to_iso(int(self.columns["timestamp"][i])), *(repr(float(self.columns[name][i])) for name in NUMBERS)]
            for i in at
        ]
        return to_html(self.attrs, len(self), NAMES, rows)


def cut(spans: Iterable[Any], since: int, until: int) -> Iterable[Any]:
    """The parts of gaps or sources that lie in a span."""
    for one in spans:
        first, last = max(one["since"], since), min(one["until"], until)
        if first < last:
            yield {**one, "since": first, "until": last}


def library(name: str) -> Any:
    """Import the library of an extra. MissingLibrary."""
    try:
        return import_module(name)
    except ImportError:
        raise MissingLibrary(
            f"{name} is not installed: run pip install 'candlegraph-client[{name.partition('.')[0]}]'."
        ) from None


def arrow_table(candles: Candles, about: Mapping[str, Any]) -> pa.Table:
    """A table whose first column is ``timestamp``, timestamp[ms, UTC]; its metadata holds ``about`` as JSON."""
    pyarrow = library("pyarrow")
    arrays = [pyarrow.array(candles.columns["timestamp"], pyarrow.timestamp("ms", "UTC"))]
    arrays += [pyarrow.array(candles.columns[name]) for name in NUMBERS]
    metadata = {METADATA_KEY: json.dumps(about).encode()}
    return cast("pa.Table", pyarrow.Table.from_arrays(arrays, names=list(NAMES), metadata=metadata))


class Batches:
    """Arrow record batches as columns. Each batch is copied, so that the buffers it came in do not stay in memory."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._columns: dict[str, list[Column]] = {name: [] for name in NAMES}
        self.last: int | None = None  # the last timestamp (ms)

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the rows of a batch, whose timestamps are above those before."""
        if not batch.num_rows:
            return
        stamps = batch.column("timestamp").cast(library("pyarrow").int64()).to_numpy()
        self._columns["timestamp"].append(stamps.copy())
        for name in NUMBERS:
            self._columns[name].append(batch.column(name).to_numpy().copy())
        self.last = int(stamps[-1])

    def candles(self) -> Candles:
        """All rows; one column after the other gives its batches up."""
        empty = Candles.of({name: [] for name in NAMES}).columns
        return Candles({name: np.concatenate([empty[name], *self._columns.pop(name)]) for name in NAMES})
