"""The schema: roots, scalars and extensions put together."""

from __future__ import annotations

import strawberry
from graphql import GraphQLError
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext

from schema.documents import Documents
from schema.errors import CodedErrors
from schema.executor import BulkExecutor
from schema.mutation import Mutation
from schema.operation import NamedOperation
from schema.query import Query
from schema.scalars import SCALARS
from schema.subscription import Subscription


class Schema(strawberry.Schema):
    """The contract. Errors are logged where they are masked, by `CodedErrors`."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Log nothing: a client's mistake is not worth a traceback in the log."""


def build_schema() -> Schema:
    """Put the schema together."""
    return Schema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        config=StrawberryConfig(scalar_map=SCALARS),
        execution_context_class=BulkExecutor,
        extensions=[CodedErrors, Documents, NamedOperation],
    )
