"""The places of exports: how many run at once, and which of them is ended when another one needs its place."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Self

from candlegraph.errors import Overloaded

RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class ExportLimits:
    """How many exports run at once, and how many rows a day an anonymous address may have (None: any number)."""

    total: int = 8
    per_address: int = 2
    rows_per_day: int | None = 50_000_000


class ExportPlaces:
    """The places that are taken. An export keeps its own for a turn, and after that for as long as no other needs it.

    Without turns, clients that read slowly would hold all places for as long as they like.
    """

    def __init__(self, limits: ExportLimits) -> None:
        """All places are free."""
        self._limits = limits
        self._taken: list[ExportPlace] = []  # the longest first

    def take(self, address: str, turn_s: float) -> ExportPlace:
        """Take a place. Overloaded where none is free, and no export is past its turn."""
        if sum(place.address == address for place in self._taken) >= self._limits.per_address:
            raise Overloaded(
                f"An address may run {self._limits.per_address} exports at once: wait for the end of one.",
                retry_after=RETRY_AFTER_S,
            )
        now = asyncio.get_running_loop().time()
        if len(self._taken) >= self._limits.total:
            if not self._taken or now - self._taken[0].taken_at < turn_s:
                raise Overloaded("Too many exports are under way: try again later.", retry_after=RETRY_AFTER_S)
            self._taken.pop(0).revoked.set()
        place = ExportPlace(address, now, self._taken)
        self._taken.append(place)
        return place


class ExportPlace:
    """The right of one export to run, from ``taken_at`` (s, of the event loop) until it is given back or ``revoked``."""

    def __init__(self, address: str, taken_at: float, taken: list[ExportPlace]) -> None:
        """``taken`` are the places of which this is one."""
        self.address = address
        self.taken_at = taken_at
        self.revoked = asyncio.Event()
        self._taken = taken

    def __enter__(self) -> Self:
        """The place itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        if self in self._taken:
            self._taken.remove(self)
