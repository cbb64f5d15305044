"""No cursor that a client makes up is a failure of the server's, in any list the schema has."""

from __future__ import annotations

import base64

import pytest
from graphql import GraphQLObjectType
from graphql import build_schema as read_sdl

from schema.build import build_schema
from tests.fakes.laboratory import ApiWorld
from tests.schema.test_operators import ask

# A query of each field that takes a cursor. One that is new in the schema fails the tests until it stands here.
QUERIES = {
    "Query.symbols.after": 'symbols(market: "lab", provider: "bench", after: {}) {{ totalCount }}',
    "Provider.symbols.after": 'providers(market: "lab") {{ symbols(after: {}) {{ totalCount }} }}',
    "Query.backfills.after": "backfills(after: {}) {{ nodes {{ id }} }}",
    "Query.tracked.after": "tracked(after: {}) {{ nodes {{ since }} }}",
    "Query.latest.after": 'latest(market: "lab", provider: "bench", pattern: "*", after: {}) {{ missing }}',
    "Query.corrections.after": "corrections(after: {}) {{ nodes {{ at }} }}",
    "Query.seriesList.after": "seriesList(after: {}) {{ nodes {{ timeframe }} }}",
    "Query.candles.before": 'candles(market: "lab", provider: "bench", symbol: "S1/USD", before: {}) {{ hasMore }}',
    "Query.candlesBatch.before": (
        'candlesBatch(series: [{{market: "lab", provider: "bench", symbol: "S1/USD"}}], before: {}) {{ hasMore }}'
    ),
    "Symbol.candles.before": (
        'symbol(market: "lab", provider: "bench", symbol: "S1/USD") {{ candles(before: {}) {{ hasMore }} }}'
    ),
}
FIELDS = sorted(
    f"{kind.name}.{name}.{argument}"
    for kind in read_sdl(build_schema().as_str()).type_map.values()
    if isinstance(kind, GraphQLObjectType) and not kind.name.startswith("__")
    for name, field in kind.fields.items()
    for argument in field.args
    if argument in {"after", "before"} and name != "changes"  # that takes a revision; see test_changes.py
)


def text(cursor: bytes) -> str:
    """A cursor that is well encoded."""
    return f'"{base64.urlsafe_b64encode(cursor).decode()}"'


HUGE = [text(b"#%d" % number) for number in (2**31, 2**63, 10**18, 10**19, 10**30)]
NEGATIVE = [text(b"#-1"), text(b"#-99999999999999999999")]
MALFORMED = [
    '"nonsense!"', '"AAA="', '"é"', text(b"\xff"), text(b""), text(b"#"), text(b"# 1"), text(b"#1.5"),
    text("#\u0661".encode()), text(b"x" * 129), f'"{"A" * 10_000}"',
]  # fmt: skip
TIMES = ["-2208988800001", "9999999999", "99999999999999999999", "1e400", '"yesterday"', '"2024-01-01T00:00:00"']
# These are names in a list of names, where nothing but the order of names counts.
NAMES = {*HUGE, *NEGATIVE, text(b"#"), text(b"# 1"), text(b"#1.5"), text("#\u0661".encode())}
# And these are numbers of jobs, and of corrections, that there may be.
JOBS = {text(b"#%d" % number) for number in (2**31, 10**18)}


def test_every_cursor_of_the_schema_is_tried() -> None:
    assert sorted(QUERIES) == FIELDS


@pytest.mark.parametrize("field", FIELDS)
async def test_a_cursor_that_is_none_is_bad_input(lab: ApiWorld, field: str) -> None:
    times = field.endswith(".before")
    for cursor in TIMES if times else [*HUGE, *NEGATIVE, *MALFORMED]:
        answer = await ask(lab, f"{{ {QUERIES[field].format(cursor)} }}")
        valid = (("symbols" in field or "latest" in field) and cursor in NAMES) or (
            ("backfills" in field or "corrections" in field) and cursor in JOBS
        )
        errors = [(error["extensions"]["code"], error["message"]) for error in answer["errors"]]
        assert [code for code, _ in errors] == ([] if valid else ["BAD_USER_INPUT"]), (cursor, errors)
        if not valid and not times:
            assert errors[0][1].startswith("`after` is not a cursor of this list"), (cursor, errors)


@pytest.mark.parametrize("number", [2**63, 10**18, 10**19, -1])
async def test_a_job_number_that_no_job_can_have_is_not_found(lab: ApiWorld, number: int) -> None:
    (error,) = (await lab.ask(f'{{ backfill(id: "{number}") {{ id }} }}'))["errors"]
    assert error["extensions"]["code"] == "NOT_FOUND"
