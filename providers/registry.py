"""Which providers there are: found by entry point, started at first use. Nothing below imports this.

A plugin that cannot be imported, and a provider that cannot be started, are shown with the reason and disturb no other.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

from candlegraph import clock
from candlegraph.errors import CandlegraphError, ConfigurationError, ProviderUnavailable
from candlegraph.provider import ENTRY_POINT_GROUP, Market, Provider, State, Status, Unconfigured

log = logging.getLogger(__name__)

START_RETRY_MS = 30_000


@dataclass(slots=True)
class _Slot:
    """A provider and how it is; ``provider`` is None where its plugin could not be loaded."""

    market: Market
    id: str
    provider: Provider | None
    state: State = State.READY
    reason: str | None = None
    retry_at: int | None = None
    started: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    unconfigured: Unconfigured | None = None

    def fail(self, state: State, reason: str, retry_at: int | None = None) -> None:
        self.state, self.reason, self.retry_at = state, reason, retry_at


class Registry:
    """The providers of all plugins; implements `candlegraph.provider.Providers`."""

    def __init__(self, environ: Mapping[str, str], points: Iterable[EntryPoint] | None = None) -> None:
        """Load every plugin's factory; ConfigurationError where a setting of one is wrong."""
        self._slots: dict[tuple[str, str], _Slot] = {}
        for point in sorted(points or entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
            self._load(point, environ)

    def _load(self, point: EntryPoint, environ: Mapping[str, str]) -> None:
        try:
            for provider in point.load()(environ):
                self._add(provider)
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and must not stop the others
            market, _, name = point.name.partition(".")
            log.warning("provider plugin %s (%s) failed: %r", point.name, point.value, error)
            slot = _Slot(Market(market, market, ""), name or market, None)
            slot.fail(State.FAILED, f"The plugin {point.value} could not be loaded: {type(error).__name__}: {error}")
            self._slots[slot.market.id, slot.id] = slot

    def _add(self, provider: Provider | Unconfigured) -> None:
        key = (provider.market.id, provider.id)
        if key in self._slots:
            # Whose candles would be stored under the name? Neither's, until one of the two is uninstalled.
            self._slots[key].provider = None
            self._slots[key].fail(State.FAILED, f"Two plugins bring {key[0]}/{key[1]}: uninstall one of them.")
        elif isinstance(provider, Unconfigured):
            self._slots[key] = _Slot(provider.market, provider.id, None, unconfigured=provider)
            self._slots[key].fail(State.NOT_CONFIGURED, provider.reason)
        else:
            self._slots[key] = _Slot(provider.market, provider.id, provider)

    async def get(self, market: str, provider: str) -> Provider | None:
        """The provider, started; None where no plugin brings it. ProviderUnavailable where it cannot be started."""
        slot = self._slots.get((market, provider))
        if slot is None:
            return None
        async with slot.lock:
            if not slot.started:
                await self._start(slot)
        return slot.provider

    async def _start(self, slot: _Slot) -> None:
        now = clock.now_ms()
        if slot.provider is None or (slot.retry_at is not None and now < slot.retry_at):
            raise ProviderUnavailable(slot.reason, retry_after=slot.retry_at and (slot.retry_at - now) / 1000)
        try:
            await slot.provider.start()
        except ConfigurationError as error:
            slot.fail(State.NOT_CONFIGURED, error.message, now + START_RETRY_MS)
            raise ProviderUnavailable(error.message) from error
        except Exception as error:
            slot.fail(State.FAILED, f"{slot.id} could not be started: {error}", now + START_RETRY_MS)
            if isinstance(error, CandlegraphError):
                raise
            log.exception("provider %s/%s could not be started", slot.market.id, slot.id)
            raise ProviderUnavailable(slot.reason) from error
        gc.freeze()  # what a start imported stays: the collector need not walk it again, 100 ms with ccxt
        slot.started, slot.state, slot.reason, slot.retry_at = True, State.READY, None, None

    def statuses(self) -> Sequence[Status]:
        """Every provider, in the order of market and id."""
        return [_status(slot) for _, slot in sorted(self._slots.items())]

    async def close(self) -> None:
        """Close what was started; a provider that fails to close is logged."""
        providers = [slot.provider for slot in self._slots.values() if slot.provider]
        for provider, result in zip(
            providers, await asyncio.gather(*(p.close() for p in providers), return_exceptions=True), strict=True
        ):
            if isinstance(result, Exception):
                log.warning("provider %s did not close: %r", provider.id, result)


def _status(slot: _Slot) -> Status:
    known = (slot.state, slot.reason, slot.retry_at)
    if (lacking := slot.unconfigured) is not None:
        return Status(slot.market, slot.id, lacking.name, lacking.description, lacking.version, *known)
    if (provider := slot.provider) is None:
        return Status(slot.market, slot.id, slot.id, "A provider that could not be loaded.", "", *known)
    return Status(
        slot.market, slot.id, provider.name, provider.description, provider.version, *known, provider.capabilities
    )
