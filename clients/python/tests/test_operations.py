"""The operations and the types of their answers are those of `schema.graphql`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from candlegraph_client import operations
from graphql import (
    GraphQLEnumType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLSchema,
    OperationDefinitionNode,
    build_schema,
    parse,
    validate,
)

SCHEMA = Path(os.environ.get("CANDLEGRAPH_SCHEMA", Path(__file__).parents[3] / "schema.graphql"))
SCALARS = {
    "ID": str,
    "String": str,
    "Timeframe": str,
    "DateTime": str,
    "Timestamp": int,
    "Int": int,
    "Float": float,
    "Boolean": bool,
}
ANSWERS = {
    operations.HISTORY: operations.HistoryAnswer,
    operations.REFRESH: operations.RefreshAnswer,
    operations.NEWEST: operations.NewestAnswer,
    operations.LIVE: operations.LiveAnswer,
    operations.LOGIN: operations.LoginAnswer,
    operations.RENEW: operations.RenewAnswer,
}


@pytest.fixture(scope="module")
def schema() -> GraphQLSchema:
    return build_schema(SCHEMA.read_text(encoding="utf-8"))


def test_every_document_has_a_type() -> None:
    documents = {
        value
        for value in vars(operations).values()
        if isinstance(value, str) and value.startswith(("query", "mut", "sub"))
    }
    assert documents == set(ANSWERS)


@pytest.mark.parametrize("document", ANSWERS)
def test_a_document_is_valid_and_its_type_is_the_schemas(schema: GraphQLSchema, document: str) -> None:
    tree = parse(document)
    assert validate(schema, tree) == []
    [operation] = tree.definitions
    assert isinstance(operation, OperationDefinitionNode)
    compare(schema.get_root_type(operation.operation), operation, ANSWERS[document], nullable_root=True)


def compare(kind: Any, node: Any, answer: Any, *, nullable_root: bool = False) -> None:
    """The fields of a selection against a TypedDict. A root field that may be null is an error where it is."""
    assert isinstance(kind, GraphQLObjectType)
    hints = get_type_hints(answer)
    names = [field.name.value for field in node.selection_set.selections]
    assert names == list(hints)
    for field in node.selection_set.selections:
        matches(kind.fields[field.name.value].type, hints[field.name.value], field, root=nullable_root)


def matches(kind: Any, hint: Any, field: Any, *, root: bool = False) -> None:
    """A type of the schema against a type of Python."""
    given = [one for one in get_args(hint) if one is not type(None)]
    optional = type(None) in get_args(hint)
    name = field.name.value
    if root and name == "candles":
        assert not optional
    else:
        assert optional == (not isinstance(kind, GraphQLNonNull)), name
    hint = given[0] if optional else hint
    kind = kind.of_type if isinstance(kind, GraphQLNonNull) else kind
    if isinstance(kind, GraphQLList):
        assert get_origin(hint) is list, name
        matches(kind.of_type, get_args(hint)[0], field)
    elif isinstance(kind, GraphQLObjectType):
        assert is_typeddict(hint), name
        compare(kind, field, hint)
    else:
        expected = str if isinstance(kind, GraphQLEnumType) else SCALARS[kind.name]
        assert hint is expected, name
