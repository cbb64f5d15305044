"""What an operation may bring at most, reckoned before anything is asked: sizes of lists multiply, whatever is in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_operation_ast,
)
from strawberry.extensions import SchemaExtension

from resolvers.context import Context
from resolvers.pagination import MAX_PAGE

# In values of candles, which are completed in bulk: everything else is a hundred times as slow.
MAX_COST = 6_000_000  # a batch of 100 series with 5,000 whole candles fits
FIELD_COST = 300
LEAF_COST = 100  # of a field of a newest candle: most of them are completed in bulk
LATEST_READ_COST = 100_000  # of a thousand symbols at once
DEFAULT_LATEST = 100  # symbols unless told by `first`
READ_COSTS = {
    "changes": 50_000,
    "candles": 10_000,
    "candlesBatch": 10_000,
    "coverage": 50_000,
}  # the database, once each
DEFAULT_PAGE_SIZES = {"symbols": 100, "tracked": 100, "backfills": 50}  # how many unless told by `first`
ASSUMED_PROVIDERS = 10  # as good as any number: that of a market's is not known yet
JOB_LIST_COST = 100 * FIELD_COST  # the symbols or holes of a job, of which there may be thousands


@dataclass(frozen=True, slots=True)
class _CostEstimator:
    """Reckons one operation."""

    fragments: Mapping[str, FragmentDefinitionNode]
    variables: Mapping[str, object]
    points: int  # candles without `limit`
    max_points: int
    parent: str = ""
    rows: int = 0  # the candles of each list of them, within `candles`
    leaf: int = FIELD_COST

    def cost(self, selection_set: SelectionSetNode | None) -> int:
        """The cost of one object with these fields; the document is known to be small and without a circle."""
        total = 0
        for selection in selection_set.selections if selection_set else ():
            if isinstance(selection, FieldNode):
                total += self._field(selection)
            elif isinstance(selection, FragmentSpreadNode):
                total += self.cost(self.fragments[selection.name.value].selection_set)
            elif isinstance(selection, InlineFragmentNode):
                total += self.cost(selection.selection_set)
        return total

    def _field(self, node: FieldNode) -> int:
        name, selected = node.name.value, node.selection_set
        if self.rows and self.parent in ("nodes", "columns"):
            return self.rows
        if self.parent == "backfills" and name in ("symbols", "holes"):
            return JOB_LIST_COST
        below = replace(self, parent=self.parent if name in ("nodes", "edges", "node") and not self.rows else name)
        times = 1
        if name in ("candles", "candlesBatch"):
            below = replace(below, rows=self._number(node, "limit", self.points, self.max_points), leaf=FIELD_COST)
            times = self._length(node, "series") if name == "candlesBatch" else 1
        elif name == "latest":
            return FIELD_COST + LATEST_READ_COST + self._symbols(node) * replace(below, leaf=LEAF_COST).cost(selected)
        elif selected and name in DEFAULT_PAGE_SIZES:
            times = self._number(node, "first", DEFAULT_PAGE_SIZES[name], MAX_PAGE)
        elif name == "providers":
            times = ASSUMED_PROVIDERS
        return self.leaf + times * (READ_COSTS.get(name, 0) + below.cost(selected))

    def _symbols(self, node: FieldNode) -> int:
        """How many symbols `latest` may answer."""
        if self._argument(node, "symbols") is None:
            return self._number(node, "first", DEFAULT_LATEST, MAX_PAGE)
        return min(MAX_PAGE, self._length(node, "symbols"))

    def _number(self, node: FieldNode, name: str, default: int, most: int) -> int:
        value = self._argument(node, name)
        if isinstance(value, IntValueNode):
            value = int(value.value) if len(value.value) < 10 else most
        # What is out of bounds is refused where it is asked for.
        return max(0, min(most, int(value))) if isinstance(value, int | float) else default

    def _length(self, node: FieldNode, name: str) -> int:
        value = self._argument(node, name)
        if isinstance(value, ListValueNode):
            return len(value.values)
        return len(value) if isinstance(value, list) else 1

    def _argument(self, node: FieldNode, name: str) -> object:
        value: ValueNode | None = next((one.value for one in node.arguments or () if one.name.value == name), None)
        return self.variables.get(value.name.value) if isinstance(value, VariableNode) else value


class CostLimit(SchemaExtension):
    """Refuses an operation that may cost more than `MAX_COST`; a subscription's is its listener's queue."""

    def on_validate(self) -> Iterator[None]:
        """Reckon, after the document itself was found to be good."""
        execution = self.execution_context
        document, context = execution.graphql_document, execution.context
        if document and not execution.pre_execution_errors and isinstance(context, Context):
            operation = get_operation_ast(document, execution.operation_name)
            if operation and operation.operation is not OperationType.SUBSCRIPTION:
                services = context.services
                cost = estimate_cost(
                    document, operation, execution.variables or {}, services.default_points, services.max_points
                )
                if cost > MAX_COST:
                    message = (
                        f"This may cost {cost:,}, and an operation at most {MAX_COST:,}: ask for fewer series, "
                        "a smaller `limit` or `first`, or in several operations."
                    )
                    execution.pre_execution_errors = [GraphQLError(message, extensions={"code": "BAD_USER_INPUT"})]
        yield


def estimate_cost(
    document: DocumentNode,
    operation: OperationDefinitionNode,
    variables: Mapping[str, Any],
    points: int,
    max_points: int,
) -> int:
    """The most that an operation of a valid document may cost, in values of candles."""
    fragments = {one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)}
    defaults = {
        one.variable.name.value: one.default_value for one in operation.variable_definitions or () if one.default_value
    }
    return _CostEstimator(fragments, {**defaults, **variables}, points, max_points).cost(operation.selection_set)
