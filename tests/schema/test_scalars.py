"""Timestamps: which integers and texts are accepted, and that everything printed is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlegraph import BadUserInput, zone
from schema.scalars import parse_timestamp
from tests.candlegraph.scalar_calendar import NEWEST, OLDEST, examples, instants, timeframes, zone_names

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "number",
    [
        OLDEST,
        -252_460_800_000,
        -1_714_521_600,
        *(-1, 0, 1, 999_999_999),
        *(1_000_020_000, 9_999_960_000),  # whole minutes
        *(10_000_000_000, 99_999_999_999, NEWEST),
    ],
)
def test_an_integer_of_1900_to_2286_is_a_timestamp(number: int) -> None:
    assert parse_timestamp(number) == number


@pytest.mark.parametrize(
    "number",
    [
        *(OLDEST - 1, NEWEST + 1, 2**63, -(2**63)),
        *(1_000_000_000, 1_000_019_999, 1_714_521_600, 9_999_999_999),
        *(1_714_521_600_000_000, -252_460_800_000_000, 1_714_521_600_000_000_000),
    ],
)
def test_probable_seconds_and_longer_numbers_are_refused(number: int) -> None:
    with pytest.raises(BadUserInput, match="Timestamp is milliseconds"):
        parse_timestamp(number)


@given(st.integers(OLDEST, NEWEST), st.integers(-14 * 60, 14 * 60))
@examples(200)
def test_a_text_with_an_offset_names_any_instant(instant: int, minutes: int) -> None:
    """Also those whose numbers look like seconds: a text is not ambiguous."""
    text = (_EPOCH + timedelta(milliseconds=instant)).astimezone(timezone(timedelta(minutes=minutes))).isoformat()
    assert parse_timestamp(text) == instant


@given(st.data())
@examples(300)
def test_every_edge_of_a_bucket_is_accepted(data: st.DataObject) -> None:
    """Candles, gaps, sources, coverage and cursors begin and end at edges, which are whole minutes in every zone."""
    timeframe, name = data.draw(timeframes()), data.draw(zone_names())
    instant = data.draw(instants(name, timeframe))
    opening, following = timeframe.ceil(instant, zone(name)), timeframe.next(instant, zone(name))
    assert opening % 60_000 == following % 60_000 == 0
    for edge in (opening, following):
        if edge <= NEWEST:
            assert parse_timestamp(edge) == edge
