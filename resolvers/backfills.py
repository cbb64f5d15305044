"""Answers about coverage, backfills and tracked series, and who may change which."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from candlegraph.answer import CoverageReport
from candlegraph.backfill import Backfill, BackfillRequest, BackfillState, SymbolSelection, TrackedSeries
from candlegraph.errors import BadUserInput, Forbidden, NotFound
from candlegraph.identity import parse_backfill_id
from candlegraph.series import Series
from candlegraph.viewer import Role
from history.listings import MAX_SELECTED
from resolvers.context import Context
from resolvers.names import check_name, provider_of
from resolvers.pagination import ListPage, decode_number, encode_number, rows_to_read

_MAX_JOB, _MAX_INSTRUMENT = 2**63 - 1, 2**31 - 1  # the largest numbers their columns hold


async def resolve_coverage(context: Context, series: Series) -> CoverageReport:
    """What is known of a series. NotFound, ProviderError, Unavailable."""
    return await context.services.history.coverage(series)


async def start_backfill(context: Context, order: BackfillRequest) -> Backfill:
    """Queue a job in the viewer's name. Errors as `history.backfill.jobs.Backfills.start`."""
    return await context.services.backfills.start(order)


async def cancel_backfill(context: Context, number: str) -> Backfill:
    """End a job: one's own, or with the role ADMIN anybody's. NotFound, Forbidden."""
    job = await context.services.backfills.get(job_number(number))
    viewer = context.viewer
    # Nobody is signed in where nobody can be: then it is the owner of the machine.
    if viewer.user and Role.ADMIN not in viewer.roles and job.created_by != viewer.user.name:
        raise Forbidden(
            f"Backfill {job.id} is {job.created_by or 'the command line'}'s: cancelling it needs the role ADMIN."
        )
    return await context.services.backfills.cancel(job.id)


async def resolve_backfill(context: Context, number: str) -> Backfill:
    """One job; NotFound."""
    return await context.services.backfills.get(job_number(number))


async def resolve_backfills(
    context: Context, state: BackfillState | None, first: int, after: str | None
) -> ListPage[Backfill]:
    """The newest jobs, in one state or in any."""
    start = None if after is None else decode_number(after, _MAX_JOB)
    jobs = await context.services.backfills.page(state, rows_to_read(first), start)
    return ListPage(jobs[:first], lambda job: encode_number(job.id), len(jobs) > first, start is not None)


def stream_backfill(context: Context, number: str) -> AsyncIterator[Backfill]:
    """A job whenever it has moved, until it has ended; NotFound."""
    return context.services.backfills.follow(job_number(number))


async def resolve_tracked(context: Context, first: int, after: str | None) -> ListPage[TrackedSeries]:
    """The series that are kept complete, in the order in which they were first seen."""
    start = None if after is None else decode_number(after, _MAX_INSTRUMENT)
    found = await context.services.tracking.page(rows_to_read(first), start or 0)
    return ListPage(found[:first], lambda one: encode_number(one.record.id), len(found) > first, start is not None)


async def track(context: Context, selection: SymbolSelection, since: int | None) -> list[TrackedSeries]:
    """Keep series complete. Errors as `history.backfill.tracking.Tracking.track`."""
    return await context.services.tracking.track(selection, since, author(context))


async def untrack(context: Context, selection: SymbolSelection) -> int:
    """Keep them so no longer; how many were."""
    return await context.services.tracking.untrack(selection)


def selection(market: str, provider: str, symbols: Sequence[str] | None, pattern: str | None) -> SymbolSelection:
    """Name symbols as a request does; BadUserInput for what could be no name."""
    if symbols is not None and len(symbols) > MAX_SELECTED:
        raise BadUserInput(f"At most {MAX_SELECTED:,} symbols fit one order; these are {len(symbols):,}.")
    names = provider_of(market, provider)
    check_name("pattern", "*" if pattern is None else pattern)
    for name in symbols or ():
        check_name("symbols", name)
    return SymbolSelection(*names, None if symbols is None else tuple(symbols), pattern)


def author(context: Context) -> str | None:
    """In whose name something is ordered; None is the owner of the machine."""
    return context.viewer.user.name if context.viewer.user else None


def job_number(text: str) -> int:
    """The number of a job, by its id; NotFound where no job has that id."""
    number = parse_backfill_id(text)
    if number is None or number > _MAX_JOB:
        raise NotFound(f"There is no backfill {text[:32]!r}.")
    return number
