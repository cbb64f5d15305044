"""The command `backfill`: order a job, work on it beside any running servers, and show its progress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from candlegraph.backfill import Backfill, BackfillRequest, BackfillState, SymbolProgress
from candlegraph.errors import CandlegraphError, Unavailable
from candlegraph.upstream import ProviderStatus
from history.backfill.workers import BackfillWorkers
from schema.scalars import print_datetime
from server.settings import Settings
from server.wiring import Runtime, open_runtime

POLL_INTERVAL_S = 0.5
PRINT_INTERVAL_S = 5.0  # how often it prints a line without a terminal
MAX_SHOWN_SYMBOLS = 20  # symbols at once
MAX_GAPS = 20


async def backfill(settings: Settings, what: BackfillRequest | int, console: Console) -> None:
    """Order a job, or resume one by its number, and follow it to its end.

    Raises what `history.backfill.jobs.BackfillJobs.start` does, and CandlegraphError if the job failed or was cancelled.
    """
    async with open_runtime(settings) as running:
        backfills = running.services.backfills
        job = await (backfills.get(what) if isinstance(what, int) else backfills.start(what))
        console.print(f"Backfill {job.id}: {_sentence(job)}", highlight=False)
        workers = BackfillWorkers(backfills, workers=settings.backfill_workers, job=job.id)
        workers.start(running.supervisor)
        try:
            job = await _watch(running, job, console)
        except asyncio.CancelledError:
            console.print(
                f"Stopped here; stored candles stay. A running server continues the job by itself, and so does\n"
                f"  candlegraph backfill --follow {job.id}",
                highlight=False,
            )
            raise
        finally:
            await workers.close()
        _report(job, console)
    if job.state is not BackfillState.DONE:
        reason = f": {job.last_error}" if job.last_error and job.state is BackfillState.FAILED else "."
        raise CandlegraphError(f"Backfill {job.id} was {_END_STATES[job.state]}{reason}")


async def list_backfills(settings: Settings, console: Console) -> None:
    """Print the newest jobs."""
    async with open_runtime(settings) as running:
        jobs = await running.services.backfills.page(None, 50, None)
    table = Table("id", "state", "what", "pieces", "candles", "ordered", "by", "last error", box=None)
    for job in jobs:
        what = f"{job.market}/{job.provider} {_names(job.symbols)} {job.timeframe}"
        table.add_row(
            str(job.id),
            job.state,
            what,
            f"{job.pieces_done:,}/{job.pieces_total:,}",
            f"{job.candles_written:,}",
            print_datetime(job.created_at),
            job.created_by or "",
            job.last_error or "",
        )
    console.print(table)


async def cancel_backfill(settings: Settings, number: int, console: Console) -> None:
    """End a job."""
    async with open_runtime(settings) as running:
        job = await running.services.backfills.cancel(number)
    console.print(
        f"Backfill {job.id} is {job.state}; {job.candles_written:,} candles of it are stored.", highlight=False
    )


_END_STATES = {BackfillState.FAILED: "given up in part", BackfillState.CANCELLED: "cancelled"}


@dataclass
class _Rate:
    """Candles a second over the last moments."""

    seen: list[tuple[float, int]] = field(default_factory=list)

    def of(self, candles: int) -> float:
        now = time.monotonic()
        self.seen = [*(one for one in self.seen if now - one[0] < 10), (now, candles)]
        began, before = self.seen[0]
        return (candles - before) / (now - began) if now > began else 0.0


async def _watch(running: Runtime, job: Backfill, console: Console) -> Backfill:
    """Show the job until it has ended."""
    backfills, rate = running.services.backfills, _Rate()
    live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
    said_at = time.monotonic()
    if live:
        live.start()
    try:
        while not job.state.ended:
            try:
                job = await backfills.get(job.id)
                parts = await backfills.parts(job.id)
            except Unavailable:
                await asyncio.sleep(POLL_INTERVAL_S)
                continue
            if live:
                live.update(
                    _progress_bars(job, parts, _status(running, job), rate.of(job.candles_written)), refresh=True
                )
            elif time.monotonic() - said_at >= PRINT_INTERVAL_S and not job.state.ended:
                said_at = time.monotonic()
                console.print(_line(job, rate.of(job.candles_written)), highlight=False)
            if not job.state.ended:
                await asyncio.sleep(POLL_INTERVAL_S)
    finally:
        if live:
            live.stop()
    return job


def _status(running: Runtime, job: Backfill) -> ProviderStatus | None:
    return running.services.providers.status(job.market, job.provider)


def _progress_bars(
    job: Backfill, parts: Sequence[SymbolProgress], status: ProviderStatus | None, rate: float
) -> RenderableType:
    """A bar a symbol, those that are under way first, and beneath it how the provider is."""
    bars = Table.grid(padding=(0, 2))
    under_way = sorted(parts, key=lambda part: (part.state.ended, part.pieces_done == 0))
    for part in under_way[:MAX_SHOWN_SYMBOLS]:
        bars.add_row(
            part.symbol,
            ProgressBar(total=max(1, part.pieces), completed=part.pieces_done if part.pieces else 1, width=40),
            f"{part.pieces_done:,}/{part.pieces:,} pieces",
            f"{part.candles:,} candles",
            f"{part.calls:,} calls",
            f"again at {print_datetime(part.retry_at)}" if part.retry_at else part.state if part.state.ended else "",
        )
    lines: list[RenderableType] = [bars]
    if len(parts) > MAX_SHOWN_SYMBOLS:
        lines.append(Text(f"... and {len(parts) - MAX_SHOWN_SYMBOLS:,} more symbols"))
    lines.append(Text(_line(job, rate)))
    if status:
        budget = f", at most {status.budget.weight:g} in {status.budget.per_s:g} s" if status.budget else ""
        reason = f": {status.reason}" if status.reason else ""
        lines.append(
            Text(f"{status.name} is {status.state}{reason} ({status.counters.calls:,} calls from here{budget})")
        )
    if job.last_error:
        lines.append(Text(f"last error: {job.last_error}", style="yellow"))
    return Group(*lines)


def _line(job: Backfill, rate: float) -> str:
    end = f", done about {print_datetime(job.estimated_end_at)}" if job.estimated_end_at else ""
    return (
        f"{job.state}: {job.pieces_done:,} of {job.pieces_total:,} pieces, {job.candles_written:,} candles, "
        f"{rate:,.0f} a second, {job.calls:,} calls{end}"
    )


def _sentence(job: Backfill) -> str:
    if not job.pieces_total:
        return f"{_names(job.symbols)}: nothing is missing."
    calls = f"{job.pieces_total:,} upstream call{'s' * (job.pieces_total > 1)}"
    return f"{_names(job.symbols)} of {job.market}/{job.provider}, {job.timeframe}, about {calls}."


def _names(symbols: Sequence[str]) -> str:
    return ", ".join(symbols) if len(symbols) <= 3 else f"{len(symbols):,} symbols"


def _report(job: Backfill, console: Console) -> None:
    """Print the result."""
    console.print(f"{job.state}: {job.candles_written:,} candles with {job.calls:,} calls.", highlight=False)
    for gap in job.holes[:MAX_GAPS]:
        missing = f"{print_datetime(gap.since)} .. {print_datetime(gap.until)}"
        console.print(f"missing {missing} {gap.reason}: {gap.detail}", highlight=False, markup=False)
    if len(job.holes) > MAX_GAPS:
        console.print(
            f"... and {len(job.holes) - MAX_GAPS:,} more: ask `backfill(id: {job.id}) {{ holes }}`.", highlight=False
        )
