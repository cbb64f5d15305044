"""Reads the offsets of a time zone from its TZif file (RFC 9636): the listed transitions, then the rule of the footer.

``zoneinfo`` keeps the same data private and answers one datetime at a time: finding every change of a zone by
probing it takes 30 ms, reading the file less than one.
"""

from __future__ import annotations

import re
import struct
from importlib import resources
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]

_FIRST_YEAR, _LAST_YEAR = 1890, 2297  # the years for which a footer's rule is written out
_HEADER = struct.Struct(">4sc15x6I")
_NAME = r"(?:<[^>]+>|[A-Za-z]+)"
_OFFSET = r"[+-]?\d+(?::\d+){0,2}"
_FOOTER = re.compile(rf"{_NAME}({_OFFSET})(?:{_NAME}({_OFFSET})?,([^,/]+)(?:/({_OFFSET}))?,([^,/]+)(?:/({_OFFSET}))?)?")


def read_tzif(name: str) -> bytes:
    """The TZif file of an IANA zone, from where ``zoneinfo`` takes it; ZoneInfoNotFoundError, ValueError.

    ``name`` is a checked name, never a path from outside.
    """
    for folder in TZPATH:
        path = Path(folder, name)
        if path.is_file():
            return path.read_bytes()
    package = resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    if not package.is_file():
        raise ZoneInfoNotFoundError(name)
    return package.read_bytes()


def transitions(data: bytes) -> tuple[int, Int64s, Int64s]:
    """The first offset from UTC, and the instants at which another one begins with their offsets, (n,) int64 each.

    All in seconds; the rule of the footer is written out until 2297. ValueError if ``data`` is no TZif file.
    """
    try:
        header, start, width = _header(data, 0), _HEADER.size, 4
        if header[1] != b"\0":  # from version 2 on the block of 64 bits after it holds everything
            start += _block_size(header, width)
            header, start, width = _header(data, start), start + _HEADER.size, 8
        first, at, offsets = _block(data, start, header, width)
        footer = data[start + _block_size(header, width) :].strip(b"\n").decode("ascii") if width == 8 else ""
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError("It is no TZif file.") from error
    after = int(at[-1]) if len(at) else None
    rule_first, rule_at, rule_offsets = _rule(footer, after)
    if after is None:
        first = first if rule_first is None else rule_first
    return first, np.concatenate([at, rule_at]), np.concatenate([offsets, rule_offsets])


def _header(data: bytes, at: int) -> tuple[int | bytes, ...]:
    header: tuple[int | bytes, ...] = _HEADER.unpack_from(data, at)
    if header[0] != b"TZif":
        raise ValueError("It is no TZif file.")
    return header


def _counts(header: tuple[int | bytes, ...]) -> tuple[int, ...]:
    return tuple(int(count) for count in header[2:])


def _block_size(header: tuple[int | bytes, ...], width: int) -> int:
    utc, standard, leaps, times, types, letters = _counts(header)
    return times * (width + 1) + types * 6 + letters + leaps * (width + 4) + standard + utc


def _block(data: bytes, start: int, header: tuple[int | bytes, ...], width: int) -> tuple[int, Int64s, Int64s]:
    *_, times, types, _ = _counts(header)
    at = np.frombuffer(data, f">i{width}", times, start).astype(np.int64)
    kind = np.frombuffer(data, np.uint8, times, start + times * width)
    kinds = [struct.unpack_from(">i?x", data, start + times * (width + 1) + 6 * i) for i in range(types)]
    offset = np.array([one[0] for one in kinds], np.int64)
    # What held before the first transition is not written down; zoneinfo takes the first standard time.
    first = next((one[0] for one in kinds if not one[1]), kinds[0][0]) if times else kinds[0][0]
    return int(first), at, offset[kind]


def _rule(footer: str, after: int | None) -> tuple[int | None, Int64s, Int64s]:
    """The transitions of a POSIX rule later than ``after``, and the standard offset; none of both without a rule."""
    match = _FOOTER.fullmatch(footer)
    nothing = np.empty(0, np.int64)
    if match is None:
        if footer:
            raise ValueError("The rule of the TZif file is not understood.")
        return None, nothing, nothing
    standard = -_seconds(match[1])
    if match[3] is None:
        return standard, nothing, nothing
    summer = -_seconds(match[2]) if match[2] else standard + 3600
    years = np.arange(_FIRST_YEAR, _LAST_YEAR + 1)
    begins = _days(match[3], years) * 86_400 + _seconds(match[4] or "2") - standard
    ends = _days(match[5], years) * 86_400 + _seconds(match[6] or "2") - summer
    at = np.concatenate([begins, ends])
    offsets = np.repeat(np.array([summer, standard], np.int64), len(years))
    order = np.argsort(at, kind="stable")
    order = order[at[order] > (np.iinfo(np.int64).min if after is None else after)]
    return standard, at[order], offsets[order]


def _seconds(text: str) -> int:
    hours, minutes, seconds = (*map(int, text.lstrip("+-").split(":")), 0, 0)[:3]
    return (hours * 3600 + minutes * 60 + seconds) * (-1 if text.startswith("-") else 1)


def _days(date: str, years: Int64s) -> Int64s:
    """The day (since 1970-01-01) of a rule's date in each year: ``M3.5.0``, ``J60`` or ``59``."""
    if not date.startswith("M"):
        opens = (years - 1970).astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)
        day = int(date.removeprefix("J"))
        if not date.startswith("J"):
            return np.asarray(opens + day)
        leap = (years % 4 == 0) & ((years % 100 != 0) | (years % 400 == 0))
        return np.asarray(opens + day - 1 + (leap & (day >= 60)))
    month, week, weekday = map(int, date[1:].split("."))
    months = ((years - 1970) * 12 + month - 1).astype("datetime64[M]")
    opens = months.astype("datetime64[D]").astype(np.int64)
    days = opens + (weekday - (opens + 4)) % 7 + (week - 1) * 7  # 1970-01-01 was a Thursday
    return np.where(days < (months + 1).astype("datetime64[D]").astype(np.int64), days, days - 7)
