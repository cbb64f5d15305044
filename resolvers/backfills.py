"""Resolvers of coverage, backfills and tracked series, with their permissions."""

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
    """The coverage of a series. NotFound, ProviderError, Unavailable."""
    return await context.services.history.coverage(series)


async def start_backfill(context: Context, order: BackfillRequest) -> Backfill:
    """Queue a job in the viewer's name. Errors as `history.backfill.jobs.BackfillJobs.start`."""
    return await context.services.backfills.start(order)


async def cancel_backfill(context: Context, number: str) -> Backfill:
    """Cancel a job: one's own, or with the role ADMIN any job. NotFound, Forbidden."""
    job = await context.services.backfills.get(job_number(number))
    viewer = context.viewer
    # Without accounts every caller is anonymous: then it is the owner of the machine.
    if viewer.user and Role.ADMIN not in viewer.roles and job.created_by != viewer.user.name:
        raise Forbidden(
            f"Backfill {job.id} is {job.created_by or 'the command line'}'s: to cancel it you need the role ADMIN."
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
    """A job after each change, until it has ended; NotFound."""
    return context.services.backfills.follow(job_number(number))


async def resolve_tracked(context: Context, first: int, after: str | None) -> ListPage[TrackedSeries]:
    """The tracked series, in the order in which they were first seen."""
    start = None if after is None else decode_number(after, _MAX_INSTRUMENT)
    found = await context.services.tracking.page(rows_to_read(first), start or 0)
    return ListPage(found[:first], lambda one: encode_number(one.record.id), len(found) > first, start is not None)


async def track(context: Context, selection: SymbolSelection, since: int | None) -> list[TrackedSeries]:
    """Track series. Errors as `history.backfill.tracking.Tracking.track`."""
    return await context.services.tracking.track(selection, since, author(context))


async def untrack(context: Context, selection: SymbolSelection) -> int:
    """Stop tracking series; the number of those that were tracked."""
    return await context.services.tracking.untrack(selection)


def selection(market: str, provider: str, symbols: Sequence[str] | None, pattern: str | None) -> SymbolSelection:
    """Build a selection from the names of a request; BadUserInput for an impossible name."""
    if symbols is not None and len(symbols) > MAX_SELECTED:
        raise BadUserInput(f"One request selects at most {MAX_SELECTED:,} symbols; these are {len(symbols):,}.")
    names = provider_of(market, provider)
    check_name("pattern", "*" if pattern is None else pattern)
    for name in symbols or ():
        check_name("symbols", name)
    return SymbolSelection(*names, None if symbols is None else tuple(symbols), pattern)


def author(context: Context) -> str | None:
    """The user who orders; None is the owner of the machine."""
    return context.viewer.user.name if context.viewer.user else None


def job_number(text: str) -> int:
    """The number of a job, by its id; NotFound for an invalid one."""
    number = parse_backfill_id(text)
    if number is None or number > _MAX_JOB:
        raise NotFound(f"There is no backfill {text[:32]!r}.")
    return number
