"""Whether an instrument can be followed live, and the capabilities of the provider that does it."""

from __future__ import annotations

from candlegraph.errors import CandlegraphError
from candlegraph.provider import Capabilities, LiveMode
from candlegraph.series import InstrumentRecord
from history.orchestrator import History


async def live_capabilities(history: History, record: InstrumentRecord | CandlegraphError) -> Capabilities | None:
    """The capabilities of the provider that an instrument can be followed at, or None. ProviderError."""
    if isinstance(record, CandlegraphError) or not record.listed or not record.active:
        return None
    instrument = record.instrument
    timeout_s = history.timings.topic_ready_timeout_s
    provider = await history.providers.get(instrument.market, instrument.provider, timeout_s=timeout_s)
    return provider.capabilities if provider and provider.capabilities.live is not LiveMode.NONE else None
