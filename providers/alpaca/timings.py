"""The time-outs and pauses of the Alpaca providers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AlpacaTimings:
    """The time-outs and pauses of one account, in seconds."""

    answer_timeout_s: float = 10.0  # how long Alpaca may take to answer a message
    heartbeat_interval_s: float = 15.0  # how often a socket is pinged
    occupied_retries_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)  # Alpaca counts a lost socket for a while longer
    refused_pause_s: float = 300.0  # the pause after a refused stream
