"""A made file of each origin is recognised by looking at it, and its candles come back as they were written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

from candlegraph import UTC as UTC_ZONE
from candlegraph import Candle, Timeframe, zone
from providers.tables.hints import Hints
from providers.tables.names import name_of
from providers.tables.origins import ORIGINS
from providers.tables.reader import read_table
from providers.tables.recognition import table

ROOT = Path(__file__).parents[3]
START = int(datetime(2024, 1, 16, 14, 30, tzinfo=UTC).timestamp() * 1000)  # the bell in New York, a day after the 12th
SUMMER = int(datetime(2024, 7, 16, 13, 30, tzinfo=UTC).timestamp() * 1000)  # the bell in daylight saving time
DAY_START = int(datetime(2024, 1, 15, tzinfo=UTC).timestamp() * 1000)  # a Monday
MINUTE_MS, DAY_MS = 60_000, 86_400_000


def made(count: int = 5, step_ms: int = MINUTE_MS, start: int = START) -> list[Candle]:
    """Candles whose close is the next open."""
    return [
        Candle(start + n * step_ms, 100.25 + n, 103.5 + n, 99.75 + n / 2, 101.25 + n, 1000.0 + n) for n in range(count)
    ]


DAYS = [
    candle
    for candle in made(12, DAY_MS, DAY_START)
    if datetime.fromtimestamp(candle.timestamp / 1000, UTC).weekday() < 5
]


def local(candle: Candle, pattern: str, name: str = "UTC") -> str:
    return datetime.fromtimestamp(candle.timestamp / 1000, ZoneInfo(name)).strftime(pattern)


def ohlc(candle: Candle, separator: str = ",") -> str:
    return separator.join(map(repr, (candle.open, candle.high, candle.low, candle.close)))


def ohlcv(candle: Candle, separator: str = ",") -> str:
    return f"{ohlc(candle, separator)}{separator}{candle.volume}"


Row = Callable[[Candle], str]
AS_UTC = Hints(usual_clock=UTC_ZONE)


@dataclass(frozen=True)
class Made:
    """A file: its header lines, and how a candle becomes a row."""

    header: str
    row: Row
    name: str = "prices.csv"
    candles: list[Candle] = field(default_factory=made)
    footer: str = ""
    hints: Hints = AS_UTC
    has_volume: bool = True

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.header + "".join(f"{self.row(candle)}\n" for candle in self.candles) + self.footer)
        return path


NEW_YORK = "America/New_York"
ISO = "%Y-%m-%dT%H:%M:%SZ"
MADE: dict[str, Made] = {
    "Binance Vision": Made(
        "", lambda c: f"{c.timestamp},{ohlcv(c)},{c.timestamp + 59_999},77.5,5,1.5,2.5,0", "BTCUSDT-1m-2024-01.csv"
    ),
    "Binance futures": Made(
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore\n",
        lambda c: f"{c.timestamp}000,{ohlcv(c)},{c.timestamp + 59_999}999,77.5,5,1.5,2.5,0",
    ),
    "Kraken REST": Made("", lambda c: f"{c.timestamp // 1000},{ohlc(c)},{c.low + 0.5},{c.volume},17"),
    "Kraken OHLCVT": Made("", lambda c: f"{c.timestamp // 1000},{ohlcv(c)},17", "XBTUSD_1.csv"),
    "CryptoDataDownload": Made(
        "https://www.CryptoDataDownload.com\nunix,date,symbol,open,high,low,close,Volume USDT,Volume BTC,tradecount\n",
        lambda c: f"{c.timestamp},{local(c, '%Y-%m-%d %H:%M:%S')},BTC/USDT,{ohlc(c)},777777,{c.volume},9",
    ),
    "Poloniex": Made(
        "date,high,low,open,close,volume,quoteVolume,weightedAverage\n",
        lambda c: f"{c.timestamp // 1000},{c.high},{c.low},{c.open},{c.close},7.5,{c.volume},100.5",
    ),
    "Bybit": Made(
        "startTime,openPrice,highPrice,lowPrice,closePrice,volume,turnover\n",
        lambda c: f"{c.timestamp},{ohlcv(c)},7777",
    ),
    "OKX swaps and futures": Made(
        "instrument_name,open,high,low,close,vol,vol_ccy,vol_quote,open_time,confirm\n",
        lambda c: f"BTC-USDT-SWAP,{ohlc(c)},123456,{c.volume},777,{c.timestamp},1",
    ),
    "OKX": Made(
        "instrument_name,open,high,low,close,vol,vol_ccy,vol_quote,open_time,confirm\n",
        lambda c: f"BTC-USDT,{ohlcv(c)},7777,7777,{c.timestamp},1",
    ),
    "OKX candles": Made(
        "ts,open,high,low,close,vol,volCcy,volCcyQuote,confirm\n", lambda c: f"{c.timestamp},{ohlcv(c)},7777,7777,1"
    ),
    "CoinAPI": Made(
        "time_period_start;time_period_end;time_open;time_close;price_open;price_high;price_low;price_close;volume_traded;"
        "trades_count\n",
        lambda c: (
            f"{local(c, '%Y-%m-%dT%H:%M:%S.0000000Z')};2024-01-16T15:00:00.0000000Z;2024-01-16T14:30:07.1230000Z;"
            f"2024-01-16T14:30:59.1230000Z;{ohlcv(c, ';')};12"
        ),
    ),
    "CoinMarketCap": Made(
        "timeOpen;timeClose;timeHigh;timeLow;name;open;high;low;close;volume;marketCap;timestamp\n",
        lambda c: (
            f'"{local(c, "%Y-%m-%dT00:00:00.000Z")}";"{local(c, "%Y-%m-%dT23:59:59.999Z")}";"x";"x";2781;{ohlc(c, ";")};'
            f'99999999999;1e12;"{local(c, "%Y-%m-%dT23:59:59.999Z")}"'
        ),
        candles=made(6, DAY_MS, DAY_START),
        has_volume=False,
    ),
    "yfinance": Made(
        "Price,Close,High,Low,Open,Volume\nTicker,AAPL,AAPL,AAPL,AAPL,AAPL\nDate,,,,,\n",
        lambda c: f"{local(c, '%Y-%m-%d')},{c.close},{c.high},{c.low},{c.open},{c.volume}",
        candles=DAYS,
    ),
    "Yahoo": Made(
        "Date,Open,High,Low,Close,Adj Close,Volume\n",
        lambda c: f"{local(c, '%Y-%m-%d')},{ohlc(c)},{c.close - 5},{c.volume}",
        candles=DAYS,
        footer="2024-01-27,,,,,,\n",
    ),
    "Stooq bulk": Made(
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n",
        lambda c: f"AAPL.US,D,{local(c, '%Y%m%d')},000000,{ohlcv(c)},0",
        "aapl.us.txt",
        candles=DAYS,
    ),
    "Stooq": Made(
        "Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen\n",
        lambda c: f"{local(c, '%Y-%m-%d')},{ohlcv(c)}",
        candles=DAYS,
    ),
    "Massive (Polygon) flat files": Made(
        "ticker,volume,open,close,high,low,window_start,transactions\n",
        lambda c: f"AAPL,{c.volume},{c.open},{c.close},{c.high},{c.low},{c.timestamp}000000,12",
    ),
    "Databento": Made(
        "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol\n",
        lambda c: (
            f"{c.timestamp}000000,33,1,5482,"
            + ",".join(str(round(price * 10**9)) for price in (c.open, c.high, c.low, c.close))
            + f",{c.volume:.0f},ESH4"
        ),
    ),
    "Alpaca": Made(
        "symbol,timestamp,open,high,low,close,volume,trade_count,vwap\n",
        lambda c: f"AAPL,{local(c, '%Y-%m-%d %H:%M:%S+00:00')},{ohlcv(c)},321,100.5",
    ),
    "IEX": Made(
        "date,minute,label,high,low,open,close,average,volume,notional,numberOfTrades\n",
        lambda c: (
            f"{local(c, '%Y-%m-%d', NEW_YORK)},{local(c, '%H:%M', NEW_YORK)},{local(c, '%I:%M %p', NEW_YORK)},{c.high},"
            f"{c.low},{c.open},{c.close},100.5,{c.volume},7777,12"
        ),
        candles=made(start=SUMMER),
    ),
    "Interactive Brokers": Made(
        ",date,open,high,low,close,volume,average,barCount\n",
        lambda c: f"0,{local(c, '%Y%m%d %H:%M:%S', NEW_YORK)} US/Eastern,{ohlc(c)},-1,100.5,-1",
        has_volume=False,
    ),
    "TradingView": Made(
        "time,open,high,low,close,Volume,Volume MA\n", lambda c: f"{c.timestamp // 1000},{ohlcv(c)},123456"
    ),
    "MetaTrader 5": Made(
        "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n",
        lambda c: f"{local(c, '%Y.%m.%d', 'EET')}\t{local(c, '%H:%M:%S', 'EET')}\t" + ohlcv(c, "\t") + "\t0\t3",
        hints=Hints(clock=zone("EET")),
    ),
    "MetaTrader 4": Made(
        "",
        lambda c: f"{local(c, '%Y.%m.%d', 'EET')},{local(c, '%H:%M', 'EET')},{ohlcv(c)}",
        hints=Hints(clock=zone("EET")),
    ),
    "Dukascopy": Made(
        "Gmt time,Open,High,Low,Close,Volume\n", lambda c: f"{local(c, '%d.%m.%Y %H:%M:%S.000')},{ohlcv(c)}"
    ),
    "Dukascopy, local time": Made(
        "Local time,Open,High,Low,Close,Volume\n",
        lambda c: f"{local(c, '%d.%m.%Y %H:%M:%S.000', 'Europe/Zurich')} GMT+0100,{ohlcv(c)}",
    ),
    "HistData": Made(
        "",
        lambda c: f"{local(c, '%Y%m%d %H%M%S', 'EST')};{ohlc(c, ';')};0",
        candles=made(start=SUMMER),
        has_volume=False,
    ),
    "NinjaTrader": Made(
        "",
        lambda c: f"{local(c, '%Y%m%d %H%M%S')};{ohlcv(c, ';')}",
        hints=Hints(usual_clock=UTC_ZONE, stamps="open"),
    ),
    "FirstRate": Made(
        "",
        lambda c: f"{local(c, '%Y-%m-%d %H:%M:%S', NEW_YORK)},{ohlcv(c)}",
        "AAPL_full_1min_adjsplit.txt",
        made(start=SUMMER),
    ),
    "Kibot": Made("", lambda c: f"{local(c, '%m/%d/%Y,%H:%M', NEW_YORK)},{ohlcv(c)}", "IBM.txt", made(start=SUMMER)),
    "AmiBroker": Made(
        "Ticker,Date/Time,Open,High,Low,Close,Volume\n", lambda c: f"AAPL,{local(c, '%Y-%m-%d %H:%M:%S')},{ohlcv(c)}"
    ),
    "Barchart": Made(
        "Time,Open,High,Low,Last,Change,%Chg,Volume\n",
        lambda c: f'{local(c, "%m/%d/%Y")},{ohlc(c)},1.5,"+1.2%",{c.volume}',
        candles=DAYS[::-1],
        footer='"Downloaded from Barchart.com as of 01-27-2024 04:02pm CST"\n',
    ),
    "Lean minutes": Made(
        "",
        lambda c: (
            f"{c.timestamp - START + 34_200_000},"
            + ",".join(f"{price * 10_000:.0f}" for price in (c.open, c.high, c.low, c.close))
            + f",{c.volume:.0f}"
        ),
        "20240116_aapl_minute_trade.csv",
    ),
    "Lean hours and days": Made(
        "",
        lambda c: (
            f"{local(c, '%Y%m%d 00:00')},"
            + ",".join(f"{price * 10_000:.0f}" for price in (c.open, c.high, c.low, c.close))
            + f",{c.volume:.0f}"
        ),
        candles=DAYS,
        hints=Hints(usual_clock=UTC_ZONE, scale=0.0001),
    ),
    "NSE": Made(
        "Date ,series ,OPEN ,HIGH ,LOW ,PREV. CLOSE ,ltp ,close ,vwap ,52W H,52W L ,VOLUME ,VALUE ,No of trades \n",
        lambda c: (
            f'"{local(c, "%d-%b-%Y")}","EQ","{c.open:,}","{c.high:,}","{c.low:,}","9.5","9.5","{c.close:,}","100.5","1.5","1.5",'
            f'"{c.volume:,}","12,34,567.5","12"'
        ),
        candles=DAYS,
    ),
    "NSE bhavcopy": Made(
        "SYMBOL,SERIES,OPEN,HIGH,LOW,CLOSE,LAST,PREVCLOSE,TOTTRDQTY,TOTTRDVAL,TIMESTAMP,TOTALTRADES,ISIN,\n",
        lambda c: f"TCS,EQ,{ohlc(c)},9.5,9.5,{c.volume},777.5,{local(c, '%d-%b-%Y').upper()},12,INE467B01029,",
        candles=DAYS,
    ),
    "NSE bhavcopy since 2024": Made(
        "TradDt,TckrSymb,OpnPric,HghPric,LwPric,ClsPric,LastPric,TtlTradgVol\n",
        lambda c: f"{local(c, '%Y-%m-%d')},TCS,{ohlc(c)},9.5,{c.volume}",
        candles=DAYS,
    ),
    "Investing.com": Made(
        '"Date","Price","Open","High","Low","Vol.","Change %"\n',
        lambda c: f'"{local(c, "%b %d, %Y")}","{c.close}","{c.open}","{c.high}","{c.low}","{c.volume / 1000}K","0.5%"',
        candles=DAYS,
    ),
    "Nasdaq.com": Made(
        "Date,Close/Last,Volume,Open,High,Low\n",
        lambda c: f"{local(c, '%m/%d/%Y')},${c.close},{c.volume:.0f},${c.open},${c.high},${c.low}",
        candles=DAYS[::-1],
    ),
}


def assert_same(found: list[Candle], expected: list[Candle], *, has_volume: bool = True) -> None:
    def rows(candles: list[Candle]) -> list[tuple[float, ...]]:
        return [(c.timestamp, c.open, c.high, c.low, c.close, c.volume if has_volume else 0) for c in candles]

    assert rows(found) == rows(sorted(expected, key=lambda candle: candle.timestamp))


@pytest.mark.parametrize("name", MADE)
def test_a_file_of_each_origin_is_recognised_and_read(name: str, tmp_path: Path) -> None:
    case = MADE[name]
    found = read_table(case.write(tmp_path), None, UTC_ZONE, hints=case.hints)
    assert found.origin == name, found.facts
    assert found.timeframe == Timeframe(
        1, "m" if case.candles[1].timestamp - case.candles[0].timestamp == MINUTE_MS else "d"
    )
    assert found.has_volume is case.has_volume
    assert_same(list(found.candles), case.candles, has_volume=case.has_volume)


def test_the_table_of_the_docs_is_that_of_the_recognisers() -> None:
    assert table() in (ROOT / "docs" / "import.md").read_text(encoding="utf-8")


def test_each_recogniser_has_a_made_file() -> None:
    assert {origin.name for origin in ORIGINS} - set(MADE) == {"Nautilus"}  # a Parquet file, below


@pytest.mark.parametrize("width", [8, 16])
def test_bars_of_nautilus_are_read_from_fixed_point_and_named_by_their_openings(tmp_path: Path, width: int) -> None:
    scale = 10**9 if width == 8 else 10**16

    def raw(price: float) -> bytes:
        return int(round(price * 100) * scale // 100).to_bytes(width, "little", signed=True)

    candles = made()
    columns = {
        name: pa.array([raw(getattr(candle, name)) for candle in candles], pa.binary(width))
        for name in ("open", "high", "low", "close", "volume")
    }
    ends = pa.array([(candle.timestamp + MINUTE_MS) * 1_000_000 for candle in candles], pa.uint64())
    path = tmp_path / "bars.parquet"
    pyarrow.parquet.write_table(pa.table({**columns, "ts_event": ends, "ts_init": ends}), path)
    found = read_table(path)
    assert found.origin == "Nautilus"
    assert_same(list(found.candles), candles)
    assert any("Renamed to the opening" in fact for fact in found.facts)


def _arrays(order: str) -> Row:
    return lambda c: (
        f"[{c.timestamp},{','.join(str(getattr(c, {'o': 'open', 'h': 'high', 'l': 'low', 'c': 'close', 'v': 'volume'}[k])) for k in order)}]"
    )


@pytest.mark.parametrize(
    ("order", "word"), [("ohlcv", "No header"), ("lhocv", "Coinbase"), ("ochlv", "Bitfinex"), ("ohlcv7", "No header")]
)
@pytest.mark.parametrize("falls", [False, True], ids=["ascending", "descending"])
@pytest.mark.parametrize(
    "wrap", ["{rows}", '{{"error": [], "result": {{"XBT": {rows}, "last": 1}}}}'], ids=["plain", "wrapped"]
)
def test_arrays_of_json_are_read_in_the_order_that_they_prove(
    tmp_path: Path, order: str, word: str, falls: bool, wrap: str
) -> None:
    candles = made(20)
    row = _arrays(order.rstrip("7"))
    written = [row(candle) if order[-1] != "7" else row(candle)[:-1] + ',"7.5"]' for candle in candles]
    text = "[" + ",\n ".join(reversed(written) if falls else written) + "]"
    (tmp_path / "a.json").write_text(wrap.format(rows=text))
    found = read_table(tmp_path / "a.json")
    assert_same(list(found.candles), candles)
    assert any(word in fact for fact in found.facts)


def test_records_of_json_are_read(tmp_path: Path) -> None:
    rows = [{"t": local(c, ISO), "o": c.open, "h": c.high, "l": c.low, "c": c.close, "v": c.volume} for c in made()]
    text = pl.DataFrame(rows).write_json()
    (tmp_path / "a.json").write_text(f'{{"bars": {text}, "next_page_token": null}}')
    assert_same(list(read_table(tmp_path / "a.json").candles), made())


@pytest.mark.parametrize("kind", ["feather", "arrow", "parquet", "pq"])
@pytest.mark.parametrize("index", ["date", "__index_level_0__", "('Date', '')"])
def test_typed_files_are_read_also_with_the_time_as_index(tmp_path: Path, kind: str, index: str) -> None:
    candles = made()
    names = [f"('{n.title()}', 'AAPL')" if "(" in index else n for n in ("open", "high", "low", "close", "volume")]
    columns = {
        name: [getattr(c, key) for c in candles]
        for name, key in zip(names, ("open", "high", "low", "close", "volume"), strict=True)
    }
    times = pl.Series([c.timestamp for c in candles]).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    frame = pl.DataFrame({**columns, index: times})
    path = tmp_path / f"BTC_USDT-1m.{kind}"
    frame.write_parquet(path) if kind in {"parquet", "pq"} else frame.write_ipc(path, compression="lz4")
    assert_same(list(read_table(path).candles), candles)


@pytest.mark.parametrize(
    ("name", "symbol", "timeframe", "pair"),
    [
        ("BTCUSDT-1m-2024-01.zip", "BTCUSDT", "1m", "BTC/USDT"),
        ("ETHBTC-1mo-2024-01.csv", "ETHBTC", "1mon", "ETH/BTC"),
        ("BTCUSDT_240329-4h-2024-01-05.zip", "BTCUSDT_240329", "4h", "BTCUSDT_240329"),
        ("XBTUSD_60.csv", "XBTUSD", "1h", "BTC/USD"),
        ("XDGEUR_1440.csv", "XDGEUR", "1d", "DOGE/EUR"),
        ("BTC_USDT-1m.json", "BTC/USDT", "1m", "BTC/USDT"),
        ("EURUSD_M1_202401020000_202412312359.csv", "EURUSD", "1m", "EUR/USD"),
        ("EURUSD_H4.csv", "EURUSD", "4h", "EUR/USD"),
        ("DAT_ASCII_EURUSD_M1_2024.csv", "EURUSD", "1m", "EUR/USD"),
        ("Binance_BTCUSDT_1h.csv", "BTCUSDT", "1h", "BTC/USDT"),
        ("AAPL_full_1min_adjsplit.txt", "AAPL", "1m", "AAPL"),
        ("EURUSD_Candlestick_1_M_BID_01.01.2024-31.01.2024.csv", "EURUSD", "1m", "EUR/USD"),
        ("minute/aapl/20240116_trade.zip", "aapl", "1m", "aapl"),
        ("binance/BTCUSDT_1m.csv.gz", "binance/BTCUSDT", "1m", "binance/BTCUSDT"),
        ("AAPL_5y.csv", "AAPL", "5y", "AAPL"),
        ("A_2018.csv", "A_2018", None, "A_2018"),
        ("aapl.us.txt", "aapl.us", None, "aapl.us"),
    ],
)
def test_file_names_give_symbols_and_timeframes(name: str, symbol: str, timeframe: str | None, pair: str) -> None:
    found = name_of(name)
    assert (found.symbol, found.timeframe and str(found.timeframe), found.pair) == (symbol, timeframe, pair)
