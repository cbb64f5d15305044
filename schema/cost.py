"""The cost limit: the most candle values that an operation may return, computed before it runs; sizes of lists multiply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
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
    ObjectValueNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    StringValueNode,
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
DEFAULT_LATEST = 100  # symbols without `first`
READ_COSTS = {
    "changes": 50_000,
    "candles": 10_000,
    "candlesBatch": 10_000,
    "coverage": 50_000,
    "storage": 200_000,
    "corrections": 20_000,
    "estimateBackfill": 1_000_000,
    "seriesList": 12_000,
}  # the database, once each; of a page for each of its items
DEFAULT_PAGE_SIZES = {
    "symbols": 100,
    "tracked": 100,
    "backfills": 50,
    "corrections": 50,
    "seriesList": 50,
}  # the sizes without `first`
ASSUMED_PROVIDERS = 10  # an assumption: the number of providers of a market is not known yet
# The assumed sizes of the schema's own lists, for each object that has the list.
SCHEMA_SIZES = {"types": 60, "fields": 5, "args": 1, "inputFields": 1, "enumValues": 2, "directives": 5, "ofType": 0.5}
TYPE_SIZES = {**SCHEMA_SIZES, "fields": 20, "args": 4, "inputFields": 10, "enumValues": 20}  # of the largest type
MAX_ZONES = 20  # in one operation
# The lists of an item of a page that may have thousands of entries.
LONG_LISTS = {"backfills": ("symbols", "holes"), "seriesList": ("covered", "gaps")}
LONG_LIST_COST = 100 * FIELD_COST


@dataclass(frozen=True, slots=True)
class _CostEstimator:
    """Computes the cost of one operation."""

    fragments: Mapping[str, FragmentDefinitionNode]
    variables: Mapping[str, object]
    points: int  # candles without `limit`
    max_points: int
    parent: str = ""
    rows: int = 0  # the candles of each list of them, within `candles`
    zones: set[object] = field(default_factory=set)  # those named so far
    leaf: int = FIELD_COST  # of a field

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
        if name in ("__schema", "__type"):
            sizes = SCHEMA_SIZES if name == "__schema" else TYPE_SIZES
            return FIELD_COST + int(FIELD_COST * self._introspected(selected, sizes))
        self._note_zone(node)
        if self.rows and self.parent in ("nodes", "columns"):
            return self.rows
        if name in LONG_LISTS.get(self.parent, ()):
            return LONG_LIST_COST
        below = replace(self, parent=self.parent if name in ("nodes", "edges", "node") and not self.rows else name)
        times = 1
        if name in ("candles", "candlesBatch"):
            below = replace(below, rows=self._number(node, "limit", self.points, self.max_points), leaf=FIELD_COST)
            times = self._length(node, "series") if name == "candlesBatch" else 1
        elif name == "latest":
            each = replace(below, leaf=LEAF_COST).cost(selected)
            return FIELD_COST + LATEST_READ_COST + self._latest_symbols(node) * each
        elif selected and name in DEFAULT_PAGE_SIZES:
            times = self._number(node, "first", DEFAULT_PAGE_SIZES[name], MAX_PAGE)
        elif name == "providers":
            times = ASSUMED_PROVIDERS
        elif name == "track":
            times = self._symbols(node)
        return self.leaf + times * (READ_COSTS.get(name, 0) + below.cost(selected))

    def _latest_symbols(self, node: FieldNode) -> int:
        """How many symbols `latest` may answer."""
        if self._argument(node, "symbols") is None:
            return self._number(node, "first", DEFAULT_LATEST, MAX_PAGE)
        return min(MAX_PAGE, self._length(node, "symbols"))

    def _introspected(self, selection_set: SelectionSetNode | None, sizes: Mapping[str, float]) -> float:
        """How many fields of the schema these selections show, about."""
        total = 0.0
        for selection in selection_set.selections if selection_set else ():
            if isinstance(selection, FieldNode):
                below = self._introspected(selection.selection_set, sizes)
                total += 1 + sizes.get(selection.name.value, 1) * below
            elif isinstance(selection, FragmentSpreadNode):
                total += self._introspected(self.fragments[selection.name.value].selection_set, sizes)
            elif isinstance(selection, InlineFragmentNode):
                total += self._introspected(selection.selection_set, sizes)
        return total

    def _note_zone(self, node: FieldNode) -> None:
        value = self._argument(node, "timezone")
        name = value.value if isinstance(value, StringValueNode) else value
        if isinstance(name, str):
            self.zones.add(name)

    def _symbols(self, node: FieldNode) -> int:
        """How many symbols a mutation names; a pattern may match a page."""
        order = self._argument(node, "input")
        named: object = order.get("symbols") if isinstance(order, Mapping) else None
        if isinstance(order, ObjectValueNode):
            given = next((one.value for one in order.fields if one.name.value == "symbols"), None)
            named = self.variables.get(given.name.value) if isinstance(given, VariableNode) else given
        if isinstance(named, ListValueNode):
            return len(named.values)
        return len(named) if isinstance(named, list) else MAX_PAGE

    def _number(self, node: FieldNode, name: str, default: int, most: int) -> int:
        value = self._argument(node, name)
        if isinstance(value, IntValueNode):
            value = int(value.value) if len(value.value) < 10 else most
        # The resolver refuses a value out of bounds.
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
    """Refuses an operation that may cost more than `MAX_COST`; a subscription's is limited by its listener's queue."""

    def on_validate(self) -> Iterator[None]:
        """Compute the cost, after the validation of the document."""
        execution = self.execution_context
        document, context = execution.graphql_document, execution.context
        if document and not execution.pre_execution_errors and isinstance(context, Context):
            operation = get_operation_ast(document, execution.operation_name)
            if operation and operation.operation is not OperationType.SUBSCRIPTION:
                services = context.services
                estimate = estimate_cost(
                    document, operation, execution.variables or {}, services.default_points, services.max_points
                )
                context.cost = estimate[0]
                if message := _refusal(*estimate):
                    execution.pre_execution_errors = [GraphQLError(message, extensions={"code": "BAD_USER_INPUT"})]
        yield


def estimate_cost(
    document: DocumentNode,
    operation: OperationDefinitionNode,
    variables: Mapping[str, Any],
    points: int,
    max_points: int,
) -> tuple[int, int]:
    """The most that an operation of a valid document may cost, in values of candles, and how many zones it names."""
    fragments = {one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)}
    defaults = {
        one.variable.name.value: one.default_value for one in operation.variable_definitions or () if one.default_value
    }
    estimator = _CostEstimator(fragments, {**defaults, **variables}, points, max_points)
    return estimator.cost(operation.selection_set), len(estimator.zones)


def _refusal(cost: int, zones: int) -> str | None:
    if cost > MAX_COST:
        return (
            f"This may cost {cost:,}, and an operation at most {MAX_COST:,}: ask for fewer series, "
            "a smaller `limit` or `first`, or in several operations."
        )
    if zones > MAX_ZONES:
        return f"An operation names at most {MAX_ZONES} time zones; this one {zones}: ask in several operations."
    return None
