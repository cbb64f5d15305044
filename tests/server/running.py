"""`candlegraph` as a process of its own, the way people run it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import HANG_S, eventually_blocking

COMMAND = [sys.executable, "-m", "server.cli.main"]
ROOT = Path(__file__).parents[2]
_LISTENS = re.compile(r"serves (http://\S+:\d+)/graphql")


def environment(**variables: str) -> dict[str, str]:
    """Nothing of ours but what it takes to run, so that no setting of the developer's gets in."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **variables}


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**variables),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@dataclass
class Running:
    """A server that listens."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it with a signal: its exit code."""
        self.process.send_signal(number)
        return self.process.wait(HANG_S)


@contextmanager
def serving(log: Path, *arguments: str, command: Sequence[str] = COMMAND, **variables: str) -> Iterator[Running]:
    """Run `candlegraph serve` on a free port; it is stopped at the end if the test has not done so."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "serve", "--port", "0", *arguments],
            env=environment(**variables),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        yield Running(process, _address(process, log), log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(HANG_S)
            finally:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    def listens() -> re.Match[str] | None:
        return _LISTENS.search(log.read_text(encoding="utf-8"))

    with suppress(TimeoutError):
        eventually_blocking(lambda: listens() or process.poll() is not None)
    if match := listens():
        return match[1]
    raise AssertionError(f"The server did not start ({process.poll()}):\n{log.read_text(encoding='utf-8')}")
