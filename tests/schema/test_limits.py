"""A document that would keep the server busy is refused at once, and what real clients send is not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from graphql import get_introspection_query, get_operation_ast, parse

from resolvers.pagination import MAX_PAGE
from schema import cost, documents
from schema.limits import (
    MAX_DEPTH,
    MAX_INTROSPECTIONS,
    MAX_OPERATIONS,
    MAX_REPEATS,
    MAX_ROOT_FIELDS,
    MAX_SELECTIONS,
    MAX_TOKENS,
)
from tests.fakes.laboratory import ApiWorld


def _doubling(levels: int, inner: str = "__typename") -> str:
    chain = " ".join(f"fragment F{i} on Query {{ ...F{i + 1} ...F{i + 1} }}" for i in range(levels))
    return f"{{ ...F0 }} {chain} fragment F{levels} on Query {{ {inner} }}"


def _numbered(text: str, count: int) -> str:
    return " ".join(text.replace("#", str(i)) for i in range(count))


ATTACKS = {
    "doubling fragments, 18 levels": _doubling(18),
    "doubling fragments, 26 levels": _doubling(26),
    "doubling fragments that hold nothing": _doubling(26, "...F0"),
    "a fragment in itself": "{ ...A } fragment A on Query { ...A }",
    "a circle of fragments": "{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }",
    "a circle through fields": "{ markets { ...M } } fragment M on Market { providers { symbols { nodes { ...S } } } }"
    "fragment S on Symbol { candles { ...C } } fragment C on CandleSeries { ...C }",
    "a circle that is not used": "{ __typename } fragment A on Query { ...A }",
    "one field 3000 times": "{ " + "markets { id } " * 3000 + "}",
    "one field 480 times": "{ markets { " + "providers { id } " * 480 + "} }",
    "one field 15 times 15 times 2": "{ "
    + ("markets { " + "providers { id } " * 2 + "} ") * 15
    + "a: __typename " * 100
    + "}",
    "150 inline fragments of 60 fields": "{ " + ("... on Query { " + "markets { id } " * 60 + "} ") * 150 + "}",
    "the same field in 60 fragments": "{ "
    + _numbered("...F#", 60)
    + " } "
    + _numbered("fragment F# on Query { markets { id } }", 60),
    "an unused fragment of many fields": "{ __typename } fragment F on Market { " + "providers { id } " * 400 + "}",
    "100,000 tokens": "{ " + "a " * 100_000 + "}",
    "100,000 levels": "{ markets " * 100_000,
    "900 levels of lists": '{ candles(market: "m", provider: "p", symbol: "s", since: ' + "[" * 900 + "]" * 900 + ")}",
    "600 inline fragments in each other": "{ " + "... on Query { " * 600 + "__typename " + "} " * 600 + "}",
    "a chain of 600 fragments": "{ ...F0 } "
    + _numbered("fragment F# on Query { ...G# }", 300)
    + " fragment F300 on Query { markets { id } }",
    "root fields through fragments": "{ ...A ...B } fragment A on Query { "
    + _numbered("a#: __typename", 40)
    + " } fragment B on Query { "
    + _numbered("b#: __typename", 40)
    + " }",
    "introspections": "{ " + _numbered("a#: __schema { types { fields { name } } }", 50) + " }",
    "a deep introspection": "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }",
    "operations": _numbered("query Q# { __typename }", MAX_OPERATIONS + 1),
}


class Work:
    """The calls of functions so far: unlike seconds they are as many on every machine."""

    calls = 0


@contextmanager
def work() -> Iterator[Work]:
    done = Work()

    def count(frame: object, event: str, argument: object) -> None:
        done.calls += event == "call"

    sys.setprofile(count)
    try:
        yield done
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("attack", ATTACKS)
async def test_it_is_refused_after_little_work(lab: ApiWorld, attack: str) -> None:
    with work() as done:
        answer = await lab.ask(ATTACKS[attack])
    assert answer["data"] is None
    codes = {error["extensions"]["code"] for error in answer["errors"]}
    assert codes <= {"GRAPHQL_VALIDATION_FAILED", "GRAPHQL_PARSE_FAILED"}
    assert done.calls < 500_000
    assert len(str(answer)) < 65_536


@pytest.mark.parametrize(
    "inner",
    [
        "{ markets { " + _numbered("a#: id", MAX_SELECTIONS // 2) + " } }",
        "{ " + _numbered("a#: markets { " + "id " * MAX_REPEATS + "}", 50) + " }",
        "{ markets { ...F0 } } "
        + _numbered("fragment F# on Market { a#: id ...G# }", 150).replace("...G", "...F1")
        + " fragment F1149 on Market { id }",
        _numbered("query Q# { ...F }", MAX_OPERATIONS)
        + " fragment F on Query { markets { "
        + _numbered("a#: id", 440)
        + " } }",
    ],
)
async def test_the_worst_that_is_within_the_limits_is_bounded_work(lab: ApiWorld, inner: str) -> None:
    """graphql-core compares the fields of one place in pairs: what the limits let through bounds the pairs."""
    with work() as done:
        await lab.ask(inner, name="Q0" if "Q0" in inner else None)
    assert done.calls < 500_000


async def test_every_limit_admits_what_lies_on_it_and_refuses_one_more(lab: ApiWorld) -> None:
    def depth(levels: int) -> str:
        # markets > providers > symbols > nodes > candles > columns is six deep; circles in the schema go on.
        return "{ markets " + "{ providers { market } } " * 0 + _nest(levels - 1) + "}"

    for text, fits in (
        ("{ " + _numbered("a#: __typename", MAX_ROOT_FIELDS) + " }", True),
        ("{ " + _numbered("a#: __typename", MAX_ROOT_FIELDS + 1) + " }", False),
        ("{ " + "__typename " * MAX_REPEATS + "}", True),
        ("{ " + "__typename " * (MAX_REPEATS + 1) + "}", False),
        ("{ " + _numbered("a#: __schema { description }", MAX_INTROSPECTIONS) + " }", True),
        ("{ " + _numbered("a#: __schema { description }", MAX_INTROSPECTIONS + 1) + " }", False),
        ("{ markets { " + _numbered("a#: id", 600) + " } }", True),
        ("{ " + "a: __typename " * (MAX_TOKENS // 3 + 1) + "}", False),
    ):
        answer = await lab.ask(text)
        assert (not answer["errors"]) is fits, text[:80]
    message = (await lab.ask(depth(MAX_DEPTH + 1)))["errors"][0]["message"]
    assert f"at most {MAX_DEPTH} levels deep" in message
    assert all("levels deep" not in e["message"] for e in (await lab.ask(depth(MAX_DEPTH)))["errors"])


def _nest(levels: int) -> str:
    return "{ id " * levels + "} " * levels


async def test_graphiql_may_ask_for_the_whole_schema(lab: ApiWorld) -> None:
    text = get_introspection_query(
        specified_by_url=True, directive_is_repeatable=True, schema_description=True, input_value_deprecation=True
    )
    answer = await lab.ask(text)
    assert not answer["errors"]
    assert "CandleSeries" in {one["name"] for one in answer["data"]["__schema"]["types"]}


# What code generators and IDEs send, by what they show of the schema; the texts are printed by graphql-core, as by graphql-js.
TOOLS = {
    "graphql-js": {},
    "GraphiQL and Apollo Sandbox": {
        "specified_by_url": True,
        "directive_is_repeatable": True,
        "schema_description": True,
    },
    "the Relay and Apollo compilers": {"descriptions": False, "directive_is_repeatable": True},
    "ariadne-codegen": {"specified_by_url": True, "input_value_deprecation": True, "schema_description": True},
    "everything graphql-js knows": {
        "specified_by_url": True,
        "directive_is_repeatable": True,
        "schema_description": True,
        "input_value_deprecation": True,
        "experimental_directive_deprecation": True,
        "one_of": True,
        "type_depth": 9,
    },
}


@pytest.mark.parametrize("options", TOOLS.values(), ids=TOOLS)
async def test_the_introspection_of_tools_costs_half_the_limit_at_most(
    lab: ApiWorld, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "MAX_COST", cost.MAX_COST // 2)
    text = get_introspection_query(**options)
    document = parse(text)
    operation = get_operation_ast(document)
    assert operation is not None
    assert cost.OperationCost(document, operation).estimate({}, 500, 5000)[0] <= cost.MAX_COST
    if "experimental_directive_deprecation" not in options:  # not every version of the core answers that yet
        assert not (await lab.ask(text))["errors"]


async def test_what_an_introspection_shows_is_bounded_by_what_it_costs(lab: ApiWorld) -> None:
    """The dearest one that is let through shows a few times what a tool asks for."""
    shown = 0
    for shape in (
        "{ __schema { types { fields { # } } } }",
        "{ __schema { types { fields { args { # } } } } }",
        "{ __schema { types { fields { type { ofType { fields { # } } } } } } }",
        '{ __type(name: "Query") { fields { args { # } } } }',
        '{ __type(name: "Candle") { fields { # } } }',
    ):
        for aliases in (400, 200, 100, 50, 25, 12):
            text = shape.replace("#", " ".join(f"a{i}: description" for i in range(aliases)))
            answer = await lab.ask(text)
            if not answer["errors"]:
                shown = max(shown, _count(answer["data"]))
                break
            assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
    assert 4_000 < shown < 40_000


def _count(shown: object) -> int:
    if isinstance(shown, dict):
        return sum(1 + _count(value) for value in shown.values())
    return sum(map(_count, shown)) if isinstance(shown, list) else 0


@pytest.mark.parametrize("variables", [False, True])
async def test_an_operation_names_twenty_zones(lab: ApiWorld, variables: bool) -> None:
    names = [f"Etc/GMT+{i}" for i in range(1, 13)] + [f"Etc/GMT-{i}" for i in range(1, 15)]

    def ask(count: int) -> tuple[str, dict[str, str]]:
        places = [f"$z{i}" if variables else f'"{name}"' for i, name in enumerate(names[:count])]
        fields = "".join(
            f'a{i}: candles({SERIES}, symbol: "S1/USD", timezone: {place}) {{ complete }} b{i}: symbol({SERIES}, symbol: '
            f'"S1/USD") {{ candles(timezone: {place}) {{ complete }} }} '
            for i, place in enumerate(places)
        )
        head = "query Q(" + " ".join(f"$z{i}: String" for i in range(count)) + ") " if variables else ""
        return head + "{ " + fields + "}", {f"z{i}": name for i, name in enumerate(names[:count])} if variables else {}

    assert not (await lab.ask(*ask(20)))["errors"]
    answer = await lab.ask(*ask(21))
    assert answer["data"] is None
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["BAD_USER_INPUT"]
    assert "at most 20 time zones; this one 21" in answer["errors"][0]["message"]


TRACK = "mutation T($i: TrackInput!) { track(input: $i) { holes symbol { candles { complete } } } }"
INLINE = 'mutation T($s: [String!]) { track(input: { market: "lab", provider: "bench", symbols: $s }) { symbol { candles { complete } } } }'


@pytest.mark.parametrize(
    ("document", "order", "dear"),
    [
        (TRACK, {"i": {"market": "lab", "provider": "bench", "symbols": ["S1/USD"] * 3}}, False),
        (TRACK, {"i": {"market": "lab", "provider": "bench", "symbols": ["S1/USD"] * 900}}, True),
        (TRACK, {"i": {"market": "lab", "provider": "bench", "pattern": "*"}}, True),
        (INLINE, {"s": ["S1/USD"] * 3}, False),
        (INLINE, {"s": ["S1/USD"] * 900}, True),
        (INLINE.replace("symbols: $s", 'pattern: "*"').replace("($s: [String!])", ""), {}, True),
        (INLINE.replace("$s }", '["a", "b"] }').replace("($s: [String!])", ""), {}, False),
    ],
)
async def test_tracking_costs_what_it_names(lab: ApiWorld, document: str, order: dict[str, Any], dear: bool) -> None:
    errors = (await lab.ask(document, order))["errors"]
    assert errors  # no user is signed in
    assert errors[0]["extensions"]["code"] == ("BAD_USER_INPUT" if dear else "UNAUTHENTICATED")
    assert ("This may cost" in errors[0]["message"]) is dear


async def test_a_dashboard_of_fifty_series_fits(lab: ApiWorld) -> None:
    text = "{ " + _numbered('a#: candles(market: "lab", provider: "bench", symbol: "S1/USD") { ...C }', 50) + " }"
    answer = await lab.ask(text + " fragment C on CandleSeries { complete nodes { timestamp open high low close } }")
    assert not answer["errors"]
    assert len(answer["data"]) == 50


async def test_a_refused_document_is_refused_again(lab: ApiWorld) -> None:
    """Only what is valid is remembered."""
    for _ in range(3):
        assert (await lab.ask(ATTACKS["operations"]))["errors"]
        assert not (await lab.ask("{ markets { id } }"))["errors"]


SERIES = 'market: "lab", provider: "bench"'
WHOLE = "nodes { timestamp time open high low close volume closed synthetic } complete hasMore gaps { since }"
SYMBOL = "id market provider symbol name base quote active timezone firstAvailable"
HUNDRED = [{"market": "lab", "provider": "bench", "symbol": f"S{i % 12}/USD"} for i in range(100)]
COSTLY = {
    "candles of a thousand symbols": f"{{ symbols({SERIES}, first: 1000) {{ nodes {{ candles {{ complete }} }} }} }}",
    "the same through edges": f"{{ symbols({SERIES}, first: 1000) {{ edges {{ node {{ candles {{ complete }} }} }} }} }}",
    "the same through a fragment": f"{{ symbols({SERIES}, first: 1000) {{ ...F }} }} "
    "fragment F on SymbolConnection { nodes { ... on Symbol { candles { complete } } } }",
    "candles of every provider's symbols": "{ markets { providers { symbols { nodes { candles { complete } } } } } }",
    "sixty batches": "query Q($s: [SeriesInput!]!) { "
    + _numbered("b#: candlesBatch(series: $s) { nodes { close } }", 60)
    + " }",
    "one page sixty times": "{ " + _numbered(f"a#: symbols({SERIES}, first: 1000) {{ nodes {{ id }} }}", 60) + " }",
    "one field of a page 400 times": f"{{ symbols({SERIES}, first: 1000) {{ nodes {{ {_numbered('a#: id', 400)} }} }} }}",
    "an introspection of every field's fields": "{ __schema { types { fields { type { ofType { fields { "
    + _numbered("a#: description", 300)
    + " } ofType { ofType { fields { "
    + _numbered("a#: description", 300)
    + " } } } } } } } } }",
    "the symbols of a thousand jobs": "{ backfills(first: 1000) { nodes { symbols } } }",
}
MODEST = {
    "the largest batch, whole": "query Q($s: [SeriesInput!]!) { candlesBatch(limit: 5000, series: $s) { "
    + WHOLE
    + " } }",
    "a page of symbols, whole": f"{{ symbols({SERIES}, first: 1000) {{ nodes {{ {SYMBOL} }} totalCount }} }}",
    "sparklines of a page of symbols": f"{{ symbols({SERIES}) {{ nodes {{ symbol candles(limit: 50) {{ columns {{ close }} }} }} }} }}",
    "everything there is": "{ markets { id providers { id state symbols { totalCount nodes { symbol name } } } } }",
    "the coverage of sixty series": "{ "
    + _numbered(
        f'a#: coverage({SERIES}, symbol: "S1/USD") {{ rows covered {{ since until }} holes {{ since reason }} }}', 60
    )
    + " }",
    "a page of jobs, whole": "{ backfills { nodes { id symbols holes { since reason } state } } }",
}


@pytest.mark.parametrize("document", COSTLY.values(), ids=COSTLY)
async def test_what_would_bring_too_much_is_refused_before_anything_is_asked(lab: ApiWorld, document: str) -> None:
    answer = await lab.ask(document, {"s": HUNDRED} if "$s" in document else None)
    assert answer["data"] is None
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["BAD_USER_INPUT"]
    assert "an operation at most 6,000,000: ask for" in answer["errors"][0]["message"]


@pytest.mark.parametrize("document", MODEST.values(), ids=MODEST)
async def test_what_a_front_end_asks_for_may_be_had(lab: ApiWorld, document: str) -> None:
    answer = await lab.ask(document, {"s": HUNDRED} if "$s" in document else None)
    assert answer["data"]


@pytest.mark.parametrize("first", [MAX_PAGE, float(MAX_PAGE), None])
@pytest.mark.parametrize("default", ["", " = 1000"])
async def test_sizes_are_those_of_the_variables(lab: ApiWorld, first: float | None, default: str) -> None:
    document = f"query Q($n: Int!{default}) {{ symbols({SERIES}, first: $n) {{ nodes {{ candles {{ complete }} }} }} }}"
    answer = await lab.ask(document, {"n": first} if first else {})
    assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
    assert ("may cost" in answer["errors"][0]["message"]) is bool(first or default)
    assert not (await lab.ask(document, {"n": 3}))["errors"]


async def test_between_the_new_documents_of_one_address_everything_else_goes_on(
    lab: ApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, read_in = 0, []
    validate = documents.validate_document

    def noted(*given: Any) -> Any:
        read_in.append(passes)
        return validate(*given)

    async def count() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(documents, "validate_document", noted)
    counting = asyncio.create_task(count())
    answers = await asyncio.gather(*(lab.ask(f"{{ between{i % 20}: __typename }}") for i in range(40)))
    counting.cancel()
    assert all(not answer["errors"] for answer in answers)
    assert len(set(read_in)) == len(read_in) == 20
