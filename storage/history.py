"""The orchestrator: one question about a series, answered from what is stored and, where that ends, from its provider.

Candles of a timeframe are folded from stored candles of any timeframe that nests in it: from 1m where that is covered,
else from the coarsest native one. A bucket is only ever built from a source that covers the whole of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from candlegraph import clock
from candlegraph.answer import Answer, Ask, Wait
from candlegraph.errors import CandlegraphError, ProviderError, ProviderUnavailable
from candlegraph.provider import Providers, Upstream
from candlegraph.series import Record
from candlegraph.span import Span, Spans
from storage.candles import CandleStore
from storage.collector import MAX_CALLS, Collector
from storage.instruments import Instruments
from storage.reader import Reader
from storage.walk import Walk

log = logging.getLogger(__name__)

DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class History:
    """Everything that is known of every series, and the way to more."""

    store: CandleStore
    instruments: Instruments
    collector: Collector
    providers: Providers

    async def answer(self, asks: Sequence[Ask]) -> list[Answer | BaseException]:
        """Answer many questions at once: what they need of the database is read in one statement a step.

        An item that fails is its exception (NotFound, BadUserInput, ProviderError, Unavailable) and disturbs no other.
        """
        reader = Reader(self.store, self.instruments)
        return await asyncio.gather(*(self._answer(ask, reader) for ask in asks), return_exceptions=True)

    async def _answer(self, ask: Ask, reader: Reader) -> Answer:
        record: Record = await reader.record.load(ask.series.instrument)
        provider, failure = await self._provider(record)
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        now = provider.now_ms() if provider else clock.now_ms()
        answer = await Walk(ask, record, provider, reader, self.collector, deadline, now).run(failure)
        if provider is None:
            return answer
        try:
            if await self._healed(answer, provider, deadline):
                answer = await Walk(ask, record, provider, reader, self.collector, deadline, now).run(None)
        except CandlegraphError as error:
            log.warning("what is suspect of %s could not be asked for again: %s", record.instrument, error.message)
        return answer

    async def _healed(self, answer: Answer, provider: Upstream, deadline: float) -> bool:
        """Ask once more for what is suspect of an answer, where its time has come; whether that brought candles.

        Whatever comes of it, what is stored stays, and so does the answer.
        """
        record, suspects = answer.record, self.collector.suspects
        due = await suspects.due(record.id, provider.now_ms())
        told = Spans([_told(answer)]) if due else Spans()
        pieces = [(timeframe, span) for timeframe, spans in due.items() for span in spans & told][:MAX_CALLS]
        if not pieces:
            return False
        suspects.rest(record.id)
        tasks = [self.collector.collect(record, provider, *piece, newest=False, again=True) for piece in pieces]
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait(tasks, timeout=left if answer.ask.wait is Wait.COMPLETE else 0)
        return any(task.result().rows for task in done)

    async def _provider(self, record: Record) -> tuple[Upstream | None, ProviderError | None]:
        """The provider to ask for more; none for what was imported, and a failed one takes nothing away."""
        if not record.listed:
            return None, None
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await self.providers.get(record.instrument.market, record.instrument.provider), None
        except ProviderError as error:
            return None, error
        except TimeoutError:
            return None, ProviderUnavailable(f"{record.instrument.provider} did not start in time.", retry_after=5)


def _told(answer: Answer) -> Span:
    """The span an answer speaks of: back to the beginning, where it says that there is nothing older."""
    if not answer.sources:
        return Span(0, 0)
    whole = answer.ask.since is None and not answer.has_more
    return Span(0 if whole else answer.sources[0].since, answer.sources[-1].until)
