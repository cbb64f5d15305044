"""`GET /export/candles.{arrow,parquet,csv,jsonl}`: stored candles of any length as one file.

The arguments are those of the `candles` query. Everything that can be refused is refused before the first byte; an export
that cannot go on is cut off, and its missing end shows that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from strawberry.http.websocket_origin import normalize_origin

from candlegraph.candle import Candles
from candlegraph.errors import BadUserInput, CandlegraphError, Forbidden, NotFound, Overloaded, TooManyAttempts
from candlegraph.series_revision import SeriesRevision
from candlegraph.timeframe import Timeframe
from candlegraph.viewer import Role
from candlegraph.zone import zone
from history.export import PAGE_ROWS, ExportRequest, SeriesExport, open_export, read_pages
from resolvers.accounts.accounts import network
from resolvers.context import Context
from resolvers.cost_budget import Reservation
from resolvers.names import check_name, provider_of
from resolvers.nodes import resolve_server_id
from resolvers.permission import require_role
from schema.scalars import parse_timestamp
from server.export.formats import FORMATS, Buffer, Compression, Format, describe
from server.transport.refusal import refusal_of
from server.transport.streamed_answer import disconnected, run_until_first
from storage.rate_limits import AttemptLimit

log = logging.getLogger(__name__)

DAY_S = 86_400
RETRY_AFTER_S = 5.0
VALUES_PER_ROW = 6
MAX_ATTEMPTS = 30  # a second apart, to get a page into the cost budget
_ARGUMENTS = frozenset(
    ["market", "provider", "symbol", "pattern", "timeframe", "since", "until", "before", "timezone", "revision"]
)


@dataclass(frozen=True, slots=True)
class ExportLimits:
    """How many exports run at once, and how many rows a day an anonymous address may have (None: any number)."""

    total: int = 8
    per_address: int = 2
    rows_per_day: int | None = 50_000_000


class ExportSlots:
    """Counts the exports under way."""

    def __init__(self, limits: ExportLimits) -> None:
        """None is under way."""
        self._limits = limits
        self._of: Counter[str] = Counter()

    @contextmanager
    def take(self, address: str) -> Iterator[None]:
        """Count one while the context is open. Overloaded where there are too many."""
        if self._of[address] >= self._limits.per_address:
            raise Overloaded(
                f"An address may run {self._limits.per_address} exports at once: wait for the end of one.",
                retry_after=RETRY_AFTER_S,
            )
        if self._of.total() >= self._limits.total:
            raise Overloaded("Too many exports are under way: try again later.", retry_after=RETRY_AFTER_S)
        self._of[address] += 1
        try:
            yield
        finally:
            self._of[address] -= 1
            self._of += Counter()  # without the addresses that have none


class ExportEndpoint:
    """Answers the requests for exports."""

    def __init__(
        self, identify: Callable[[Request], Awaitable[Context]], limits: ExportLimits, origins: Sequence[str] = ()
    ) -> None:
        """``identify`` makes the context of a request; pages of other sites need one of ``origins``."""
        self._identify = identify
        self._limits = limits
        self._origins = frozenset(origins)
        self._slots = ExportSlots(limits)

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
                stack.enter_context(self._slots.take(network(context.origin.address)))
                opened = await open_export(context.services.history, asked)
                server_id = str(await resolve_server_id(context))
                about = await asyncio.to_thread(lambda: [describe(one, server_id) for one in opened])
                planned = list(zip(opened, about, strict=True))
                return ExportResponse(self, context, FORMATS[kind], planned, request, stack.pop_all())
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
        kind: Format,
        exports: Sequence[tuple[SeriesExport, dict[str, Any]]],
        request: Request,
        slot: ExitStack,
    ) -> None:
        """Send nothing yet; ``slot`` is the place that it gives back at its end."""
        self.status_code, self.media_type, self.background = 200, None, None
        self._endpoint, self._context, self._kind, self._exports = endpoint, context, kind, exports
        self._slot = slot
        self._coding = negotiate_coding(request.headers.get("accept-encoding", ""), kind.codings)
        most = sum((one.span.until - one.span.since) // one.plan.timeframe.nominal_ms + 1 for one, _ in exports)
        self._prepaid = min(PAGE_ROWS, most)  # counted before the head is sent: what is too much then has a status
        self._sends_body = request.method != "HEAD"
        suffix = request.path_params["kind"]
        self.init_headers(headers_of([one for _, one in exports], kind, self._coding, suffix))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, until the client is gone, or until the export cannot go on."""
        try:
            with self._slot:
                await self._endpoint.count(self._context, self._prepaid)
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                if self._sends_body:
                    await run_until_first(self._send_pages(send), disconnected(receive))
                else:
                    await send({"type": "http.response.body", "body": b""})
        except (Overloaded, TooManyAttempts) as error:
            await refusal_of(error)(scope, receive, send)

    async def _send_pages(self, send: Send) -> None:
        buffer, compression = Buffer(), Compression(self._coding)
        writer = await asyncio.to_thread(self._kind.writer, buffer, [about for _, about in self._exports])

        async def send_bytes(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

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
                async with (
                    aclosing(read_pages(self._context.services.history, export)) as pages,
                    aclosing(_one_ahead(pages)) as ready,
                ):
                    async for page in ready:
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


async def _one_ahead(pages: AsyncGenerator[Candles, None]) -> AsyncGenerator[Candles, None]:
    """The pages, each read while the one before is encoded and sent."""
    reading = asyncio.create_task(anext(pages, None), name="next page of an export")
    try:
        while (page := await reading) is not None:
            reading = asyncio.create_task(anext(pages, None), name="next page of an export")
            yield page
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def read_arguments(query: QueryParams) -> ExportRequest:
    """Read the arguments of an export. BadUserInput."""
    if unknown := sorted(set(query) - _ARGUMENTS):
        raise BadUserInput(f"There is no argument `{unknown[0][:32]}`: there are {', '.join(sorted(_ARGUMENTS))}.")
    for name in _ARGUMENTS - {"symbol"}:
        if len(query.getlist(name)) > 1:
            raise BadUserInput(f"Give `{name}` once.")
    if "market" not in query or "provider" not in query:
        raise BadUserInput("Give a `market` and a `provider`.")
    if "until" in query and "before" in query:
        raise BadUserInput("`before` is another name for `until`: give one of the two.")
    market, provider = provider_of(query["market"], query["provider"])
    symbols = tuple(query.getlist("symbol"))
    for symbol in symbols:
        check_name("symbol", symbol)
    if "pattern" in query:
        check_name("pattern", query["pattern"])
    since, until = (_instant(query, name) for name in ("since", "before" if "before" in query else "until"))
    if since is not None and until is not None and since > until:
        raise BadUserInput(f"`since` ({since}) lies after `until` ({until}): swap them.")
    return ExportRequest(
        market,
        provider,
        Timeframe.parse(query.get("timeframe", "1m")),
        symbols,
        query.get("pattern"),
        since,
        until,
        zone(query["timezone"]) if "timezone" in query else None,
        SeriesRevision.parse(query["revision"]) if "revision" in query else None,
    )


def _instant(query: QueryParams, name: str) -> int | None:
    """A Timestamp in a query string: digits are milliseconds. A + that was not escaped arrives as a space."""
    text = query.get(name)
    if text is None:
        return None
    is_number = text.removeprefix("-").isascii() and text.removeprefix("-").isdigit() and len(text) < 20
    return parse_timestamp(int(text) if is_number else text.replace(" ", "+"))


def headers_of(series: Sequence[dict[str, Any]], kind: Format, coding: str | None, suffix: str) -> dict[str, str]:
    """The headers of an export; those of one series say what the metadata of Arrow and Parquet say, but for long lists."""
    name = series[0]["symbol"] if len(series) == 1 else f"{len(series)} series"
    safe = "".join(char if char.isascii() and (char.isalnum() or char in ".-_ ") else "-" for char in name)
    headers = {
        "content-type": kind.media_type,
        "content-encoding": coding or "identity",
        "content-disposition": f'attachment; filename="{safe} {series[0]["timeframe"]}.{suffix}"',
        "cache-control": "no-store",
        "vary": "Accept-Encoding, Authorization, Origin",
        "x-accel-buffering": "no",
        "candlegraph-server-id": series[0]["serverId"],
        "candlegraph-series": str(len(series)),
        "candlegraph-timeframe": series[0]["timeframe"],
        "candlegraph-complete": "true" if all(one["complete"] for one in series) else "false",
        "candlegraph-gaps": str(sum(one["gapCount"] for one in series)),
    }
    if len(series) == 1:
        one = series[0]
        headers |= {
            "candlegraph-timezone": one["timezone"],
            "candlegraph-since": str(one["since"]),
            "candlegraph-until": str(one["until"]),
            "candlegraph-revision": one["revision"],
        }
    return headers


def negotiate_coding(accepted: str, codings: Sequence[str]) -> str | None:
    """The first of ``codings`` that the client accepts; None for no compression."""
    offered = set()
    for item in accepted.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        if not any(parameter.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for parameter in parameters):
            offered.add(name)
    return next((coding for coding in codings if coding in offered), None)
