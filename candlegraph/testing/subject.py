"""The subject of a test: a provider, and what its tester knows about the upstream."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum

from candlegraph.candle import Candles
from candlegraph.provider import Provider
from candlegraph.span import Span

RETRY_AFTER_S = 7  # what an upstream with `Fault.RATE_LIMITED` asks for, in its own way


class Fault(StrEnum):
    """The faults that an upstream can apply to every call."""

    SERVER_ERROR = "answers with 500 and a body of its own"
    RATE_LIMITED = f"answers with 429 and asks for {RETRY_AFTER_S} seconds"
    HANG = "takes the question and never answers"
    TRUNCATED = "answers with 200 and the first half of the body"
    HTML = "answers with 200 and a page of HTML"
    NONSENSE = "answers with 200 and JSON that is no answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A provider under test. What is left out is found out, or its checks do not apply.

    ``make`` returns a new provider that has not been started. ``symbol`` has candles in ``span``; ``truth`` are its 1m
    candles there, all of them. ``fail`` lets every call to the upstream go wrong in one way, until it is called with
    None; ``faults`` are the ways it knows. ``streams`` is False if the upstream has no live side. ``advance`` moves the upstream's clock and ours on, by milliseconds: without
    it a stream is watched for as long as a minute takes.
    """

    make: Callable[[], Provider]
    symbol: str | None = None
    span: Span | None = None
    truth: Candles | None = None
    fail: Callable[[Fault | None], None] | None = None
    faults: Collection[Fault] = tuple(Fault)
    streams: bool = True
    advance: Callable[[int], None] | None = None


SubjectFactory = Callable[[], AbstractAsyncContextManager[Subject]]
