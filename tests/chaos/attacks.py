"""What hostile clients do to another client of a real server: run by `make chaos`, it prints the table of docs/security.md.

Each attack runs in a process of its own, from 127.0.0.1, against a fresh server. The other client comes from 127.0.0.2 and
asks for candles all the time. `--code PATH` attacks the code of another checkout, `--only NAME` one row.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import re
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psutil

from tests.server.running import COMMAND, ROOT, Running, serving

PATIENCE_S = 40.0  # for one attack
LIMITED = ["bash", "-c", 'ulimit -Sn 1024; exec "$@"', "--", *COMMAND]
FIELDS = "timestamp time open high low close volume closed synthetic"
SYMBOLS = ("BTC/USD", "ETH/USD", "SOL/USD", "EUR/USD", "GOLD/USD")
HONEST = (
    '{ candles(market: "demo", provider: "synthetic", symbol: "BTC/USD", limit: 100) { nodes { timestamp close } } }'
)
PROTOCOL = "graphql-transport-ws"

Attack = Callable[[str], Awaitable[str]]


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


async def _answer(url: str, *pieces: bytes, read_s: float = 10.0) -> str:
    """Write pieces over one connection: the status of the answer, or how the connection ended."""
    reader, writer = await asyncio.open_connection(*_address(url))
    try:
        async with asyncio.timeout(read_s):
            with suppress(ConnectionError):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
            line = (await reader.readline()).decode().split(" ")
            return line[1] if len(line) > 1 else "closed"
    except ConnectionError:
        return "reset"
    except TimeoutError:
        return "no answer"
    finally:
        writer.transport.abort()


async def silent(url: str) -> str:
    """1,100 connections that send nothing; the server's soft limit of files is 1,024."""
    ends: Counter[str] = Counter()

    async def one() -> None:
        try:
            reader, writer = await asyncio.open_connection(*_address(url))
        except OSError:
            ends["refused"] += 1
            return
        try:
            async with asyncio.timeout(20):
                ends["closed" if not (line := await reader.readline()) else line.decode().split(" ")[1]] += 1
        except TimeoutError:
            ends["open after 20 s"] += 1
        except ConnectionError:
            ends["reset"] += 1
        writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(1_100)))
    return _counted(ends)


async def slow_head(url: str) -> str:
    """100 requests whose head, or body, comes a byte a second."""

    async def one(body: bool) -> str:
        head = b"POST /graphql HTTP/1.1\r\nhost: x\r\n"
        head += b"content-type: application/json\r\ncontent-length: 1000\r\n\r\n" if body else b"x-slow: "
        reader, writer = await asyncio.open_connection(*_address(url))
        reading = asyncio.create_task(reader.readline())
        writer.write(head)
        began = time.monotonic()
        with suppress(ConnectionError):
            while not reading.done() and time.monotonic() - began < 28:
                writer.write(b"x")
                await asyncio.wait([reading], timeout=1)
        line = b"" if not reading.done() or reading.exception() else reading.result()
        ended = reading.done()
        reading.cancel()
        writer.transport.abort()
        return "open after 28 s" if not ended else line.decode().split(" ")[1] if line else "closed"

    return _counted(Counter(await asyncio.gather(*(one(number % 2 > 0) for number in range(100)))))


async def long_header(url: str) -> str:
    """One header of 50 MB."""
    return await _answer(url, b"GET / HTTP/1.1\r\nhost: x\r\nx-long: ", *[b"x" * 1_000_000] * 50, read_s=30)


async def many_headers(url: str) -> str:
    """Headers `a:` of 30 MB in all."""
    return await _answer(url, b"GET / HTTP/1.1\r\nhost: x\r\n", *[b"a:\r\n" * 250_000] * 30, read_s=30)


async def long_url(url: str) -> str:
    """A URL of 50 MB."""
    return await _answer(url, b"GET /", *[b"x" * 1_000_000] * 50, read_s=30)


def _batch() -> str:
    items = ", ".join(
        f'{{market: "demo", provider: "synthetic", symbol: "{SYMBOLS[i % 5]}", timeframe: "{1 + i // 5}m"}}'
        for i in range(100)
    )
    return f"{{ candlesBatch(series: [{items}], limit: 5000) {{ nodes {{ {FIELDS} }} }} }}"


async def _post(url: str, query: str, **headers: str) -> tuple[int, str]:
    """The bytes of an answer, and the codes of its errors."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_S), auto_decompress=False) as http,
        http.post(f"{url}/graphql", json={"query": query}, headers={"accept-encoding": "gzip", **headers}) as answer,
    ):
        size, first = 0, b""
        async for piece in answer.content.iter_any():
            first = first or piece
            size += len(piece)
        return size, ",".join(sorted(set(re.findall(r'"code":"(\w+)"', first.decode("latin-1"))))) or "data"


async def big_answers(url: str) -> str:
    """Six batches of 100 series with 5,000 candles at once: 83 MB each."""
    found = await asyncio.gather(*(_post(url, _batch()) for _ in range(6)), return_exceptions=True)
    return _counted(Counter(one[1] if isinstance(one, tuple) else type(one).__name__ for one in found))


async def slow_reader(url: str) -> str:
    """An honest client that reads such an answer at 4 MB/s."""
    reader, writer = await asyncio.open_connection(*_address(url), limit=2**16)
    body = json.dumps({"query": _batch()}).encode()
    head = f"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    size, last, began = 0, b"", time.monotonic()
    with suppress(ConnectionError):
        while piece := await reader.read(65_536):
            size, last = size + len(piece), (last + piece)[-7:]
            if last.endswith((b"0\r\n\r\n", b"]}}")):
                break
            await asyncio.sleep(max(0, size / 4e6 - (time.monotonic() - began)))
    writer.transport.abort()
    whole = last.endswith((b"0\r\n\r\n", b"]}}"))
    return f"{size / 1e6:.0f} MB, {'whole' if whole else 'cut'}"


async def _flood(url: str, sockets: int, arguments: Callable[[int], str], stay_s: float) -> str:
    """Sockets of 100 subscriptions each; how many began, and how the others ended."""
    ends: Counter[str] = Counter()

    async def one(first: int) -> None:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_S)) as http,
            http.ws_connect(f"{url}/graphql", protocols=[PROTOCOL], max_msg_size=0) as socket,
        ):
            await socket.send_json({"type": "connection_init"})
            for number in range(first, first + 100):
                text = (
                    'subscription { candles(market: "demo", provider: "synthetic", symbol: "BTC/USD"'
                    f", {arguments(number)}) {{ kind }} }}"
                )
                await socket.send_json({"id": str(number), "type": "subscribe", "payload": {"query": text}})
            begun = set()
            with suppress(TimeoutError):
                async with asyncio.timeout(stay_s):
                    async for message in socket:
                        said = json.loads(message.data)
                        if said["type"] in ("next", "error") and said["id"] not in begun:
                            begun.add(said["id"])
                            codes = re.findall(r'"code":"(\w+)"', message.data)
                            ends[f"{said['type']} {codes[0]}" if codes else "begun"] += 1
            ends["silent"] += 100 - len(begun)

    for failure in await asyncio.gather(*(one(100 * n) for n in range(sockets)), return_exceptions=True):
        if failure:
            ends[type(failure).__name__] += 100
    return _counted(ends)


async def many_topics(url: str) -> str:
    """20 sockets with 100 timeframes each."""
    return await _flood(url, 20, lambda number: f'timeframe: "{number + 2}m"', 20)


async def most_topics(url: str) -> str:
    """100 sockets with 100 timeframes each."""
    return await _flood(url, 100, lambda number: f'timeframe: "{number + 2}m"', 30)


async def zones(url: str) -> str:
    """6 sockets with 100 time zones each."""
    from zoneinfo import available_timezones  # noqa: PLC0415 - slow, and only here

    names = sorted(name for name in available_timezones() if "/" in name)
    return await _flood(url, 6, lambda number: f'timeframe: "1d", timezone: "{names[number % len(names)]}"', 20)


async def equal_topics(url: str) -> str:
    """20 sockets with 100 equal subscriptions each: honest clients."""
    return await _flood(url, 20, lambda _: 'timeframe: "1m"', 20)


async def after_flood(url: str) -> str:
    """The same, right after 20 sockets with 100 timeframes each."""
    await _flood(url, 20, lambda number: f'timeframe: "{number + 2}m"', 5)
    return await equal_topics(url)


async def introspection(url: str) -> str:
    """320 aliases at two levels of an introspection."""
    wide = " ".join(f"a{number}: description" for number in range(320))
    inner = f"fields {{ {wide} }} ofType {{ ofType {{ fields {{ {wide} }} }} }}"
    text = f"{{ __schema {{ types {{ fields {{ type {{ ofType {{ {inner} }} }} }} }} }} }}"
    size, code = await _post(url, text)
    return f"{code}, {size / 1e3:.0f} kB"


async def logins(url: str) -> str:
    """90 wrong passwords for one account, each with an X-Forwarded-For of its own."""
    tries: Counter[str] = Counter()
    for number in range(90):
        text = 'mutation { login(username: "alice", password: "wrong password") { __typename } }'
        tries[(await _post(url, text, **{"x-forwarded-for": f"10.1.0.{number}"}))[1]] += 1
    return _counted(tries)


async def origins(url: str) -> str:
    """1,000 WebSockets of a foreign origin."""
    upgrade = (
        b"GET /graphql HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\norigin: https://evil.example\r\n\r\n"
    )
    return _counted(Counter([await _answer(url, upgrade) for _ in range(1_000)]))


ATTACKS: tuple[Attack, ...] = (
    silent, slow_head, long_header, many_headers, long_url, big_answers, slow_reader, zones, many_topics, most_topics,
    equal_topics, after_flood, introspection, logins, origins,
)  # fmt: skip


def _counted(ends: Counter[str]) -> str:
    return ", ".join(f"{count:,} {end}" for end, count in ends.most_common() if count)


@dataclass
class Honest:
    """Another client: how long it waited at most, how often it failed, and what /readyz said."""

    url: str
    longest_s: float = 0.0
    failures: int = 0
    asked: int = 0
    not_ready: int = 0

    async def ask(self) -> None:
        """Ask once over a new connection, as a browser that has just come does."""
        connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0), force_close=True)
        began = time.monotonic()
        self.asked += 1
        try:
            async with aiohttp.ClientSession(self.url, connector=connector, timeout=aiohttp.ClientTimeout(20)) as http:
                async with http.post("/graphql", json={"query": HONEST}) as answer:
                    self.failures += "errors" in await answer.json()
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                if self.asked % 10 == 0:
                    async with http.get("/readyz") as answer:
                        self.not_ready += answer.status != 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            self.failures += 1

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(0.05)


def _attack(number: int, url: str, said: Any) -> None:
    said.put(asyncio.run(ATTACKS[number](url)))


async def _measure(number: int, running: Running) -> str:
    process, honest = psutil.Process(running.process.pid), Honest(running.url)
    for _ in range(20):
        await honest.ask()
    if ATTACKS[number] in (big_answers, slow_reader):  # the candles are stored: what is fetched is another attack
        while (await _post(running.url, _batch().replace(FIELDS, "close")))[1] != "data":
            await asyncio.sleep(1)
    before, log, honest = process.memory_info().rss, running.log.stat().st_size, Honest(running.url)
    spawn = multiprocessing.get_context("spawn")
    said: Any = spawn.Queue()
    attacker = spawn.Process(target=_attack, args=(number, running.url, said))
    asking, peak = asyncio.create_task(honest.run()), before
    attacker.start()
    while attacker.is_alive() and said.empty():
        peak = max(peak, process.memory_info().rss)
        await asyncio.sleep(0.05)
    answer = said.get() if not said.empty() or attacker.exitcode == 0 else "the attack failed"
    attacker.join(5)
    asking.cancel()
    grown = (running.log.stat().st_size - log) / 1e3
    failed = f", {honest.failures} of {honest.asked} failed" if honest.failures else ""
    unready = f", {honest.not_ready} times not ready" if honest.not_ready else ""
    return (
        f"| {(ATTACKS[number].__doc__ or '').rstrip('.')} | {answer} | {honest.longest_s:.2f} s{failed}{unready} "
        f"| {(peak - before) / 1e6:+.0f} MB | {grown:.0f} kB |"
    )


async def main() -> None:
    """Run every attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--code", default=str(ROOT))
    parser.add_argument("--only", action="append", default=[])
    options = parser.parse_args()
    print("| attack | answer | longest wait of another client | memory | log |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        await asyncio.to_thread(root.chmod, 0o755)  # PostgreSQL does not run as root
        for number, attack in enumerate(ATTACKS):
            name = getattr(attack, "__name__", "")
            if options.only and name not in options.only:
                continue
            command = LIMITED if attack is silent else COMMAND
            environ = {"PYTHONPATH": options.code, "DATA_DIR": str(root / "data")}
            with serving(root / f"{name}.log", command=command, **environ) as running:
                print(await _measure(number, running), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
