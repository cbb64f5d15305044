"""Coverage, backfills and tracked series over the API, and the roles that may change them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from candlegraph.supervision import Supervisor
from candlegraph.viewer import Role, User, Viewer
from history.backfill.workers import BackfillWorkers
from resolvers.context import Context, Origin
from tests.fakes.laboratory import ROWS, T0, ApiWorld, laboratory

DAY_MS = 86_400_000
FROM, UNTIL = T0, T0 + DAY_MS
START = """mutation ($input: BackfillInput!) { startBackfill(input: $input) {
  id market provider symbols timeframe since until state piecesDone piecesTotal candlesWritten candlesPerSecond estimatedEndAt
  lastError holes { since until reason detail } createdAt createdBy } }"""
CANCEL = "mutation ($id: ID!) { cancelBackfill(id: $id) { state } }"
TRACK = "mutation ($input: TrackInput!) { track(input: $input) { symbol { symbol } since holes upToDateAt } }"
UNTRACK = "mutation ($input: TrackInput!) { untrack(input: $input) }"


@pytest.fixture
async def lab(new_database: Callable[..., Any], migrated_template: str) -> AsyncIterator[ApiWorld]:
    """A laboratory of this test's own."""
    async with laboratory(await new_database(migrated_template)) as opened:
        yield opened


def order(**more: object) -> dict[str, object]:
    return {"input": {"market": "demo", "provider": "synthetic", "symbols": ["BTC/USD"], "since": FROM, "until": UNTIL, **more}}  # fmt: skip


def viewer(name: str, role: Role) -> Viewer:
    return Viewer(User(hash(name) % 1000, name, role, disabled=False, version=1), frozenset(role.implied))


OWNER, ADA, BOB = Viewer(), viewer("ada", Role.OPERATOR), viewer("bob", Role.OPERATOR)
CYD, VERA = viewer("cyd", Role.ADMIN), viewer("vera", Role.VIEWER)


async def ask(
    lab: ApiWorld, text: str, variables: dict[str, object] | None = None, viewer: Viewer = OWNER
) -> dict[str, Any]:
    """Execute as a viewer, by default as the owner of the machine."""
    context = Context(lab.services, "test", viewer=viewer, origin=Origin("127.0.0.1", trusted=viewer is OWNER))
    result = await lab.schema.execute(text, variable_values=variables, context_value=context)
    errors = [error.formatted for error in result.errors or ()]
    return json.loads(json.dumps({"data": result.data, "errors": errors}))  # type: ignore[no-any-return]


def refusal(answer: dict[str, Any]) -> tuple[str, str]:
    (error,) = answer["errors"]
    return error["extensions"]["code"], error["message"]


async def test_a_backfill_is_ordered_followed_and_done(lab: ApiWorld) -> None:
    job = (await ask(lab, START, order(), ADA))["data"]["startBackfill"]
    assert job.items() >= {
        "symbols": ["BTC/USD"], "timeframe": "1m", "since": FROM, "until": UNTIL, "state": "QUEUED", "piecesDone": 0,
        "piecesTotal": 1, "candlesWritten": 0.0, "lastError": None, "holes": [], "createdBy": "ada", "estimatedEndAt": None,
    }.items()  # fmt: skip
    workers = BackfillWorkers(lab.services.backfills)
    workers.start(Supervisor())
    context = Context(lab.services, "test", viewer=VERA)
    text = "subscription ($id: ID!) { backfill(id: $id) { state piecesDone candlesWritten } }"
    try:
        stream = await lab.schema.subscribe(text, variable_values={"id": job["id"]}, context_value=context)
        received = [result.data["backfill"] async for result in stream]  # type: ignore[union-attr]
    finally:
        await workers.close()
    assert received[-1] == {"state": "DONE", "piecesDone": 1, "candlesWritten": 1440.0}
    covered = await ask(
        lab,
        """{ coverage(market: "demo", provider: "synthetic", symbol: "BTC/USD") {
             covered { since until } holes { since until reason } firstAvailable endedAt rows
             lastFetches { at since until rows outcome milliseconds } } }""",
    )
    coverage = covered["data"]["coverage"]
    assert coverage["covered"] == [{"since": FROM, "until": UNTIL}]
    assert coverage["rows"] == 1440
    assert coverage["firstAvailable"] == 1_420_070_400_000
    assert [hole["reason"] for hole in coverage["holes"]] == ["BEFORE_LISTING", "NOT_FETCHED", "NOT_FETCHED"]
    (fetch,) = coverage["lastFetches"]
    assert (fetch["since"], fetch["until"], fetch["rows"], fetch["outcome"]) == (FROM, UNTIL, 1440, "ok")


async def test_what_was_imported_is_covered_without_a_fetch(lab: ApiWorld) -> None:
    text = '{ coverage(market: "lab", provider: "bench", symbol: "S0/USD"%s) { covered { since until } holes { reason } rows lastFetches { at } } }'
    minute = (await ask(lab, text % ""))["data"]["coverage"]
    assert minute == {
        "covered": [{"since": T0, "until": T0 + ROWS * 60_000}],
        "holes": [],
        "rows": ROWS,
        "lastFetches": [],
    }
    hour = (await ask(lab, text % ', timeframe: "1h"'))["data"]["coverage"]
    assert (hour["rows"], hour["covered"]) == (2, minute["covered"])
    unknown = await ask(lab, text.replace("S0/USD", "NOPE") % "")
    assert unknown["data"] == {"coverage": None}
    assert refusal(unknown)[0] == "NOT_FOUND"


async def test_an_operator_cancels_what_is_theirs_and_an_admin_what_is_anybodys(lab: ApiWorld) -> None:
    ids = [(await ask(lab, START, order(), who))["data"]["startBackfill"]["id"] for who in (ADA, ADA, OWNER)]
    assert refusal(await ask(lab, CANCEL, {"id": ids[0]}, BOB))[0] == "FORBIDDEN"
    assert refusal(await ask(lab, CANCEL, {"id": ids[2]}, BOB))[0] == "FORBIDDEN"
    for number, who in zip(ids, (ADA, CYD, OWNER), strict=True):
        assert (await ask(lab, CANCEL, {"id": number}, who))["data"] == {"cancelBackfill": {"state": "CANCELLED"}}


@pytest.mark.parametrize(
    ("text", "variables"), [(START, order()), (CANCEL, {"id": "1"}), (TRACK, {"input": {"market": "demo", "provider": "synthetic", "pattern": "*"}}), (UNTRACK, {"input": {"market": "demo", "provider": "synthetic", "pattern": "*"}})]
)  # fmt: skip
async def test_a_viewer_and_somebody_anonymous_may_change_nothing(
    lab: ApiWorld, text: str, variables: dict[str, object]
) -> None:
    assert refusal(await ask(lab, text, variables, VERA))[0] == "FORBIDDEN"
    assert refusal(await ask(lab, text, variables, Viewer()))[0] == "UNAUTHENTICATED"
    assert (await ask(lab, "{ backfills { nodes { id } } tracked { nodes { since } } }", viewer=VERA))["errors"] == []


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"symbols": None, "pattern": "NOPE*"}, "BAD_USER_INPUT", "No symbol of demo/synthetic matches"),
        ({"symbols": ["NOPE"]}, "NOT_FOUND", "has no symbol 'NOPE'"),
        ({"pattern": "*"}, "BAD_USER_INPUT", "either `symbols` or a `pattern`"),
        ({"symbols": []}, "BAD_USER_INPUT", "`symbols` is empty"),
        ({"symbols": ["x" * 200]}, "BAD_USER_INPUT", "1 to 128 characters"),
        ({"market": "nowhere"}, "NOT_FOUND", "Unknown market"),
        ({"timeframe": "7m"}, "BAD_USER_INPUT", "has no 7m candles of its own"),
        ({"since": 9_999_999_999_999, "until": None}, "BAD_USER_INPUT", "in the future"),
        ({"since": 1_714_521_600}, "BAD_USER_INPUT", "looks like seconds"),
    ],
)
async def test_a_bad_order_has_a_code_and_says_what_is_wrong(
    lab: ApiWorld, change: dict[str, object], code: str, said: str
) -> None:
    answer = refusal(await ask(lab, START, order(**change), ADA))
    assert answer[0] == code
    assert said in answer[1]


@pytest.mark.parametrize("number", ["77", "-1", "x", "", "9" * 40, "٣"])
async def test_an_unknown_job_is_not_found(lab: ApiWorld, number: str) -> None:
    text = "query ($id: ID!) { backfill(id: $id) { state } }"
    assert refusal(await ask(lab, text, {"id": number}))[0] == "NOT_FOUND"
    assert refusal(await ask(lab, CANCEL, {"id": number}, ADA))[0] == "NOT_FOUND"
    context = Context(lab.services, "test")
    stream = await lab.schema.subscribe(
        "subscription ($id: ID!) { backfill(id: $id) { state } }", variable_values={"id": number}, context_value=context
    )
    results = [stream] if not hasattr(stream, "__aiter__") else [result async for result in stream]
    assert [error.extensions["code"] for result in results for error in result.errors] == ["NOT_FOUND"]  # type: ignore[union-attr]


async def test_jobs_and_tracked_symbols_come_in_pages(lab: ApiWorld) -> None:
    for _ in range(3):
        await ask(lab, START, order(), ADA)
    await ask(lab, TRACK, {"input": {"market": "demo", "provider": "synthetic", "pattern": "*", "since": FROM}}, ADA)
    for name, key, total in (("backfills", "id", 3), ("tracked", "since", 6)):
        text = f"query ($after: String) {{ {name}(first: 2, after: $after) {{ edges {{ cursor }} nodes {{ {key} }} pageInfo {{ hasNextPage endCursor }} }} }}"
        after, seen = None, 0
        while True:
            page = (await ask(lab, text, {"after": after}))["data"][name]
            seen += len(page["nodes"])
            after = page["pageInfo"]["endCursor"]
            assert page["edges"][-1]["cursor"] == after
            if not page["pageInfo"]["hasNextPage"]:
                break
        assert seen == total
        assert refusal(await ask(lab, text, {"after": "nonsense"}))[0] == "BAD_USER_INPUT"
    queued = "{ backfills(state: QUEUED) { nodes { state } } done: backfills(state: DONE) { nodes { state } } }"
    data = (await ask(lab, queued))["data"]
    assert (len(data["backfills"]["nodes"]), data["done"]["nodes"]) == (3, [])


async def test_symbols_are_tracked_and_let_go(lab: ApiWorld) -> None:
    chosen = {"input": {"market": "demo", "provider": "synthetic", "pattern": "B*", "since": FROM}}
    (tracked,) = (await ask(lab, TRACK, chosen, ADA))["data"]["track"]
    assert tracked == {"symbol": {"symbol": "BTC/USD"}, "since": FROM, "holes": 1, "upToDateAt": None}
    assert (await ask(lab, UNTRACK, chosen, ADA))["data"] == {"untrack": 1}
    assert (await ask(lab, UNTRACK, chosen, ADA))["data"] == {"untrack": 0}


async def test_sources_tell_when_what_is_stored_was_fetched(lab: ApiWorld) -> None:
    text = """{{ candles(market: "{0}", provider: "{1}", symbol: "{2}", since: {3}, limit: 5) {{ sources {{ source fetchedAt }} }} }}"""
    demo = text.format("demo", "synthetic", "BTC/USD", T0)
    first = (await ask(lab, demo))["data"]["candles"]["sources"]
    again = (await ask(lab, demo))["data"]["candles"]["sources"]
    assert [source["source"] for source in (*first, *again)] == ["PROVIDER", "STORE"]
    assert abs(datetime.fromisoformat(first[0]["fetchedAt"]) - datetime.fromisoformat(again[0]["fetchedAt"])) < timedelta(seconds=10)  # fmt: skip
    imported = await ask(lab, text.format("lab", "bench", "S0/USD", T0))
    assert imported["data"]["candles"]["sources"] == [{"source": "STORE", "fetchedAt": None}]
