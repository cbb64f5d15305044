"""The stores of a fetch: everything that it reads and writes except its provider."""

from __future__ import annotations

from dataclasses import dataclass, field

from candlegraph.outage import Outage
from history.coarse_check import CoarseCheck
from history.first_candles import FirstCandles
from history.forming import FormingCache
from storage.candles import CandleStore
from storage.coverage_cache import CoverageCache
from storage.fetch_claims import FetchClaims
from storage.rechecks import Rechecks, Retries


@dataclass(frozen=True, slots=True)
class FetchStores:
    """The stores that all fetches of a process share."""

    store: CandleStore
    coverage_cache: CoverageCache
    claims: FetchClaims
    rechecks: Rechecks
    retries: Retries
    first_candles: FirstCandles
    coarse_check: CoarseCheck
    forming: FormingCache
    logging: Outage = field(default_factory=lambda: Outage("logging failed fetches"))
