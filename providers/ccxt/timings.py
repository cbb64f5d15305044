"""How long a provider over ccxt waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CcxtTimings:
    """The time-outs of one provider, in seconds."""

    listing_timeout_s: float = 60.0  # how long the list of symbols may take
    min_silence_s: float = 90.0  # the shortest silence of a stream that is suspicious
    max_silence_s: float = 3_600.0  # the longest that is waited for, however quiet a symbol usually is
    leave_timeout_s: float = 2.0  # how long an unsubscription may take
