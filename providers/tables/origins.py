"""Recognisers: where a file comes from, what proves it, and what its names and numbers mean.

Most files need none: columns.py finds the columns by their names, and order.py those of a file without names. A recogniser
adds what names do not say: a clock, a unit, a stamp at the end of a candle, a volume that is money.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NEW_YORK, NO_SUMMER_TIME, GREENWICH = "America/New_York", "EST", "UTC"
TICKER_LINE = "(a line of tickers)"  # stands for the second header line of yfinance
_N = r"\|-?[\d.]+(?:[eE][-+]?\d+)?"  # one more cell with a number


@dataclass(frozen=True, slots=True)
class FileOrigin:
    """A kind of file: recognised if the ``header`` names are all there, ``cells`` fits the first row, and ``file`` the name.

    ``cells`` is matched with the cells of the first row joined by ``|``, ``file`` with the path in lower case. ``columns``
    gives a field its column, by its plain name or counted from 1; an empty one has none. ``stamps`` is ``open``, ``close``,
    or empty if it has to be asked for. Whole prices are divided by ``divisor``,
    and with ``divides_volume`` the volume too; with ``asks_scale`` the user has to name their unit.
    """

    name: str
    proof: str
    header: frozenset[str] = frozenset()
    cells: str = ""
    file: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    stamps: str = "open"
    clock: str = ""
    divisor: int = 1
    divides_volume: bool = False
    asks_scale: bool = False
    read: str = "as named"

    @property
    def names_columns(self) -> bool:
        """Whether it gives the order of columns without names."""
        return "open" in self.columns


def _ohlc(volume: int | None = 6, time: int = 1) -> dict[str, str]:
    """The usual order from a time on, counted from 1."""
    first = int(time) + 1
    fields = dict(zip(("open", "high", "low", "close"), map(str, range(first, first + 4)), strict=True))
    return {"time": str(time)} | fields | {"volume": str(volume or "")}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BINANCE = "time in ms or, since 2025, in us; volume of the base"
_BROKER = "time of the broker: name it with `--clock`; tick volume where no other is known"
_NSE_DAY = "days; thousands separators; `close`, not `ltp` or `LAST`"

ORIGINS = (
    FileOrigin(
        "Binance Vision",
        "no header, 12 columns, the seventh is the end of the candle",
        cells=rf"\d{{13,16}}{_N}{_N}{_N}{_N}{_N}\|\d{{13,16}}{_N}{_N}{_N}{_N}{_N}",
        columns=_ohlc(),
        read=_BINANCE,
    ),
    FileOrigin(
        "Binance futures",
        "`open_time`, `close_time` and `taker_buy_volume`",
        _names("open_time close_time taker_buy_volume"),
        read=_BINANCE,
    ),
    FileOrigin(
        "Kraken REST",
        "no header, 8 columns from seconds on, the sixth a VWAP",
        cells=rf"\d{{9,10}}{_N}{_N}{_N}{_N}{_N}{_N}\|\d+",
        columns=_ohlc(7),
        read="the seventh column is the volume",
    ),
    FileOrigin(
        "Kraken OHLCVT",
        "no header, 7 columns from seconds on, the last a count",
        cells=rf"\d{{9,10}}{_N}{_N}{_N}{_N}{_N}\|\d+",
        columns=_ohlc(),
        read="minutes without a trade have no row",
    ),
    FileOrigin(
        "CryptoDataDownload",
        "`unix`, `date` and `symbol`",
        _names("unix date symbol"),
        columns={"time": "unix"},
        read="a link above the header; the volume of the base, by the symbol",
    ),
    FileOrigin(
        "Poloniex",
        "`quoteVolume` and `weightedAverage`",
        _names("quotevolume weightedaverage"),
        columns={"volume": "quotevolume"},
        read="`quoteVolume`, which counts coins",
    ),
    FileOrigin(
        "Bybit",
        "`startTime` and `openPrice`",
        _names("starttime openprice"),
        columns={"time": "starttime"},
        read="also its arrays without a header",
    ),
    FileOrigin(
        "OKX swaps and futures",
        "`volCcy` or `vol_ccy` beside an instrument of contracts",
        _names("instrument_name vol_ccy"),
        cells=r".*-(SWAP|\d{6})\b.*",
        columns={"volume": "vol_ccy"},
        read="the volume in the base, not in contracts",
    ),
    FileOrigin("OKX", "`instrument_name` and `vol_ccy`", _names("instrument_name vol_ccy"), columns={"volume": "vol"}),
    FileOrigin("OKX candles", "`ts` and `volCcy`", _names("ts volccy confirm"), columns={"volume": "vol"}),
    FileOrigin(
        "CoinAPI",
        "`time_period_start` and `price_open`",
        _names("time_period_start price_open"),
        columns={"time": "time_period_start"},
        read="semicolons; fractions of a second",
    ),
    FileOrigin(
        "CoinMarketCap",
        "`timeOpen` and `marketCap`",
        _names("timeopen marketcap"),
        columns={"time": "timeopen", "volume": ""},
        read="`timeOpen`; no volume, because its volume is in dollars",
    ),
    FileOrigin(
        "yfinance",
        "a second header line with tickers",
        frozenset({TICKER_LINE}),
        read="three header lines; several tickers: `--only` or `--symbol-from column`",
    ),
    FileOrigin(
        "Yahoo",
        "`Date` and `Adj Close`",
        _names("date adj_close"),
        read="blank holiday rows left out; a High one float step below Close raised",
    ),
    FileOrigin(
        "Stooq bulk",
        "`<TICKER>`, `<PER>` and `<OPENINT>`",
        _names("ticker per date openint"),
        read="the time of a daily row is 000000",
    ),
    FileOrigin(
        "Stooq", "`Data` and `Otwarcie`, or as Yahoo", _names("data otwarcie"), read="weeks and months at their end"
    ),
    FileOrigin(
        "Massive (Polygon) flat files",
        "`window_start` and `transactions`",
        _names("ticker window_start transactions"),
        columns={"time": "window_start"},
        read="time in ns; many symbols: `--only` or `--symbol-from column`",
    ),
    FileOrigin(
        "Databento",
        "`ts_event`, `rtype` and `publisher_id`",
        _names("ts_event rtype publisher_id"),
        columns={"time": "ts_event"},
        divisor=10**9,
        read="time in ns; whole prices in units of 1e-9",
    ),
    FileOrigin(
        "Nautilus",
        "`ts_event` and `ts_init`",
        _names("ts_event ts_init open"),
        columns={"time": "ts_event"},
        stamps="close",
        divisor=10**9,
        divides_volume=True,
        read="Parquet; time in ns at the end of a candle; prices in fixed point",
    ),
    FileOrigin(
        "Alpaca",
        "`trade_count` and `vwap`",
        _names("timestamp trade_count vwap"),
        read="the first index, if there is one, is the symbol",
    ),
    FileOrigin(
        "IEX",
        "`minute` and `notional`",
        _names("date minute notional"),
        columns={"time": "date minute"},
        clock=NEW_YORK,
        read="date and minute of New York",
    ),
    FileOrigin(
        "Interactive Brokers",
        "`average` and `barCount`",
        _names("date average barcount"),
        read="the zone in words; a volume of -1 in every row is unknown",
    ),
    FileOrigin(
        "TradingView",
        "`time` and `Volume MA`",
        _names("time volume_ma"),
        read="`Volume`, never its average; days at the bell are renamed",
    ),
    FileOrigin(
        "MetaTrader 5",
        "`<TICKVOL>` and `<SPREAD>`",
        _names("date tickvol spread"),
        read=_BROKER,
    ),
    FileOrigin(
        "MetaTrader 4",
        "no header, dates with dots beside a time",
        cells=rf"\d{{4}}\.\d\d\.\d\d\|\d\d:\d\d(:\d\d)?{_N}{_N}{_N}{_N}{_N}",
        columns=_ohlc(7, 2) | {"time": "1 2"},
        read=_BROKER,
    ),
    FileOrigin("Dukascopy", "`Gmt time`", _names("gmt_time"), columns={"time": "gmt_time"}, clock=GREENWICH),
    FileOrigin(
        "Dukascopy, local time",
        "`Local time`",
        _names("local_time"),
        columns={"time": "local_time"},
        read="the offset behind `GMT`",
    ),
    FileOrigin(
        "HistData",
        "no header, `20240102 093000;`, a volume of 0",
        cells=rf"\d{{8}} \d{{6}}{_N}{_N}{_N}{_N}\|0(\.0*)?",
        columns=_ohlc(),
        clock=NO_SUMMER_TIME,
        read="EST without summer time; no volume",
    ),
    FileOrigin(
        "NinjaTrader",
        "no header, `20240102 093000;`, with a volume",
        cells=rf"\d{{8}} \d{{6}}{_N}{_N}{_N}{_N}{_N}",
        columns=_ohlc(),
        stamps="",
        read="its own exports name the end of a candle: proved, or `--stamps close`",
    ),
    FileOrigin(
        "FirstRate",
        "a file name such as `AAPL_full_1min_adjsplit.txt`",
        cells=r"\d{4}-\d\d-\d\d.*",
        file=r".*_(full_|sample|adjsplit|unadj).*",
        clock=NEW_YORK,
        read="time of New York",
    ),
    FileOrigin(
        "Kibot",
        "no header, `01/31/2024,09:30,`",
        cells=rf"\d\d/\d\d/\d{{4}}\|\d\d:\d\d{_N}{_N}{_N}{_N}{_N}",
        columns=_ohlc(7, 2) | {"time": "1 2"},
        clock=NEW_YORK,
        read="time of New York",
    ),
    FileOrigin(
        "AmiBroker",
        "`Ticker` and `Date/Time`",
        _names("ticker date_time"),
        columns={"time": "date_time"},
        read="the local time of its settings: `--clock`",
    ),
    FileOrigin(
        "Barchart",
        "`Last` or `Latest` beside `Change`",
        _names("time open change"),
        read="`Last` is the close; the footer is left out",
    ),
    FileOrigin(
        "Lean minutes",
        "no header, milliseconds of the day, and the date in the file name",
        cells=rf"\d{{1,8}}{_N}{_N}{_N}{_N}{_N}",
        file=r".*\b\d{8}_.*trade.*",
        columns=_ohlc(),
        clock=NEW_YORK,
        divisor=10_000,
        read="ms of the day in New York; whole prices are in units of 1/10,000",
    ),
    FileOrigin(
        "Lean hours and days",
        "no header, `20240102 00:00,`",
        cells=rf"\d{{8}} \d\d:\d\d{_N}{_N}{_N}{_N}{_N}",
        columns=_ohlc(),
        asks_scale=True,
        read="whole prices: `--scale 0.0001` for shares; hours of New York: `--clock`",
    ),
    FileOrigin("NSE", "`series`, `PREV. CLOSE` and `ltp`", _names("series prev_close ltp close"), read=_NSE_DAY),
    FileOrigin("NSE bhavcopy", "`TOTTRDQTY`", _names("tottrdqty prevclose"), read=_NSE_DAY),
    FileOrigin("NSE bhavcopy since 2024", "`TradDt` and `OpnPric`", _names("traddt opnpric"), read=_NSE_DAY),
    FileOrigin(
        "Investing.com",
        "`Price` and `Vol.`",
        _names("date price vol"),
        columns={"close": "price"},
        read="`Price` is the close; volumes such as 4.79M",
    ),
    FileOrigin("Nasdaq.com", "`Close/Last`", _names("date close_last"), read="prices with a dollar sign"),
)
