"""`candlegraph` as a process of its own, the way people run it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, "-m", "server.cli"]
ROOT = Path(__file__).parents[2]
START_S, STOP_S = 40.0, 20.0
_LISTENS = re.compile(r"serves (http://\S+:\d+)/graphql")


def environment(**variables: str) -> dict[str, str]:
    """Nothing of ours but what it takes to run, so that no setting of the developer's gets in."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **variables}


def run(*arguments: str, timeout: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**variables),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@dataclass
class Running:
    """A server that listens."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Stop it with a signal: its exit code, and how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(STOP_S)
        return code, time.monotonic() - began


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
                process.wait(STOP_S)
            finally:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if match := _LISTENS.search(log.read_text(encoding="utf-8")):
            return match[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"The server did not start ({process.poll()}):\n{log.read_text(encoding='utf-8')}")
