"""Live subscriptions under load: thousands of sockets, clients that stop reading, and half an hour of new connections."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.stage import stage
from benchmarks.ticking import SYMBOLS, TICK_MS

SECONDS = 60
PSS = "servers' PSS"
READERS, SLOW, STALL_S = 1_000, 50, 75
AT_ONCE, WARM_S, SETTLE_S = 20, 120, 75  # topics linger for a minute after their last listener
WRONG = ("lost", "repeated", "out of order", "behind", "errors", "cut off", "RESYNC")

Rows = Iterable[tuple[object, ...]]


async def load() -> Rows:
    """Send a tick of each of 50 keys every 2 s for a minute, to LOAD_SOCKETS (5,000) sockets of two servers."""
    sockets = int(os.environ.get("LOAD_SOCKETS", "5000"))
    async with stage() as it:
        quiet = await it.ask(10)
        connecting = await it.enter(sockets)
        await asyncio.sleep(5)
        await it.do("mark")
        asked = await it.ask(SECONDS)
        seen = await it.do("mark")
        # A minute may have ended a moment ago: check a socket that lacks it once more.
        await asyncio.sleep(5)
        late = await it.do("mark")
    updates = seen["updates"]
    due = sockets * SECONDS * 1000 // TICK_MS
    return [
        ("what", "figure", "bar"),
        ("---",) * 3,
        ("sockets, keys, seconds", f"{sockets:,}, {SYMBOLS}, {SECONDS}", ""),
        ("all connected and caught up", f"{connecting:.1f} s", ""),
        ("ticks delivered, of those due", f"{updates.total():,} of {due:,}", ""),
        ("forming candles conflated, put back", f"{seen['counts']['conflated']:,}, {seen['counts']['put back']:,}", ""),
        ("closed candles delivered", f"{seen['closes'].total() + late['closes'].total():,}", ""),
        ("wrong", _wrong(seen["counts"] + late["counts"]), "nothing"),
        ("a tick, p50, p99, longest", _counted_quantiles(updates), "p99 1,000 ms"),
        (
            "a close after its first listener, p50, p99, longest",
            _counted_quantiles(seen["closes"] + late["closes"]),
            "",
        ),
        ("other queries before, p50, p99, longest", _quantiles(quiet), ""),
        ("other queries meanwhile, p50, p99, longest", _quantiles(asked), "p99 500 ms"),
        *(
            (f"{name}, most", f"{megabytes} MB", "600 MB" if "server" in name else "")
            for name, megabytes in it.peak_mb.items()
        ),
        ("load of the machine", f"{os.getloadavg()[0]:.1f}", ""),
    ]


async def slow() -> Rows:
    """50 of 1,000 clients stop reading for 75 s and then go on: measure what the others receive meanwhile."""
    rows: list[tuple[object, ...]] = [
        ("when", "a tick to the others, p50, p99, longest", "servers' PSS", "wrong", "of the slow ones"),
        ("---",) * 5,
    ]
    async with stage() as it:
        await it.enter(READERS)
        await asyncio.sleep(5)
        await it.do("mark")
        for when, seconds in (("before", 30), ("while they do not read", STALL_S - 5), ("after", 75)):
            if when.startswith("while"):
                await it.do(f"stall {SLOW // len(it.clients)} {STALL_S}")
            it.peak_mb.clear()
            await it.ask(seconds)
            seen = await it.do("mark")
            counts = seen["counts"]
            ended = {
                name: n
                for name, n in counts.items()
                if "closed" in str(name) or name in {"cut off", "slow and behind", "RESYNC"}
            }
            rows.append(
                (
                    when,
                    _counted_quantiles(seen["updates"]),
                    f"{it.peak_mb[PSS]} MB",
                    _wrong(counts, WRONG[:5]),
                    _listed(ended),
                )
            )
    return rows


async def soak() -> Rows:
    """Connect, subscribe and drop for SOAK_MINUTES (30): compare the resources of the servers before and after."""
    seconds = float(os.environ.get("SOAK_MINUTES", "30")) * 60
    async with stage() as it:
        await it.enter(0)
        each = AT_ONCE // len(it.clients)
        await it.do(f"churn {each} {WARM_S}")  # warm up: data that is loaded and cached once is not a leak
        await asyncio.sleep(SETTLE_S)
        await it.do("mark")
        before, began = await it.held(), time.monotonic()
        churning = asyncio.create_task(it.do(f"churn {each} {seconds}"))
        minutes = [before["servers' RSS"]]
        while not (await asyncio.wait({churning}, timeout=60))[0]:
            minutes.append(it.memory()["servers' RSS"])
        middle = await it.held()
        took = time.monotonic() - began
        await asyncio.sleep(SETTLE_S)
        after = await it.held()
        counts = (await it.do("mark"))["counts"]
    rows: list[tuple[object, ...]] = [
        ("held", "before", "at the end of the coming and going", f"{SETTLE_S} s later"),
        ("---",) * 4,
    ]
    rows += [(name, *(f"{held[name]:,.0f}" for held in (before, middle, after))) for name in before]
    return [
        *rows,
        ("servers' RSS minute by minute", " ".join(f"{megabytes:.0f}" for megabytes in minutes), "", ""),
        (f"in {took / 60:.1f} minutes", _listed(counts), "", ""),
    ]


def _wrong(counts: Mapping[object, int], names: Sequence[str] = WRONG) -> str:
    return _listed({name: counts.get(name, 0) for name in names}) or "nothing"


def _listed(counts: Mapping[object, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in counts.items() if n)


def _counted_quantiles(latencies: Counter[object]) -> str:
    return _quantiles(sorted(latencies.elements()))  # type: ignore[type-var, arg-type]


def _quantiles(took: Sequence[float]) -> str:
    if not took:
        return "none"
    p50, p99 = (took[int(len(took) * share)] for share in (0.5, 0.99))
    return f"{p50:,.0f}, {p99:,.0f}, {took[-1]:,.0f} ms"
