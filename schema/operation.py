"""The operation of a document, its selection and its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from graphql import GraphQLError, OperationDefinitionNode
from strawberry.extensions import SchemaExtension

from resolvers.context import Context


class NamedOperation(SchemaExtension):
    """Refuses a document of several operations without an `operationName`; Strawberry would run the first."""

    def on_validate(self) -> Iterator[None]:
        """Check the name, after the document itself."""
        context = self.execution_context
        document = context.graphql_document
        operations = (
            [one for one in document.definitions if isinstance(one, OperationDefinitionNode)] if document else []
        )
        unnamed = context._provided_operation_name is None  # noqa: SLF001 - the public name is a guess
        if len(operations) > 1 and unnamed and not context.pre_execution_errors:
            message = "The document has several operations: choose one with `operationName`."
            context.pre_execution_errors = [GraphQLError(message, extensions={"code": "BAD_USER_INPUT"})]
        yield


class OperationDeadline(SchemaExtension):
    """Gives a query or a mutation one deadline for everything it asks for; a subscription has none."""

    def on_execute(self) -> Iterator[None]:
        """Set it before the first field is resolved."""
        context = self.execution_context.context
        if isinstance(context, Context):
            timings = context.services.history.timings
            context.deadline = asyncio.get_running_loop().time() + timings.query_deadline_s
        yield
