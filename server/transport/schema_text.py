"""The schema as text at `/schema.graphql`, for code generators; `INTROSPECTION` applies here too."""

from __future__ import annotations

from functools import cached_property

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from candlegraph.errors import Unauthenticated
from schema.build import Schema
from schema.introspection import introspection_refusal
from server.transport.graphql_http import GraphQLEndpoint


class SchemaText:
    """Answers with the schema."""

    def __init__(self, schema: Schema, endpoint: GraphQLEndpoint) -> None:
        """Show ``schema`` to clients that may read it through ``endpoint``."""
        self._schema = schema
        self._endpoint = endpoint

    async def answer(self, request: Request) -> Response:
        """The schema, or the refusal."""
        refusal = introspection_refusal(await self._endpoint.identify(request))
        headers = {"cache-control": "no-cache", "vary": "Authorization"}
        if refusal is None:
            return PlainTextResponse(self._text, headers=headers)
        body = {"errors": [{"message": refusal.message, "extensions": {"code": refusal.code}}]}
        status = 401 if isinstance(refusal, Unauthenticated) else 403
        return Response(orjson.dumps(body), status, headers, "application/json; charset=utf-8")

    @cached_property
    def _text(self) -> str:
        return self._schema.as_str() + "\n"
