"""The path prefix under which a reverse proxy publishes this server: `ROOT_PATH`, and no header of a request."""

from __future__ import annotations

import re

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_FORM = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_OWN = {"/graphql", "/console", "/static", "/healthz", "/readyz", "/schema.graphql", "/export", "/import"}


def check_root_path(path: str) -> str:
    """The path as it is. ValueError if it is none, or a path of the server's own, which would be ambiguous."""
    if not _FORM.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError("it is a path such as /api, with no slash at its end")
    if path in _OWN:
        raise ValueError(f"{path} is a path of the server itself; choose another")
    return path


class RootPath:
    """An ASGI application around another: strips the prefix from a path, if the proxy has not.

    The prefix alone is redirected to the one with a slash, because the addresses in the page are relative.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        """Wrap ``app``."""
        self._app = app
        self._root = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on without the prefix of its path."""
        if scope["type"] in ("http", "websocket"):
            path: str = scope["path"]
            if scope["type"] == "http" and self._root and path == self._root:
                query = scope["query_string"].decode("latin-1")
                redirect = RedirectResponse(f"{self._root}/" + (f"?{query}" if query else ""))
                await redirect(scope, receive, send)
                return
            if path == self._root or path.startswith(self._root + "/"):
                scope = {**scope, "path": path.removeprefix(self._root) or "/"}
                scope.pop("raw_path", None)
        await self._app(scope, receive, send)
