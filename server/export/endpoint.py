"""`GET /export/candles.{arrow,parquet,csv,jsonl}`: stored candles of any length as one file.

The arguments are those of the `candles` query. Everything that can be refused is refused before the first byte; an export
that cannot go on is cut off, and its missing end shows that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from strawberry.http.websocket_origin import normalize_origin

from candlegraph.candle import Candles
from candlegraph.errors import CandlegraphError, Forbidden, NotFound, Overloaded, TooManyAttempts
from candlegraph.viewer import Role
from history.export import PAGE_ROWS, SeriesExport, open_export, read_pages
from resolvers.accounts.accounts import network
from resolvers.context import Context
from resolvers.cost_budget import Reservation
from resolvers.nodes import resolve_server_id
from resolvers.permission import require_role
from server.export.arguments import headers_of, negotiate_coding, read_arguments
from server.export.formats import FORMATS, Buffer, Compression, describe
from server.export.places import ExportLimits, ExportPlace, ExportPlaces
from server.transport.refusal import refusal_of
from server.transport.streamed_answer import disconnected, run_until_first
from storage.rate_limits import AttemptLimit

log = logging.getLogger(__name__)

DAY_S = 86_400
VALUES_PER_ROW = 6
MAX_ATTEMPTS = 30  # a second apart, to get a page into the cost budget
PIECE_BYTES = 262_144  # sent at once: bounds what stays in memory for a client that does not read


class ExportEndpoint:
    """Answers the requests for exports."""

    def __init__(
        self, identify: Callable[[Request], Awaitable[Context]], limits: ExportLimits, origins: Sequence[str] = ()
    ) -> None:
        """``identify`` makes the context of a request; pages of other sites need one of ``origins``."""
        self._identify = identify
        self._limits = limits
        self._origins = frozenset(origins)
        self._places = ExportPlaces(limits)

    async def answer(self, request: Request) -> Response:
        """The file, or the refusal in JSON."""
        try:
            self._check_site(request.headers)
            context = await self._identify(request)
            await require_role(context, Role.VIEWER)
            kind = request.path_params["kind"]
            if kind not in FORMATS:
                raise NotFound(f"There is no format {kind[:16]!r}: take one of {', '.join(FORMATS)}.")
            asked = read_arguments(request.query_params)
            with ExitStack() as stack:
                history = context.services.history
                turn_s = history.timings.export_turn_s
                place = stack.enter_context(self._places.take(network(context.origin.address), turn_s))
                opened = await open_export(history, asked)
                server_id = str(await resolve_server_id(context))
                about = await asyncio.to_thread(lambda: [describe(one, server_id) for one in opened])
                planned = list(zip(opened, about, strict=True))
                response = ExportResponse(self, context, planned, request, place)
                stack.pop_all()  # the response gives the place back
                return response
        except CandlegraphError as error:
            return refusal_of(error)

    def _check_site(self, headers: Headers) -> None:
        """Refuse what a page of another site starts, also by a link or an image: it would cost much and show nothing."""
        origin = headers.get("origin")
        allowed = origin is not None and normalize_origin(origin) in self._origins
        if headers.get("sec-fetch-site") == "cross-site" and not allowed:
            raise Forbidden("Pages of other sites may not start exports: ALLOWED_ORIGINS names the origins that may.")

    async def count(self, context: Context, rows: int) -> None:
        """Count the rows of an anonymous address. TooManyAttempts."""
        counter, most = context.services.fetch_limits.counter, self._limits.rows_per_day
        if context.viewer.user is not None or counter is None or most is None:
            return
        half = most / 2  # a leaky bucket lets twice its size through in the first day
        key = f"export:{network(context.origin.address)}"
        if wait := await counter.count_attempt(key, AttemptLimit(half, DAY_S / half), min(rows, half)):
            raise TooManyAttempts(
                f"This address may export at most {most:,} candles a day without an account: sign in, or wait.",
                retry_after=wait,
            )


class ExportResponse(Response):
    """Sends an export page by page, each when the client has taken the one before."""

    def __init__(
        self,
        endpoint: ExportEndpoint,
        context: Context,
        exports: Sequence[tuple[SeriesExport, dict[str, Any]]],
        request: Request,
        place: ExportPlace,
    ) -> None:
        """Send nothing yet; the ``place`` is given back at the end."""
        self.status_code, self.media_type, self.background = 200, None, None
        self._endpoint, self._context, self._exports, self._place = endpoint, context, exports, place
        suffix = request.path_params["kind"]
        self._kind = FORMATS[suffix]
        self._coding = negotiate_coding(request.headers.get("accept-encoding", ""), self._kind.codings)
        most = sum((one.span.until - one.span.since) // one.plan.timeframe.nominal_ms + 1 for one, _ in exports)
        self._prepaid = min(PAGE_ROWS, most)  # counted before the head is sent: what is too much then has a status
        self._sends_body = request.method != "HEAD"
        self.init_headers(headers_of([one for _, one in exports], self._kind, self._coding, suffix))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, until the client is gone, or until the export cannot go on."""
        try:
            with self._place:
                await self._endpoint.count(self._context, self._prepaid)
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                if self._sends_body:
                    await run_until_first(self._send_pages(send), disconnected(receive), self._revoked())
                else:
                    await send({"type": "http.response.body", "body": b""})
        except (Overloaded, TooManyAttempts) as error:
            await refusal_of(error)(scope, receive, send)

    async def _revoked(self) -> None:
        await self._place.revoked.wait()
        log.warning("an export was cut off: its turn is over, and another one needs its place")

    async def _send_pages(self, send: Send) -> None:
        buffer, compression = Buffer(), Compression(self._coding)
        writer = await asyncio.to_thread(self._kind.writer, buffer, [about for _, about in self._exports])

        async def send_bytes(data: bytes) -> None:
            for at in range(0, len(data), PIECE_BYTES):
                piece = data[at : at + PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})

        def encode(symbol: str, page: Candles) -> bytes:
            writer.write(symbol, page)
            return compression.add(buffer.take())

        def end() -> bytes:
            writer.close()
            return compression.add(buffer.take()) + compression.end()

        try:
            await send_bytes(compression.add(buffer.take()))
            for export, _ in self._exports:
                symbol = export.record.instrument.symbol
                async with aclosing(read_pages(self._context.services.history, export)) as pages:
                    async for page in pages:
                        await self._count(len(page))
                        async with self._in_budget(len(page)):
                            await send_bytes(await asyncio.to_thread(encode, symbol, page))
        except CandlegraphError as error:
            # The head has been sent: the missing end is all that can still show it.
            log.warning("an export was cut off: %s", error.message)
            return
        await send_bytes(await asyncio.to_thread(end))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _count(self, rows: int) -> None:
        paid = min(rows, self._prepaid)
        self._prepaid -= paid
        if rows > paid:
            await self._endpoint.count(self._context, rows - paid)

    @asynccontextmanager
    async def _in_budget(self, rows: int) -> AsyncIterator[None]:
        """Hold the cost of a page while it is encoded and sent; wait for it while queries have taken all of it."""
        reservation = Reservation(self._context.services.budget, self._context.origin.address)
        for attempt in range(MAX_ATTEMPTS):
            try:
                reservation.take(rows * VALUES_PER_ROW)
                break
            except Overloaded:
                if attempt == MAX_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(1)
        try:
            yield
        finally:
            reservation.release()
