"""Which providers there are: found by entry point, started at first use. Nothing below imports this.

A plugin that cannot be imported, and a provider that cannot be started, are shown with the reason and disturb no other.
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
    """A provider and how it is; ``guard`` is None where there is nothing to ask. ``shown`` is what it says meanwhile."""

    shown: ProviderStatus
    guard: Guard | None = None
    notice: str | None = None  # which of its own data cannot be served
    started: bool = False
    starting: asyncio.Task[ProviderError | None] | None = None

    def fail(self, state: ProviderState, reason: str, retry_at: int | None = None) -> None:
        now = clock.now_ms()
        self.shown = replace(
            self.shown, state=state, reason=reason, retry_at=retry_at, last_failure=CallFailure(reason, now)
        )

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
            retry_at=self.shown.retry_at,
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
        """Load every plugin's factory; ConfigurationError where a setting of one is wrong.

        ``quota`` counts what their upstreams allow, together with other processes; without it each counts for itself.
        """
        self._quota = quota
        self._slots: dict[tuple[str, str], _Slot] = {}
        self._disabled = {name.strip() for name in environ.get(DISABLED, "").split(",") if name.strip()}
        self._known: set[str] = set()  # what `DISABLED` can name
        whole = True
        for point in sorted(points or entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
            self._known.add(point.name)
            if point.name not in self._disabled:
                whole &= self._load(point, environ)
        if whole and (unknown := sorted(self._disabled - self._known)):
            names = ", ".join(sorted(self._known))
            raise ConfigurationError(f"{DISABLED}: there is no {unknown[0][:64]!r}; known are {names}.")

    def _load(self, point: EntryPoint, environ: Mapping[str, str]) -> bool:
        """Take what a plugin brings; whether that was all of it."""
        try:
            for provider in point.load()(environ):
                self._known.add(name := f"{provider.market.id}.{provider.id}")
                if name not in self._disabled:
                    self._add(provider)
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and must not stop the others
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
            # Whose candles would be stored under the name? Neither's, until one of the two is uninstalled.
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
            said = "names no version of the provider interface" if speaks is None else f"speaks version {speaks} of it"
            slot.fail(
                ProviderState.FAILED,
                f"{provider.name} {said}, and this server speaks version {API_VERSION} of the provider interface: "
                "install releases of the two that fit.",
            )
        else:
            slot.guard = Guard(provider, self._quota)

    async def get(self, market: str, provider: str, *, timeout_s: float | None = None) -> Upstream | None:
        """The provider, started and guarded; None where no plugin brings it.

        ProviderUnavailable where it cannot be started, or is not configured; ProviderStarting where it is not ready
        within ``timeout_s``. All callers share one start, which goes on when they leave.
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
            _refuse_early(slot.shown)
            task = slot.starting = asyncio.create_task(self._start(slot, slot.guard))
        await asyncio.wait([task], timeout=timeout_s)
        if not task.done():
            raise ProviderStarting(f"{slot.guard.name} is starting: ask again in a moment.", retry_after=RETRY_AFTER_S)
        error = ProviderUnavailable("The server is stopping.") if task.cancelled() else task.result()
        if error:
            raise error
        return slot.guard

    def running(self, market: str, provider: str) -> Upstream | None:
        """The provider where it has been started already; nothing is started."""
        slot = self._slots.get((market, provider))
        return slot.guard if slot and slot.started else None

    async def _start(self, slot: _Slot, guard: Guard) -> ProviderError | None:
        """Start a provider; what went wrong, for all who wait. The slot keeps it until the next attempt may begin."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await guard.start()
        except ConfigurationError as error:
            slot.fail(ProviderState.NOT_CONFIGURED, error.message, clock.now_ms() + START_RETRY_MS)
            return ProviderUnavailable(error.message)
        except (Exception, asyncio.CancelledError) as error:
            reason = f"{guard.id} could not be started: {str(error) or type(error).__name__}"
            slot.fail(ProviderState.FAILED, reason, clock.now_ms() + START_RETRY_MS)
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

    def statuses(self) -> Sequence[ProviderStatus]:
        """Every provider, in the order of market and id."""
        return [slot.status() for _, slot in sorted(self._slots.items())]

    async def inspect(self) -> None:
        """As `candlegraph.provider.Providers.inspect`: these are started, for they ask no remote upstream."""
        for slot in self._slots.values():
            if slot.guard and slot.guard.inspected:
                try:
                    await self.get(slot.guard.market.id, slot.guard.id)
                    slot.notice = await slot.guard.inspect()
                except CandlegraphError as error:
                    log.debug("provider %s cannot be inspected: %s", slot.guard.id, error.message)
                    slot.notice = error.message

    async def close(self) -> None:
        """Give up the starts under way, and close every provider; one that fails to close is logged."""
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


def _refuse_early(shown: ProviderStatus) -> None:
    """ProviderUnavailable where the last start failed a moment ago."""
    left_ms = (shown.retry_at or 0) - clock.now_ms()
    if left_ms > 0:
        raise ProviderUnavailable(shown.reason, retry_after=left_ms / 1000)


def _unloaded(market: Market, name: str) -> ProviderStatus:
    return ProviderStatus(market, name, name, "A provider that could not be loaded.", "", ProviderState.FAILED)
