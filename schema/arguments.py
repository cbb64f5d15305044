"""The arguments that several fields share, each described once."""

from __future__ import annotations

from typing import Annotated

import strawberry

from candlegraph.answer import Fill, Wait
from candlegraph.timeframe import Timeframe
from candlegraph.trading_calendar import SessionFilter
from schema.scalars import Timestamp

strawberry.enum(
    Fill,
    name="Fill",
    description=(
        "NONE: only candles that exist. PREVIOUS: flat candles at the previous close, volume 0, synthetic true, for "
        "settled buckets without one."
    ),
)
strawberry.enum(
    Wait,
    name="Wait",
    description=(
        "COMPLETE waits for the provider up to a deadline (10 s), then answers with the available candles and gaps. "
        "AVAILABLE answers at once and fetches the rest in the background."
    ),
)


strawberry.enum(
    SessionFilter,
    name="SessionFilter",
    description=(
        "ALL: below a day every candle the provider has, from a day up the regular sessions. REGULAR: regular sessions, "
        "buckets below a day open with the session. EXTENDED: pre-market, regular and post-market trading, below a day only. "
        "Without a trading calendar all three are ALL."
    ),
)


MarketArg = Annotated[strawberry.ID, strawberry.argument(description="The id of a market, as `markets` lists it.")]
ProviderArg = Annotated[strawberry.ID, strawberry.argument(description="The short name of a provider, or its id.")]
SymbolArg = Annotated[str, strawberry.argument(description="The provider's symbol, as `symbols` lists it.")]
TimeframeArg = Annotated[Timeframe, strawberry.argument(description="How long a candle is.")]
SinceArg = Annotated[
    Timestamp | None,
    strawberry.argument(description="Only buckets that open at it or later; the oldest `limit` of them are returned."),
]
UntilArg = Annotated[
    Timestamp | None,
    strawberry.argument(description="Only buckets that open before it; without `since`, the newest of them."),
]
BeforeArg = Annotated[
    Timestamp | None, strawberry.argument(description="Another name for `until`; both together are an error.")
]
LimitArg = Annotated[
    int | None,
    strawberry.argument(description="How many candles at most: 500 by default, at most 5,000; more is an error."),
]
FillArg = Annotated[Fill, strawberry.argument(description="What replaces a missing candle.")]
TimezoneArg = Annotated[
    str | None,
    strawberry.argument(
        description=(
            "IANA zone in which days, weeks, months and years open; the symbol's own if null. Those of a symbol with a trading "
            "calendar accept only the zone of the calendar. Below a day it names the dates."
        )
    ),
]
SessionArg = Annotated[
    SessionFilter, strawberry.argument(description="Which trading counts, for a symbol with a trading calendar.")
]
WaitArg = Annotated[Wait, strawberry.argument(description="Whether to wait for candles that have to be fetched.")]
SearchArg = Annotated[str | None, strawberry.argument(description="A part of the symbol or of its name, in any case.")]
InactiveArg = Annotated[bool, strawberry.argument(description="Also symbols that are no longer traded.")]
FirstArg = Annotated[int, strawberry.argument(description="The size of the page, at most 1,000.")]
AfterArg = Annotated[str | None, strawberry.argument(description="The `endCursor` of the page before.")]
JobArg = Annotated[strawberry.ID, strawberry.argument(description="The `id` of a backfill.")]
