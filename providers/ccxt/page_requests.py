"""The request for a page: its first row, its number of rows, and the parameters that ccxt passes on to the exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from candlegraph import clock
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from providers.ccxt.exchange import Until
from providers.ccxt.traits import Answers, ExchangeTraits


@dataclass(frozen=True, slots=True)
class RowsRequest:
    """The arguments for ccxt: the opening of the first row (ms), the number of rows, further parameters; ``traits`` are those of its answer."""

    since: int
    limit: int
    params: Mapping[str, object]
    traits: ExchangeTraits

    @property
    def is_history(self) -> bool:
        """Whether another endpoint answers it than the one of the newest rows."""
        return bool(self.traits.history) and self.traits.answers is not Answers.NEWEST


def margin_of(traits: ExchangeTraits) -> int:
    """How many rows of a call are not of the span: one at each end, which may be exclusive, and those of a rounded offset."""
    return (traits.offset_step or 0) + (2 if traits.answers is Answers.UNKNOWN else 0)


def rows_request(traits: ExchangeTraits, timeframe: Timeframe, span: Span, most: int) -> RowsRequest:
    """The request for the rows of ``span``, and one more than there can be, as far as ``most`` rows hold them."""
    newest = timeframe.floor(clock.now_ms())
    params: dict[str, object] = {}
    if traits.offset_step:
        offset = max(0, newest - timeframe.floor(span.until)) // timeframe.nominal_ms
        params["offset"] = offset - offset % traits.offset_step
        if not params["offset"]:
            traits = replace(traits, answers=Answers.NEWEST)
    elif traits.history and span.until <= timeframe.shift(newest, 2 - most):
        traits, params = replace(traits, answers=Answers.UNKNOWN), dict(traits.history)
    margin = margin_of(traits)
    since = span.since if traits.answers is not Answers.UNKNOWN else max(0, timeframe.shift(span.since, -1))
    limit = min(most, (span.until - span.since) // timeframe.nominal_ms + 1 + margin)
    limit = next((count for count in sorted(traits.counts) if count >= limit), limit)
    if traits.answers is Answers.UNKNOWN:
        params["until"] = Until(timeframe.shift(since, limit - 1))
    return RowsRequest(since, limit, params, traits)
