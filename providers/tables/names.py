"""File names that give a symbol and a timeframe, as exchanges and programs write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from candlegraph.errors import BadUserInput
from candlegraph.timeframe import Timeframe

_PACKED = (".gz", ".xz", ".bz2", ".zst", ".zip")
_TEXTS = (".csv", ".tsv", ".txt", ".json")
_TYPED = (".parquet", ".pq", ".feather", ".arrow")
SUFFIXES = (*_TEXTS, *(text + packed for text in _TEXTS for packed in _PACKED), *_TYPED, ".zip")

_UNITS = {"min": "m", "hour": "h", "day": "d", "minute": "m", "mo": "mon", "M": "mon", "Hour": "h"}
_METATRADER = {
    "M1": "1m",
    "M5": "5m",
    "M15": "15m",
    "M30": "30m",
    "H1": "1h",
    "H4": "4h",
    "D1": "1d",
    "W1": "1w",
    "MN": "1mon",
}
_MINUTES = {"1": "1m", "5": "5m", "15": "15m", "30": "30m", "60": "1h", "240": "4h", "720": "12h", "1440": "1d"}
_QUOTES = (
    "USDT",
    "USDC",
    "FDUSD",
    "BUSD",
    "TUSD",
    "DAI",
    "USD",
    "EUR",
    "GBP",
    "JPY",
    "TRY",
    "BRL",
    "AUD",
    "CAD",
    "CHF",
)
_COINS = ("BTC", "XBT", "ETH", "BNB")
_KRAKEN_NAMES = {"XBT": "BTC", "XDG": "DOGE"}
# The symbol is `s`, or `b` and `q`; the timeframe `t`, minutes `m`, or MetaTrader's `mt`.
_PATTERNS = tuple(
    map(
        re.compile,
        (
            r"(?P<s>[A-Z0-9]+(_\d{6}|_PERP)?)-(?P<t>\d{1,2}(m|h|d|w|mo))-\d{4}-\d\d(-\d\d)?",  # Binance Vision
            r"(?P<b>[A-Z0-9]+)_(?P<q>[A-Z0-9]+)(_[A-Z0-9]+)?-(?P<t>\d{1,2}[mhdwM])(-futures|-spot)?",  # freqtrade
            r"(?P<s>[A-Z0-9.]{5,})_(?P<m>1|5|15|30|60|240|720|1440)",  # Kraken OHLCVT
            r"DAT_[A-Z]+_(?P<s>[A-Z]{6,})_(?P<mt>M1)_\d{4,6}",  # HistData
            r"(?P<s>[A-Za-z0-9.#]+)_(?P<mt>M1|M5|M15|M30|H1|H4|D1|W1|MN)1?(_\d{8,12}_\d{8,12})?",  # MetaTrader 5
            r"(?P<s>[A-Z.]+)_Candlestick_(?P<t>\d{1,2}_(M|Hour|D))_(BID|ASK)_.*",  # Dukascopy
            r"[A-Z][A-Za-z]+_(?P<s>[A-Z0-9]{5,})_(\d{4}_)?(?P<t>1h|1m|d|minute|hour)",  # CryptoDataDownload
            r"(?P<s>[A-Za-z0-9.]+)_(full_)?(?P<t>\d{1,2}(min|hour|day))(_[A-Za-z0-9_]+)?",  # FirstRate
        ),
    )
)
_LEAN_DAY = re.compile(r"\d{8}_(trade|quote)|\d{8}_(?P<s>[a-z0-9.]+)_minute_trade")


@dataclass(frozen=True, slots=True)
class FileName:
    """What the name of a file says: its symbol, and a timeframe if it names one."""

    symbol: str
    timeframe: Timeframe | None = None
    is_known: bool = False  # written as an exchange or a program writes its files

    @property
    def pair(self) -> str:
        """The symbol as ccxt writes a pair, ``BTC/USDT`` for ``BTCUSDT`` and ``XBTUSDT``; unchanged if it is none."""
        for letters in (3, 2):  # XBTUSD is no XB/TUSD, and OPUSDT is OP/USDT
            for quote in (*_QUOTES, *_COINS):
                base = self.symbol.removesuffix(quote)
                if base != self.symbol and re.fullmatch(rf"[A-Z0-9]{{{letters},}}", base):
                    return f"{_KRAKEN_NAMES.get(base, base)}/{_KRAKEN_NAMES.get(quote, quote)}"
        return self.symbol


def stem_of(name: str) -> str:
    """A file name without the suffixes of tables."""
    found = [len(suffix) for suffix in SUFFIXES if name.lower().endswith(suffix)]
    return name[: -max(found)] if found else name


def name_of(path: str) -> FileName:
    """The symbol and the timeframe of a file name such as ``binance/BTCUSDT_1m.csv.gz``; a folder belongs to the symbol."""
    folder, _, plain = path.rpartition("/")
    within = f"{folder}/" if folder else ""
    stem = stem_of(plain)
    if match := _LEAN_DAY.fullmatch(stem):
        return FileName(match["s"] or PurePath(folder).name or stem, Timeframe(1, "m"), True)
    for pattern in _PATTERNS:
        if (match := pattern.fullmatch(stem)) and (timeframe := _timeframe(match.groupdict())):
            found = match.groupdict()
            symbol = found["s"] if found.get("s") else f"{found['b']}/{found['q']}"
            return FileName(within + symbol, timeframe, True)
    symbol, _, tail = stem.rpartition("_")
    try:
        return FileName(within + symbol, Timeframe.parse(tail)) if symbol else FileName(within + stem)
    except BadUserInput:
        return FileName(within + stem)


def _timeframe(found: dict[str, str | None]) -> Timeframe | None:
    text = found.get("t") or _MINUTES.get(found.get("m") or "") or _METATRADER.get(found.get("mt") or "")
    match = re.fullmatch(r"(\d*)_?([A-Za-z]+)", text or "")
    if not match:
        return None
    unit = "m" if text and text.endswith("_M") else _UNITS.get(match[2], match[2].lower())
    try:
        return Timeframe.parse(f"{match[1] or 1}{unit}")
    except BadUserInput:
        return None
