"""Whether an operation fits beside those under way: its estimated cost is reserved before it is executed."""

from __future__ import annotations

from collections.abc import Iterator

from graphql import GraphQLError, OperationType, get_operation_ast
from strawberry.extensions import SchemaExtension

from candlegraph.errors import BadUserInput, CandlegraphError
from resolvers.context import Context

MAX_STREAMED_COST = 2_000_000  # of a query over a WebSocket or as an event: such an answer is one message of 30 MB
SUBSCRIPTION_COST = 20_000  # until its history has been sent: a page of it, and reading that


class CostAdmission(SchemaExtension):
    """Reserves what `CostLimit` reckoned; the transport gives it back when the answer has been sent."""

    def on_validate(self) -> Iterator[None]:
        """Reserve, after everything else was found to be good."""
        execution = self.execution_context
        document, context = execution.graphql_document, execution.context
        if document and not execution.pre_execution_errors and isinstance(context, Context) and context.reservation:
            operation = get_operation_ast(document, execution.operation_name)
            subscribes = operation is not None and operation.operation is OperationType.SUBSCRIPTION
            cost, most = SUBSCRIPTION_COST if subscribes else context.cost, context.reservation.max_cost
            try:
                if most is not None and cost > most:
                    raise BadUserInput(
                        f"This may cost {cost:,}, and a message at most {most:,}: ask by POST, without an event stream."
                    )
                context.reservation.take(cost)
            except CandlegraphError as error:
                execution.pre_execution_errors = [GraphQLError(error.message, original_error=error)]
        yield
