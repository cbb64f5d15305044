"""Backfills: jobs that fetch history, and their progress; and tracked series."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from candlegraph.answer import Gap
from candlegraph.series import InstrumentRecord
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE, Timeframe


class BackfillState(StrEnum):
    """The state of a job."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self in {BackfillState.DONE, BackfillState.CANCELLED, BackfillState.FAILED}


@dataclass(frozen=True, slots=True)
class SymbolSelection:
    """Symbols of a provider: named, or matching a shell pattern such as ``*/USDT``; one of the two."""

    market: str
    provider: str
    symbols: tuple[str, ...] | None = None
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """A request to fetch ``[since, until)`` in ms, UTC; ``until`` None is now. Higher ``priority`` goes first."""

    selection: SymbolSelection
    since: int
    until: int | None = None
    timeframe: Timeframe = MINUTE
    priority: int = 0
    created_by: str | None = None


@dataclass(frozen=True, slots=True)
class SymbolProgress:
    """One symbol of a job, for a progress display."""

    symbol: str
    pieces: int
    pieces_done: int
    calls: int
    candles: int
    state: BackfillState
    retry_at: int | None  # when it will be tried again after a failure


@dataclass(frozen=True, slots=True)
class Backfill:
    """A job. ``pieces`` are upstream calls, as far as they can be estimated; instants are ms, UTC."""

    id: int
    market: str
    provider: str
    symbols: tuple[str, ...]
    timeframe: Timeframe
    span: Span
    priority: int
    state: BackfillState
    pieces_done: int
    pieces_total: int
    calls: int
    candles_written: int
    holes: tuple[Gap, ...]
    last_error: str | None
    created_at: int
    created_by: str | None
    started_at: int | None
    ended_at: int | None
    candles_per_second: float = 0.0
    estimated_end_at: int | None = None


@dataclass(frozen=True, slots=True)
class BackfillEstimate:
    """What a job would cost: upstream calls, the most candles it may bring, and the seconds that its provider's rate limit takes.

    ``seconds`` is None if the provider cannot be called.
    """

    symbols: int
    calls: int
    candles: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class TrackedSeries:
    """A series of 1m candles, tracked from ``since`` on; its gaps, and when it last had none (ms, UTC)."""

    record: InstrumentRecord
    since: int
    gaps: tuple[Gap, ...]
    complete_at: int | None
