"""PostgreSQL names the same buckets as we do, in UTC: the only zone that SQL buckets in.

Widths (m, h, d, w) by ``date_bin`` from Monday 2000-01-03, months and years by ``date_trunc`` and calendar steps. Two
thousand random cases go over in one statement.
"""

from __future__ import annotations

import random

import asyncpg
import numpy as np

from candlegraph import Timeframe
from tests.candlegraph.scalar_calendar import _LONGEST, _USUAL, NEWEST, OLDEST
from tests.candlegraph.scalar_calendar import floor as scalar_floor

_BUCKETS = """
WITH cases AS (
    SELECT position, timestamptz 'epoch' + instant * interval '1 millisecond' AS at,
           width * interval '1 millisecond' AS width, months
    FROM unnest($1::bigint[], $2::bigint[], $3::int[]) WITH ORDINALITY AS t (instant, width, months, position)
), buckets AS (
    SELECT position, CASE
        WHEN months = 0 THEN date_bin(width, at, timestamptz '2000-01-03 00:00+00')
        ELSE (timestamp '2000-01-01' + interval '1 month' * months * floor(
            ((extract(year FROM month) - 2000) * 12 + extract(month FROM month) - 1) / months
        )) AT TIME ZONE 'UTC'
    END AS opened
    FROM cases, LATERAL date_trunc('month', at, 'UTC') AS truncated,
         LATERAL (SELECT truncated AT TIME ZONE 'UTC') AS local (month)
)
SELECT (extract(epoch FROM opened) * 1000)::bigint AS opened FROM buckets ORDER BY position
"""


def _cases(draw: random.Random) -> tuple[list[Timeframe], list[int]]:
    timeframes, instants = [], []
    for _ in range(2_000):
        unit = draw.choice(list(_LONGEST))
        count = draw.choice([draw.choice(_USUAL), draw.randint(1, 400), draw.randint(1, _LONGEST[unit])])
        timeframe = Timeframe.parse(f"{min(count, _LONGEST[unit])}{unit}")
        instant = draw.randint(OLDEST, NEWEST)
        if draw.random() < 0.5:
            instant = scalar_floor(timeframe, instant, "UTC") + draw.randint(-1, 1)
        timeframes.append(timeframe)
        instants.append(instant)
    return timeframes, instants


async def test_postgresql_opens_buckets_where_we_do(postgres_dsn: str) -> None:
    """Whatever the zone of its session."""
    seed = random.SystemRandom().randrange(10**9)
    timeframes, instants = _cases(random.Random(seed))
    widths = [t.width_ms or t.days * 86_400_000 for t in timeframes]
    connection = await asyncpg.connect(postgres_dsn)
    try:
        for session in ("UTC", "America/Havana"):
            await connection.execute(f"SET TIME ZONE '{session}'")
            rows = await connection.fetch(_BUCKETS, instants, widths, [t.months for t in timeframes])
            theirs = [row["opened"] for row in rows]
            ours = [t.floor(instant) for t, instant in zip(timeframes, instants, strict=True)]
            wrong = [
                (str(t), instant, a, b)
                for t, instant, a, b in zip(timeframes, instants, ours, theirs, strict=True)
                if a != b
            ]
            assert wrong == [], f"seed {seed}, {len(wrong)} of {len(instants)}"
    finally:
        await connection.close()
    assert theirs == [int(t.floor_all(np.array([i]))[0]) for t, i in zip(timeframes, instants, strict=True)]
