"""An upload is imported by an operator alone, within its limits, and leaves no file behind."""

from __future__ import annotations

import gzip
import signal
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.upload import process as process_module
from server.upload.order import UNNAMED, shown_name
from server.upload.spool import Spool
from tests.server.running import serving
from tests.server.upload.uploading import T0, Connection, Uploads, csv, noise, uploads
from tests.timings import PATIENT
from tests.waiting import eventually

CSV = csv(300)


@pytest.fixture
async def at(database_dsn: str, tmp_path: Path) -> AsyncIterator[Uploads]:
    """A server with accounts."""
    async with uploads(database_dsn, tmp_path / "data", import_max_mb=1) as serving:
        yield serving
        await eventually(lambda: serving.files == [])


def children(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """The importing processes of a server, by default of this one."""
    found = []
    for one in (parent or psutil.Process()).children():
        try:
            found += [one] if "server.upload.child" in one.cmdline() else []
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


async def test_a_dry_run_says_what_an_import_would_do_and_the_import_does_it(at: Uploads) -> None:
    dry = await at.put(CSV, dryRun="true", file="May 2024.csv")
    assert (dry.status, at.runtime.settings.import_max_mb) == (200, 1)
    assert dry.headers["cache-control"] == "no-store"
    assert dry.body.items() >= {
        "dryRun": True, "file": "May 2024.csv", "market": "lab", "provider": "mine", "symbol": "A/B", "rows": 300,
        "timeframe": "1m", "first": "2024-05-01T00:00:00Z", "last": "2024-05-01T04:59:00Z", "warnings": [],
    }.items()  # fmt: skip
    assert [fact["label"] for fact in dry.body["facts"]][:3] == ["Columns", "Times", "Rows"]
    assert "300 candles of 1m would go into A/B (lab/mine)" in dry.body["summary"]
    assert await at.stored() == 0
    done = await at.put(gzip.compress(CSV), file="May 2024.csv.gz")
    assert done.status == 200, done.body
    assert done.body["summary"] == "Imported 300 candles of 1m into A/B (lab/mine)."
    assert await at.stored() == 300


async def test_a_refused_file_is_named_as_the_client_does_and_stores_nothing(at: Uploads) -> None:
    refused = await at.put(csv(300, bad=7), file="../../etc/<b>bad</b>.csv")
    assert (refused.status, refused.code) == (422, "INVALID_CANDLES")
    assert any(line.startswith("b>.csv:9: ") for line in refused.body["refusals"]), refused.body
    assert "upload-" not in str(refused.body)
    assert str(at.spool) not in str(refused.body)
    assert [fact["label"] for fact in refused.body["facts"]][:2] == ["Columns", "Times"]
    assert await at.stored() == 0
    empty = await at.put(b"")
    assert (empty.status, empty.code) == (422, "INVALID_CANDLES")


async def test_the_options_of_the_importer_are_arguments(at: Uploads) -> None:
    done = await at.put(CSV, until=str(T0 + 100 * 60_000), sparse="true", modified="1700000000000")
    assert done.status == 200, done.body
    assert await at.stored() == 100
    assert "before its last candle was over" in done.body["warnings"][0], "the file's own time counts"


async def test_the_file_is_closed_to_others_while_it_is_there(at: Uploads) -> None:
    sending = await at.open("/import/lab/mine/X", 10_000)
    await sending.send(b"x" * 5_000)
    await eventually(lambda: at.files)
    (file,) = at.files
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(at.spool.stat().st_mode) == 0o700
    sending.abort()


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"account": None}, 401, "UNAUTHENTICATED"),
        ({"account": "nonsense"}, 401, "UNAUTHENTICATED"),
        ({"account": "vera"}, 403, "FORBIDDEN"),
        ({"account": None, "origin": "HOST"}, 401, "UNAUTHENTICATED"),
        ({"origin": "https://evil.example"}, 403, "ORIGIN_NOT_ALLOWED"),
        ({"origin": "null"}, 403, "ORIGIN_NOT_ALLOWED"),
        ({"content_type": "text/plain"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"content_type": "multipart/form-data; boundary=x"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"content_type": "application/x-www-form-urlencoded"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"size": 1_048_577}, 413, "PAYLOAD_TOO_LARGE"),
        ({"path": "/import/demo/synthetic/X"}, 403, "FORBIDDEN"),
        ({"path": "/import/files/files/X"}, 403, "FORBIDDEN"),
        ({"path": "/import/la%20b/mine/X"}, 400, "BAD_USER_INPUT"),
        ({"path": "/import/l%C3%A4b/mine/X"}, 400, "BAD_USER_INPUT"),
        ({"path": f"/import/lab/mine/{'x' * 129}"}, 400, "BAD_USER_INPUT"),
        ({"path": "/import/lab/mine/%00"}, 400, "BAD_USER_INPUT"),
        ({"path": "/import/lab/mine/X?dryRun=maybe"}, 400, "BAD_USER_INPUT"),
        ({"path": "/import/lab/mine/X?dry_run=true"}, 400, "BAD_USER_INPUT"),
        ({"path": "/import/lab/mine/X?dryRun=true&dryRun=false"}, 400, "BAD_USER_INPUT"),
        ({"path": "/import/lab/mine/X?covers=true&sparse=true"}, 400, "BAD_USER_INPUT"),
        ({"path": "/import/lab/mine/X?clock=Nowhere"}, 400, "BAD_USER_INPUT"),
        ({"path": "/import/lab/mine/X?until=1714521600"}, 400, "BAD_USER_INPUT"),
    ],
)
async def test_what_can_be_refused_is_refused_before_a_byte_of_the_body(
    at: Uploads, sent: dict[str, Any], status: int, code: str
) -> None:
    """The client has sent the head alone, and gets the answer."""
    if sent.get("origin") == "HOST":
        sent = {**sent, "origin": at.url}
    sending = await at.open(**{"path": "/import/lab/mine/X", "size": 1_000, **sent})
    answer = await sending.answer()
    assert (answer.status, answer.code) == (status, code), answer.body
    assert at.files == []
    sending.abort()


async def test_no_method_of_a_form_reaches_an_import(at: Uploads) -> None:
    for method in ("POST", "GET"):
        sending = await at.open("/import/lab/mine/X", 10, method=method)
        assert (await sending.answer()).status == 405
        sending.abort()
    preflight = await at.open(
        "/import/lab/mine/X", 0, method="OPTIONS", account=None, origin=at.url, access_control_request_method="PUT"
    )
    answer = await preflight.answer()
    assert answer.status != 200 or "put" not in answer.headers.get("access-control-allow-methods", "")
    preflight.abort()


async def test_the_owner_of_a_development_machine_needs_a_page_of_this_server(
    database_dsn: str, tmp_path: Path
) -> None:
    """A page of another site that the browser lets through, a script on this machine, and a proxy are no such page."""
    foreign = "http://localhost:5173"
    async with uploads(database_dsn, tmp_path, accounts=False, allowed_origins=foreign) as at:
        for headers, status in (
            ({}, 401),
            ({"origin": foreign}, 401),
            ({"origin": at.url, "sec_fetch_site": "cross-site"}, 401),
            ({"origin": at.url, "x_forwarded_for": "10.0.0.1"}, 401),
            ({"origin": at.url, "sec_fetch_site": "same-origin"}, 200),
            ({"origin": at.url}, 200),
        ):
            sending = await at.open("/import/lab/mine/X?dryRun=true", len(CSV), account=None, **headers)
            await sending.send(CSV)
            answer = await sending.answer()
            assert answer.status == status, (headers, answer.body)
            sending.abort()


async def test_uploads_can_be_switched_off(database_dsn: str, tmp_path: Path) -> None:
    async with uploads(database_dsn, tmp_path, import_max_mb=0) as at:
        answer = await at.put(CSV)
        assert (answer.status, answer.code) == (403, "FORBIDDEN")
        assert "IMPORT_MAX_MB" in answer.message


async def test_a_body_that_grows_beyond_the_limit_is_refused_on_the_way(at: Uploads) -> None:
    sending = await at.open("/import/lab/mine/X", None)
    piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    for _ in range(17):
        await sending.send(piece)
    answer = await sending.answer()
    assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE")
    assert "at most 1 MB" in answer.message
    sending.abort()


async def test_a_file_that_unpacks_beyond_the_limit_is_refused(at: Uploads) -> None:
    bomb = gzip.compress(csv(10) + b"0" * (40 << 20))
    assert len(bomb) < 100_000
    answer = await at.put(bomb, file="bomb.csv.gz")
    assert (answer.status, answer.code) == (422, "INVALID_CANDLES")
    assert "unpacks to more than 1 MB" in answer.message
    assert (await at.put(noise(100_000), file="x.parquet")).code == "INVALID_CANDLES"
    assert (await at.put(b"PAR1" + noise(100_000), file="x.csv")).code == "INVALID_CANDLES"


async def test_an_account_uploads_one_file_at_a_time_and_a_process_two(at: Uploads) -> None:
    under_way = []
    for token in ("ada", "bob"):
        one = await at.open("/import/lab/mine/X?dryRun=true", len(CSV), account=token)
        await one.send(CSV[:100])
        under_way.append(one)
        await eventually(lambda: len(at.files) == len(under_way))
    for token, said in (("ada", "of yours"), ("cyd", "Too many uploads")):
        refused = await at.open("/import/lab/mine/X", len(CSV), account=token)
        answer = await refused.answer()
        assert (answer.status, answer.code) == (429, "OVERLOADED")
        assert said in answer.message
        assert answer.headers["retry-after"] == "5"
        refused.abort()
    for one in under_way:
        await one.send(CSV[100:])
        assert (await one.answer()).status == 200
        one.abort()
    assert (await at.put(CSV, account="cyd", dryRun="true")).status == 200


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(at: Uploads) -> None:
    sending = await at.open("/import/lab/mine/X", len(CSV))
    await sending.send(CSV[:1000])
    await eventually(lambda: at.files)
    sending.abort()
    await eventually(lambda: not at.files)
    assert (await at.put(CSV, dryRun="true")).status == 200, "its place is free again"


async def test_a_client_that_leaves_while_its_file_is_imported_ends_the_import(at: Uploads) -> None:
    sending = await at.open("/import/lab/mine/X", len(CSV))
    await sending.send(CSV)
    await eventually(children)
    (child,) = children()
    sending.abort()
    await eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    await eventually(lambda: not at.files)
    assert await at.stored() == 0


async def test_an_import_that_takes_too_much_memory_is_ended(database_dsn: str, tmp_path: Path) -> None:
    async with uploads(database_dsn, tmp_path, memory_bytes=100 << 20) as at:
        answer = await at.put(csv(20_000))
        assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE"), answer.body
        assert "more than 100 MB of memory" in answer.message
        assert (at.files, await at.stored()) == ([], 0)


async def test_an_import_that_takes_too_long_is_ended(database_dsn: str, tmp_path: Path) -> None:
    async with uploads(database_dsn, tmp_path, timings=replace(PATIENT, import_timeout_s=0.01)) as at:
        answer = await at.put(CSV)
        assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE")
        assert "was stopped" in answer.message
        assert (at.files, children(), await at.stored()) == ([], [], 0)


async def test_an_import_that_fails_is_logged_and_shows_nothing_of_the_server(
    at: Uploads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process_module, "_as_json", lambda _: {"cache_mb": "no number"})
    answer = await at.put(CSV)
    assert (answer.status, answer.code) == (500, "INTERNAL")
    assert answer.message == "The import failed; the reason was logged, and nothing was stored."
    assert "an import failed with exit code 0" in caplog.text
    assert "cache_mb" in caplog.text


async def test_a_nearly_full_disk_takes_no_upload(at: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.upload.endpoint._free_bytes", lambda _: 100)
    answer = await at.put(CSV)
    assert (answer.status, answer.code) == (503, "UNAVAILABLE")


async def test_a_killed_server_leaves_no_import_and_a_restart_no_file(database_dsn: str, tmp_path: Path) -> None:
    settings = {"DB_CONNECTION_STRING": database_dsn, "DATA_DIR": str(tmp_path / "data"), "CCXT_EXCHANGES": " "}
    spool = tmp_path / "data" / "uploads"
    with serving(tmp_path / "log", **settings) as server:
        waiting = await send(server.url, CSV[:1000], len(CSV))
        await eventually(lambda: spool.is_dir() and list(spool.iterdir()))
        imported = psutil.Process(server.process.pid)
        server.stop(signal.SIGKILL)
        assert len(list(spool.iterdir())) == 1, "the file of a killed process stays until the next start"
        waiting.abort()
        assert not imported.is_running()
    with serving(tmp_path / "log", **settings) as server:
        assert list(spool.iterdir()) == []
        importing = await send(server.url, CSV, len(CSV))
        parent = psutil.Process(server.process.pid)
        await eventually(lambda: children(parent))
        (child,) = children(parent)
        server.stop(signal.SIGKILL)
        await eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        importing.abort()
    with serving(tmp_path / "log", **settings):
        assert list(spool.iterdir()) == []


async def send(url: str, body: bytes, size: int) -> Connection:
    """Begin an upload as the owner of the machine."""
    at = Uploads(url, Path(), None, {})  # type: ignore[arg-type]
    sending = await at.open("/import/lab/mine/X", size, account=None, origin=url)
    await sending.send(body)
    return sending


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("a.csv", "a.csv"),
        ("/etc/passwd", "passwd"),
        ("C:\\temp\\x.csv", "x.csv"),
        ("..", ".."),
        ("a\r\nb\x1b[31m\x00.csv", "ab[31m.csv"),
        ("", UNNAMED),
        ("/", UNNAMED),
        ("x" * 500, "x" * 128),
    ],
)
def test_the_name_of_a_file_is_shown_and_never_a_path(sent: str, shown: str) -> None:
    assert shown_name(sent) == shown


def test_a_start_deletes_the_files_of_processes_that_are_gone_and_no_others(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "uploads")
    spool.sweep()
    with spool.file() as used:
        left = spool.directory / "upload-left"
        left.write_bytes(b"x")
        (spool.directory / "upload-link").symlink_to(tmp_path / "outside")
        (tmp_path / "outside").write_bytes(b"x")
        Spool(spool.directory).sweep()
        assert used.path.exists()
        assert not left.exists()
        assert (tmp_path / "outside").exists()
    assert not used.path.exists()
