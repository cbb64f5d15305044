"""`PUT /import/MARKET/PROVIDER/SYMBOL`: an operator imports the file in the body, or sees what an import would do.

Everything that can be refused is refused before a byte of the body is read. The importer runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from strawberry.http.websocket_origin import is_same_origin

from candlegraph.errors import (
    CandlegraphError,
    Forbidden,
    InvalidCandles,
    Overloaded,
    PayloadTooLarge,
    Unauthenticated,
    Unavailable,
)
from candlegraph.viewer import Role
from resolvers.context import Context
from resolvers.permission import require_role
from server.transport.refusal import refusal_of
from server.transport.streamed_answer import disconnected, run_until_first
from server.transport.uvicorn_protocols import SLOW_BODY
from server.upload.order import UploadOrder, read_order
from server.upload.process import ChildLimits, ImportReport, run_import
from server.upload.report import accepted, split_lines
from server.upload.spool import Spool, SpoolFile
from server.wiring import Runtime

RETRY_AFTER_S = 5.0
_BATCH_BYTES = 1 << 20  # written to the spool at once
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
_HEADERS = {"cache-control": "no-store", "vary": "Authorization, Origin"}


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """How many uploads are under way at once, in all and of one account, and the memory of each."""

    memory_bytes: int
    total: int = 2
    per_account: int = 1


class UploadSlots:
    """Counts the uploads under way."""

    def __init__(self, limits: UploadLimits) -> None:
        """None is under way."""
        self._limits = limits
        self._of: Counter[int | None] = Counter()

    @contextmanager
    def take(self, account: int | None) -> Iterator[None]:
        """Count one while the context is open; None is the owner of the machine. Overloaded where there are too many."""
        if self._of[account] >= self._limits.per_account:
            raise Overloaded("An upload of yours is under way: wait for its end.", retry_after=RETRY_AFTER_S)
        if self._of.total() >= self._limits.total:
            raise Overloaded("Too many uploads are under way: try again later.", retry_after=RETRY_AFTER_S)
        self._of[account] += 1
        try:
            yield
        finally:
            self._of[account] -= 1


class UploadEndpoint:
    """Answers the requests for imports."""

    def __init__(
        self,
        identify: Callable[[Request], Awaitable[Context]],
        runtime: Runtime,
        spool: Spool,
        limits: UploadLimits,
    ) -> None:
        """``identify`` makes the context of a request."""
        self._identify = identify
        self._runtime = runtime
        self._spool = spool
        self._limits = limits
        self._slots = UploadSlots(limits)
        self._max_bytes = runtime.settings.import_max_mb << 20
        # The child uses the running database, also where it is embedded: it must not start or stop it.
        dsn = SecretStr(runtime.database.dsn)
        self._settings = runtime.settings.model_copy(update={"db_connection_string": dsn})

    async def answer(self, request: Request) -> Response:
        """What was imported or would be, or the refusal, in JSON."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() in _FORMS:
            message = "The body is the file: send application/octet-stream."
            body = {"errors": [{"message": message, "extensions": {"code": "UNSUPPORTED_MEDIA_TYPE"}}]}
            return JSONResponse(body, 415, _HEADERS)
        try:
            context = await self._identify(request)
            await _require_operator(request, context)
            if not self._max_bytes:
                raise Forbidden("Uploads are switched off here (IMPORT_MAX_MB=0).")
            order = read_order(request.path_params, request.query_params)
            await self._check_space(request)
            user = context.viewer.user
            with self._slots.take(user.id if user else None):
                return await self._import(request, order)
        except CandlegraphError as error:
            return refusal_of(error)
        except ClientDisconnect:
            return Response(status_code=499)  # the client is gone

    async def _check_space(self, request: Request) -> None:
        """PayloadTooLarge if the body says so, Unavailable if it does not fit onto the disk."""
        size = request.headers.get("content-length", "")
        self._check_size(int(size) if size.isdigit() else 0)
        space = self._runtime.services.history.fetcher.free_space
        needed = (int(size) if size.isdigit() else self._max_bytes) + (self._runtime.settings.min_free_disk_mb << 20)
        free = await asyncio.to_thread(_free_bytes, self._spool.directory)
        if (space and space.is_low) or free < needed:
            raise Unavailable("The disk is nearly full: free some space before the import.")

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise PayloadTooLarge(
                f"A file has at most {self._max_bytes >> 20} MB here (IMPORT_MAX_MB): "
                "split it, or use `candlegraph import`."
            )

    async def _import(self, request: Request, order: UploadOrder) -> Response:
        limits = ChildLimits(
            self._limits.memory_bytes, self._max_bytes, self._runtime.database.timings.import_timeout_s
        )
        try:
            with self._spool.file() as spooled:
                await self._receive(request, spooled)
                await asyncio.to_thread(spooled.finish, order.file, order.modified_ms)
                reports: list[ImportReport] = []

                async def work() -> None:
                    reports.append(await run_import(self._settings, order, spooled, limits))

                await run_until_first(work(), disconnected(request.receive))
        except OSError as error:
            raise Unavailable(f"The upload cannot be kept on the disk: {error.strerror}.") from error
        if not reports:
            raise ClientDisconnect
        return _answer(order, reports[0])

    async def _receive(self, request: Request, spooled: SpoolFile) -> None:
        """Write the body to the spool, and count its bytes as they arrive."""
        if allow_slow_body := request.scope.get("extensions", {}).get(SLOW_BODY):
            allow_slow_body()
        batch = bytearray()
        async for part in request.stream():
            batch += part
            self._check_size(spooled.size + len(batch))
            if len(batch) >= _BATCH_BYTES:
                await asyncio.to_thread(spooled.write, bytes(batch))
                batch.clear()
        await asyncio.to_thread(spooled.write, bytes(batch))
        if not spooled.size:
            raise InvalidCandles("The body is empty: it has to be the file.")


async def _require_operator(request: Request, context: Context) -> None:
    """Unauthenticated or Forbidden unless an operator sent it: by a token, or in development by a page of this server."""
    viewer = context.viewer
    if viewer.user is None and viewer.refusal is None:
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
        if origin is None or site != "same-origin" or not is_same_origin(origin, request.headers.get("host")):
            raise Unauthenticated("An import needs the header `Authorization: Bearer` with the token of an operator.")
    await require_role(context, Role.OPERATOR)


def _free_bytes(directory: Path) -> int:
    while not directory.is_dir():
        directory = directory.parent
    return shutil.disk_usage(directory).free


def _answer(order: UploadOrder, report: ImportReport) -> Response:
    if report.code is None:
        return JSONResponse(accepted(order, report.lines), headers=_HEADERS)
    facts, refusals = split_lines(report.lines)
    error = CandlegraphError("\n".join(refusals) or "The file was refused.")
    return refusal_of(_with_code(error, report.code), {"file": order.file, "facts": facts, "refusals": refusals})


def _with_code(error: CandlegraphError, code: str) -> CandlegraphError:
    """The error of the tree with this code, which the child reported."""
    kinds = [CandlegraphError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return next((kind for kind in kinds if kind.code == code), CandlegraphError)(error.message)
