"""What fetches read and write besides the provider."""

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
    """What fetches read and write besides the provider."""

    store: CandleStore
    coverage_cache: CoverageCache
    claims: FetchClaims
    rechecks: Rechecks
    retries: Retries
    first_candles: FirstCandles
    coarse_check: CoarseCheck
    forming: FormingCache
    logging: Outage = field(default_factory=lambda: Outage("logging failed fetches"))
