"""Rules for a failing upstream and for cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import numpy as np

from candlegraph.errors import ProviderError, ProviderRefused, ProviderUnavailable, RateLimited
from candlegraph.provider import Page
from candlegraph.testing.harness import Harness
from candlegraph.testing.outcome import RuleViolation, require
from candlegraph.testing.rule import rule
from candlegraph.testing.subject import RETRY_AFTER_S, Fault

_LOOP_ITERATIONS = (1, 2, 3, 5, 8, 13, 40)  # of the event loop, before a fetch is cancelled
_IN_FLIGHT_S = 0.1  # after so long the upstream has the request, and hangs


@rule("docs/providers.md, Cancellation")
async def a_fetch_can_be_cancelled(bench: Harness) -> None:
    """A fetch that is cancelled ends with CancelledError, at once, and the next one works."""
    timeframe = next(iter(await bench.known_candles()))
    span = await bench.sample_span(timeframe)
    _, expected = await bench.settled_page(timeframe, span)
    for turns in _LOOP_ITERATIONS:
        task = asyncio.ensure_future(bench.page(timeframe, span))
        for _ in range(turns):
            await asyncio.sleep(0)
        if not task.done():
            await _cancel(bench, task, f"after {turns} turns of the event loop")
    _, rows = await bench.settled_page(timeframe, span)
    require(
        np.array_equal(rows.timestamp, expected.timestamp), "After a fetch that was cancelled, the next one differs."
    )


async def _cancel(bench: Harness, task: asyncio.Task[object], when: str) -> None:
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=bench.leave_s)
    require(done, f"Cancelled {when}, it goes on.")
    if not task.cancelled():
        error = task.exception()
        ended = f"raises {type(error).__name__}" if error else "answers with a page"
        raise RuleViolation(f"Cancelled {when}, it {ended}: CancelledError was swallowed.")


@rule("docs/providers.md, Cancellation", a_fetch_can_be_cancelled)
async def a_hanging_fetch_can_be_cancelled(bench: Harness) -> None:
    """While the upstream hangs a fetch never answers; it can be cancelled, or gives up with a ProviderError itself."""
    timeframe = next(iter(await bench.known_candles()))
    span = await bench.sample_span(timeframe)
    with bench.failing(Fault.HANG):
        task = asyncio.ensure_future(bench.page(timeframe, span))
        done, _ = await asyncio.wait({task}, timeout=_IN_FLIGHT_S)
        if not done:
            await _cancel(bench, task, "while the upstream hangs")
        elif not isinstance(task.exception(), ProviderError):
            raise RuleViolation(f"While the upstream hangs it ends with {task}.")
    require(
        len((await bench.settled_page(timeframe, span))[1]), "After an upstream that hung, the next fetch is empty."
    )


@rule("docs/providers.md, Errors")
async def a_server_error_is_reported(bench: Harness) -> None:
    """An upstream that answers with 500 is ProviderUnavailable."""
    await _raised_error(bench, Fault.SERVER_ERROR, ProviderUnavailable)


@rule("docs/providers.md, Errors")
async def a_rate_limit_is_reported(bench: Harness) -> None:
    """An upstream that answers with 429 is RateLimited, with the seconds that it asks for."""
    error = await _raised_error(bench, Fault.RATE_LIMITED, RateLimited)
    seconds = error.retry_after
    near = seconds is not None and abs(seconds - RETRY_AFTER_S) <= 2
    require(near, f"The upstream asks for {RETRY_AFTER_S} seconds; retry_after is {seconds}.")


@rule("docs/providers.md, Errors")
async def a_truncated_response_is_an_error(bench: Harness) -> None:
    """An answer that was cut off is ProviderUnavailable (or ProviderRefused, where asking again cannot help), never an empty page."""
    await _raised_error(bench, Fault.TRUNCATED, ProviderUnavailable, ProviderRefused)


@rule("docs/providers.md, Errors")
async def an_html_page_is_an_error(bench: Harness) -> None:
    """A page of HTML with status 200 is ProviderUnavailable (or ProviderRefused, where asking again cannot help), never an empty page."""
    await _raised_error(bench, Fault.HTML, ProviderUnavailable, ProviderRefused)


@rule("docs/providers.md, Errors")
async def unexpected_json_is_an_error(bench: Harness) -> None:
    """JSON that is no answer is ProviderUnavailable (or ProviderRefused, where asking again cannot help), never an empty page."""
    await _raised_error(bench, Fault.NONSENSE, ProviderUnavailable, ProviderRefused)


async def _raised_error(bench: Harness, fault: Fault, *kinds: type[ProviderError]) -> ProviderError:
    """The error that a fetch raises while the upstream fails; afterwards the upstream works again."""
    timeframe = next(iter(await bench.known_candles()))
    span = await bench.sample_span(timeframe)
    with bench.failing(fault):
        error = await _error(bench, fault, kinds, bench.page(timeframe, span))
        if fault in {Fault.SERVER_ERROR, Fault.NONSENSE}:  # not each time: a list may be long
            await _check_listings(bench, fault)
    if not len((await bench.settled_page(timeframe, span))[1]):
        raise RuleViolation(f"The upstream {fault} no more, and the next fetch is empty.")
    return error


async def _check_listings(bench: Harness, fault: Fault) -> None:
    """`listings` may cache the answer, or need no upstream for it."""
    symbols = {listing.symbol for listing in await bench.listings()}
    try:
        now = {listing.symbol for listing in await bench.provider.listings()}
    except ProviderError:
        return
    require(now == symbols, f"The upstream {fault}; listings answers with {len(now)} symbols of {len(symbols)}.")


async def _error(
    bench: Harness, fault: Fault, kinds: tuple[type[ProviderError], ...], asked: Awaitable[Page]
) -> ProviderError:
    limit = bench.provider.capabilities.deadline_s + bench.leave_s
    try:
        async with asyncio.timeout(limit):
            page = await asked
    except kinds as error:
        return error
    except TimeoutError:
        raise RuleViolation(f"The upstream {fault}; a fetch does not end within {limit:g} s.") from None
    except Exception as error:
        raised = f"{type(error).__name__} instead of {kinds[0].__name__}"
        raise RuleViolation(f"The upstream {fault}; a fetch raises {raised}: {error}") from error
    raise RuleViolation(f"The upstream {fault}; a fetch answers with a page of {len(page.candles)} candles.")
