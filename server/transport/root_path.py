"""The path that a reverse proxy serves this server under, as `ROOT_PATH` says; no header of a request is believed."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_FORM = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_OWN = {"/graphql", "/static", "/healthz", "/readyz", "/schema.graphql"}


def check_root_path(path: str) -> str:
    """The path as it is. ValueError where it is none, or a path of the server's own, which could be either."""
    if not _FORM.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError("it is a path such as /api, with no slash at its end")
    if path in _OWN:
        raise ValueError(f"{path} is a path of the server itself; choose another")
    return path


class RootPath:
    """An ASGI application around another: takes the prefix off a path, where the proxy has left it there."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        """Wrap ``app``."""
        self._app = app
        self._root = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with the path that it has behind the prefix."""
        if scope["type"] in ("http", "websocket"):
            path: str = scope["path"]
            if path == self._root or path.startswith(self._root + "/"):
                scope = {**scope, "path": path.removeprefix(self._root) or "/"}
                scope.pop("raw_path", None)
        await self._app(scope, receive, send)
