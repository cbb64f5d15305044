"""GraphQL over HTTP, graphql-transport-ws and graphql-sse: the envelope around an operation, checked before it is opened."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import orjson
from cross_web import AsyncHTTPRequestAdapter, HTTPException
from graphql import GraphQLError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.http import GraphQLHTTPResponse, GraphQLRequestData
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from candlegraph.errors import CandlegraphError
from candlegraph.timings import Timings
from resolvers.context import Context, Introspection, Origin, Services
from resolvers.cost_budget import Reservation
from schema.admission import MAX_STREAMED_COST
from schema.broadcast import OperationRefused
from schema.build import Schema
from schema.encoding import JsonAnswer
from server.transport.connections import Connections, status_of
from server.transport.graphql_ws import GraphQLSocket
from server.transport.loopback import is_loopback
from server.transport.negotiation import MediaType, negotiate
from server.transport.operation_stream import EVENTS, MULTIPART, OperationStream, StreamedOperations
from server.transport.persisted_queries import NOT_FOUND, PersistedQueries
from server.transport.streamed_answer import StreamedAnswer

MAX_BODY = 262_144
_CODES = {405: "METHOD_NOT_ALLOWED", 406: "NOT_ACCEPTABLE", 413: "PAYLOAD_TOO_LARGE", 415: "UNSUPPORTED_MEDIA_TYPE"}
_NOT_ACCEPTABLE = f"`Accept` names none of {', '.join(one.value for one in MediaType)}."
_ENVELOPE = (
    ("query", str, "a text"),
    ("operationName", str, "a text"),
    ("variables", dict, "an object"),
    ("extensions", dict, "an object"),
)


class GraphQLEndpoint(GraphQL[Context, None]):
    """The one endpoint of the API, an ASGI application."""

    def __init__(
        self,
        schema: Schema,
        services: Services,
        web: Path,
        connections: Connections,
        *,
        trusts_loopback: bool = False,
        timings: Timings | None = None,
    ) -> None:
        """Serve ``schema``; ``web`` is the folder of the built page."""
        super().__init__(schema, subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL])
        self._opener = schema
        self._services = services
        self._connections = connections
        self._page = web / "graphiql.html"
        self._trusts_loopback = trusts_loopback
        self._timings = timings or Timings()
        self._persisted = PersistedQueries()
        heartbeat_interval_s = self._timings.stream_comment_interval_s
        self._streamed = StreamedOperations(schema, self._persisted, connections, heartbeat_interval_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or a socket; an error of the envelope is a coded error in JSON too."""
        if scope["type"] != "http":
            await self._serve_socket(WebSocket(scope, receive, send))
            return
        request = Request(scope, _bounded(receive))
        request.state.id = secrets.token_hex(8)
        wanted = request.state.media_type = negotiate(",".join(request.headers.getlist("accept")))
        most = MAX_STREAMED_COST if wanted and wanted.is_stream else None
        reservation = request.state.reservation = Reservation(self._services.budget, _address(request), max_cost=most)
        try:
            await self._answer(request, scope, receive, send)
        finally:
            reservation.release()

    async def _answer(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        wanted: MediaType | None = request.state.media_type
        try:
            if wanted is None and not self.should_render_graphql_ide(request):
                response = _refusal(HTTPException(406, _NOT_ACCEPTABLE))
            else:
                response = await (self._stream(request, wanted) if wanted and wanted.is_stream else self.run(request))
        except HTTPException as error:
            response = _refusal(error)
        except ClientDisconnect:  # in the middle of its body: no answer can arrive
            return
        response.headers["x-request-id"] = request.state.id
        response.headers["x-content-type-options"] = "nosniff"
        try:
            await response(scope, receive, send)
        except CandlegraphError as error:  # an event stream that is not admitted
            await _not_admitted(error)(scope, receive, send)

    async def _serve_socket(self, ws: WebSocket) -> None:
        context = await self.get_context(ws, ws)
        most = self._connections.caps.operations_per_socket
        socket = GraphQLSocket(self._opener, ws, context, most, self._timings, persisted=self._persisted)
        try:
            with self._connections.admit(context.origin.address, socket.leave):
                protocol = await self.pick_websocket_subprotocol(ws)
                await ws.accept(protocol)
                if protocol is None:
                    await ws.close(4406, "Subprotocol not acceptable")
                else:
                    await socket.serve()
        except CandlegraphError as error:
            await ws.send_denial_response(_not_admitted(error))

    async def _stream(self, request: Request, wanted: MediaType) -> Response:
        """A response that goes on, instead of one JSON."""
        adapter = self.request_adapter_class(request)
        if not self.is_request_allowed(adapter):
            raise HTTPException(405, "GraphQL only supports GET and POST requests.")
        context = await self.get_context(request, Response())
        try:
            data = await self.parse_http_body(adapter)
        except orjson.JSONDecodeError as error:
            raise HTTPException(400, "Unable to parse request body as JSON") from error
        framing = MULTIPART if wanted is MediaType.MULTIPART else EVENTS
        return OperationStream(self._streamed, framing, data, context, may_write=request.method == "POST")

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        """Create the context of an operation; a socket's operations get loaders of their own later."""
        if isinstance(request, Request):
            context = await self.identify(request)
            context.request_id, context.reservation = request.state.id, request.state.reservation
            return context
        # `connection_init` identifies the caller; a client that can set a header may send the token there.
        shown = {"Authorization": request.headers.get("authorization")}
        return Context(self._services, secrets.token_hex(8), shown, origin=self._origin(request))

    async def identify(self, request: Request) -> Context:
        """The context of a request, with the viewer of its Authorization header and its address."""
        viewer = await self._services.accounts.identify(request.headers.get("authorization"))
        return Context(self._services, secrets.token_hex(8), viewer=viewer, origin=self._origin(request))

    def _origin(self, request: Request | WebSocket) -> Origin:
        return Origin(_address(request), self._trusts_loopback and is_loopback(request))

    def should_render_graphql_ide(self, request: Any) -> bool:
        """Show the page to browsers alone: a client that takes anything gets JSON."""
        accepts_html = "text/html" in request.headers.get("accept", "")
        return bool(request.method == "GET" and accepts_html and not request.query_params.get("query"))

    async def render_graphql_ide(self, request: Request) -> Response:
        """GraphiQL, from our own origin."""
        if self._services.introspection is Introspection.OFF:
            return PlainTextResponse("GraphiQL is off here (INTROSPECTION=off).\n", 404)
        if not self._page.is_file():
            return PlainTextResponse("GraphiQL is not built: run `make install`.\n", 404)
        return FileResponse(self._page, media_type="text/html", headers={"cache-control": "no-cache"})

    def decode_json(self, data: str | bytes) -> object:
        """Read JSON; any fault, too deep or not UTF-8, is a JSONDecodeError."""
        return orjson.loads(data)

    def encode_json(self, data: object) -> bytes:
        """Write JSON."""
        return orjson.dumps(data)

    async def parse_http_body(self, request: AsyncHTTPRequestAdapter) -> GraphQLRequestData:
        """Read the envelope."""
        envelope: object
        if request.method == "GET":
            envelope = self.parse_query_params({k: v for k, v in request.query_params.items() if v})
        elif (request.content_type or "").partition(";")[0].strip().lower() == "application/json":
            envelope = self.parse_json(await request.get_body())
        else:
            raise HTTPException(415, "Send application/json.")
        if isinstance(envelope, list):
            raise HTTPException(400, "Batches are not accepted: use aliases, or `candlesBatch`.")
        if not isinstance(envelope, dict):
            raise HTTPException(400, "A request is a JSON object with a `query`.")
        for name, kind, what in _ENVELOPE:
            if not isinstance(envelope.get(name), kind | None):
                raise HTTPException(400, f"`{name}` must be {what} or null.")
        if not envelope.get("query") and "persistedQuery" not in (envelope.get("extensions") or {}):
            raise HTTPException(400, "The request has no `query`.")
        return GraphQLRequestData(
            query=envelope.get("query"),
            variables=envelope.get("variables"),
            operation_name=envelope.get("operationName") or None,
            extensions=envelope.get("extensions"),
            protocol="http",
        )

    async def execute_single(
        self,
        request: Request,
        request_adapter: AsyncHTTPRequestAdapter,
        sub_response: Response,
        context: Context,
        root_value: None,
        request_data: GraphQLRequestData,
    ) -> ExecutionResult:
        """Execute a query, or by POST a mutation. A subscription is not answered once."""
        del root_value
        allowed = {OperationType.QUERY}
        if request_adapter.method == "POST":
            allowed.add(OperationType.MUTATION)
        try:
            with self._persisted.document(request_data.query, request_data.extensions) as document:
                return await self.schema.execute(
                    document,
                    variable_values=request_data.variables,
                    context_value=context,
                    operation_name=request_data.operation_name,
                    allowed_operation_types=allowed,
                    operation_extensions=request_data.extensions,
                )
        except OperationRefused as refused:
            return PreExecutionError(data=None, errors=refused.errors)
        except InvalidOperationTypeError as error:
            if error.operation_type is OperationType.SUBSCRIPTION:
                return _request_error(
                    "A subscription needs a WebSocket or an event stream: at this address connect with graphql-transport-ws, or "
                    "send `Accept: text/event-stream` or `multipart/mixed;subscriptionSpec=1.0`."
                )
            raise HTTPException(405, "Mutations need POST.") from error
        except CannotGetOperationTypeError:
            return _request_error("The document has no operation of that name.")

    async def process_result(self, request: Request, result: ExecutionResult) -> GraphQLHTTPResponse:
        """Leave ``data`` out where nothing was executed, as GraphQL over HTTP asks."""
        response = await super().process_result(request, result)
        refused = result.data is None and not any(error.path for error in result.errors or ())
        if refused or isinstance(result, PreExecutionError):
            response.pop("data", None)
        return response

    async def get_sub_response(self, request: Request | WebSocket) -> Response:
        """Remember which media type the client prefers: only the newer one has a status for a refused request."""
        response = await super().get_sub_response(request)
        response.modern = request.state.media_type is MediaType.GRAPHQL_RESPONSE  # type: ignore[attr-defined]
        return response

    def create_response(
        self, response_data: GraphQLHTTPResponse | list[GraphQLHTTPResponse], sub_response: Response
    ) -> Response:
        """Answer in JSON."""
        modern = getattr(sub_response, "modern", False)
        refused = modern and "data" not in response_data and not _is_unknown_hash(response_data)
        headers = {"cache-control": "no-store", "vary": "Accept, Authorization"}
        answer, status = JsonAnswer(response_data), 400 if refused else 200
        media_type = f"{(MediaType.GRAPHQL_RESPONSE if modern else MediaType.JSON).value}; charset=utf-8"
        response = (
            StreamedAnswer(answer, status, headers, media_type)
            if answer.is_long
            else Response(b"".join(answer.pieces()), status, headers, media_type)
        )
        response.headers.update(sub_response.headers)
        return response


def _is_unknown_hash(response_data: Any) -> bool:
    """Whether a client is asked to send its document: no mistake, and 200 in Apollo's protocol."""
    codes = [error.get("extensions", {}).get("code") for error in response_data.get("errors") or ()]
    return codes == [NOT_FOUND]


def _address(request: Request | WebSocket) -> str:
    return request.client.host if request.client else ""


def _request_error(message: str) -> PreExecutionError:
    return PreExecutionError(data=None, errors=[GraphQLError(message, extensions={"code": "BAD_USER_INPUT"})])


def _not_admitted(error: CandlegraphError) -> Response:
    extensions = {"code": error.code, "retryAfter": error.retry_after}
    body = {"errors": [{"message": error.message, "extensions": extensions}]}
    headers = {"retry-after": str(round(error.retry_after or 1))}
    return Response(orjson.dumps(body), status_of(error), headers, "application/json; charset=utf-8")


def _refusal(error: HTTPException) -> Response:
    code = _CODES.get(error.status_code, "BAD_REQUEST")
    body = {"errors": [{"message": error.reason, "extensions": {"code": code}}]}
    headers = {"allow": "GET, POST"} if error.status_code == 405 else {}
    return Response(orjson.dumps(body), error.status_code, headers, "application/json; charset=utf-8")


def _bounded(receive: Receive) -> Receive:
    """Stop reading a body at `MAX_BODY`, before it is parsed."""
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY:
            raise HTTPException(413, f"A request is at most {MAX_BODY} bytes long.")
        return message

    return bounded
