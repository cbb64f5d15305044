"""Reserves the estimated cost of an operation before it runs, beside that of the running ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    Undefined,
    get_operation_ast,
    value_from_ast_untyped,
)
from strawberry.extensions import SchemaExtension

from candlegraph.errors import BadUserInput, CandlegraphError
from resolvers.context import Context
from schema.cost import FIELD_COST

MAX_STREAMED_COST = 2_000_000  # of a query over a WebSocket or as an event: such an answer is one message of 30 MB
HISTORY_COST = 5_000  # of each series with `since` until its history has been sent: a page of it


class CostAdmission(SchemaExtension):
    """Reserves the cost that `CostLimit` computed; the transport releases it when the answer has been sent."""

    def on_validate(self) -> Iterator[None]:
        """Reserve, after all other checks."""
        execution = self.execution_context
        document, context = execution.graphql_document, execution.context
        if document and not execution.pre_execution_errors and isinstance(context, Context) and context.reservation:
            operation = get_operation_ast(document, execution.operation_name)
            cost, most = context.cost, context.reservation.max_cost
            if operation and operation.operation is OperationType.SUBSCRIPTION:
                series = list(_series(document, operation, execution.variables or {}))
                context.histories = len(series)
                cost = HISTORY_COST * sum(series) or FIELD_COST
            try:
                if most is not None and cost > most:
                    raise BadUserInput(
                        f"This may cost {cost:,}, and a message at most {most:,}: ask by POST, without an event stream."
                    )
                context.reservation.take(cost)
            except CandlegraphError as error:
                execution.pre_execution_errors = [GraphQLError(error.message, original_error=error)]
        yield


def _series(document: DocumentNode, operation: OperationDefinitionNode, variables: Mapping[str, Any]) -> Iterator[bool]:
    """For each series of a subscription, whether it has a `since`."""
    fragments = {one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)}
    defaults = {
        one.variable.name.value: value_from_ast_untyped(one.default_value)
        for one in operation.variable_definitions or ()
        if one.default_value
    }
    for field in _root_fields(operation.selection_set, fragments):
        arguments = field.arguments or ()
        given = {one.name.value: value_from_ast_untyped(one.value, {**defaults, **variables}) for one in arguments}
        many = given.get("series", [given])
        for one in many if isinstance(many, list) else [many]:
            since = one.get("since") if isinstance(one, Mapping) else None
            yield since is not None and since is not Undefined


def _root_fields(selected: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode]) -> Iterator[FieldNode]:
    for selection in selected.selections:
        if isinstance(selection, FieldNode):
            yield selection
        elif isinstance(selection, FragmentSpreadNode):
            yield from _root_fields(fragments[selection.name.value].selection_set, fragments)
        elif isinstance(selection, InlineFragmentNode):
            yield from _root_fields(selection.selection_set, fragments)
