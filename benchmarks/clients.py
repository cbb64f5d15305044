"""Clients of live subscriptions: `python -m benchmarks.clients SOCKETS PORT...`, a process of its own.

Each socket has one subscription; symbols and ports take turns. A line on stdin is a command, and a line of JSON its answer:
`mark` (all that was received since the last mark), `stall SOCKETS SECONDS` (SOCKETS stop reading for SECONDS; a disconnected one
connects again and resumes) or `churn AT_ONCE SECONDS` (connect, subscribe and drop, repeatedly).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from benchmarks.listening import DICE, Book, Listener
from benchmarks.ticking import SYMBOLS

AT_ONCE = 50  # sockets that connect at the same time


async def _churn(book: Book, ports: list[int], seconds: float) -> None:
    """Connect, subscribe and drop: half of the clients close properly, the others just disconnect, some before an answer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        one = Listener(book, DICE.choice(ports), f"S{DICE.randrange(SYMBOLS)}")
        one.again = False
        patience = DICE.choice([0.01, 0.1, 10])
        try:
            async with asyncio.timeout(patience):
                await one.connect()
            book.counts["caught up"] += 1
        except (TimeoutError, OSError):
            book.counts["left early" if patience < 1 else "failed"] += 1
        if transport := getattr(one, "transport", None):
            if one.ready.is_set() and DICE.random() < 0.5:
                one.send({"id": "1", "type": "complete"})
                one.write(0x88, (1000).to_bytes(2, "big"))
                transport.close()
            else:
                transport.abort()


async def _stall(listeners: list[Listener], seconds: float) -> None:
    for one in listeners:
        one.slow = True
        one.transport.pause_reading()
    await asyncio.sleep(seconds)
    for one in listeners:
        one.transport.resume_reading()


async def _run_commands(sockets: int, ports: list[int]) -> None:
    loop, book, gate = asyncio.get_running_loop(), Book(), asyncio.Semaphore(AT_ONCE)
    listeners = [Listener(book, ports[i % len(ports)], f"S{i // len(ports) % SYMBOLS}") for i in range(sockets)]

    async def enter(one: Listener) -> None:
        async with gate:
            await one.connect()

    stalls: list[asyncio.Task[None]] = []
    began = time.monotonic()
    await asyncio.gather(*(enter(one) for one in listeners))
    print(json.dumps({"connected in": time.monotonic() - began}), flush=True)
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        match line:
            case ["mark"]:
                print(json.dumps(book.taken(listeners)), flush=True)
            case ["stall", count, seconds]:
                stalls.append(asyncio.create_task(_stall(listeners[: int(count)], float(seconds))))
                print("{}", flush=True)
            case ["churn", count, seconds]:
                await asyncio.gather(*(_churn(book, ports, float(seconds)) for _ in range(int(count))))
                print("{}", flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_run_commands(int(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
