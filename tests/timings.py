"""The timings of the tests: on a busy machine everything takes longer, so only a test of a time-out shortens it."""

from __future__ import annotations

from dataclasses import replace

from candlegraph.timings import Timings
from providers.ccxt.timings import CcxtTimings
from tests.waiting import HANG_S

PATIENT = replace(
    Timings(),
    acquire_timeout_s=HANG_S,
    redis_timeout_s=HANG_S,
    query_deadline_s=HANG_S,
    query_finish_s=HANG_S,
    listing_deadline_s=HANG_S,
    topic_ready_timeout_s=HANG_S,
)
PATIENT_CCXT = CcxtTimings(listing_timeout_s=HANG_S)
