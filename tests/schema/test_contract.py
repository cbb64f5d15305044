"""The code keeps the contract: `tests/contract.graphql` is our copy of it, `schema.graphql` what the code prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from graphql import (
    DocumentNode,
    EnumTypeDefinitionNode,
    FieldDefinitionNode,
    InputObjectTypeDefinitionNode,
    InputValueDefinitionNode,
    InterfaceTypeDefinitionNode,
    ObjectTypeDefinitionNode,
    ScalarTypeDefinitionNode,
    parse,
    print_ast,
)

from schema.build import build_schema

ROOT = Path(__file__).parents[2]

# What later issues bring. An entry that is there makes the test fail: take it out of the list then.
PENDING: dict[str, str] = {}


_WITH_FIELDS = ObjectTypeDefinitionNode | InterfaceTypeDefinitionNode | InputObjectTypeDefinitionNode


def _members(document: DocumentNode) -> dict[str, str]:
    """Everything a document defines: its coordinate (``Type``, ``Type.field``, ``Type.field(argument:)``) and shape."""
    found: dict[str, str] = {}
    for node in document.definitions:
        name = node.name.value  # type: ignore[attr-defined]
        found[name] = node.kind
        if isinstance(node, EnumTypeDefinitionNode):
            found.update({f"{name}.{value.name.value}": "value" for value in node.values or ()})
        elif isinstance(node, ScalarTypeDefinitionNode):
            found[name] += " " + " ".join(map(print_ast, node.directives or ())).replace("https://candlegraph.org", "…")
        elif isinstance(node, _WITH_FIELDS):
            if not isinstance(node, InputObjectTypeDefinitionNode):
                found.update({f"{name}.implements {one.name.value}": "interface" for one in node.interfaces or ()})
            for field in node.fields or ():
                found.update(_field(f"{name}.{field.name.value}", field))
    return found


def _field(name: str, field: FieldDefinitionNode | InputValueDefinitionNode) -> Iterator[tuple[str, str]]:
    if isinstance(field, InputValueDefinitionNode):
        yield name, _input(field)
        return
    yield name, print_ast(field.type)
    for argument in field.arguments or ():
        yield f"{name}({argument.name.value}:)", _input(argument)


def _input(node: InputValueDefinitionNode) -> str:
    default = print_ast(node.default_value) if node.default_value else None
    # For a client, an optional argument and one with the default null are the same.
    return print_ast(node.type) + (f" = {default}" if default not in {None, "null"} else "")


@pytest.fixture(scope="module")
def contract() -> dict[str, str]:
    return _members(parse((ROOT / "tests" / "contract.graphql").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def ours() -> dict[str, str]:
    return _members(parse(build_schema().as_str()))


def _parent(member: str) -> str | None:
    if "(" in member:
        return member.partition("(")[0]
    return member.partition(".")[0] if "." in member else None


def test_what_the_contract_and_the_code_both_have_is_equal(contract: dict[str, str], ours: dict[str, str]) -> None:
    both = contract.keys() & ours.keys()
    assert {name: ours[name] for name in both} == {name: contract[name] for name in both}


def test_everything_of_the_contract_is_there_but_what_is_pending(
    contract: dict[str, str], ours: dict[str, str]
) -> None:
    missing = {name for name in contract.keys() - ours.keys() if _parent(name) in ours or _parent(name) is None}
    assert missing - PENDING.keys() == set(), "The contract has these and the code does not."
    assert PENDING.keys() - missing == set(), "These are not pending any more: take them out of PENDING."


def test_everything_that_is_pending_is_of_the_contract(contract: dict[str, str]) -> None:
    assert PENDING.keys() - contract.keys() == set()


def test_a_member_beyond_the_contract_can_be_left_out_by_clients(
    contract: dict[str, str], ours: dict[str, str]
) -> None:
    """We may add fields, and arguments only where a client that does not know them is not asked for them."""
    added = {name: shape for name, shape in ours.items() if name not in contract and _parent(name) in contract}
    required = {name for name, shape in added.items() if "(" in name and shape.endswith("!") and " = " not in shape}
    assert required == set()


def test_every_type_field_argument_and_value_has_a_description() -> None:
    bare: list[str] = []
    for node in parse(build_schema().as_str()).definitions:
        name = node.name.value  # type: ignore[attr-defined]
        if not node.description:  # type: ignore[attr-defined]
            bare.append(name)
        if isinstance(node, _WITH_FIELDS):
            for field in node.fields or ():
                inputs = field.arguments if isinstance(field, FieldDefinitionNode) else ()
                bare += [f"{name}.{field.name.value}"] * (not field.description)
                bare += [f"{name}.{field.name.value}({one.name.value}:)" for one in inputs or () if not one.description]
    assert bare == []


def test_the_printed_schema_is_the_codes() -> None:
    printed = (ROOT / "schema.graphql").read_text(encoding="utf-8")
    assert printed == build_schema().as_str() + "\n", "Renew it: .venv/bin/candlegraph schema > schema.graphql"
