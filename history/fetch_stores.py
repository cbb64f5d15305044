"""What fetches read and write besides the provider."""

from __future__ import annotations

from dataclasses import dataclass, field

from candlegraph.outage import Outage
from history.beginnings import Beginnings
from history.coarse_look import CoarseLook
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
    beginnings: Beginnings
    coarse_look: CoarseLook
    forming: FormingCache
    logging: Outage = field(default_factory=lambda: Outage("logging failed fetches"))
