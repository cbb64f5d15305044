"""A short text that identifies the candles of a table: with it alone, one can check whether another table continues them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from candlegraph.candle import Candles


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The number of candles, the opening of the last one, and digests of the first 1, 2, 4 ... and of all of them."""

    rows: int
    last: int
    digests: tuple[str, ...]

    @classmethod
    def of(cls, candles: Candles, rows: int | None = None) -> Fingerprint:
        """The fingerprint of the first ``rows`` candles, or of all."""
        rows = len(candles) if rows is None else rows
        table = np.stack([candles.timestamp, *(column.view(np.int64) for column in candles.columns[1:6])], axis=1)
        digest, digests, done = hashlib.blake2b(digest_size=16), [], 0
        for count in [*_powers_below(rows), rows]:
            digest.update(table[done:count].tobytes())
            digests.append(digest.hexdigest())
            done = count
        digests[:-1] = [short[:8] for short in digests[:-1]]
        return cls(rows, int(candles.timestamp[rows - 1]), tuple(digests))

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """Parse the ``str`` of a fingerprint. ValueError."""
        rows, last, *digests = text.split(".")
        return cls(int(rows), int(last), tuple(digests))

    def __str__(self) -> str:
        """The fingerprint as a short text."""
        return ".".join([str(self.rows), str(self.last), *self.digests])

    def begins(self, candles: Candles) -> bool:
        """Whether ``candles`` begin with its own; more may follow."""
        if len(candles) < self.rows or int(candles.timestamp[self.rows - 1]) != self.last:
            return False
        return self.of(candles, self.rows) == self

    def begins_with(self, candles: Candles) -> bool:
        """Whether ``candles`` are fewer, and the first of its own as far as its digests show."""
        powers = [*_powers_below(self.rows)]
        known = [at for at, count in enumerate(powers) if count <= len(candles)]
        if len(candles) >= self.rows or not known:
            return False
        digest = self.of(candles, powers[known[-1]]).digests[-1]
        return digest.startswith(self.digests[known[-1]]) and int(candles.timestamp[-1]) < self.last


def _powers_below(rows: int) -> Iterator[int]:
    count = 1
    while count < rows:
        yield count
        count *= 2
