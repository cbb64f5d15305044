"""What clients see of an error: a code always, and of what we did not foresee nothing but a request id."""

from __future__ import annotations

import logging

from graphql import GraphQLError, GraphQLSyntaxError
from strawberry.extensions import MaskErrors

from candlegraph.errors import CandlegraphError
from resolvers.context import Context

log = logging.getLogger(__name__)


class CodedErrors(MaskErrors):
    """Gives every error its ``extensions.code``; an error outside of our tree is masked as INTERNAL and logged."""

    def _process_errors(self, errors: list[GraphQLError]) -> list[GraphQLError]:
        return [self._coded(error) for error in errors]

    def _coded(self, error: GraphQLError) -> GraphQLError:
        cause = _cause(error)
        if isinstance(cause, CandlegraphError):
            extensions: dict[str, object] = {"code": cause.code}
            if cause.retry_after is not None:
                extensions["retryAfter"] = round(cause.retry_after, 3)
        elif cause is None:
            phase = "GRAPHQL_PARSE_FAILED" if isinstance(error, GraphQLSyntaxError) else "GRAPHQL_VALIDATION_FAILED"
            extensions = {"code": phase if error.path is None else "INTERNAL", **(error.extensions or {})}
        else:
            return self._masked(error, cause)
        return GraphQLError(error.message, error.nodes, error.source, error.positions, error.path, None, extensions)

    def _masked(self, error: GraphQLError, cause: Exception) -> GraphQLError:
        context = self.execution_context.context
        request_id = context.request_id if isinstance(context, Context) else None
        log.error("request %s failed at %s", request_id, error.path, exc_info=cause)
        message = "Something went wrong here, and it was logged."
        extensions = {"code": "INTERNAL", "requestId": request_id}
        return GraphQLError(message, error.nodes, error.source, error.positions, error.path, None, extensions)


def _cause(error: GraphQLError) -> Exception | None:
    """The exception an error stands for, through the GraphQL errors that wrap it."""
    cause: BaseException | None = error
    while isinstance(cause, GraphQLError):
        cause = cause.original_error
    return cause if isinstance(cause, Exception) else None
