"""Exchanges of every kind of paging from end to end: a candle that exists is answered, or lies in a gap."""

from __future__ import annotations

import pytest

from candlegraph import MINUTE, Series
from candlegraph.answer import Answer, CandleRequest
from candlegraph.clock import MINUTE_MS
from history.orchestrator import History
from providers.guard.guard import Guard
from storage.database import Database
from tests.fakes.exchange_lab.cases import T0
from tests.fakes.exchange_lab.comparison import PAGE, compare, comparisons
from tests.fakes.exchange_lab.paging import Edge, Paging
from tests.fakes.exchange_lab.sampling import lab_time
from tests.fakes.exchange_lab.server import LabExchange
from tests.fakes.upstream import FakeProviders

pytestmark = pytest.mark.filterwarnings("ignore:enable_cleanup_closed ignored:DeprecationWarning")

THIN = [T0 + minute * MINUTE_MS for minute in range(0, 3_000, 7) if not 900 < minute < 1_300]  # and a night


@pytest.mark.parametrize(
    ("exchange_id", "paging"),
    [
        ("mexc", None),
        ("upbit", None),
        ("tokocrypto", None),
        ("hitbtc", None),
        ("bitvavo", None),
        ("okx", Paging(Edge.EXCLUSIVE, Edge.EXCLUSIVE, keeps_newest=True, cap=20)),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_a_thin_market_is_answered_whole_or_with_gaps(
    database: Database, exchange_id: str, paging: Paging | None
) -> None:
    async with LabExchange(exchange_id, paging) as lab:
        lab.there, lab.now = THIN, T0 + 4_000 * MINUTE_MS
        with lab_time(lab):
            history = History.create(database, FakeProviders([Guard(lab.provider, backoff_s=0.01)]))
            asked = CandleRequest(Series(lab.instrument, MINUTE), 3_000, T0, T0 + 2_000 * MINUTE_MS)
            for _ in range(6):
                calls = lab.calls
                answer = (await history.answer([asked]))[0]
                assert isinstance(answer, Answer)
                there = set(answer.candles.timestamp.tolist())
                answered_to = answer.next_since if answer.has_more and answer.next_since else T0 + 2_000 * MINUTE_MS
                absent = [at for at in THIN if at < answered_to and at not in there]
                assert there <= set(THIN)
                assert all(any(gap.since <= at < gap.until for gap in answer.gaps) for at in absent)
                assert lab.calls - calls <= 24
            assert not absent
            assert not answer.has_more
            if answer.complete:
                assert lab.calls == calls
            await history.fetcher.close()


async def test_the_table_of_the_page_has_what_a_client_gets(database: Database) -> None:
    """One exchange of them: MEXC, of which ccxt's class asks for half of what it declares."""
    cells = [await compare(database, "mexc", case) for case in comparisons()]
    assert f"| mexc | {' | '.join(cells)} |" in PAGE.read_text("utf-8").splitlines(), (
        "Renew it: python -m tests.fakes.exchange_lab --table"
    )
