"""The options of an import, and what they say about a file."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from candlegraph.clock import MINUTE_MS
from candlegraph.errors import BadUserInput
from candlegraph.timeframe import Timeframe
from candlegraph.zone import UTC, Zone, zone
from providers.tables.columns import FIELDS
from providers.tables.hints import Hints

_OFFSET = re.compile(r"([+-])(\d\d):?([0-5]\d)")


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """The options of an import; see docs/import.md. ``since`` and ``until`` in ms, UTC."""

    timeframe: str | None = None
    timezone: str | None = None
    clock: str | None = None
    columns: str | None = None
    date_format: str | None = None
    decimal: str | None = None
    scale: float | None = None
    stamps: str | None = None
    skip_bad_rows: int = 0
    only: str | None = None
    since: int | None = None
    until: int | None = None
    drop_last: bool = False
    keep_fillers: bool = False
    covers: bool = False
    sparse: bool = False
    replace: bool = False
    dry_run: bool = False

    @property
    def asked(self) -> Timeframe | None:
        """The timeframe of the option. BadUserInput."""
        return None if self.timeframe is None else Timeframe.parse(self.timeframe)

    def hints(self, member: str | None = None) -> Hints:
        """How to read a file, or a ``member`` of an archive.

        BadUserInput if its clock is unknown, a column has no field, or two options exclude each other.
        """
        if self.covers and self.sparse:
            raise BadUserInput("--covers and --sparse exclude each other.")
        if self.scale is not None and not 1e-12 <= self.scale <= 1e12:
            raise BadUserInput("--scale is what prices are multiplied by, such as 0.01: from 1e-12 to 1e12.")
        if self.decimal not in (None, ",", ".") or self.stamps not in (None, "open", "close"):
            raise BadUserInput("--decimal is , or . and --stamps is open or close.")
        clock = None if self.clock is None else _clock(self.clock)
        return Hints(
            clock=clock,
            dates=clock,
            thin=self.covers or self.sparse,
            symbol=self.only,
            usual_clock=UTC,
            member=member,
            columns=_columns(self.columns),
            date_format=self.date_format,
            decimal=self.decimal,
            scale=self.scale,
            stamps=self.stamps,
            bad_rows=self.skip_bad_rows,
            since=self.since,
        )


def _columns(text: str | None) -> dict[str, str]:
    """``time=Date,open=Open`` by field. BadUserInput."""
    found: dict[str, str] = {}
    for part in text.split(",") if text else []:
        field, equals, name = part.partition("=")
        if field.strip().lower() not in FIELDS or not equals:
            raise BadUserInput(
                f"--columns {part!r} names no field: write field=column for some of {', '.join(FIELDS)}, as in "
                "--columns time=Date,open=Open; a column is its name, or its number from 1 on."
            )
        found[field.strip().lower()] = name.strip()
    return found


def _clock(name: str) -> Zone:
    """A clock by its IANA name, or by its offset from UTC."""
    if match := _OFFSET.fullmatch(name):
        minutes = int(match[2]) * 60 + int(match[3])
        return Zone(name, UTC.changes, np.array([minutes * (-1 if match[1] == "-" else 1) * MINUTE_MS], np.int64))
    return zone(name)
