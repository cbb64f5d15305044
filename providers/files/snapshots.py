"""The tables of files that may change: a file is read while no process writes it, and its last good state stays.

A file is read when it has not changed for a while. If lines were only appended to a plain text (a hash shows that the bytes
before are unchanged), only these are read, up to the last whole line. The table becomes a `Snapshot`. Its candles show how it
relates to the snapshot before:

- it begins with all candles of the old one: the file grew, and its lineage is the same;
- the old one begins with all of its candles: the file was cut short, and the old snapshot stays;
- anything else: the file was replaced, and begins a new lineage.

Fingerprints of candles decide the same after a restart and in other processes.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from candlegraph import clock
from candlegraph.errors import InvalidCandles
from candlegraph.provider import Revision
from candlegraph.zone import Zone
from providers.files.fingerprint import Fingerprint
from providers.files.folder import Version, version_of
from providers.files.readings import Reading, equal, read_growth, read_whole
from providers.tables.reader import Table

STILL_MS = 2_000  # how long a file must not have changed before it is read
CACHE_BYTES = 128 << 20  # two and a half million rows


class BeingWritten(Exception):
    """A file changed a moment ago, so a process may still write it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The last good reading of a file, and the revision of its candles; ``problem`` is why a newer version is not served."""

    version: Version
    reading: Reading
    revision: Revision
    problem: str | None = None

    @property
    def table(self) -> Table:
        """Its candles."""
        return self.reading.table

    @property
    def nbytes(self) -> int:
        """The memory of its candles, in bytes; the flags are broadcast from one value each."""
        return sum(column.nbytes for column in self.table.candles.columns[:6])


@dataclass(slots=True)
class Snapshots:
    """The most recently used snapshots within ``max_bytes`` (the newest one always stays). For one thread at a time."""

    zone: Zone
    edition: str  # the version of the reader: another one may read a file differently
    max_bytes: int = field(default_factory=lambda: CACHE_BYTES)
    _kept: OrderedDict[Path, Snapshot] = field(default_factory=OrderedDict)
    _seen: dict[Path, tuple[Version, int]] = field(default_factory=dict)
    _refused: dict[Path, tuple[Version, str]] = field(default_factory=dict)
    _lineages: dict[Path, tuple[Version, str]] = field(default_factory=dict)
    _continued: dict[Path, tuple[str, str]] = field(default_factory=dict)

    def kept(self, path: Path) -> Snapshot | None:
        """The last good state of a file, if it is still in memory."""
        return self._kept.get(path)

    def problem(self, path: Path) -> str | None:
        """Why the last examined version of a file is not served."""
        kept, refused = self._kept.get(path), self._refused.get(path)
        return kept.problem if kept else refused and refused[1]

    def looked_at(self, path: Path, version: Version) -> bool:
        """Whether this version of a file was read, or is known to be unreadable."""
        kept, refused, lineage = self._kept.get(path), self._refused.get(path), self._lineages.get(path)
        return version in {
            known.version if isinstance(known, Snapshot) else known[0] for known in (kept, refused, lineage) if known
        }

    def is_still(self, path: Path, version: Version) -> bool:
        """Whether no process has written a file for a while, by its mtime or by the time since we first saw this version."""
        now = clock.now_ms()
        if (seen := self._seen.get(path)) is None or seen[0] != version:
            seen = self._seen[path] = (version, now)
        return now - version[1] // 1_000_000 >= STILL_MS or now - seen[1] >= STILL_MS

    def look(self, path: Path) -> Snapshot:
        """The snapshot of a file as it is now, or its last good one with the present problem.

        InvalidCandles or BeingWritten if there is no good state; OSError.
        """
        version, kept = version_of(path), self._kept.get(path)
        if kept and kept.version == version:
            self._kept.move_to_end(path)
            return kept
        try:
            found = self._read(path, version, kept)
        except InvalidCandles as error:
            self._refused[path] = (version, error.message)
            if kept is None:
                raise
            found = replace(kept, problem=f"{error.message} (its last good state is served)")
        except BeingWritten:
            if kept is None:
                raise
            found = replace(kept, problem=f"{path.name}: it is being written (its last good state is served)")
        else:
            self._refused.pop(path, None)
        self._keep(path, found)
        return found

    def adopt(self, path: Path, lineage: str) -> None:
        """Set the lineage of a file's present snapshot, or of the next one of this version."""
        if kept := self._kept.get(path):
            self._kept[path] = replace(kept, revision=Revision(lineage, kept.revision.state))
        else:
            self._lineages[path] = (version_of(path), lineage)

    def revision(self, path: Path, snapshot: Snapshot, stored: Revision) -> Revision:
        """The revision of a snapshot, given the ``stored`` one; it has the stored lineage if it continues those candles."""
        own = snapshot.revision
        if own.state == stored.state or self._continued.get(path) == (stored.state, own.state):
            self.adopt(path, stored.lineage)
            return Revision(stored.lineage, own.state)
        candles = snapshot.table.candles
        try:
            known = Fingerprint.parse(stored.state.split(" ", 1)[1])
        except (ValueError, IndexError):
            known = None
        if known and known.begins(candles):
            self._continued[path] = (stored.state, own.state)
            self.adopt(path, stored.lineage)
            return Revision(stored.lineage, own.state)
        if known and known.begins_with(candles):
            self._kept.pop(path, None)
            self._refused[path] = (snapshot.version, cut_short(path, len(candles), known.rows))
            return stored
        if own.lineage == stored.lineage:  # another process saw the file grow, and then it was replaced
            own = Revision(Fingerprint.of(candles).digests[-1], own.state)
            self.adopt(path, own.lineage)
        return own

    def is_state_of(self, path: Path, state: str) -> bool:
        """Whether ``state`` belongs to the present version of a file. OSError."""
        return state.startswith(f"{self._stamp(version_of(path))} ")

    def _state(self, version: Version, fingerprint: Fingerprint) -> str:
        """The identity of a file's content: the stamp, which saves a reading if it is equal, and the fingerprint."""
        return f"{self._stamp(version)} {fingerprint}"

    def _stamp(self, version: Version) -> str:
        """A version as part of a state, without the inode, which differs between machines."""
        return "-".join(map(str, [*version[:3], self.edition, self.zone.name]))

    def forget_missing(self, *, states: bool) -> None:
        """Drop files that are missing; with ``states`` also their last good states, so that a new file starts a lineage."""
        notes: list[dict[Path, Any]] = [self._seen, self._refused, self._lineages, self._continued]
        for known in [*notes, *[self._kept] * states]:
            for path in [path for path in known if not os.path.lexists(path)]:
                del known[path]

    def clear(self) -> None:
        """Drop everything."""
        for kept in (self._kept, self._seen, self._refused, self._lineages, self._continued):
            kept.clear()

    def _keep(self, path: Path, snapshot: Snapshot) -> None:
        self._kept[path] = snapshot
        self._kept.move_to_end(path)
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > self.max_bytes:
            gone, old = self._kept.popitem(last=False)
            self._lineages[gone] = (old.version, old.revision.lineage)

    def _read(self, path: Path, version: Version, kept: Snapshot | None) -> Snapshot:
        refused = self._refused.get(path)
        if refused and refused[0] == version:
            raise InvalidCandles(refused[1])
        still = self.is_still(path, version)
        if kept and (grown := read_growth(path, kept.reading, self.zone, still=still)):
            return self._snapshot(path, version, kept, grown)
        if not still:
            raise BeingWritten
        reading = read_whole(path, self.zone)
        if version_of(path) != version:
            raise BeingWritten
        return self._snapshot(path, version, kept, reading)

    def _snapshot(self, path: Path, version: Version, kept: Snapshot | None, reading: Reading) -> Snapshot:
        table = reading.table
        fingerprint = Fingerprint.of(table.candles)
        lineage = fingerprint.digests[-1]
        adopted = self._lineages.pop(path, None)
        if adopted and adopted[0] == version:
            lineage = adopted[1]
        elif kept and kept.table.timeframe == table.timeframe:
            rows = min(len(kept.table.candles), len(table.candles))
            if equal(kept.table.candles[:rows], table.candles[:rows]):
                if rows < len(kept.table.candles):
                    raise InvalidCandles(cut_short(path, rows, len(kept.table.candles)))
                lineage = kept.revision.lineage
        return Snapshot(version, reading, Revision(lineage, self._state(version, fingerprint)))


def cut_short(path: Path, rows: int, before: int) -> str:
    """The message for a file that lost its end, with a remedy."""
    return (
        f"{path.name}: it holds only the first {rows:,} of the {before:,} candles it held, so it seems to be cut short; "
        "if that is meant, remove the file for a moment"
    )
