"""The registry of providers: it finds them by entry point and starts each at first use. No provider imports it.

It lists a plugin that cannot be imported, and a provider that cannot be started, with the reason; the others still work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points

from candlegraph import clock
from candlegraph.errors import (
    BadUserInput,
    CandlegraphError,
    ConfigurationError,
    ProviderError,
    ProviderStarting,
    ProviderUnavailable,
)
from candlegraph.identity import check_new_name
from candlegraph.provider import API_VERSION, ENTRY_POINT_GROUP, Market, Provider, UnconfiguredProvider
from candlegraph.rate_budget import RateBudget
from candlegraph.upstream import CallFailure, ProviderState, ProviderStatus, Upstream
from providers.guard.guard import Guard

log = logging.getLogger(__name__)

START_RETRY_MS = 30_000
START_TIMEOUT_S = 600.0
RETRY_AFTER_S = 5.0
DISABLED = "PROVIDERS_DISABLED"


@dataclass(slots=True)
class _Slot:
    """A provider and its state; ``guard`` is None if it could not be loaded. ``shown`` is its status until it has started."""

    shown: ProviderStatus
    guard: Guard | None = None
    notice: str | None = None  # the part of its own data that cannot be served
    started: bool = False
    starting: asyncio.Task[ProviderError | None] | None = None
    rests_until: int | None = None  # by the monotonic clock (ms)

    def fail(self, state: ProviderState, reason: str, rest_ms: int | None = None) -> None:
        self.rests_until = None if rest_ms is None else clock.monotonic_ms() + rest_ms
        failure = CallFailure(reason, clock.now_ms())
        self.shown = replace(self.shown, state=state, reason=reason, last_failure=failure)

    def rest_ms(self) -> int:
        """The milliseconds until it may be started again after a failure."""
        return max(0, self.rests_until - clock.monotonic_ms()) if self.rests_until is not None else 0

    def status(self) -> ProviderStatus:
        if self.guard is None:
            return self.shown
        status = self.guard.status()
        if self.started:
            return replace(status, reason=status.reason or self.notice)
        if self.starting:
            return replace(status, state=ProviderState.DEGRADED, reason=f"{status.name} is starting.")
        return replace(
            status,
            state=self.shown.state,
            reason=self.shown.reason,
            retry_at=None if self.rests_until is None else clock.now_ms() + self.rest_ms(),
            last_failure=self.shown.last_failure,
        )


class Registry:
    """The providers of all plugins; implements `candlegraph.upstream.Providers`."""

    def __init__(
        self,
        environ: Mapping[str, str],
        points: Iterable[EntryPoint] | None = None,
        *,
        quota: RateBudget | None = None,
    ) -> None:
        """Load every plugin's factory; ConfigurationError if a setting of one is wrong.

        ``quota`` counts the rate budgets of the upstreams together with other processes; without it each process counts alone.
        """
        self._quota = quota
        self._slots: dict[tuple[str, str], _Slot] = {}
        self._disabled = {name.strip() for name in environ.get(DISABLED, "").split(",") if name.strip()}
        self._known: set[str] = set()  # the names that `DISABLED` may have
        whole = True
        for point in sorted(points or entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
            self._known.add(point.name)
            if point.name not in self._disabled:
                whole &= self._load(point, environ)
        if whole and (unknown := sorted(self._disabled - self._known)):
            names = ", ".join(sorted(self._known))
            raise ConfigurationError(f"{DISABLED}: there is no {unknown[0][:64]!r}; known are {names}.")

    def _load(self, point: EntryPoint, environ: Mapping[str, str]) -> bool:
        """Add the providers of a plugin; return whether all could be added."""
        try:
            for provider in point.load()(environ):
                self._known.add(name := f"{provider.market.id}.{provider.id}")
                if name not in self._disabled:
                    self._add(provider)
        except ConfigurationError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything, and must not stop the others
            market, _, called = point.name.partition(".")
            log.warning("provider plugin %s (%s) failed: %r", point.name, point.value, error)
            slot = _Slot(_unloaded(Market(market, market, ""), called or market))
            slot.fail(
                ProviderState.FAILED, f"The plugin {point.value} could not be loaded: {type(error).__name__}: {error}"
            )
            self._slots[market, called or market] = slot
            return False
        return True

    def _add(self, provider: Provider | UnconfiguredProvider) -> None:
        key = (provider.market.id, provider.id)
        if slot := self._slots.get(key):
            # Two providers must not store candles under one name: use neither until one of them is uninstalled.
            slot.guard, slot.shown = None, _unloaded(provider.market, provider.id)
            slot.fail(ProviderState.FAILED, f"Two plugins bring {key[0]}/{key[1]}: uninstall one of them.")
            return
        slot = self._slots[key] = _Slot(
            ProviderStatus(
                provider.market, provider.id, provider.name, provider.description, provider.version, ProviderState.READY
            )
        )
        try:
            check_new_name("market", key[0])
            check_new_name("provider", key[1])
        except BadUserInput as error:
            slot.fail(ProviderState.FAILED, error.message)
            return
        if isinstance(provider, UnconfiguredProvider):
            slot.shown = replace(slot.shown, state=ProviderState.NOT_CONFIGURED, reason=provider.reason)
        elif (speaks := getattr(provider, "api_version", None)) != API_VERSION:
            problem = "has no version of the provider interface" if speaks is None else f"speaks version {speaks} of it"
            slot.fail(
                ProviderState.FAILED,
                f"{provider.name} {problem}, and this server speaks version {API_VERSION} of the provider interface: "
                "install releases of the two that fit.",
            )
        else:
            slot.guard = Guard(provider, self._quota)

    async def get(self, market: str, provider: str, *, timeout_s: float | None = None) -> Upstream | None:
        """The provider, started and guarded; None if no plugin has it.

        ProviderUnavailable if it cannot be started or is not configured; ProviderStarting if it is not ready within
        ``timeout_s``. All callers share one start, which goes on if they are cancelled.
        """
        slot = self._slots.get((market, provider))
        if slot is None:
            return None
        if slot.guard is None:
            raise ProviderUnavailable(slot.shown.reason)
        if slot.started:
            return slot.guard
        task = slot.starting
        if task is None:
            _refuse_early(slot)
            task = slot.starting = asyncio.create_task(self._start(slot, slot.guard))
        await asyncio.wait([task], timeout=timeout_s)
        if not task.done():
            raise ProviderStarting(f"{slot.guard.name} is starting: ask again in a moment.", retry_after=RETRY_AFTER_S)
        error = ProviderUnavailable("The server is stopping.") if task.cancelled() else task.result()
        if error:
            raise error
        return slot.guard

    def running(self, market: str, provider: str) -> Upstream | None:
        """The provider if it is running already, else None; starts nothing."""
        slot = self._slots.get((market, provider))
        return slot.guard if slot and slot.started else None

    async def _start(self, slot: _Slot, guard: Guard) -> ProviderError | None:
        """Start a provider; return the error, for all waiting callers. The slot keeps it until the next attempt may begin."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await guard.start()
        except ConfigurationError as error:
            slot.fail(ProviderState.NOT_CONFIGURED, error.message, START_RETRY_MS)
            return ProviderUnavailable(error.message)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            reason = f"{guard.id} could not be started: {str(error) or type(error).__name__}"
            slot.fail(ProviderState.FAILED, reason, START_RETRY_MS)
            if isinstance(error, ProviderError):
                return error
            if not isinstance(error, asyncio.CancelledError):
                log.exception("provider %s/%s could not be started", guard.market.id, guard.id)
            return ProviderUnavailable(reason)
        else:
            slot.started = True
            return None
        finally:
            slot.starting = None

    def status(self, market: str, provider: str) -> ProviderStatus | None:
        """The status of one provider, None if there is no such one."""
        slot = self._slots.get((market, provider))
        return slot.status() if slot else None

    def statuses(self) -> Sequence[ProviderStatus]:
        """Every provider, in the order of market and id."""
        return [slot.status() for _, slot in sorted(self._slots.items())]

    async def budget_left(self, market: str, provider: str) -> float | None:
        """As `candlegraph.upstream.Providers.budget_left`."""
        slot = self._slots.get((market, provider))
        return await slot.guard.budget_left() if slot and slot.guard else None

    async def inspect(self) -> None:
        """As `candlegraph.provider.Providers.inspect`; it starts these providers, because they have no remote upstream."""
        for slot in self._slots.values():
            if slot.guard and slot.guard.inspected:
                try:
                    await self.get(slot.guard.market.id, slot.guard.id)
                    slot.notice = await slot.guard.inspect()
                except CandlegraphError as error:
                    log.debug("provider %s cannot be inspected: %s", slot.guard.id, error.message)
                    slot.notice = error.message

    async def close(self) -> None:
        """Cancel the running starts, and close every provider; log one that fails to close."""
        starting = [slot.starting for slot in self._slots.values() if slot.starting]
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        guards = [slot.guard for slot in self._slots.values() if slot.guard]
        for guard, result in zip(
            guards, await asyncio.gather(*(g.close() for g in guards), return_exceptions=True), strict=True
        ):
            if isinstance(result, Exception):
                log.warning("provider %s did not close: %r", guard.id, result)


def _refuse_early(slot: _Slot) -> None:
    """Raise ProviderUnavailable if the last start failed a moment ago."""
    if left_ms := slot.rest_ms():
        raise ProviderUnavailable(slot.shown.reason, retry_after=left_ms / 1000)


def _unloaded(market: Market, name: str) -> ProviderStatus:
    return ProviderStatus(market, name, name, "A provider that could not be loaded.", "", ProviderState.FAILED)
