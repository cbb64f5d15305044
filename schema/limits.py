"""How large a document may be: one visit per node, however fragments are nested.

Strawberry's own depth and alias limiters follow every fragment spread anew, which doubles their time with each level of a
chain of fragments: a document of 1 kB stops a server for minutes. Here a fragment is measured once. graphql-core compares
all fields of one name in one place with each other: 480 of them, 3 kB, stopped it for 6 s. So what is too large is refused
before any other rule sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

from graphql import (
    ASTValidationRule,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    Node,
    OperationDefinitionNode,
    SelectionSetNode,
)
from graphql.validation.validate import ValidationAbortedError

MAX_TOKENS = 2000
MAX_DEPTH = 12
MAX_SELECTIONS = 1000  # fields and fragments once all fragments are spread
MAX_ROOT_FIELDS = 60
MAX_INTROSPECTIONS = 3
MAX_REPEATS = 16  # of one field in one place
MAX_OPERATIONS = 10

_INTROSPECTION = ("__schema", "__type")


@dataclass(frozen=True, slots=True)
class _Size:
    """How deep and how wide a selection is once its fragments are spread."""

    depth: int = 0
    selections: int = 0
    fields: int = 0
    introspections: int = 0

    def beside(self, other: _Size) -> _Size:
        return _Size(
            max(self.depth, other.depth),
            self.selections + other.selections,
            self.fields + other.fields,
            self.introspections + other.introspections,
        )


@dataclass(slots=True)
class _Place:
    """One place in the answer: the number of fields of the document for it, and the places below."""

    repeats: int = 0
    below: dict[str, _Place] = field(default_factory=dict)


class DocumentLimits(ASTValidationRule):
    """Refuses documents that are too deep, too wide or too repetitive, or hold too many operations."""

    def enter_document(self, node: DocumentNode, *_: Any) -> None:
        """Measure every operation."""
        operations = [one for one in node.definitions if isinstance(one, OperationDefinitionNode)]
        self._fragments = {one.name.value: one for one in node.definitions if isinstance(one, FragmentDefinitionNode)}
        self._sizes: dict[str, _Size | None] = {}
        if len(operations) > MAX_OPERATIONS:
            _refuse(f"A document holds at most {MAX_OPERATIONS} operations; this one {len(operations)}.")
        for operation in operations:
            size = self._measure(operation.selection_set)
            for what, found, most in (
                ("levels deep", size.depth, MAX_DEPTH),
                ("fields wide", size.selections, MAX_SELECTIONS),
                ("root fields wide", size.fields, MAX_ROOT_FIELDS),
                ("introspections wide", size.introspections, MAX_INTROSPECTIONS),
            ):
                if found > most:
                    _refuse(f"An operation is at most {most} {what}; this one is {found}.", operation)
            self._spread(operation.selection_set, _Place())
        if unused := self._fragments.keys() - self._sizes.keys():
            name = min(unused)
            _refuse(f"Fragment '{name}' is never used.", self._fragments[name])

    def _measure(self, selection_set: SelectionSetNode | None) -> _Size:
        total = _Size()
        for selection in selection_set.selections if selection_set else ():
            if isinstance(selection, FieldNode):
                below = self._measure(selection.selection_set)
                # graphql-core bounds the depth of an introspection itself, and tools ask deep.
                asks_schema = selection.name.value in _INTROSPECTION
                size = _Size(0 if asks_schema else below.depth + 1, below.selections + 1, 1, int(asks_schema))
            elif isinstance(selection, InlineFragmentNode):
                size = _Size(selections=1).beside(self._measure(selection.selection_set))
            else:
                assert isinstance(selection, FragmentSpreadNode)  # noqa: S101 - there is no fourth kind
                size = _Size(selections=1).beside(self._measure_fragment(selection))
            total = total.beside(size)
        return total

    def _measure_fragment(self, spread: FragmentSpreadNode) -> _Size:
        name = spread.name.value
        if name not in self._sizes:
            self._sizes[name] = None  # until it is measured
            fragment = self._fragments.get(name)
            self._sizes[name] = self._measure(fragment.selection_set if fragment else None)
        size = self._sizes[name]
        if size is None:
            _refuse(f"Cannot spread fragment '{name}' within itself.", spread)
        return size

    def _spread(self, selection_set: SelectionSetNode | None, place: _Place) -> None:
        """Count the fields for each place of the answer; the operation is known to be small."""
        for selection in selection_set.selections if selection_set else ():
            if isinstance(selection, FieldNode):
                name = (selection.alias or selection.name).value
                below = place.below.setdefault(name, _Place())
                below.repeats += 1
                if below.repeats > MAX_REPEATS:
                    _refuse(
                        f"A document asks at most {MAX_REPEATS} times for one field; this one for '{name}'.", selection
                    )
                self._spread(selection.selection_set, below)
            elif isinstance(selection, InlineFragmentNode):
                self._spread(selection.selection_set, place)
            elif isinstance(selection, FragmentSpreadNode) and (named := self._fragments.get(selection.name.value)):
                self._spread(named.selection_set, place)


def _refuse(message: str, node: Node | None = None) -> NoReturn:
    raise ValidationAbortedError(message, node, extensions={"code": "GRAPHQL_VALIDATION_FAILED"})
