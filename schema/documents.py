"""A cache of documents: a text is parsed and validated only once."""

from __future__ import annotations

from collections.abc import Iterator

from cachetools import LRUCache
from graphql import DocumentNode
from strawberry.extensions import SchemaExtension
from strawberry.schema.schema import validate_document

from resolvers.context import Context
from schema.limits import MAX_TOKENS, DocumentLimits

MAX_DOCUMENTS = 500
MAX_CACHED_LENGTH = 20_000  # texts with literals in them may be many and long: they are not worth the memory

_valid: LRUCache[str, DocumentNode] = LRUCache(MAX_DOCUMENTS)


def is_known_valid(text: str) -> bool:
    """Whether a text was executed lately, so that it is valid; of a long one that is not known."""
    return text in _valid


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
        if text is not None and (document := _valid.get(text)) is not None:
            self.execution_context.graphql_document = document
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
            _valid[context.query] = context.graphql_document
        yield
