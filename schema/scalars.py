"""The scalars of the contract, and how their literals, variables and results are read and written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NewType

import strawberry
from strawberry.types.scalar import ScalarDefinition

from candlegraph.clock import NEWEST_MS, OLDEST_MS, looks_like_seconds
from candlegraph.errors import BadUserInput
from candlegraph.timeframe import Timeframe

Timestamp = NewType("Timestamp", int)
JSON = NewType("JSON", object)

_DOCS = "https://candlegraph.org/docs/scalars"
_HINT = "A Timestamp is milliseconds since the epoch, UTC, or an ISO 8601 text with an offset"


def parse_timestamp(value: object) -> Timestamp:
    """Read a Timestamp; BadUserInput with a hint for seconds, microseconds, nanoseconds and naive texts."""
    if isinstance(value, str):
        return _in_range(_from_text(value))
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise BadUserInput(f"{_HINT}, not {str(value)[:32]!r}.")
    if looks_like_seconds(int(value)):
        raise _mistaken(int(value), "seconds", int(value) * 1000)
    return _in_range(int(value))


def _in_range(milliseconds: int) -> Timestamp:
    if OLDEST_MS <= milliseconds <= NEWEST_MS:
        return Timestamp(milliseconds)
    for unit, guess in (("microseconds", milliseconds // 1000), ("nanoseconds", milliseconds // 1_000_000)):
        if 631_152_000_000 <= guess <= 4_102_444_800_000:  # a time between 1990 and 2100 in that unit
            raise _mistaken(milliseconds, unit, guess)
    raise BadUserInput(f"{_HINT}, from {OLDEST_MS} (1900) to {NEWEST_MS} (2286), not {str(milliseconds)[:32]}.")


def _mistaken(number: int, unit: str, guess: int) -> BadUserInput:
    return BadUserInput(f"{_HINT}; {number} looks like {unit}: write {guess}.")


def _from_text(text: str) -> int:
    instant = _parse_iso(text)
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // _MILLISECOND


def _parse_iso(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise BadUserInput(f"{_HINT} such as 2024-05-01T00:00:00Z, not {text[:40]!r}.") from None
    if instant.tzinfo is None:
        raise BadUserInput(f"{text[:40]!r} has no offset: add Z for UTC, or +02:00 and the like.")
    return instant


_MILLISECOND = datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)


def datetime_of(milliseconds: int) -> datetime:
    """The instant of a number of milliseconds, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def print_datetime(value: datetime | int) -> str:
    """Print an instant (aware, or in milliseconds) as ISO 8601 in UTC, ending in Z."""
    instant = datetime_of(value) if isinstance(value, int) else value.astimezone(UTC)
    return instant.isoformat(timespec="milliseconds" if instant.microsecond else "seconds").replace("+00:00", "Z")


def _parse_timeframe(value: object) -> Timeframe:
    if not isinstance(value, str):
        raise BadUserInput(f'A Timeframe is a text such as "5m", not {str(value)[:32]!r}.')
    return Timeframe.parse(value)


def _parse_datetime(value: object) -> datetime:
    if not isinstance(value, str):
        raise BadUserInput(f"A DateTime is an ISO 8601 text with an offset, not {str(value)[:32]!r}.")
    return _parse_iso(value)


SCALARS: dict[object, ScalarDefinition] = {
    Timestamp: strawberry.scalar(
        name="Timestamp",
        description=(
            "Milliseconds since the epoch, UTC, as an integer. Input: an integer from -2_208_988_800_000 (the year 1900) to "
            "9_999_999_999_999, or an ISO 8601 string with an offset. Refused with a hint: 1_000_000_000 .. 9_999_999_999 "
            "that is no whole minute (seconds of today look like that; every edge of a bucket is a whole minute), and "
            "longer numbers (micro- and nanoseconds). The API accepts every Timestamp that it prints."
        ),
        specified_by_url=f"{_DOCS}#timestamp",
        serialize=int,
        parse_value=parse_timestamp,
    ),
    datetime: strawberry.scalar(
        name="DateTime",
        description="ISO 8601 in UTC, ending in Z.",
        specified_by_url="https://scalars.graphql.org/andimarek/date-time",
        serialize=print_datetime,
        parse_value=_parse_datetime,
    ),
    Timeframe: strawberry.scalar(
        name="Timeframe",
        description=(
            "A count and a unit (m h d w mon y): 1m 5m 15m 30m 1h 4h 1d 1w 1mon 1y, or any other such as 7m, 2h, 3d, "
            "6mon. Printed reduced: 60m is 1h, 7d is 1w, 12mon is 1y; 24h stays 24h, because a day follows the market's "
            "time zone."
        ),
        specified_by_url=f"{_DOCS}#timeframe",
        serialize=str,
        parse_value=_parse_timeframe,
    ),
    JSON: strawberry.scalar(
        name="JSON",
        description="Any JSON value.",
        specified_by_url="https://www.rfc-editor.org/rfc/rfc8259",
        serialize=lambda value: value,
        parse_value=lambda value: value,
    ),
}
