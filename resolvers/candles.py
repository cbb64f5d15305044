"""Resolvers of candles: a request's arguments become a `CandleRequest`, and bad input ends here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from candlegraph.answer import Answer, CandleRequest, Fill, SourceKind, SourceSpan, Wait
from candlegraph.errors import BadUserInput, CandlegraphError
from candlegraph.event import Event, LiveRequest, SeriesFailure
from candlegraph.series import Instrument, Series
from candlegraph.series_revision import SeriesRevision
from candlegraph.span import Span
from candlegraph.timeframe import Timeframe
from candlegraph.trading_calendar import SessionFilter
from candlegraph.zone import zone
from history.series_changes import SeriesChanges, series_changes
from resolvers.context import Context
from resolvers.names import instrument

MAX_BATCH = 100


@dataclass(frozen=True, slots=True)
class AnswerSource:
    """The source of a part of an answer."""

    source_span: SourceSpan
    answer: Answer


def resolve_candles(  # noqa: PLR0913 - the contract's arguments
    context: Context,
    series: Series,
    *,
    since: int | None = None,
    until: int | None = None,
    before: int | None = None,
    limit: int | None = None,
    fill: Fill = Fill.NONE,
    timezone: str | None = None,
    wait: Wait = Wait.COMPLETE,
    session: SessionFilter = SessionFilter.ALL,
) -> Awaitable[Answer]:
    """Query candles; all requests of one tick share their reads. BadUserInput, NotFound, ProviderError, Unavailable."""
    if until is not None and before is not None:
        raise BadUserInput("`before` is another name for `until`: give one of the two.")
    until = before if until is None else until
    if since is not None and until is not None and since > until:
        raise BadUserInput(f"`since` ({since}) lies after `until` ({until}): swap them.")
    request = CandleRequest(
        series,
        _limit(context, limit),
        since,
        until,
        fill,
        None if timezone is None else zone(timezone),
        wait,
        session=session,
    )
    return context.loaders.answer_by_request.load(request)


def resolve_batch(
    context: Context, batch: Sequence[tuple[str, str, str, Timeframe]], **arguments: object
) -> list[Awaitable[Answer] | Exception]:
    """Query many series (market, provider, symbol, timeframe) at once.

    The result of an invalid item is its error, which nulls nothing else.
    """
    if len(batch) > MAX_BATCH:
        raise BadUserInput(f"At most {MAX_BATCH} series fit one batch; these are {len(batch)}.")
    return [_item(context, item, arguments) for item in batch]


def _item(
    context: Context, item: tuple[str, str, str, Timeframe], arguments: dict[str, object]
) -> Awaitable[Answer] | Exception:
    *name, timeframe = item
    try:
        return resolve_candles(context, Series(instrument(*name), timeframe), **arguments)  # type: ignore[arg-type]  # the schema has typed them
    except CandlegraphError as error:
        return error


def _limit(context: Context, limit: int | None) -> int:
    most = context.services.max_points
    if limit is None:
        return context.services.default_points
    if not 1 <= limit <= most:
        raise BadUserInput(
            f"`limit` must be between 1 and {most}, not {limit}. Page on with `nextSince` or `nextBefore`."
        )
    return limit


async def resolve_fetched_at(context: Context, source: AnswerSource) -> int | None:
    """When an upstream call fetched a part: just now, or before it was stored; None if it was imported."""
    part, answer = source.source_span, source.answer
    if part.fetched_at is not None or part.source is SourceKind.LIVE:
        return part.fetched_at
    key = (answer.record.id, answer.request.series.timeframe, Span(part.since, part.until))
    return await context.loaders.fetched_at_by_span.load(key)


async def resolve_changes(context: Context, series: Series, after: str) -> SeriesChanges | None:
    """The changes of a series after a revision; None if that is too long ago. BadUserInput, NotFound."""
    return await series_changes(context.services.history, series, SeriesRevision.parse(after))


def stream_candles(
    context: Context,
    series: Series,
    since: int | None,
    timezone: str | None,
    session: SessionFilter = SessionFilter.ALL,
    *,
    closed_only: bool,
) -> AsyncIterator[Event]:
    """Follow a series: its history since ``since``, then live events. Errors as `realtime.hub.Hub.subscribe`."""
    days = None if timezone is None else zone(timezone)
    caller = context.caller
    return context.services.hub.subscribe(series, since, days, caller, closed_only=closed_only, session=session)


def stream_many(
    context: Context,
    batch: Sequence[tuple[str, str, str, Timeframe, int | None]],
    timezone: str | None,
    session: SessionFilter = SessionFilter.ALL,
    *,
    closed_only: bool,
) -> AsyncIterator[Event | SeriesFailure]:
    """Follow many series (market, provider, symbol, timeframe, since); one that fails, or has an impossible name, fails alone."""
    if not 1 <= len(batch) <= MAX_BATCH:
        raise BadUserInput(f"A subscription follows 1 to {MAX_BATCH} series; these are {len(batch)}.")
    days = None if timezone is None else zone(timezone)
    requests, failures = [], []
    for market, provider, symbol, timeframe, since in batch:
        try:
            requests.append(LiveRequest(Series(instrument(market, provider, symbol), timeframe), since, session))
        except CandlegraphError as error:
            name = Instrument(*(part.encode(errors="replace").decode() for part in (market, provider, symbol)))
            failures.append(SeriesFailure(Series(name, timeframe), error))
    many = context.services.hub.subscribe_many(requests, days, context.caller, closed_only=closed_only)
    return _with_failures(failures, many)


async def _with_failures(
    failures: Sequence[SeriesFailure], events: AsyncGenerator[Event | SeriesFailure, None]
) -> AsyncGenerator[Event | SeriesFailure, None]:
    async with aclosing(events):
        for failure in failures:
            yield failure
        async for event in events:
            yield event
