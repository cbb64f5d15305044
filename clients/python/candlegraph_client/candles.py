"""Candles as columns, and what they become: a pandas or polars DataFrame, an Arrow table, numpy arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from candlegraph_client.errors import MissingLibrary
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


@dataclass(frozen=True, slots=True)
class Candles:
    """Final candles of one series, ascending and unique.

    ``columns`` are equally long: ``timestamp`` int64 (ms, UTC), the others float64. Gaps and sources are ascending.
    """

    columns: Mapping[str, Column]
    gaps: tuple[Gap, ...] = ()
    sources: tuple[Source, ...] = ()
    revision: str = "0"
    timezone: str = "UTC"
    server_id: str | None = None

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
            gaps=tuple(_cut(self.gaps, since, until)),
            sources=tuple(_cut(self.sources, since, until)),
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

    def attrs(self, series: str, timeframe: str) -> dict[str, Any]:
        """What a frame says of itself, in values that JSON has; instants are ISO 8601 in UTC."""
        spans: list[list[dict[str, Any]]] = [
            [{**one, "since": to_iso(one["since"]), "until": to_iso(one["until"])} for one in listed]
            for listed in (self.gaps, self.sources)
        ]
        return {
            "series": series,
            "timeframe": timeframe,
            "timezone": self.timezone,
            "complete": not self.gaps,
            "gaps": spans[0],
            "sources": spans[1],
            "revision": self.revision,
            "server_id": self.server_id,
        }


def _cut(spans: Iterable[Any], since: int, until: int) -> Iterable[Any]:
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


def to_pandas(candles: Candles, attrs: dict[str, Any]) -> pd.DataFrame:
    """A DataFrame with a DatetimeIndex in UTC and the attrs."""
    pandas = library("pandas")
    opened = candles.columns["timestamp"].astype("datetime64[ms]")
    index = pandas.DatetimeIndex(opened, tz="UTC", name="timestamp")
    frame = pandas.DataFrame({name: candles.columns[name] for name in NUMBERS}, index=index)
    frame.attrs = attrs
    return cast("pd.DataFrame", frame)


def to_polars(candles: Candles, attrs: dict[str, Any]) -> pl.DataFrame:  # noqa: ARG001 - a polars frame has no attrs
    """A DataFrame whose first column is ``timestamp``, Datetime("ms", "UTC")."""
    polars = library("polars")
    frame = polars.DataFrame(dict(candles.columns))
    opened = polars.col("timestamp").cast(polars.Datetime("ms")).dt.replace_time_zone("UTC")
    return cast("pl.DataFrame", frame.with_columns(opened))


def to_arrow(candles: Candles, attrs: dict[str, Any]) -> pa.Table:
    """A table whose first column is ``timestamp``, timestamp[ms, UTC]; its metadata holds the attrs as JSON."""
    pyarrow = library("pyarrow")
    arrays = [pyarrow.array(candles.columns["timestamp"], pyarrow.timestamp("ms", "UTC"))]
    arrays += [pyarrow.array(candles.columns[name]) for name in NUMBERS]
    metadata = {METADATA_KEY: json.dumps(attrs).encode()}
    return cast("pa.Table", pyarrow.Table.from_arrays(arrays, names=list(NAMES), metadata=metadata))


def to_numpy(candles: Candles, attrs: dict[str, Any]) -> dict[str, Column]:  # noqa: ARG001 - arrays have no attrs
    """Arrays by name: ``timestamp`` datetime64[ms] in UTC, the others float64."""
    opened = candles.columns["timestamp"].astype("datetime64[ms]")
    return {"timestamp": opened} | {name: candles.columns[name] for name in NUMBERS}


def from_arrow(table: pa.Table) -> Candles:
    """The candles of a table; its gaps and the rest are left out."""
    columns = {name: table.column(name).to_numpy() for name in NUMBERS}
    pyarrow = library("pyarrow")
    return Candles.of(columns | {"timestamp": table.column("timestamp").cast(pyarrow.int64()).to_numpy()})


Converter = Callable[[Candles, dict[str, Any]], Any]
