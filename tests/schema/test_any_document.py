"""Documents that are made of the schema itself, with every kind of value for every scalar: no answer is INTERNAL.

schemathesis and hypothesis-graphql do this for servers on graphql-core 3.2; ours is on 3.3, and the two cannot share an
environment. So the documents are generated here, from the schema that answers them.
"""

from __future__ import annotations

from typing import Any

from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    get_named_type,
    is_leaf_type,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.laboratory import T0, ApiWorld

MAX_LEVELS = 5
LONELY = ("login", "refresh")  # they count tries, and argon2 takes its time
TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.sampled_from(
        ["", " ", "lab", "bench", "S1/USD", "S2/USD", "*", "../", "\0", "a" * 5000, "%", "\U0001f552", "null"]
    ),
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(0, 1200),
    st.sampled_from([T0, T0 + 60_000, -1, 2**31, 2**53, 9_999_999_999_999, 1_700_000_000, 10**400]),
)
# Names of arguments that have to fit together for an answer: half of their values do.
KNOWN = {
    "market": ["lab", "demo"],
    "provider": ["bench", "synthetic"],
    "symbol": ["S1/USD", "S2/USD"],
    "timeframe": ["1m", "5m", "1h", "1d", "1mon", "7m"],
    "timezone": ["UTC", "America/New_York", "Asia/Kathmandu"],
}
SCALARS: dict[str, st.SearchStrategy[str]] = {
    "Int": NUMBERS.map(str),
    "Float": st.floats(allow_nan=False, allow_infinity=False).map(repr) | NUMBERS.map(str),
    "Boolean": st.sampled_from(["true", "false"]),
    "Timestamp": NUMBERS.map(str)
    | st.sampled_from(['"2024-05-01T00:10:00Z"', '"2024-05-01"', '"1900-01-01T00:00:00+25:00"']),
    "Timeframe": st.sampled_from(['"1m"', '"90m"', '"1M"', '"0d"', '"-1h"', '"999999999999y"', '"1.5h"', '"\\u0661m"']),
    "DateTime": st.sampled_from(
        ['"2024-05-01T00:00:00Z"', '"9999-12-31T23:59:59-12:00"', '"0001-01-01T00:00:00+12:00"', '"x"']
    ),
    "JSON": st.recursive(
        st.sampled_from(["null", "true", "1e400", "-0.0", '"\\ud800"', '"a"']) | NUMBERS.map(str),
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]")
            | st.dictionaries(st.sampled_from(["a", "__proto__", "b1"]), inner, max_size=3).map(
                lambda pairs: "{" + ", ".join(f"{name}: {value}" for name, value in pairs.items()) + "}"
            )
        ),
        max_leaves=6,
    ),
}
WRONG = st.sampled_from(["null", "[]", "{}", "{a: 1}", '"x"', "1", "true", "UNKNOWN", "[[[1]]]", "$none"])


def _text(value: str) -> str:
    """A string literal of a document."""
    return '"' + "".join(c if c.isalnum() or c in " /*.%" else f"\\u{{{ord(c):x}}}" for c in value) + '"'


@st.composite
def values(draw: st.DrawFn, kind: GraphQLInputType, name: str = "", depth: int = 0) -> str:  # noqa: PLR0911 - a kind each
    """A literal for an argument: mostly one of its type, sometimes one of another."""
    if draw(st.integers(0, 39)) == 0:
        return draw(WRONG)
    if isinstance(kind, GraphQLNonNull):
        return draw(values(kind.of_type, name, depth))
    if isinstance(kind, GraphQLList):
        return f"[{', '.join(draw(st.lists(values(kind.of_type, name, depth), max_size=3)))}]"
    if isinstance(kind, GraphQLEnumType):
        return draw(st.sampled_from(sorted(kind.values)))
    if isinstance(kind, GraphQLInputObjectType):
        return "{" + draw(given_of(kind.fields, depth)) + "}"
    if name in KNOWN and draw(st.integers(0, 3)):
        return _text(draw(st.sampled_from(KNOWN[name])))
    return draw(SCALARS.get(kind.name, TEXTS.map(_text)))


@st.composite
def given_of(draw: st.DrawFn, fields: dict[str, GraphQLArgument] | dict[str, GraphQLInputField], depth: int) -> str:
    """Some of the arguments of a field, or of the fields of an input, and mostly all that are required."""
    chosen = [
        f"{name}: {draw(values(field.type, name, depth + 1))}"
        for name, field in fields.items()
        if draw(st.integers(0, 3 if not isinstance(field.type, GraphQLNonNull) else 29))
        > (2 if not isinstance(field.type, GraphQLNonNull) else 0)
    ]
    return ", ".join(chosen)


@st.composite
def fields(draw: st.DrawFn, kind: GraphQLObjectType | GraphQLInterfaceType, level: int = 1) -> str:
    """A selection of a type, with arguments."""
    names = [name for name in kind.fields if name not in LONELY]
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True))
    return " ".join(filter(None, (draw(field(name, kind.fields[name], level)) for name in chosen))) or "__typename"


@st.composite
def field(draw: st.DrawFn, name: str, definition: GraphQLField, level: int) -> str:
    """A field, with an alias of its own, and with a selection where it needs one."""
    arguments = draw(given_of(definition.args, level)) if definition.args else ""
    kind = get_named_type(definition.type)
    below = ""
    if not is_leaf_type(kind):
        assert isinstance(kind, GraphQLObjectType | GraphQLInterfaceType)
        below = " { " + (draw(fields(kind, level + 1)) if level < MAX_LEVELS else "__typename") + " }"
    alias = f"a{draw(st.integers(0, 10**6))}: "
    return f"{alias}{name}{f'({arguments})' if arguments else ''}{below}"


@given(data=st.data())
@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
async def test_no_document_of_the_schema_is_answered_with_an_internal_error(lab: ApiWorld, data: st.DataObject) -> None:
    """Nor with an error that has no code; each field of the roots begins documents."""
    core: Any = lab.schema._schema
    for kind in (core.query_type, core.mutation_type):
        for name in (name for name in kind.fields if name not in LONELY):
            others = data.draw(fields(kind)) if data.draw(st.booleans()) else ""
            document = f"{kind.name.lower()} {{ {data.draw(field(name, kind.fields[name], 1))} {others} }}"
            answer = await lab.ask(document)
            codes = [error.get("extensions", {}).get("code") for error in answer["errors"]]
            assert "INTERNAL" not in codes, (document, answer["errors"])
            assert None not in codes, (document, answer["errors"])
