"""Which column is the volume: a closed list of names, so that an average, a change or money is never taken for one."""

from __future__ import annotations

import re
from collections.abc import Sequence

TICKS = ("tickvol", "tick_volume", "tickvolume", "tickqty")
_NAMES = (
    *("volume", "vol", "v", "base_volume", "volume_base", "volumefrom", "volume_traded", "basevolume", "volume_crypto"),
    *("volume_coin", "volume_asset", "qty", "shares", "wolumen", "stuecke", "st_cke"),
    *("total_traded_quantity", "tottrdqty", "ttltradgvol", "no_of_shares", "quantity", *TICKS),
)
_MONEY = (
    *("usd", "usdt", "usdc", "busd", "tusd", "fdusd", "dai", "eur", "gbp", "jpy", "krw", "try", "brl", "aud", "cad"),
    *("chf", "inr", "rub", "currency", "quote", "quote_currency", "money", "value"),
)
_CURRENCY = re.compile(r"vol(?:ume)?_([a-z0-9]{2,12})")


def volume_of(plain: Sequence[str], names: Sequence[str], symbol: str) -> tuple[int | None, str]:
    """The position of the volume among plain names, None without one; and a line for the user where that is a choice.

    A volume named by a currency, such as ``Volume BTC``, is one if ``symbol`` begins with that currency, or if there is another
    one in money.
    """
    for name in _NAMES:
        if name in plain:
            return plain.index(name), ""
    named = {match[1]: at for at, name in enumerate(plain) if (match := _CURRENCY.fullmatch(name))}
    base = re.split(r"[/_:-]", symbol.strip().lower())[0]
    for currency, at in named.items():
        if base and (currency == base or (base.startswith(currency) and base.removeprefix(currency) in _MONEY)):
            return at, ""
    coins = [at for currency, at in named.items() if currency not in _MONEY]
    if len(coins) == 1 and len(named) == 2 and set(named) & set(_MONEY):
        return coins[0], ""
    left = [repr(names[at].strip()) for at in (at for at, name in enumerate(plain) if name.startswith("vol"))]
    if left:
        return None, f"Volume: unknown. {', '.join(left)} is none; if it is, --columns volume={left[0][1:-1]}."
    return None, ""
