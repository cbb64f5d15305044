"""Reserves the estimated cost of an operation before it runs, beside that of the running ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from graphql import (
    FieldNode,
    GraphQLError,
    NullValueNode,
    OperationDefinitionNode,
    OperationType,
    VariableNode,
    get_operation_ast,
)
from strawberry.extensions import SchemaExtension

from candlegraph.errors import BadUserInput, CandlegraphError
from resolvers.context import Context
from schema.cost import FIELD_COST

MAX_STREAMED_COST = 2_000_000  # of a query over a WebSocket or as an event: such an answer is one message of 30 MB
HISTORY_COST = 5_000  # of a subscription with `since` until its history has been sent: a page of it


class CostAdmission(SchemaExtension):
    """Reserves the cost that `CostLimit` computed; the transport releases it when the answer has been sent."""

    def on_validate(self) -> Iterator[None]:
        """Reserve, after all other checks."""
        execution = self.execution_context
        document, context = execution.graphql_document, execution.context
        if document and not execution.pre_execution_errors and isinstance(context, Context) and context.reservation:
            operation = get_operation_ast(document, execution.operation_name)
            subscribes = operation is not None and operation.operation is OperationType.SUBSCRIPTION
            cost, most = context.cost, context.reservation.max_cost
            if operation and subscribes:
                cost = HISTORY_COST if _asks_history(operation, execution.variables or {}) else FIELD_COST
            try:
                if most is not None and cost > most:
                    raise BadUserInput(
                        f"This may cost {cost:,}, and a message at most {most:,}: ask by POST, without an event stream."
                    )
                context.reservation.take(cost)
            except CandlegraphError as error:
                execution.pre_execution_errors = [GraphQLError(error.message, original_error=error)]
        yield


def _asks_history(operation: OperationDefinitionNode, variables: Mapping[str, Any]) -> bool:
    """Whether a subscription has a `since`, or may have one in a fragment."""
    for selection in operation.selection_set.selections:
        if not isinstance(selection, FieldNode):
            return True
        for argument in selection.arguments or ():
            value = argument.value
            is_given = variables.get(value.name.value) is not None if isinstance(value, VariableNode) else True
            if argument.name.value == "since" and is_given and not isinstance(value, NullValueNode):
                return True
    return False
