"""The symbols of an exchange over restarts: kept in a file, refreshed behind, and no more than a convenience."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from candlegraph.clock import DAY_MS, MINUTE_MS
from candlegraph.errors import ProviderUnavailable, UnknownSymbol
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE
from providers.ccxt import markets as ccxt_markets
from providers.ccxt.provider import Ccxt, create
from providers.ccxt.timings import CcxtTimings
from tests.fakes.binance import FakeBinance
from tests.fakes.clocks import set_clock
from tests.fakes.coinbase import FakeCoinbase
from tests.fakes.exchange import T0, Fault, random_candles
from tests.fakes.kraken import FakeKraken
from tests.timings import PATIENT_CCXT

pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning")

SPAN = Span(T0, T0 + 10 * MINUTE_MS)
INFO = "/api/v3/exchangeInfo"


@pytest.fixture
async def fake() -> AsyncIterator[FakeBinance]:
    async with FakeBinance() as served:
        served.add("BTC", "USDT", random_candles(T0, 100))
        served.add_swap("BTC", "USDT", random_candles(T0, 100, seed=2))
        served.now = T0 + 100 * MINUTE_MS
        yield served


Start = Callable[..., Awaitable[Ccxt]]


@pytest.fixture
async def start(fake: FakeBinance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Start a provider as a server that is started anew would."""
    made: list[Ccxt] = []
    set_clock(monkeypatch, lambda: fake.now)

    async def make(**more: Any) -> Ccxt:
        options = {**fake.ccxt_options("spot", "linear")["binance"], **more}
        environ = {"CCXT_EXCHANGES": "binance", "CCXT_OPTIONS": json.dumps({"binance": options})}
        (provider,) = create({**environ, "DATA_DIR": str(tmp_path)})
        assert isinstance(provider, Ccxt)
        made.append(provider)
        await provider.start()
        return provider

    yield make
    for provider in made:
        await provider.close()


@pytest.fixture(scope="module")
async def listed() -> list[bytes]:
    """What a child prints of these symbols."""
    async with FakeBinance() as fake:
        fake.add("BTC", "USDT", random_candles(T0, 100))
        markets = ccxt_markets.Markets("binance", fake.ccxt_options()["binance"], "1", CcxtTimings())
        return list(await asyncio.to_thread(markets._ask_child, "Binance"))


def file_in(tmp_path: Path) -> Path:
    return tmp_path / "ccxt" / "binance.jsonl"


async def rows(provider: Ccxt, symbol: str = "BTC/USDT") -> int:
    return len((await provider.fetch(Instrument("crypto", provider.id, symbol), MINUTE, SPAN)).candles)


async def behind(provider: Ccxt) -> None:
    """Wait for what is being loaded behind, and see that it went well."""
    loading = provider._markets._loading
    assert loading is not None
    await asyncio.wait([loading])
    assert not loading.exception()


async def test_after_a_restart_a_known_symbol_costs_no_list_of_symbols(start: Start, fake: FakeBinance) -> None:
    first = await start()
    assert await rows(first) == 10
    assert fake.calls[INFO] == 1
    fake.reset()
    second = await start()
    assert [await rows(second, symbol) for symbol in ("BTC/USDT", "BTC/USDT:USDT")] == [10, 10]
    assert fake.calls == {"/api/v3/klines": 1, "/fapi/v1/klines": 1}
    assert second._exchange.markets == first._exchange.markets  # type: ignore[union-attr]
    with pytest.raises(UnknownSymbol):
        await rows(second, "NO/SUCH")


@pytest.mark.usefixtures("listed_here")
async def test_a_listing_is_always_read_afresh(start: Start, fake: FakeBinance) -> None:
    await rows(await start())
    fake.add("ETH", "USDT", random_candles(T0, 100))
    listed = await (await start()).listings()
    assert "ETH/USDT" in {listing.symbol for listing in listed}


@pytest.mark.usefixtures("listed_here")
async def test_a_listing_that_is_asked_for_while_the_file_is_read_is_read_afresh(
    start: Start, fake: FakeBinance
) -> None:
    await rows(await start())
    fake.add("ETH", "USDT", random_candles(T0, 100))
    provider = await start()
    _, listed = await asyncio.gather(rows(provider), provider.listings())
    assert "ETH/USDT" in {listing.symbol for listing in listed}


@pytest.mark.usefixtures("listed_here")
async def test_who_reads_the_symbols_while_new_ones_are_taken_over_reads_all_of_the_old_ones(
    start: Start, fake: FakeBinance, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await start()
    await rows(provider)
    exchange = provider._exchange
    assert exchange is not None
    assert exchange.markets
    held, known = exchange.markets, dict(exchange.markets)
    fake.add("ETH", "USDT", random_candles(T0, 100))
    found, freed = [], asyncio.Event()
    loop, free = asyncio.get_running_loop(), ccxt_markets._release_slowly

    def freeing(tables: list[dict[str, Any]]) -> None:
        free(tables)
        loop.call_soon_threadsafe(freed.set)
        asyncio.run_coroutine_threadsafe(asked.wait(), loop).result(10)

    asked = asyncio.Event()
    monkeypatch.setattr(ccxt_markets, "_release_slowly", freeing)
    listing = asyncio.create_task(provider.listings())
    while not freed.is_set():
        found.append((await provider._find(Instrument("crypto", provider.id, "BTC/USDT")))[1]["symbol"])
        await asyncio.sleep(0)
    asked.set()
    await listing
    assert set(found) == {"BTC/USDT"}
    assert held == known
    assert await rows(provider, "ETH/USDT") == 10


@pytest.mark.usefixtures("listed_here")
async def test_symbols_of_yesterday_are_used_while_those_of_today_are_fetched_behind(
    start: Start, fake: FakeBinance, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rows(await start())
    fake.add("ETH", "USDT", random_candles(T0, 100))
    fake.now += DAY_MS + 1
    fake.reset()
    release = asyncio.Event()
    load = ccxt_markets.Markets._list

    def held(self: ccxt_markets.Markets, name: str) -> object:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(10)
        return load(self, name)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(ccxt_markets.Markets, "_list", held)
    provider = await start()
    assert await rows(provider) == 10
    assert fake.calls[INFO] == 0  # the answer did not wait for it
    release.set()
    await behind(provider)
    assert await rows(provider, "ETH/USDT") == 10
    assert fake.calls[INFO] == 1


@pytest.mark.usefixtures("listed_here")
async def test_a_failed_background_refresh_affects_no_caller_and_is_not_repeated_at_once(
    start: Start, fake: FakeBinance
) -> None:
    await rows(await start())
    fake.now += DAY_MS + 1
    fake.reset()
    fake.fail(Fault(status=503), times=9, path="markets")
    provider = await start()
    assert await rows(provider) == 10
    await asyncio.wait([provider._markets._loading])  # type: ignore[list-item]
    assert [await rows(provider) for _ in range(3)] == [10, 10, 10]
    assert fake.calls[INFO] == 1


def _cut(text: bytes) -> bytes:
    return text[: len(text) // 2]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda _: b"\0\xff garbage",
        lambda _: b"{}",
        lambda _: b"[]\n[]",
        _cut,
        lambda text: text.splitlines()[0],
        lambda text: text.replace(b'"symbol"', b'"cymbal"'),
        lambda text: text.replace(b'"ccxt":"', b'"ccxt":"0.'),
        lambda text: text.replace(b'"at":', b'"at":"soon","at2":'),
        lambda text: text.splitlines()[0] + b"\n" + b"7\n" * (len(text.splitlines()) - 1),
    ],
    ids=["empty", "garbage", "no header", "lists", "cut", "header alone", "no symbol", "other ccxt", "no date", "ints"],
)
async def test_a_file_that_is_of_no_use_is_asked_anew_and_replaced(
    start: Start, listed: list[bytes], tmp_path: Path, spoil: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(self: ccxt_markets.Markets, name: str) -> list[bytes]:
        asked.append(name)
        return listed

    monkeypatch.setattr(ccxt_markets.Markets, "_ask_child", ask)
    assert await rows(await start()) == 10
    good = file_in(tmp_path).read_bytes()
    file_in(tmp_path).write_bytes(spoil(good))
    assert await rows(await start()) == 10
    assert asked == ["Binance", "Binance"]
    assert file_in(tmp_path).read_bytes() == good


@pytest.mark.usefixtures("listed_here")
async def test_other_options_may_mean_other_symbols(start: Start, fake: FakeBinance) -> None:
    await rows(await start())
    await rows(await start(defaultType="swap"))
    assert fake.calls[INFO] == 2


@pytest.mark.usefixtures("listed_here")
async def test_a_folder_that_cannot_be_written_costs_only_the_convenience(
    start: Start, tmp_path: Path, fake: FakeBinance
) -> None:
    (tmp_path / "ccxt").write_text("a file where the folder should be")
    assert await rows(await start()) == 10
    assert await rows(await start()) == 10
    assert fake.calls[INFO] == 2


async def test_the_file_is_ours_alone_and_holds_no_secret(start: Start, tmp_path: Path) -> None:
    await rows(await start(password="S3CRET-PASSWORD", headers={"X-Token": "S3CRET-TOKEN"}))
    assert stat.S_IMODE(file_in(tmp_path).stat().st_mode) == 0o600
    assert b"S3CRET" not in file_in(tmp_path).read_bytes()
    assert list((tmp_path / "ccxt").iterdir()) == [file_in(tmp_path)]


async def test_keys_are_on_no_command_line(start: Start, fake: FakeBinance, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = ccxt_markets.subprocess.Popen

    def popen(command: list[str], **more: Any) -> Any:
        seen.append(f"{command} {more['env']}")
        return real(command, **more)

    monkeypatch.setattr(ccxt_markets.subprocess, "Popen", popen)
    await rows(await start(password="S3CRET-PASSWORD"))
    assert seen
    assert "S3CRET" not in "".join(seen)


async def test_a_child_that_dies_is_an_error_and_the_next_try_works(
    start: Start, fake: FakeBinance, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await start()
    with monkeypatch.context() as patched:
        patched.setattr(ccxt_markets.sys, "executable", "/bin/false")
        with pytest.raises(ProviderUnavailable, match="could not be listed"):
            await rows(provider)
    assert await rows(provider) == 10


async def test_a_list_that_never_comes_is_given_up(start: Start, fake: FakeBinance) -> None:
    provider = await start()
    provider._markets._timeout_s = 0.2
    with pytest.raises(ProviderUnavailable, match="in time"):
        await rows(provider)
    assert provider._markets._child.poll() is not None  # type: ignore[union-attr]


@pytest.mark.parametrize("fake_class", [FakeKraken, FakeCoinbase], ids=["kraken", "coinbase"])
async def test_other_exchanges_are_restored_as_well(
    fake_class: type[FakeKraken | FakeCoinbase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_class() as fake:
        fake.add("BTC", "USD", random_candles(T0, 100))
        fake.now = T0 + 100 * MINUTE_MS
        set_clock(monkeypatch, lambda: fake.now)
        ((name, options),) = fake.ccxt_options().items()
        found = []
        for _ in range(2):
            provider = Ccxt(name, options, folder=tmp_path, timings=PATIENT_CCXT)
            await provider.start()
            found.append(await rows(provider, "BTC/USD"))
            await provider.close()
            candles = [path for path in fake.calls if "OHLC" in path or "candles" in path]
            assert len(candles) == 1
            if len(found) == 1:
                fake.reset()
        assert found == [10, 10]
        assert list(fake.calls) == candles
