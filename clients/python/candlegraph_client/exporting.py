"""Exports: stored candles of any length, read batch by batch as they arrive, and resumed where the connection is cut."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import httpx

from candlegraph_client.candles import METADATA_KEY, Batches, Candles, cut, library
from candlegraph_client.errors import Conflict, NotFound, Unreachable
from candlegraph_client.operations import Source
from candlegraph_client.series import END_MS, OLDEST_MS, Span
from candlegraph_client.session import MAX_RETRIES, Session, backoff

MAX_READS = 5  # of a span that is corrected meanwhile, each from the beginning


def read_export(session: Session, query: Mapping[str, str]) -> tuple[Candles, Span, bool]:
    """The candles of an export, its span (ms), and whether all of its gaps are listed.

    NotFound where nothing is stored; Conflict where corrections come faster than it can be read.
    """
    for _ in range(MAX_READS):
        batches = Batches()
        try:
            about = _read(session, query, batches)
        except Conflict:
            continue
        listed = [Source(**{"fetchedAt": None, **one}) for one in about["sources"]]  # type: ignore[typeddict-item]
        candles = replace(
            batches.candles(),
            gaps=tuple(about["gaps"]),
            sources=tuple(listed),
            revision=about["revision"],
            timezone=about["timezone"],
            server_id=about["serverId"],
        )
        return candles, (about["since"], about["until"]), about["gapCount"] == len(about["gaps"])
    raise Conflict(f"{query['symbol']} is corrected faster than it can be exported: try again later.")


def _read(session: Session, query: Mapping[str, str], batches: Batches) -> dict[str, Any]:
    """Read an export to its end; what it says of itself. Conflict where the rest of one that was cut off has changed."""
    about: dict[str, Any] | None = None
    failures = 0
    while True:
        last = batches.last
        try:
            response = session.export(query if about is None else {**query, **_rest(about, last)})
        except NotFound as error:
            if about is None:
                raise
            raise Conflict("The rest of the export is not stored any more.") from error
        with closing(response):
            about, fault = _read_batches(response, about, batches)
        if fault is None and about is not None:
            return about
        failures = 0 if batches.last != last else failures + 1
        if failures > MAX_RETRIES:
            raise Unreachable(f"The export of {query['symbol']} is cut off again and again: {fault}.") from fault
        time.sleep(backoff(failures))


def _read_batches(
    response: httpx.Response, about: dict[str, Any] | None, batches: Batches
) -> tuple[dict[str, Any] | None, Exception | None]:
    """Read a body as far as it comes: what the export says of itself, and the error that cut it off."""
    pyarrow, ipc = library("pyarrow"), library("pyarrow.ipc")
    try:
        file = pyarrow.PythonFile(io.BufferedReader(_Body(response)), mode="r")
        coding = response.headers.get("content-encoding", "identity")
        reader = ipc.open_stream(file if coding == "identity" else pyarrow.CompressedInputStream(file, coding))
        about = _joined(about, json.loads(reader.schema.metadata[METADATA_KEY]))
        for batch in reader:
            batches.add(batch)
    except (httpx.TransportError, pyarrow.ArrowInvalid, OSError) as fault:
        return about, fault
    return about, None


def _rest(about: Mapping[str, Any], last: int | None) -> dict[str, str]:
    """The arguments of what is left of an export behind its last row."""
    since = about["since"] if last is None else last + 1
    return {"since": str(since), "until": str(about["until"]), "revision": about["revision"]}


def _joined(first: dict[str, Any] | None, rest: dict[str, Any]) -> dict[str, Any]:
    """What an export says of itself together with its rest. Conflict where they do not fit together."""
    if first is None:
        return rest
    if any(first[name] != rest[name] for name in ("serverId", "timezone", "until")):
        raise Conflict("The server has other candles now.")
    at = rest["since"]
    spans = {
        name: _adjoined([*cut(first[name], OLDEST_MS, at), *cut(rest[name], at, END_MS)])
        for name in ("gaps", "sources")
    }
    all_listed = all(len(one["gaps"]) == one["gapCount"] for one in (first, rest))
    return first | spans | {"gapCount": len(spans["gaps"]) + (not all_listed)}


def _adjoined(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ascending gaps or sources, those that continue the one before as one with it."""
    found: list[dict[str, Any]] = []
    for one in spans:
        last = found[-1] if found else {}
        if last and {**one, "since": last["since"], "until": one["since"]} == last:
            found[-1] = {**one, "since": last["since"]}
        else:
            found.append(one)
    return found


class _Body(io.RawIOBase):
    """The body of a response as a file that is read once."""

    def __init__(self, response: httpx.Response) -> None:
        self._pieces = response.iter_raw()
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
