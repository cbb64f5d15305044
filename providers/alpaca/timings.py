"""How long the providers of Alpaca wait."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AlpacaTimings:
    """The time-outs and pauses of one account, in seconds."""

    answer_timeout_s: float = 10.0  # how long Alpaca may take to answer a message
    heartbeat_interval_s: float = 15.0  # how often a socket is pinged
    occupied_retries_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)  # a socket that was cut counts for a while there
    refused_pause_s: float = 300.0  # how long a refused stream is not tried again
    calendar_retry_s: float = 600.0  # how soon a calendar that could not be read is tried again
