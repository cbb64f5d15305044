"""A cache of documents: a text is parsed and validated only once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from weakref import WeakValueDictionary

from cachetools import LRUCache
from graphql import DocumentNode, GraphQLError, parse
from strawberry.extensions import SchemaExtension
from strawberry.schema.schema import validate_document

from resolvers.context import Context
from schema.limits import MAX_TOKENS, DocumentLimits

MAX_DOCUMENTS = 500
PAUSE_FACTOR = 2  # after a document of an address its next one waits this many times as long as reading it took
MAX_CACHED_LENGTH = 20_000  # texts with literals in them may be many and long: they are not worth the memory

_valid: LRUCache[str, DocumentNode] = LRUCache(MAX_DOCUMENTS)
_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


def is_known_valid(text: str) -> bool:
    """Whether a text was executed lately, so that it is valid; of a long one that is not known."""
    return text in _valid


class Documents(SchemaExtension):
    """Parses within a limit of tokens, validates with our limits, and caches valid documents.

    It also gives every operation loaders of its own: on a WebSocket the transport hands one context to all of them.
    """

    _errors: list[GraphQLError] | None = None

    async def on_operation(self) -> AsyncIterator[None]:
        """Set the limits; make fresh loaders; read a document that is new."""
        context = self.execution_context
        context.parse_options = {"max_tokens": MAX_TOKENS}
        context.validation_rules = (*context.validation_rules, DocumentLimits)
        if isinstance(context.context, Context):
            context.context = context.context.for_operation()
            if context.query and context.query not in _valid:
                await self._read(context.query, context.context.origin.address)
        yield

    async def _read(self, text: str, address: str) -> None:
        """Parse and validate, which takes milliseconds: one document of an address at a time, then other work.

        A thousand subscriptions may arrive in one packet: reading them takes a third of the event loop at most.
        """
        turn, loop = _locks.setdefault(address, asyncio.Lock()), asyncio.get_running_loop()
        await turn.acquire()
        began = loop.time()
        try:
            await asyncio.sleep(0)
            began = loop.time()
            if text in _valid:
                return
            context = self.execution_context
            with suppress(Exception):  # the core parses it again and reports the error
                document = parse(text, **context.parse_options)
                self._errors = validate_document(context.schema._schema, document, context.validation_rules)  # noqa: SLF001
                context.graphql_document = document
        finally:
            loop.call_later(PAUSE_FACTOR * (loop.time() - began), turn.release)

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
        errors = self._errors
        if errors is None:
            errors = validate_document(context.schema._schema, context.graphql_document, context.validation_rules)  # noqa: SLF001
        context.pre_execution_errors = errors
        if not errors and len(context.query) <= MAX_CACHED_LENGTH:
            _valid[context.query] = context.graphql_document
        yield
