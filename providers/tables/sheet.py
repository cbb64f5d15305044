"""The rows of a table in the order of its file: their stamps and numbers, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from candlegraph.candle import Bools, Floats
from candlegraph.zone import Int64s
from providers.tables.timestamps import Kinds

MAX_PROBLEMS = 10_000  # stop reading a file after this many problems
CUT = "the file ends within this line: its last number may be cut. Leave it out with --drop-last, or end the line"


@dataclass(frozen=True, slots=True)
class Sheet:
    """The readable rows of a file in its order, each with its ``line``; ``problems`` has the reasons for the others.

    ``stamp`` is (n,) int64, and ``kind`` gives its meaning; ``numbers`` are five (n,) float64. ``symbols`` are those that the
    rows name. ``cut`` is the last line if the file seems to end within its last number. ``notes`` are lines for the user.
    """

    line: NDArray[np.int32]
    stamp: Int64s
    kind: Kinds
    numbers: tuple[Floats, ...]
    problems: dict[int, str]
    symbols: frozenset[str] = frozenset()
    cut: int | None = None
    has_volume: bool = True
    notes: tuple[str, ...] = ()
    owner: NDArray[np.int32] | None = None  # the number of each row's symbol in `owners`, if it names one
    owners: tuple[str, ...] = ()

    def without(self, reasons: Mapping[int, str]) -> Sheet:
        """The sheet without the rows at the positions in ``reasons``, which become problems."""
        if not reasons:
            return self
        kept = np.ones(len(self.line), np.bool_)
        kept[list(reasons)] = False
        problems = {int(self.line[at]): reason for at, reason in reasons.items()}
        return replace(self.rows(kept), problems=self.problems | problems)

    def rows(self, kept: Bools | Int64s | slice) -> Sheet:
        """Some of the rows."""
        numbers = tuple(column[kept] for column in self.numbers)
        owner = None if self.owner is None else self.owner[kept]
        return replace(
            self, line=self.line[kept], stamp=self.stamp[kept], kind=self.kind[kept], numbers=numbers, owner=owner
        )

    def by_symbol(self) -> Iterator[tuple[str, Sheet]]:
        """Each symbol that the rows name, with its rows; the problems of the file are those of the first one."""
        if self.owner is None:
            return
        order = np.argsort(self.owner, kind="stable")
        edges = np.searchsorted(self.owner[order], np.arange(len(self.owners) + 1))
        unnamed = self.line[self.owner < 0].tolist()
        problems = self.problems | dict.fromkeys(unnamed, "it names no symbol")
        for number, symbol in enumerate(self.owners):
            found = self.rows(order[edges[number] : edges[number + 1]])
            yield symbol, replace(found, symbols=frozenset({symbol}), owner=None, problems=problems)
            problems = {}

    def since(self, instant: int | None) -> Sheet:
        """The rows from an instant on, once the stamps are milliseconds."""
        return self if instant is None else self.rows(self.stamp >= instant)

    def in_order(self) -> Sheet:
        """The rows in the order of their stamps."""
        ascending = bool((self.stamp[1:] >= self.stamp[:-1]).all())
        return self if ascending else self.rows(np.argsort(self.stamp, kind="stable"))
