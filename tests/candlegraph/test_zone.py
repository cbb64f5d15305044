"""Zones: which names there are, and when the days of each open."""

from __future__ import annotations

import struct
from datetime import date, datetime, timedelta
from io import BytesIO
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from candlegraph import UTC, BadUserInput, zone
from candlegraph.tzif import read_tzif
from candlegraph.zone import zone_of
from tests.candlegraph import scalar_calendar as scalar
from tests.candlegraph.scalar_calendar import DAY, HOUR, MINUTE, at, examples

REFUSED = [
    *("", " ", "Nowhere", "Nowhere/City", "America", "Etc", "America/", "/UTC", "UTC/", "Asia//Tokyo", "Asia/Tokyo/"),
    *("../etc/passwd", "../../etc/passwd", "/etc/localtime", "/etc/passwd", "Europe/../UTC", "./UTC", "..", ".", "~"),
    *("UTC\0", "\0", "UTC\n", " UTC", "UTC ", "UTC;", "UTC'", "UTC%00", "C:\\UTC", "Europe\\London", "a:b"),
    *("\uff35TC", "\u00c9urope/Paris", "\U0001f552", "Europe/London\u200b", "\ud800", "UTC\u0301"),
    *("A" * 65, "A/" * 40 + "A", "A" * 100_000, "A/B/C/D"),
    *("localtime", "posixrules", "right/Europe/London", "posix/Europe/London", "leapseconds", "tzdata.zi", "zone.tab"),
    *("utc", "europe/london", "EST5EDT4,M3.2.0,M11.1.0", "+05:30", "-0500", "GMT+5:00", "UTC+1", "None", "null"),
]


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: ascii(name[:24]))
def test_what_is_no_name_of_a_zone_is_refused(name: str) -> None:
    """No name reaches the file system as a path, and none is answered with anything but BAD_USER_INPUT."""
    with pytest.raises(BadUserInput) as caught:
        zone(name)
    assert len(caught.value.message) < 700


@given(st.text(max_size=80) | st.from_regex(r"\A[A-Za-z.]{1,9}(/[A-Za-z_.+-]{0,9}){0,3}\Z"))
@examples(200)
@example("Etc/GMT+5")
def test_no_text_is_refused_in_any_other_way(name: str) -> None:
    """Whatever a client writes is a zone or BAD_USER_INPUT."""
    try:
        assert zone(name).name == name
    except BadUserInput:
        assert name not in scalar.ALL_ZONES


def test_every_name_of_the_tz_database_is_let_through() -> None:
    """The check of a name's form refuses none of the real ones (a few are then looked up)."""
    from candlegraph.zone import _NAME  # noqa: PLC0415

    assert len(scalar.ALL_ZONES) > 400
    assert [name for name in scalar.ALL_ZONES if not _NAME.fullmatch(name)] == []
    for name in ("EST5EDT", "Etc/GMT+5", "GB-Eire", "W-SU", "America/Argentina/ComodRivadavia", "Factory"):
        assert zone(name).name == name


def test_a_zone_is_read_once() -> None:
    """The tables are kept: equal names give the same object."""
    assert zone("Asia/Tokyo") is zone("Asia/Tokyo")
    assert zone("Asia/Tokyo").name in repr(zone("Asia/Tokyo"))


@pytest.mark.parametrize(
    ("name", "minutes"),
    [
        ("UTC", 24 * 60),
        ("Etc/UTC", 24 * 60),
        ("GMT", 24 * 60),
        ("Etc/GMT-8", 8 * 60),
        ("Etc/GMT+5", 60),
        ("Asia/Tokyo", 3 * 60),  # opens at 15:00, and 3 is what 15 and 24 share
        ("America/New_York", 60),
        ("Europe/London", 60),
        ("America/Havana", 60),
        ("Asia/Kolkata", 30),
        ("Australia/Lord_Howe", 30),
        ("Asia/Kathmandu", 15),
        ("Africa/Monrovia", 1),
    ],
)
def test_every_midnight_lies_on_the_grid_of_the_zone_and_on_none_that_is_wider(name: str, minutes: int) -> None:
    openings = zone(name).open_of_day(np.arange(0, 48_000))
    assert int(np.gcd.reduce(np.append(openings, 24 * 60 * MINUTE))) == minutes * MINUTE
    assert zone(name).is_utc is (minutes == 24 * 60)


def test_utc_is_utc_by_every_name() -> None:
    """The constant and the zones that never leave UTC agree."""
    days = np.array([-40_000, -1, 0, 1, 20_000, 100_000])
    for where in (UTC, zone("UTC"), zone("Etc/UTC")):
        assert where.is_utc
        assert where.open_of_day(days).tolist() == (days * DAY).tolist()
        assert where.day_of(days * DAY - 1).tolist() == (days - 1).tolist()


def _weeks(name: str) -> list[int]:
    """The Monday before some of a zone's clock changes: early ones, late ones, and the ones that are strange."""
    changes = [change for year in range(1901, 2100, 11) for change in scalar.clock_changes(name, year)[:2]]
    strange = {
        "Pacific/Apia": "2011-12-30T10:00",
        "Pacific/Kwajalein": "1993-08-21T12:00",
        "Africa/Monrovia": "1972-01-07T00:44",
        "America/St_Johns": "2010-11-07T02:31",
        "America/Havana": "2024-11-03T05:00",
        "America/Sao_Paulo": "2018-11-04T03:00",
        "Asia/Gaza": "2011-08-30T21:00",
    }
    return [*changes, *([at(strange[name])] if name in strange else [])]


@pytest.mark.parametrize("name", scalar.HARD_ZONES)
def test_days_open_as_a_walk_through_every_minute_finds(name: str) -> None:
    """Walk minute by minute around clock changes: the day that is open is the latest date seen so far.

    It checks the scalar calendar of these tests along the way.
    """
    epoch = date(1970, 1, 1)
    for change in _weeks(name):
        start = change - 40 * HOUR
        minutes = range(start, change + 30 * HOUR, MINUTE)
        latest = date.min
        walked: list[int] = []
        openings: dict[date, int] = {}
        for instant in minutes:
            today = scalar.local_date(name, instant)
            for skipped in range(1, (today - latest).days + 1 if walked else 0):
                openings[latest + timedelta(days=skipped)] = instant
            latest = max(latest, today)
            walked.append((latest - epoch).days)
        # The first hours may have begun in a day that had been reached before.
        days = zone(name).day_of(np.array(minutes, np.int64))
        assert days[600:].tolist() == walked[600:], scalar.utc(change)
        assert (zone(name).day_of(np.array(minutes, np.int64) + MINUTE - 1) == days).all()
        for day, opened in openings.items():
            if opened > start + 10 * HOUR:
                assert zone(name).open_of_day(np.array([(day - epoch).days])).tolist() == [opened], day
                assert scalar.open_of_day(name, day) == opened


@given(scalar.zone_names(), st.data())
@examples(150)
def test_days_open_where_the_scalar_calendar_says(name: str, data: st.DataObject) -> None:
    """Opening and day agree in every zone, and each is the other's inverse."""
    instant = data.draw(scalar.instants(name))
    day = scalar.day_of(name, instant)
    number = (day - date(1970, 1, 1)).days
    where = zone(name)
    assert where.day_of(np.array([instant])).tolist() == [number]
    opened, following = where.open_of_day(np.array([number, number + 1])).tolist()
    assert opened == scalar.open_of_day(name, day)
    assert opened <= instant < following
    assert opened % MINUTE == 0
    assert where.day_of(np.array([opened, following - 1])).tolist() == [number, number]


def _changes(name: str) -> list[tuple[int, int]]:
    """The (second, offset) pairs of the explicit changes in a zone's file (RFC 8536), the file that `zoneinfo` takes."""
    data = read_tzif(name)
    counts = struct.unpack(">6l", data[20:44])  # isut, isstd, leap, time, type, char
    skip = 44 + counts[3] * 5 + counts[4] * 6 + counts[5] + counts[2] * 8 + counts[1] + counts[0]
    times, types = struct.unpack(">6l", data[skip + 20 : skip + 44])[3:5]
    body = data[skip + 44 :]
    instants = struct.unpack(f">{times}q", body[: times * 8])
    offsets = [struct.unpack(">l", body[times * 9 + 6 * i :][:4])[0] for i in range(types)]
    return [(instant, offsets[i]) for instant, i in zip(instants, body[times * 8 : times * 9], strict=True)]


def _differs(data: bytes) -> bool:
    """Whether zoneinfo knows another offset once a month from 1890 to 2297, or on either side of a change."""
    tz, read = ZoneInfo.from_file(BytesIO(data)), zone_of("", data)
    changes = read.changes[1:] // 1000
    seconds = np.concatenate([np.arange(-2_524_521_600, 10_319_184_000, 30 * 86_400), changes + 59, changes - 1])
    known = [datetime.fromtimestamp(one, tz).utcoffset() for one in seconds.tolist()]
    offsets = np.array([one // timedelta(minutes=1) * MINUTE for one in known if one is not None])
    return bool((read.offsets[np.searchsorted(read.changes, seconds * 1000, side="right") - 1] != offsets).any())


def test_every_zone_is_the_one_that_zoneinfo_knows() -> None:
    """From 1890 to 2297, the rule at the end of each file included; names of one file are compared once."""
    names = {read_tzif(name): name for name in scalar.ALL_ZONES}
    assert [name for data, name in sorted(names.items(), key=lambda one: one[1]) if _differs(data)] == []


@pytest.mark.parametrize(
    "rule",
    ["EST5EDT,J60/2,J300/3", "AAA-3BBB-4:30,J62/-1,J299/26:30", "<-02>2<-01>,M3.5.0/-1,M10.5.0/0", "XYZ-05:30:00"],
)
@pytest.mark.parametrize("version", [b"2", b"3"])
def test_a_rule_of_any_form_is_written_out(rule: str, version: bytes) -> None:
    """Forms that no zone of today uses, such as days of the year, and a file without transitions."""

    def block(width: int) -> bytes:
        return (
            struct.pack(">4sc15x6I", b"TZif", version, 0, 0, 0, 0, 1, 4) + struct.pack(">i?B", 0, False, 0) + b"UTC\0"
        )

    assert not _differs(block(4) + block(8) + f"\n{rule}\n".encode())


@pytest.mark.parametrize("data", [b"", b"TZif", b"TZif2" + b"\0" * 60, b"no zone at all" * 10, b"\xff" * 100])
def test_a_file_that_is_no_zone_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="TZif"):
        zone_of("", data)


@pytest.mark.parametrize("name", scalar.ALL_ZONES)
def test_a_zone_knows_every_change_of_its_file(name: str) -> None:
    """The changes are those written in the tz database, cut to whole minutes."""
    where = zone(name)
    known = dict(zip(where.changes.tolist(), where.offsets.tolist(), strict=True))
    previous = None
    for instant, offset in _changes(name):
        cut = instant // 60 * MINUTE, offset // 60 * MINUTE
        if instant > -2_524_521_600 and previous is not None and cut[1] != previous:
            assert known[cut[0]] == cut[1], scalar.utc(cut[0])
        previous = cut[1]


def test_the_widest_instants_have_a_day() -> None:
    """Rows from a broken upstream may hold any int64: they are judged, never a crash."""
    wide = np.array([-(2**62), -(10**18), 0, 10**18, 2**62, 2**63 - 1])
    for name in scalar.HARD_ZONES:
        assert len(zone(name).day_of(wide)) == len(wide)
        assert len(zone(name).open_of_day(wide // DAY)) == len(wide)
