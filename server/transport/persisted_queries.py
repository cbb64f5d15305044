"""Automatic persisted queries: a client sends the hash of a document it has sent before, in place of the document.

The protocol is Apollo's: https://www.apollographql.com/docs/apollo-server/performance/apq. Each process keeps the
documents that its own clients have sent; one that does not know a hash asks for the document.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cachetools import LRUCache
from graphql import GraphQLError

from schema.broadcast import OperationRefused
from schema.documents import MAX_CACHED_LENGTH, is_known_valid

MAX_PERSISTED_QUERIES = 1000
NOT_FOUND, NOT_SUPPORTED = "PERSISTED_QUERY_NOT_FOUND", "PERSISTED_QUERY_NOT_SUPPORTED"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PersistedQueries:
    """The documents that were sent with their hash and are valid; beyond the limit the least recently used is evicted."""

    def __init__(self, limit: int = MAX_PERSISTED_QUERIES) -> None:
        """Start empty."""
        self._documents: LRUCache[str, bytes] = LRUCache(limit)

    @contextmanager
    def document(self, query: str | None, extensions: Mapping[str, Any] | None) -> Iterator[str]:
        """The document of a request, to be executed within; kept afterwards where it is valid and not too long.

        OperationRefused if its hash is not known, or is another document's.
        """
        asked = (extensions or {}).get("persistedQuery")
        if asked is None:
            yield query or ""
            return
        digest = _digest(asked)
        if not query:
            if (known := self._documents.get(digest)) is None:
                raise _refused("PersistedQueryNotFound", NOT_FOUND)
            yield known.decode()
            return
        document = query.encode()
        if hashlib.sha256(document).hexdigest() != digest:
            raise _refused("`sha256Hash` is not the SHA-256 of `query`.", "BAD_USER_INPUT")
        try:
            yield query
        finally:
            if len(document) <= MAX_CACHED_LENGTH and is_known_valid(query):
                self._documents[digest] = document


def _digest(asked: Any) -> str:
    """The hash in `extensions.persistedQuery`."""
    if not isinstance(asked, dict) or asked.get("version") != 1 or isinstance(asked.get("version"), bool):
        raise _refused("PersistedQueryNotSupported", NOT_SUPPORTED)
    digest = asked.get("sha256Hash")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise _refused("`sha256Hash` is 64 hexadecimal digits in lower case.", "BAD_USER_INPUT")
    return digest


def _refused(message: str, code: str) -> OperationRefused:
    return OperationRefused([GraphQLError(message, extensions={"code": code})])
