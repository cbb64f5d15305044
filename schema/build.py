"""The schema: its roots, scalars and extensions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import strawberry
from graphql import ExecutionResult, GraphQLError, execute
from graphql.execution import create_source_event_stream
from strawberry.extensions import SchemaExtension
from strawberry.extensions.runner import SchemaExtensionsRunner
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext
from strawberry.types import ExecutionResult as StrawberryResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from candlegraph.errors import Overloaded
from resolvers.accounts.accounts import network
from resolvers.context import Context
from schema.admission import CostAdmission
from schema.broadcast import Code, OperationRefused, answer, follow, shared_execution
from schema.cost import CostLimit
from schema.documents import Documents, is_known_valid
from schema.errors import CodedErrors, refusal
from schema.executor import BulkExecutor
from schema.introspection import IntrospectionLimit
from schema.mutation import Mutation
from schema.operation import NamedOperation, OperationDeadline
from schema.query import Query
from schema.scalars import SCALARS
from schema.subscription import Subscription


class Schema(strawberry.Schema):
    """The contract. Errors are logged where they are masked, by `CodedErrors`."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Log nothing: a client's mistake is not worth a traceback in the log."""

    async def open(
        self,
        query: str,
        variables: dict[str, Any] | None,
        operation_name: str | None,
        context: Context,
        allowed: Collection[OperationType] = tuple(OperationType),
    ) -> AsyncGenerator[str, None]:
        """Begin an operation of any kind; it answers with payloads in JSON, one a query, many a subscription.

        OperationRefused if nothing is executed.
        """
        async with _turn(context, None if is_known_valid(query) else query) as begun:
            return await self._open(query, variables, operation_name, begun, allowed)

    async def execute(
        self,
        query: str | None,
        variable_values: dict[str, Any] | None = None,
        context_value: Any = None,
        *given: Any,
        **named: Any,
    ) -> StrawberryResult:
        """As Strawberry's; a document that is new waits for its turn. OperationRefused where too many of them wait."""
        if not query or not isinstance(context_value, Context) or is_known_valid(query):
            return await super().execute(query, variable_values, context_value, *given, **named)
        async with _turn(context_value, query) as context:
            return await super().execute(query, variable_values, context, *given, **named)

    async def _open(
        self,
        query: str,
        variables: dict[str, Any] | None,
        operation_name: str | None,
        context: Context,
        allowed: Collection[OperationType],
    ) -> AsyncGenerator[str, None]:
        execution = self._create_execution_context(query or " ", allowed, variables, context, None, operation_name)
        extensions = self.get_extensions()
        for extension in extensions:
            extension.execution_context = execution
        runner = self.create_extensions_runner(execution, extensions)
        coded = next(extension.coded for extension in extensions if isinstance(extension, CodedErrors))
        async with runner.operation():
            result = await self._prepare_and_execute(execution, runner, extensions)
        if isinstance(result, PreExecutionError):
            raise OperationRefused(coded(result.errors or []))
        if isinstance(result, ExecutionResult):  # its errors got their codes at the end of the operation
            return _once(await answer(result.data, result.errors).whole())
        return await self._subscribe(execution, coded)

    async def _prepare_and_execute(
        self, execution: ExecutionContext, runner: SchemaExtensionsRunner, extensions: list[SchemaExtension]
    ) -> object:
        """The result of a query or a mutation, None for a subscription; PreExecutionError if nothing is executed."""
        try:
            refused = await self._prepare_operation_async(execution, runner)
            if refused or execution.operation_type is OperationType.SUBSCRIPTION:
                return refused
            middleware = self._get_middleware_manager(extensions)
            return await self._execute_operation(execution, runner, middleware, execute, {})
        except Exception as error:  # noqa: BLE001 - it gets its code, or is logged, as every other
            return PreExecutionError(None, [GraphQLError(str(error), original_error=error)])

    async def _subscribe(self, execution: ExecutionContext, coded: Code) -> AsyncGenerator[str, None]:
        assert execution.graphql_document is not None  # noqa: S101 - it was parsed
        context: Context = execution.context
        executor = BulkExecutor.build(
            self._schema,
            execution.graphql_document,
            context_value=context,
            raw_variable_values=execution.variables,
            operation_name=execution.operation_name,
        )
        if isinstance(executor, list):
            raise OperationRefused(coded(executor))
        source = create_source_event_stream(executor)
        if isinstance(source, Awaitable):
            source = await source
        if isinstance(source, ExecutionResult):
            raise OperationRefused(coded(source.errors or []))
        assert isinstance(source, AsyncGenerator)  # noqa: S101 - every source here is one
        heard_with = shared_execution(executor, execution.query or "", context.scope, context.for_broadcast)
        return follow(source, executor, heard_with, coded, context.history_sent)


@asynccontextmanager
async def _turn(context: Context, new_text: str | None) -> AsyncGenerator[Context, None]:
    """The context with its turn, which ends before the operation is executed. OperationRefused."""
    turns, address = context.services.turns, network(context.origin.address)
    try:
        turn = await turns.begin(address, new_text)
    except Overloaded as error:
        raise OperationRefused([refusal(error)]) from error
    try:
        yield replace(context, turn=turn)
    finally:
        turn.end()


async def _once(payload: str) -> AsyncGenerator[str, None]:
    yield payload


def build_schema() -> Schema:
    """Put the schema together."""
    return Schema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        config=StrawberryConfig(scalar_map=SCALARS),
        execution_context_class=BulkExecutor,
        extensions=[
            CodedErrors,
            Documents,
            NamedOperation,
            IntrospectionLimit,
            CostLimit,
            CostAdmission,
            OperationDeadline,
        ],
    )
