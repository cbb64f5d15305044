"""The symbols of an exchange as ccxt describes them: a child process lists them, and a file keeps them across restarts.

Listing costs ccxt seconds of CPU, in steps of up to 100 ms that block every other thread. The child process prints one line
per symbol, and this process handles one line at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from candlegraph import clock, errors
from candlegraph.clock import DAY_MS
from candlegraph.errors import ProviderError, ProviderUnavailable
from candlegraph.provider import Listing
from candlegraph.series import SymbolKind
from providers.ccxt.errors import translating_errors
from providers.ccxt.exchange import TICK_SIZE, Exchange, MarketInfo, make_exchange
from providers.ccxt.timings import CcxtTimings
from providers.ccxt.traits import ExchangeTraits
from providers.ccxt.volumes import VolumeScale, contract_size

log = logging.getLogger(__name__)

_KINDS = {kind.value.lower(): kind for kind in SymbolKind}  # includes ccxt's types of markets

MAX_AGE_MS = DAY_MS  # older symbols are still used while new ones are fetched


@dataclass(frozen=True, slots=True)
class _SymbolTables:
    """The symbols of an exchange, in the tables that ccxt uses."""

    markets: dict[str, MarketInfo]
    by_id: dict[str, list[MarketInfo]]
    symbols: list[str]
    ids: list[str]

    @classmethod
    def of(cls, lines: Iterable[bytes]) -> Self:
        """Read one line of JSON for each symbol; ValueError, KeyError."""
        markets: dict[str, MarketInfo] = {}
        by_id: dict[str, list[MarketInfo]] = {}
        for line in lines:
            market: dict[str, Any] = orjson.loads(line)
            if not all(isinstance(market[key], str) for key in ("symbol", "id")):
                raise ValueError("A market has no name.")
            markets[market["symbol"]] = market
            by_id.setdefault(market["id"], []).append(market)
        return cls(markets, by_id, sorted(markets), sorted(by_id))

    def swap(self, exchange: Exchange) -> list[dict[str, Any]]:
        """Give ``exchange`` these symbols, as ``set_markets`` would; return its old tables, unchanged.

        It runs in the event loop and without an ``await``, so a lookup there sees either the old symbols or the new ones.
        """
        old: list[dict[str, Any]] = [exchange.markets or {}, exchange.markets_by_id or {}]
        exchange.markets, exchange.markets_by_id = self.markets, self.by_id
        exchange.symbols, exchange.ids = self.symbols, self.ids
        return old


class Markets:
    """Fills an exchange's ``markets``: from the file if it is usable, else from the exchange itself."""

    def __init__(
        self,
        exchange_id: str,
        options: Mapping[str, object],
        version: str,
        timings: CcxtTimings,
        folder: Path | None = None,
    ) -> None:
        """Read nothing yet; without a ``folder`` keep nothing."""
        self._id = exchange_id
        self._timeout_s = timings.listing_timeout_s
        self._options = options
        # Other options may mean other symbols. Options may have keys, and 32 bits of a digest reveal none of them.
        text = json.dumps(dict(options), sort_keys=True, default=str).encode()
        self._written_for = {"ccxt": version, "options": hashlib.blake2b(text, digest_size=4).hexdigest()}
        self._file = folder / "ccxt" / f"{exchange_id}.jsonl" if folder else None
        self._at = 0  # when the symbols in use were listed
        self._loading: asyncio.Task[bool] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False

    async def ensure_loaded(self, exchange: Exchange) -> None:
        """Load the symbols, which may be a day old; ProviderError if that is not possible."""
        if not exchange.markets:
            await asyncio.shield(self._begin(exchange, kept=True))
        if clock.now_ms() - self._at > MAX_AGE_MS:
            self._begin(exchange, kept=False)

    async def refresh(self, exchange: Exchange) -> None:
        """Fetch the list; concurrent callers wait for the same answer. ProviderError."""
        while not await asyncio.shield(self._begin(exchange, kept=False)):
            pass  # that call read the file, which may be old

    async def close(self) -> None:
        """Stop a list that is being loaded."""
        self._closed = True
        if self._loading and not self._loading.done():
            if self._child:
                self._child.kill()
            await asyncio.wait([self._loading])

    def _begin(self, exchange: Exchange, *, kept: bool) -> asyncio.Task[bool]:
        """Start to load the symbols, or join a running load; its result is whether they came from the exchange."""
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load(exchange, kept=kept))
            self._loading.add_done_callback(lambda task: task.cancelled() or task.exception())  # marks it as retrieved
        return self._loading

    async def _load(self, exchange: Exchange, *, kept: bool) -> bool:
        tables = await asyncio.to_thread(self._restore) if kept else None
        if is_new := tables is None:
            self._at = clock.now_ms()  # a failed try counts too: the next background load is a day later
            tables = await asyncio.to_thread(self._list, exchange.name)
        old = tables.swap(exchange)
        await asyncio.to_thread(_release_slowly, old)
        return is_new

    def _restore(self) -> _SymbolTables | None:
        """The symbols of the file; None if anything is wrong with it: then they are fetched."""
        try:
            header, *lines = self._file.read_bytes().splitlines() if self._file else [b"{}"]
            head = orjson.loads(header)
            if {name: head.get(name) for name in self._written_for} != self._written_for or head["count"] != len(lines):
                return None
            at = int(head["at"])
            tables = _SymbolTables.of(lines)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - the file may have any content
            log.warning("%s cannot be used: %r", self._file, error)
            return None
        self._at = min(at, clock.now_ms())
        return tables

    def _list(self, name: str) -> _SymbolTables:
        """Let a child process list the symbols, and write them to the file."""
        lines = self._ask_child(name)
        if not lines:
            raise ProviderUnavailable(f"{name} listed no symbols.")
        with translating_errors(name):
            tables = _SymbolTables.of(lines)
        if self._file:
            header = orjson.dumps({**self._written_for, "at": self._at, "count": len(lines)})
            try:
                _write(self._file, [header, *lines])
            except OSError as error:
                log.warning("the symbols of %s could not be kept: %s", name, error)
        return tables

    def _ask_child(self, name: str) -> Sequence[bytes]:
        command = [sys.executable, "-c", f"from {__name__} import run_child; run_child()"]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        pipe, away = subprocess.PIPE, subprocess.DEVNULL
        question = json.dumps(
            [self._id, dict(self._options)]
        ).encode()  # through the pipe, because other users can read a command line
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=away, env=environ) as self._child:  # noqa: S603
            if self._closed:
                self._child.kill()
            try:
                reply, _ = self._child.communicate(question, timeout=self._timeout_s)
            except subprocess.TimeoutExpired:
                self._child.kill()
                raise ProviderUnavailable(f"{name} did not list its symbols in time.") from None
        if self._closed:
            raise ProviderUnavailable(f"{name} is being closed.")
        lines = reply.splitlines()
        if self._child.returncode == 0:
            return lines
        try:
            kind, message, retry_after = orjson.loads(lines[-1])
        except (IndexError, ValueError):
            raise ProviderUnavailable(f"The symbols of {name} could not be listed.") from None
        raise getattr(errors, kind)(message, retry_after=retry_after)


def listing(market: MarketInfo, traits: ExchangeTraits, exchange: Exchange) -> Listing:
    """The listing of one symbol."""
    steps = exchange.precisionMode == TICK_SIZE  # in other modes a precision is a number of digits
    created = market.get("created")
    texts = {key: str(market[key]) if market.get(key) else None for key in ("id", "base", "quote")}
    return Listing(
        symbol=str(market["symbol"]),
        name=texts["id"],
        base=texts["base"],
        quote=texts["quote"],
        active=market.get("active") is not False,  # None: the exchange does not report it
        first_available=created if isinstance(created, int) and created > 0 else None,
        has_volume=VolumeScale.of_rows(traits, market).times is not None,
        kind=_KINDS.get(str(market.get("type")), SymbolKind.OTHER),
        contract_size=None if market.get("spot") else contract_size(market),
        price_increment=_increment(market, "price") if steps else None,
        quantity_increment=_increment(market, "amount") if steps else None,
    )


def _increment(market: MarketInfo, what: str) -> float | None:
    """The smallest step of a price or an amount; None if ccxt does not know it."""
    precision = market.get("precision")
    step = precision.get(what) if isinstance(precision, Mapping) else None
    return float(step) if isinstance(step, int | float) and step > 0 else None


def _release_slowly(tables: list[dict[str, Any]]) -> None:
    """Free tables value by value: freeing all at once would block for 30 ms. Values that are still in use stay."""
    values = [value for table in tables for value in table.values()]
    tables.clear()
    while values:
        values.pop()


def _write(file: Path, lines: Iterable[bytes]) -> None:
    """Replace a file atomically, so that no reader finds half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=file.stem)
    try:
        with os.fdopen(descriptor, "wb") as written:
            written.writelines(line + b"\n" for line in lines)
        Path(name).replace(file)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def run_child() -> None:
    """Run in the child process: print the markets, or the error as the last line."""
    exchange_id, options = orjson.loads(sys.stdin.buffer.read())
    try:
        for line in asyncio.run(list_markets(exchange_id, options)):
            sys.stdout.buffer.write(line + b"\n")
    except ProviderError as error:
        sys.stdout.buffer.write(b"\n" + orjson.dumps([type(error).__name__, error.message, error.retry_after]))
        sys.exit(1)


async def list_markets(exchange_id: str, options: Mapping[str, object]) -> list[bytes]:
    """The markets of an exchange, one line of JSON each; ProviderError."""
    exchange = make_exchange(exchange_id, options)
    try:
        with translating_errors(exchange.name):
            async with asyncio.timeout(CcxtTimings().listing_timeout_s):
                await exchange.load_markets()
    finally:
        await exchange.close()
    markets = (exchange.markets or {}).values()
    return [orjson.dumps(market, default=str, option=orjson.OPT_NON_STR_KEYS) for market in markets]
