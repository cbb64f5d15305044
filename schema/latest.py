"""The newest candles of many symbols in the contract."""

from __future__ import annotations

from typing import Annotated

import strawberry
from strawberry import Parent
from strawberry.types.base import StrawberryList

from candlegraph import latest
from candlegraph.series import InstrumentRecord
from candlegraph.series_candles import SeriesCandle
from candlegraph.timeframe import Timeframe
from schema.candles import Candle
from schema.pagination import connection, field
from schema.symbol import Symbol

SymbolsArg = Annotated[
    list[str] | None,
    strawberry.argument(
        description="Symbols by name, at most 1,000; all are answered, in this order, and `first` does not apply."
    ),
]
PatternArg = Annotated[
    str | None,
    strawberry.argument(description="A shell pattern that symbols match, such as `*/USDT`; only those still traded."),
]
LatestTimeframeArg = Annotated[Timeframe, strawberry.argument(description="How long a candle is.")]


@strawberry.type(description="The newest stored candle of a symbol.")
class Latest:
    """Resolved from `candlegraph.latest.Latest`; the bulk executor completes whole pages."""

    @strawberry.field(description="The symbol.", graphql_type=Symbol)
    def symbol(parent: Parent[latest.Latest]) -> InstrumentRecord:
        return parent.symbol

    @strawberry.field(
        description=(
            "Its newest candle, of a bucket that is covered from its opening on; if it is not closed, folded from its final "
            "minutes. Null if there is none."
        ),
        graphql_type=Candle | None,
    )
    def candle(parent: Parent[latest.Latest]) -> SeriesCandle | None:
        return parent.candle

    current: bool = strawberry.field(
        description=(
            "Nothing newer can exist: the bucket is the running one or the last settled one, and it is covered; or later "
            "ones are covered and have no trade."
        )
    )
    previous_close: float | None = strawberry.field(
        description="The close of the bucket before, or of the last one with a trade; null if it is unknown."
    )


LatestConnection = connection(
    Latest,
    "newest candle",
    "A page of symbols with their newest candles.",
    field("missing", StrawberryList(str), "Requested symbols that do not exist."),
)
