"""The local copy: cold, warm, after a correction, and of a server that is another one now."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cable import Cable
from candlegraph_client import Client, mirror
from conftest import MINUTE_MS, T0, Server
from test_history import walk

SERIES = "x/imp/MIRRORED/1"
COUNT = 21_000
BEGIN = T0 - 2 * COUNT * MINUTE_MS  # all of it is over, also by the clock of the fast server, which begins at T0
SPAN = {"since": BEGIN, "until": BEGIN + 60 * COUNT * MINUTE_MS}


@dataclass
class Mirrored:
    """A client with a local copy, whose traffic is counted."""

    client: Client
    cable: Cable
    folder: Path
    requests: list[str]

    def load(self, series: str = SERIES, **options: Any) -> tuple[pd.DataFrame, int, int]:
        """A frame, and how many requests and bytes it took."""
        requests, received = len(self.requests), self.cable.received
        frame = self.client.history(series, "1m", cache=True, **(options or SPAN))
        return frame, len(self.requests) - requests, self.cable.received - received


@pytest.fixture
def mirrored(cable: Cable, tmp_path: Path) -> Iterator[Mirrored]:
    with Client(cable.url, cache_folder=tmp_path / "cache") as client:
        requests: list[str] = []
        client.session._http.event_hooks["request"] = [lambda request: requests.append(request.url.path)]
        yield Mirrored(client, cable, tmp_path / "cache", requests)


@pytest.fixture(scope="module", autouse=True)
def stored(server: Server, fast: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The series on both servers, with other candles on the second one."""
    folders = [tmp_path_factory.mktemp("rows"), tmp_path_factory.mktemp("rows")]
    with ThreadPoolExecutor() as pool:
        here = pool.submit(server.store, folders[0], {SERIES: walk(COUNT, BEGIN)})
        fast.store(folders[1], {SERIES: walk(COUNT, BEGIN, seed=6)})
        here.result()


def test_a_warm_copy_takes_one_request_and_a_correction_only_its_candles(
    server: Server, client: Client, mirrored: Mirrored, tmp_path: Path
) -> None:
    cold, _, cold_bytes = mirrored.load()
    assert len(cold) == COUNT
    warm, requests, warm_bytes = mirrored.load()
    assert requests == 1
    assert warm_bytes * 100 < cold_bytes
    pd.testing.assert_frame_equal(warm, cold, check_exact=True)

    rows = walk(COUNT, BEGIN)
    added = walk(20, since=BEGIN + COUNT * MINUTE_MS)
    server.store(tmp_path, {SERIES: added})
    more, requests, _ = mirrored.load()
    assert requests == 1
    assert len(more) == COUNT + 20

    changed = (*rows[7_000][:4], rows[7_000][1], 77.0)
    server.store(tmp_path, {SERIES: [changed]})
    corrected, _, corrected_bytes = mirrored.load()
    assert corrected["volume"].iloc[7_000] == 77.0
    assert corrected_bytes * 20 < cold_bytes
    pd.testing.assert_frame_equal(corrected, client.history(SERIES, "1m", **SPAN), check_exact=True)
    assert corrected.attrs["revision"] != cold.attrs["revision"]
    print(f"bytes: cold {cold_bytes}, warm {warm_bytes}, corrected {corrected_bytes}")
    _, requests, _ = mirrored.load()
    assert requests == 1


def test_a_copy_is_of_one_server_only(server: Server, fast: Server, mirrored: Mirrored) -> None:
    here, *_ = mirrored.load()
    mirrored.cable.lead_to(fast.url)
    mirrored.cable.cut()
    with Client(fast.url) as other:
        there = other.history(SERIES, "1m", **SPAN)
    found, *_ = mirrored.load()
    pd.testing.assert_frame_equal(found, there, check_exact=True)
    assert found.attrs["server_id"] == there.attrs["server_id"] != here.attrs["server_id"]
    _, requests, _ = mirrored.load()
    assert requests == 1


def test_another_span_fetches_what_the_copy_lacks(client: Client, mirrored: Mirrored) -> None:
    series, day = "demo/synthetic/SOL/USD", 1_440 * MINUTE_MS
    if not len(client.history(series, "1m", since=T0, until=T0 + 4 * day)):
        pytest.fail("the demo has no such symbol")
    mirrored.load(series, since=T0 + day, until=T0 + 2 * day)
    for since, until in ((0, 1), (1, 2), (0, 4), (2, 3)):
        span = {"since": T0 + since * day, "until": T0 + until * day}
        frame, *_ = mirrored.load(series, **span)
        pd.testing.assert_frame_equal(frame, client.history(series, "1m", **span), check_exact=True)
    _, requests, _ = mirrored.load(series, since=T0, until=T0 + 4 * day)
    assert requests == 1


def test_a_file_that_cannot_be_read_counts_as_none(mirrored: Mirrored) -> None:
    before, *_ = mirrored.load()
    [file] = mirrored.folder.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:1_000])
    after, *_ = mirrored.load()
    pd.testing.assert_frame_equal(after, before, check_exact=True)


def test_an_interrupted_write_leaves_the_old_copy_whole(mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrored.load()
    [file] = mirrored.folder.rglob("*.parquet")
    before = file.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mirror.Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        mirrored.load(since=BEGIN - MINUTE_MS, until=BEGIN + MINUTE_MS)
    assert [one.name for one in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_no_name_leaves_the_folder(client: Client, tmp_path: Path) -> None:
    copies = mirror.Mirror(client.session, tmp_path)
    for symbol in ("..", "../../x", "a/../../b", ".", "C:\\x"):
        path = copies._path(mirror.Series("m", "..", symbol, "1m"), "id")
        assert path.resolve().is_relative_to(tmp_path / "mirror" / "id")
        assert ".." not in path.parts
