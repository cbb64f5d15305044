"""Exports over a network that is cut: every row once, and nothing that has changed meanwhile."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from cable import Cable
from candlegraph_client import Client, errors, exporting, session
from candlegraph_client.candles import NUMBERS
from candlegraph_client.exporting import MAX_READS, read_export
from candlegraph_client.session import MAX_RETRIES, Session
from conftest import MINUTE_MS, T0, Server

SERIES, COUNT, CUTS = "x/imp/EXPORTED", 250_000, 20  # five pages of the server
PAGE_ROWS = 50_000
ROWS = 60
QUERY = {"market": "m", "provider": "p", "symbol": "s", "timeframe": "1m"}
GAP = {"since": 5 * MINUTE_MS, "until": 6 * MINUTE_MS, "reason": "OUTAGE", "detail": "It was down."}


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the pauses is waited for."""
    monkeypatch.setattr(session.time, "sleep", lambda _: None)


def test_an_export_that_is_cut_twenty_times_has_every_row_once(server: Server, cable: Cable, tmp_path: Path) -> None:
    rows = [(T0 + n * MINUTE_MS, n, n + 1.0, n, n, 1) for n in range(COUNT)]
    server.store(tmp_path, {SERIES: rows})
    with Client(server.url) as direct:
        expected = direct.history(SERIES, "1m", fetch=False)
    assert len(expected) == COUNT
    with Client(cable.url) as client:
        client.history(SERIES, "1m", fetch=False)
    page = cable.received * PAGE_ROWS // COUNT
    # Every fifth connection brings a page; the others are cut in the head, behind it or within a page.
    cable.cut_after((1, 900, 2_000, page // 2, page * 6 // 5)[n % 5] for n in range(CUTS))
    with Client(cable.url) as client:
        frame = client.history(SERIES, "1m", fetch=False)
        assert cable.cuts_left == 0
    pd.testing.assert_frame_equal(frame, expected, check_exact=True)
    assert frame.attrs == expected.attrs


class Exports:
    """Answers requests for exports of ROWS minutes as a list of answers says, and notes what was asked for."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(dict(request.url.params))
        answer = self.answers.pop(0)
        if isinstance(answer, httpx.Response):
            return answer
        first = -(-int(request.url.params.get("since", 0)) // MINUTE_MS)
        return httpx.Response(200, content=body(first, **answer))

    def read(self) -> Any:
        return read_export(Session("http://x", http=httpx.Client(transport=httpx.MockTransport(self))), QUERY)


def body(first: int, *, rows: int = ROWS, server: str = "one", revision: str = "r1", **said: Any) -> Iterator[bytes]:
    """The Arrow stream of an export from minute ``first`` on in batches of ten, cut off after ``rows``."""
    about = {"serverId": server, "timezone": "UTC", "since": first * MINUTE_MS, "until": ROWS * MINUTE_MS}
    about |= {"revision": revision, "gaps": [], "gapCount": 0, "sources": []} | said
    fields = [pa.field("timestamp", pa.timestamp("ms", "UTC")), *(pa.field(name, pa.float64()) for name in NUMBERS)]
    schema = pa.schema(fields, metadata={b"candlegraph": json.dumps(about).encode()})
    file = io.BytesIO()
    with pa.ipc.new_stream(file, schema) as writer:
        for at in range(first, max(min(first + rows, ROWS), first + 1), 10):  # the schema comes with the first batch
            minutes = np.arange(at, min(at + 10, first + rows, ROWS))
            arrays = [pa.array(minutes * MINUTE_MS, schema[0].type), *[pa.array(minutes * 1.0)] * 5]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
        if first + rows < ROWS:
            yield file.getvalue()
            raise httpx.ReadError("cut")
    yield file.getvalue()


def error(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"errors": [{"message": "A sentence.", "extensions": {"code": code}}]})


def minutes_of(candles: Any) -> list[int]:
    return (candles.columns["timestamp"] // MINUTE_MS).tolist()


def test_what_is_left_is_asked_for_by_the_first_revision_and_end() -> None:
    gap = {"gaps": [GAP], "gapCount": 1}
    later = {"gaps": [GAP | {"since": 40 * MINUTE_MS, "until": 41 * MINUTE_MS}], "gapCount": 1}
    sources = [{"since": since, "until": ROWS * MINUTE_MS, "source": "STORE"} for since in (0, 20 * MINUTE_MS)]
    first = {**gap, "sources": sources[:1]}
    exports = Exports({"rows": 0, **first}, {"rows": 20, **first}, {"revision": "r2", "sources": sources[1:], **later})
    candles, span, all_listed = exports.read()
    assert minutes_of(candles) == list(range(ROWS))
    rest = [
        {**QUERY, "since": str(since), "until": str(span[1]), "revision": "r1"} for since in (0, 19 * MINUTE_MS + 1)
    ]
    assert exports.asked == [QUERY, *rest]
    assert [(one["since"], one["until"]) for one in candles.sources] == [(0, ROWS * MINUTE_MS)]
    assert (candles.revision, [one["since"] // MINUTE_MS for one in candles.gaps], all_listed) == ("r1", [5, 40], True)


@pytest.mark.parametrize(
    "then",
    [
        error(409, "CONFLICT"),
        error(404, "NOT_FOUND"),
        {"server": "two"},
        {"until": 50 * MINUTE_MS},
    ],
    ids=["corrected", "withdrawn", "another server", "shorter"],
)
def test_an_export_begins_anew_where_the_rest_does_not_fit(then: Any) -> None:
    exports = Exports({"rows": 20}, then, {"server": "two", "revision": "r3"})
    candles, *_ = exports.read()
    assert minutes_of(candles) == list(range(ROWS))
    assert (candles.revision, candles.server_id) == ("r3", "two")
    assert exports.asked[0] == exports.asked[2] == QUERY


def test_an_export_that_never_ends_is_given_up_in_one_sentence() -> None:
    with pytest.raises(errors.Unreachable, match="is cut off again and again: cut"):
        Exports({"rows": 20}, *[{"rows": 0}] * (MAX_RETRIES + 1)).read()
    with pytest.raises(errors.Conflict, match="corrected faster"):
        Exports(*[{"rows": 20}, error(409, "CONFLICT")] * MAX_READS).read()
    with pytest.raises(errors.NotFound):
        Exports(error(404, "NOT_FOUND")).read()


def test_gaps_that_are_not_listed_are_not_taken_for_none() -> None:
    *_, all_listed = Exports({"gaps": [GAP], "gapCount": 2}).read()
    assert not all_listed


def test_a_batch_is_taken_over_before_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the body is never in memory as a whole."""
    events: list[str] = []
    add = exporting.Batches.add

    class Slow(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for whole in body(0):
                for at in range(0, len(whole), 100):
                    events.append("piece")
                    yield whole[at : at + 100]

    def noted(self: Any, batch: Any) -> None:
        events.append("batch")
        add(self, batch)

    monkeypatch.setattr(exporting.Batches, "add", noted)
    candles, *_ = Exports(httpx.Response(200, stream=Slow())).read()
    assert minutes_of(candles) == list(range(ROWS))
    assert events.count("batch") == ROWS // 10
    assert events.index("batch") < len(events) // 3
