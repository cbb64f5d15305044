"""Runs `server.upload.child`: one process for each import, with a memory limit and a deadline, killed if it is not needed."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import SecretStr

from candlegraph.errors import CandlegraphError, PayloadTooLarge
from server.settings import Settings
from server.upload.order import UploadOrder
from server.upload.spool import SpoolFile

log = logging.getLogger(__name__)

MAX_REPORT_BYTES = 1 << 20
MAX_LOG_BYTES = 4_096  # of what a failed child wrote


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """The limits of one import: its memory, the bytes that its file unpacks to, and its time."""

    memory_bytes: int
    max_bytes: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The lines of the importer; ``code`` is that of its refusal, None if it imported or would import the file."""

    lines: list[str]
    code: str | None


async def run_import(settings: Settings, order: UploadOrder, spooled: SpoolFile, limits: ChildLimits) -> ImportReport:
    """Import the spooled file in a process of its own, and end that process however this ends.

    PayloadTooLarge if it needs too much memory or time: nothing is stored then. CandlegraphError if the process fails.
    """
    text = json.dumps(
        {
            "settings": _as_json(settings),
            "path": str(spooled.path),
            "file": order.file,
            "target": [order.target.market, order.target.provider, order.target.symbol],
            "options": asdict(order.options),
            "memory_bytes": limits.memory_bytes,
            "max_bytes": limits.max_bytes,
        },
        default=str,
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "server.upload.child",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        pass_fds=[spooled.fd], start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(limits.timeout_s):
            report, printed = await _communicate(child, text.encode() + b"\n")
    except TimeoutError:
        raise PayloadTooLarge(
            f"The import took more than {limits.timeout_s:,.0f} s and was stopped; nothing was stored: split the file."
        ) from None
    finally:
        await _end(child)
    return _read_report(child.returncode, report, printed, limits)


async def _communicate(child: asyncio.subprocess.Process, order: bytes) -> tuple[bytes, bytes]:
    """Send the order, and read what the child writes until it ends. Its stdin stays open: it ends with us."""
    assert child.stdin is not None  # noqa: S101 - a pipe, as the other two
    child.stdin.write(order)
    report, printed = await asyncio.gather(_read(child.stdout, MAX_REPORT_BYTES), _read(child.stderr, MAX_LOG_BYTES))
    await child.wait()
    return report, printed


async def _read(stream: asyncio.StreamReader | None, most: int) -> bytes:
    """The last ``most`` bytes of a pipe."""
    found = b""
    while stream and (part := await stream.read(65_536)):
        found = (found + part)[-most:]
    return found


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is None:
        child.kill()
    if child.stdin:
        child.stdin.close()
    await asyncio.shield(child.communicate())  # to the end of its pipes, which closes them


def _read_report(returncode: int | None, report: bytes, printed: bytes, limits: ChildLimits) -> ImportReport:
    found: dict[str, Any] = json.loads(report) if returncode == 0 and report else {}
    if "lines" in found:
        return ImportReport(found["lines"], found["code"])
    # A library in another language ends the process by a signal where it gets no memory.
    if found.get("memory") or (returncode is not None and returncode < 0):
        raise PayloadTooLarge(
            f"The import needs more than {limits.memory_bytes >> 20:,} MB of memory; nothing was stored: split the file."
        )
    log.error("an import failed with exit code %s: %s", returncode, printed.decode(errors="replace"))
    raise CandlegraphError("The import failed; the reason was logged, and nothing was stored.")


def _as_json(settings: Settings) -> dict[str, Any]:
    """The settings with their secrets, for a pipe only."""
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in settings.model_dump(mode="python").items()
    }
