"""Errors as clients see them: always with a code, and an unforeseen one with nothing but a request id."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from graphql import GraphQLError, GraphQLSyntaxError, ValueNode, VariableNode
from strawberry.extensions import MaskErrors
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError

from candlegraph.errors import CandlegraphError
from resolvers.context import Context
from schema.introspection import without_suggestion

log = logging.getLogger(__name__)

_LONGEST_MESSAGE = 500


class CodedErrors(MaskErrors):
    """Gives every error its ``extensions.code``; an error outside of our tree is masked as INTERNAL and logged."""

    _invalid = False

    def on_validate(self) -> Iterator[None]:
        """Note whether the document itself is refused; later errors are about the values of its variables."""
        yield
        self._invalid = bool(self.execution_context.pre_execution_errors)

    def coded(self, errors: list[GraphQLError]) -> list[GraphQLError]:
        """The errors as clients see them."""
        return [self._coded(error) for error in errors]

    def _process_errors(self, errors: list[GraphQLError]) -> list[GraphQLError]:
        return self.coded(errors)

    def _coded(self, error: GraphQLError) -> GraphQLError:
        cause, context = _cause(error), self.execution_context.context
        if cause is None:
            hides = isinstance(context, Context) and not context.may_introspect
            message = without_suggestion(error.message) if hides else error.message
            return _shown(error, message, {"code": self._own_code(error), **(error.extensions or {})})
        if foreseen := _foreseen(error, cause):
            return _shown(error, *foreseen)
        request_id = context.request_id if isinstance(context, Context) else None
        log.error("request %s failed at %s", request_id, error.path, exc_info=cause)
        message = "Something went wrong on the server; it was logged."
        return _shown(error, message, {"code": "INTERNAL", "requestId": request_id})

    def _own_code(self, error: GraphQLError) -> str:
        """The code of an error that GraphQL itself reports."""
        if error.path is not None:
            return "INTERNAL"
        if isinstance(error, GraphQLSyntaxError):
            return "GRAPHQL_PARSE_FAILED"
        if self._invalid and not _is_literal(error):
            return "GRAPHQL_VALIDATION_FAILED"
        return "BAD_USER_INPUT"  # a value, in the document or among the variables


def refusal(cause: CandlegraphError) -> GraphQLError:
    """The error of an operation that is refused before it is read."""
    return GraphQLError(cause.message, extensions=_extensions(cause))


def _shown(error: GraphQLError, message: str, extensions: dict[str, object]) -> GraphQLError:
    """The error with another text and other extensions; a text that quotes a long request is cut."""
    if len(message) > _LONGEST_MESSAGE:
        message = message[:_LONGEST_MESSAGE] + "..."
    return GraphQLError(message, error.nodes, error.source, error.positions, error.path, None, extensions)


def _foreseen(error: GraphQLError, cause: Exception) -> tuple[str, dict[str, object]] | None:
    """The text and the extensions of an error with a known cause; None for any other."""
    if isinstance(cause, CandlegraphError):
        return error.message, _extensions(cause)
    if isinstance(cause, CannotGetOperationTypeError):
        return "The document has no operation of that name.", {"code": "BAD_USER_INPUT"}
    if isinstance(cause, InvalidOperationTypeError):
        return "This needs POST.", {"code": "BAD_USER_INPUT"}
    if isinstance(cause, ValueError) and _is_literal(error):
        # graphql-core lets Python's limit of 4,300 digits through.
        return "This number is too long.", {"code": "BAD_USER_INPUT"}
    return None


def _extensions(cause: CandlegraphError) -> dict[str, object]:
    extensions: dict[str, object] = {"code": cause.code}
    if cause.reason is not None:
        extensions["reason"] = cause.reason
    if cause.retry_after is not None:
        extensions["retryAfter"] = round(cause.retry_after, 3)
    return extensions


def _cause(error: GraphQLError) -> Exception | None:
    """The exception an error stands for, through the GraphQL errors that wrap it."""
    cause: BaseException | None = error
    while isinstance(cause, GraphQLError):
        cause = cause.original_error
    return cause if isinstance(cause, Exception) else None


def _is_literal(error: GraphQLError) -> bool:
    node = error.nodes[0] if error.nodes else None
    return error.path is None and isinstance(node, ValueNode) and not isinstance(node, VariableNode)
