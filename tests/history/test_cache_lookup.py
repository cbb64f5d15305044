"""What a cache miss has read: whole chunks where they are cheap, no more than was asked where they are not."""

from __future__ import annotations

import pytest

from candlegraph.clock import MINUTE_MS
from candlegraph.span import Span, Spans
from candlegraph.timeframe import MINUTE, Timeframe
from history.cache_lookup import overlapping, widened
from history.window_plan import PlanPart, StoredSpan
from storage.cache.chunks import Chunk
from tests.history.world import HOUR_MS, T0

HOUR = Timeframe.parse("1h")


def at(minute: int) -> int:
    return T0 + minute * MINUTE_MS


def between(first: int, last: int) -> Span:
    return Span(at(first), at(last))


def part(span: Span, base: Timeframe = MINUTE) -> PlanPart:
    return PlanPart(span, (StoredSpan(span, base),))


KNOWN, CHUNK = between(100, 200), between(0, 256)


@pytest.mark.parametrize(
    ("parts", "unread", "timeframe", "expected"),
    [
        pytest.param([part(between(0, 256))], [CHUNK], MINUTE, [between(0, 256)], id="a whole chunk, for others"),
        pytest.param([part(between(50, 230))], [CHUNK], MINUTE, [between(50, 230)], id="as far as it is covered"),
        pytest.param([part(between(0, 900))], [CHUNK], MINUTE, [between(0, 256)], id="no chunk that was not missed"),
        pytest.param(
            [part(between(0, 256))], [between(0, 120), between(180, 256)], MINUTE, [between(0, 120), between(180, 256)],
            id="nothing that was found",
        ),
        pytest.param([part(between(0, 256))], [], MINUTE, [], id="nothing is missed"),
        pytest.param([part(between(0, 15360))], [between(0, 15360)], HOUR, [KNOWN], id="15,360 minutes are too many"),
        pytest.param(
            [part(between(0, 15360), HOUR)], [between(0, 15360)], HOUR, [between(0, 15360)], id="256 hours are cheap"
        ),
    ],
)  # fmt: skip
def test_a_miss_reads_whole_chunks_where_they_are_cheap(
    parts: list[PlanPart], unread: list[Span], timeframe: Timeframe, expected: list[Span]
) -> None:
    pieces = widened(parts, Spans(unread), KNOWN, timeframe)
    assert [piece.span for piece in pieces] == expected
    assert [piece.stored_spans[0].span for piece in pieces] == expected


def test_a_chunk_is_missed_if_some_of_it_is() -> None:
    chunks = [Chunk(str(i), Span(T0 + i * HOUR_MS, T0 + (i + 1) * HOUR_MS)) for i in range(4)]
    assert overlapping(chunks, Spans([between(70, 71), between(190, 200)])) == [chunks[1], chunks[3]]
    assert overlapping(chunks, Spans()) == []
