"""The time-outs of a provider over ccxt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CcxtTimings:
    """The time-outs of one provider, in seconds."""

    listing_timeout_s: float = 60.0  # how long the list of symbols may take
    min_silence_s: float = 90.0  # a shorter silence of a stream is never an error
    max_silence_s: float = 3_600.0  # a longer silence always is, however quiet a symbol usually is
    leave_timeout_s: float = 2.0  # how long an unsubscription may take
