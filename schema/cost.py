"""The cost limit: the most candle values that an operation may return, computed before it runs; sizes of lists multiply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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
from schema.documents import kept_with

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
    "sessions": 300_000,
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


Variables = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Given:
    """What the cost of an operation depends on beside its document."""

    variables: Variables  # the default of one that is not given is its node
    points: int  # candles without `limit`
    max_points: int


Term = Callable[[_Given], int]  # a part of a cost


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a selection stands."""

    parent: str = ""
    rows: Term | None = None  # the candles of each list of them, within `candles`
    leaf: int = FIELD_COST  # of a field


class OperationCost:
    """The cost of an operation as a function of its variables: the document is walked only once."""

    def __init__(self, document: DocumentNode, operation: OperationDefinitionNode) -> None:
        """The document is valid: it is known to be small and without a circle."""
        self._fragments = {
            one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)
        }
        self._defaults = {
            one.variable.name.value: one.default_value
            for one in operation.variable_definitions or ()
            if one.default_value
        }
        self._zones: list[_Argument] = []
        self._cost = self._sum(operation.selection_set, _Place())

    def estimate(self, variables: Variables, points: int, max_points: int) -> tuple[int, int]:
        """The most that the operation may cost, in values of candles, and how many zones it names."""
        given = {**self._defaults, **variables} if self._defaults else variables
        names = (zone.value(given) for zone in self._zones)
        zones = {name.value if isinstance(name, StringValueNode) else name for name in names}
        return self._cost(_Given(given, points, max_points)), sum(isinstance(zone, str) for zone in zones)

    def _sum(self, selection_set: SelectionSetNode | None, place: _Place) -> Term:
        """The cost of one object with these fields."""
        constant, terms = 0, Counter[Term]()
        for node in _fields(selection_set, self._fragments):
            term = self._field(node, place)
            if isinstance(term, int):
                constant += term
            else:
                terms[term] += 1  # the fields of a candle cost alike
        counted = tuple(terms.items())
        return lambda given: constant + sum(times * term(given) for term, times in counted)

    def _field(self, node: FieldNode, place: _Place) -> Term | int:
        name, selected = node.name.value, node.selection_set
        if name in ("__schema", "__type"):
            sizes = SCHEMA_SIZES if name == "__schema" else TYPE_SIZES
            return FIELD_COST + int(FIELD_COST * self._introspected(selected, sizes))
        if (zone := _Argument.of(node, "timezone")) is not None:
            self._zones.append(zone)
        if place.rows and place.parent in ("nodes", "columns"):
            return place.rows
        if name in LONG_LISTS.get(place.parent, ()):
            return LONG_LIST_COST
        below = replace(place, parent=place.parent if name in ("nodes", "edges", "node") and not place.rows else name)
        read, leaf = READ_COSTS.get(name, 0), place.leaf
        if name in ("candles", "candlesBatch"):
            limit = _Argument.of(node, "limit")

            def rows(given: _Given) -> int:
                return _number(limit, given, given.points, given.max_points)

            below = replace(below, rows=rows, leaf=FIELD_COST)
        elif name == "latest":
            below, read, leaf = replace(below, leaf=LEAF_COST), 0, FIELD_COST + LATEST_READ_COST
        elif not selected:
            return leaf + read
        times, each = self._times(node), self._sum(selected, below)
        return lambda given: leaf + times(given) * (read + each(given))

    def _times(self, node: FieldNode) -> Term:
        """How many objects a field returns at most."""
        name = node.name.value
        if name == "latest":
            symbols, first = _Argument.of(node, "symbols"), _Argument.of(node, "first")
            return lambda given: (
                _number(first, given, DEFAULT_LATEST, MAX_PAGE)
                if symbols is None or symbols.value(given.variables) is None
                else min(MAX_PAGE, _length(symbols, given))
            )
        if name == "candlesBatch":
            series = _Argument.of(node, "series")
            return lambda given: _length(series, given)
        if name in DEFAULT_PAGE_SIZES:
            first, size = _Argument.of(node, "first"), DEFAULT_PAGE_SIZES[name]
            return lambda given: _number(first, given, size, MAX_PAGE)
        if name == "track":
            order = _Argument.of(node, "input")
            return lambda given: _symbols(order, given)
        times = ASSUMED_PROVIDERS if name == "providers" else 1
        return lambda _: times

    def _introspected(self, selection_set: SelectionSetNode | None, sizes: Mapping[str, float]) -> float:
        """How many fields of the schema these selections show, about."""
        return sum(
            1 + sizes.get(node.name.value, 1) * self._introspected(node.selection_set, sizes)
            for node in _fields(selection_set, self._fragments)
        )


def _fields(
    selection_set: SelectionSetNode | None, fragments: Mapping[str, FragmentDefinitionNode]
) -> Iterator[FieldNode]:
    """The fields of a selection, those of its fragments too."""
    for selection in selection_set.selections if selection_set else ():
        if isinstance(selection, FieldNode):
            yield selection
        elif isinstance(selection, FragmentSpreadNode):
            yield from _fields(fragments[selection.name.value].selection_set, fragments)
        elif isinstance(selection, InlineFragmentNode):
            yield from _fields(selection.selection_set, fragments)


@dataclass(frozen=True, slots=True)
class _Argument:
    """An argument of a field: a node, or the name of a variable."""

    node: ValueNode
    variable: str | None

    @classmethod
    def of(cls, node: FieldNode, name: str) -> _Argument | None:
        """The argument of that name."""
        value = next((one.value for one in node.arguments or () if one.name.value == name), None)
        return None if value is None else cls(value, value.name.value if isinstance(value, VariableNode) else None)

    def value(self, variables: Variables) -> object:
        """Its node, or the value of its variable."""
        return self.node if self.variable is None else variables.get(self.variable)


def _number(argument: _Argument | None, given: _Given, default: int, most: int) -> int:
    value = argument.value(given.variables) if argument else None
    if isinstance(value, IntValueNode):
        value = int(value.value) if len(value.value) < 10 else most
    # The resolver refuses a value out of bounds.
    return max(0, min(most, int(value))) if isinstance(value, int | float) else default


def _length(argument: _Argument | None, given: _Given) -> int:
    value = argument.value(given.variables) if argument else None
    if isinstance(value, ListValueNode):
        return len(value.values)
    return len(value) if isinstance(value, list) else 1


def _symbols(argument: _Argument | None, given: _Given) -> int:
    """How many symbols a mutation names; a pattern may match a page."""
    order = argument.value(given.variables) if argument else None
    named: object = order.get("symbols") if isinstance(order, Mapping) else None
    if isinstance(order, ObjectValueNode):
        found = next((one.value for one in order.fields if one.name.value == "symbols"), None)
        named = given.variables.get(found.name.value) if isinstance(found, VariableNode) else found
    if isinstance(named, ListValueNode):
        return len(named.values)
    return len(named) if isinstance(named, list) else MAX_PAGE


class CostLimit(SchemaExtension):
    """Refuses an operation that may cost more than `MAX_COST`; a subscription's is limited by its listener's queue."""

    def on_validate(self) -> Iterator[None]:
        """Compute the cost, after the validation of the document."""
        execution = self.execution_context
        document, context = execution.graphql_document, execution.context
        if document and not execution.pre_execution_errors and isinstance(context, Context):
            operation = get_operation_ast(document, execution.operation_name)
            if operation and operation.operation is not OperationType.SUBSCRIPTION:
                cost = kept_with(execution.query or "", operation, lambda: OperationCost(document, operation))
                services = context.services
                estimate = cost.estimate(execution.variables or {}, services.default_points, services.max_points)
                context.cost = estimate[0]
                if message := _refusal(*estimate):
                    execution.pre_execution_errors = [GraphQLError(message, extensions={"code": "BAD_USER_INPUT"})]
        yield


def _refusal(cost: int, zones: int) -> str | None:
    if cost > MAX_COST:
        return (
            f"This may cost {cost:,}, and an operation at most {MAX_COST:,}: ask for fewer series, "
            "a smaller `limit` or `first`, or in several operations."
        )
    if zones > MAX_ZONES:
        return f"An operation names at most {MAX_ZONES} time zones; this one {zones}: ask in several operations."
    return None
