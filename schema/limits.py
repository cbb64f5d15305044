"""How large a document may be: one visit per node, however fragments are nested.

Strawberry's own depth and alias limiters follow every fragment spread anew, which doubles their time with each level of a
chain of fragments: a document of 1 kB stops a server for minutes. Here a fragment is measured once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphql import (
    ASTValidationRule,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

MAX_TOKENS = 2000
MAX_DEPTH = 12
MAX_FIELDS = 1000  # fields once all fragments are spread
MAX_ROOT_FIELDS = 60
MAX_OPERATIONS = 10

_INTROSPECTION = ("__schema", "__type")


@dataclass(frozen=True, slots=True)
class _Size:
    """How deep and how wide a selection is once its fragments are spread."""

    depth: int = 0
    fields: int = 0

    def beside(self, other: _Size) -> _Size:
        return _Size(max(self.depth, other.depth), self.fields + other.fields)


class DocumentLimits(ASTValidationRule):
    """Refuses documents that are too deep, too wide or hold too many operations."""

    def enter_document(self, node: DocumentNode, *_: Any) -> None:
        """Measure every operation."""
        operations = [one for one in node.definitions if isinstance(one, OperationDefinitionNode)]
        self._fragments = {one.name.value: one for one in node.definitions if isinstance(one, FragmentDefinitionNode)}
        self._sizes: dict[str, _Size] = {}
        if len(operations) > MAX_OPERATIONS:
            self._refuse(f"A document holds at most {MAX_OPERATIONS} operations; this one {len(operations)}.")
        for operation in operations:
            size = self._measure(operation.selection_set)
            roots = len(operation.selection_set.selections)
            for what, found, most in (
                ("levels deep", size.depth, MAX_DEPTH),
                ("fields wide", size.fields, MAX_FIELDS),
                ("root fields wide", roots, MAX_ROOT_FIELDS),
            ):
                if found > most:
                    self._refuse(f"An operation is at most {most} {what}; this one is {found}.", operation)

    def _refuse(self, message: str, node: OperationDefinitionNode | None = None) -> None:
        self.report_error(GraphQLError(message, node, extensions={"code": "GRAPHQL_VALIDATION_FAILED"}))

    def _measure(self, selection_set: SelectionSetNode | None) -> _Size:
        total = _Size()
        for selection in selection_set.selections if selection_set else ():
            if isinstance(selection, FieldNode):
                # graphql-core bounds introspection itself, and tools ask deep.
                if selection.name.value not in _INTROSPECTION:
                    below = self._measure(selection.selection_set)
                    total = total.beside(_Size(below.depth + 1, below.fields + 1))
            elif isinstance(selection, InlineFragmentNode):
                total = total.beside(self._measure(selection.selection_set))
            elif isinstance(selection, FragmentSpreadNode):
                total = total.beside(self._measure_fragment(selection.name.value))
        return total

    def _measure_fragment(self, name: str) -> _Size:
        if name not in self._sizes:
            self._sizes[name] = _Size()  # what a circle adds is nothing: it is refused by a rule of its own
            fragment = self._fragments.get(name)
            self._sizes[name] = self._measure(fragment.selection_set if fragment else None)
        return self._sizes[name]
