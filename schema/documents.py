"""A cache of documents: a text is parsed and validated only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cachetools import LRUCache
from graphql import DocumentNode, OperationDefinitionNode
from strawberry.extensions import SchemaExtension
from strawberry.schema.schema import validate_document

from resolvers.context import Context
from schema.limits import MAX_TOKENS, DocumentLimits

MAX_DOCUMENTS = 500
MAX_CACHED_LENGTH = 20_000  # texts with literals in them may be many and long: they are not worth the memory

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Valid:
    """A valid document, and what was derived from each of its operations."""

    document: DocumentNode
    derived: dict[int, Any] = field(default_factory=dict)


_valid: LRUCache[str, _Valid] = LRUCache(MAX_DOCUMENTS)


def is_known_valid(text: str) -> bool:
    """Whether a text was executed lately, so that it is valid; of a long one that is not known."""
    return text in _valid


def kept_with(text: str, operation: OperationDefinitionNode, make: Callable[[], T]) -> T:
    """What ``make`` derives from an operation of a document; made once for as long as the document is kept."""
    kept = _valid.get(text)
    if kept is None:
        return make()
    found: T | None = kept.derived.get(id(operation))  # the document keeps its operations alive
    if found is None:
        found = kept.derived[id(operation)] = make()
    return found


class Documents(SchemaExtension):
    """Parses within a limit of tokens, validates with our limits, and caches valid documents.

    It also gives every operation loaders of its own: on a WebSocket the transport hands one context to all of them.
    """

    def on_operation(self) -> Iterator[None]:
        """Set the limits, and make fresh loaders."""
        context = self.execution_context
        context.parse_options = {"max_tokens": MAX_TOKENS}
        context.validation_rules = (*context.validation_rules, DocumentLimits)
        if isinstance(context.context, Context):
            context.context = context.context.for_operation()
        yield

    def on_execute(self) -> Iterator[None]:
        """Let the next operation of the address begin: executing may take seconds."""
        context = self.execution_context.context
        if isinstance(context, Context) and context.turn:
            context.turn.end()
        yield

    def on_parse(self) -> Iterator[None]:
        """Take the document from the cache; the core reports a text that cannot be parsed."""
        text = self.execution_context.query
        if text is not None and (kept := _valid.get(text)) is not None:
            self.execution_context.graphql_document = kept.document
        yield

    def on_validate(self) -> Iterator[None]:
        """Skip documents that are known to be valid; cache those that turn out to be."""
        context = self.execution_context
        if context.query is None or context.graphql_document is None or context.query in _valid:
            context.pre_execution_errors = [] if context.query in _valid else None
            yield
            return
        errors = validate_document(context.schema._schema, context.graphql_document, context.validation_rules)  # noqa: SLF001
        context.pre_execution_errors = errors
        if not errors and len(context.query) <= MAX_CACHED_LENGTH:
            _valid[context.query] = _Valid(context.graphql_document)
        yield
