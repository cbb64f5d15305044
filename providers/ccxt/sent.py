"""Reads the start, the end and the number of rows of a page from the URL or body of ccxt's request.

The names and units differ between exchanges, and ccxt's classes change them from version to version. So this recognises
parameters by families of names, and chooses the unit whose value is closest to the requested span. A parameter that is not
recognised counts as not sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

from candlegraph.clock import DAY_MS
from candlegraph.span import Span

_STARTS = re.compile(r"(start|from|since|s)(time|at|iso|ms|date|timestamp|ts)?|createdatdatetimegte")
_ENDS = re.compile(r"(end|to|until|till|e)(time|at|iso|ms|date|timestamp|ts)?|createdatdatetimelte")
_EITHER = frozenset({"before", "after", "time", "fromidx"})  # OKX's `before` is a start, WOO's an end
_COUNTS = frozenset({"limit", "count", "size", "pagesize", "countback"})
_UNITS = {"ms": (1, 1), "s": (1_000, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}  # in milliseconds, as fractions
_DAY_IN_PATH = re.compile(r"/(20[0-9]{2})([01][0-9])([0-3][0-9])(?=/|$)")


@dataclass(frozen=True, slots=True)
class SentWindow:
    """The window of a request: instants in ms UTC, and a number of rows; None for a bound that it does not have."""

    start: int | None = None
    end: int | None = None
    count: int | None = None


def read_window(url: str, body: object, asked: Span) -> SentWindow:
    """Read the window from the query, the JSON body or the path of a request for the candles of ``asked``."""
    start = end = count = None
    units: set[str] = set()
    for name, value in _parameters(url, body):
        if name in _COUNTS:
            count = int(value) if value.isdecimal() and int(value) else None
            continue
        is_start, is_end = bool(_STARTS.fullmatch(name)), bool(_ENDS.fullmatch(name))
        read = _instant(value, asked) if is_start or is_end or name in _EITHER else None
        if read is None:
            continue
        instant, unit = read
        units.add(unit)
        if is_start or (not is_end and instant <= asked.since):
            start = instant
        else:
            end = instant
    if len(units) > 1:  # if start and end have different units, the exchange reads one of them as another instant
        end = None
    if start is None and end is None and (day := _DAY_IN_PATH.search(urlsplit(url).path)):
        start = _day_ms(*map(int, day.groups()))
        end = None if start is None else start + DAY_MS
    return SentWindow(start, end, count)


def _parameters(url: str, body: object) -> Iterator[tuple[str, str]]:
    """Every parameter; its name is in lower case and without punctuation."""
    try:
        payload = json.loads(body) if isinstance(body, str | bytes) and body else {}
    except ValueError:
        payload = {}
    for name, value in [*parse_qsl(urlsplit(url).query), *_leaves(payload)]:
        yield re.sub(r"[^a-z0-9]", "", name.lower()), value


def _leaves(payload: object) -> Iterator[tuple[str, str]]:
    if not isinstance(payload, Mapping):
        return
    for name, value in payload.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield str(name), str(value)


def _instant(text: str, asked: Span) -> tuple[int, str] | None:
    """The instant (ms) of a text and its unit; None if it is not an instant."""
    if re.fullmatch(r"[0-9]{1,20}", text):
        readings = {unit: int(text) * factor // divisor for unit, (factor, divisor) in _UNITS.items()}
        unit = min(readings, key=lambda name: min(abs(readings[name] - edge) for edge in (asked.since, asked.until)))
        return readings[unit], unit
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000), "iso"


def _day_ms(year: int, month: int, day: int) -> int | None:
    try:
        return round(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        return None
