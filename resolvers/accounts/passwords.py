"""Passwords: argon2id, at most two hashes at once and never on the event loop, which one would block for 50 ms."""

from __future__ import annotations

import asyncio
import base64
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from candlegraph.errors import BadUserInput, Overloaded

P = ParamSpec("P")
T = TypeVar("T")

MIN_LENGTH, MAX_LENGTH = 8, 256
MAX_WAITING = 100

# https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html
_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


class Passwords:
    """Hashes and checks passwords."""

    def __init__(self, hasher: PasswordHasher = _hasher) -> None:
        """Use these parameters."""
        self._hasher = hasher
        self._threads = ThreadPoolExecutor(2, "passwords")
        self._pending: set[Future[Any]] = set()

    async def hash(self, password: str) -> str:
        """Hash a new password. BadUserInput if it is too short or too long."""
        if len(password) < MIN_LENGTH:
            raise BadUserInput(f"A password has at least {MIN_LENGTH} characters.")
        check_text("password", password)
        return await self._run_limited(self._hasher.hash, _normal(password))

    async def check(self, password_hash: str | None, password: str) -> tuple[bool, str | None]:
        """Whether the password is right, and a better hash of it where the parameters have risen since.

        Without a hash, for an unknown user, it takes as long. Overloaded if too many calls wait.
        """
        password = _normal(password)
        try:
            await self._run_limited(self._hasher.verify, password_hash or self._dummy_hash, password)
        except VerifyMismatchError:
            return False, None
        if password_hash is None:
            return False, None
        if not self._hasher.check_needs_rehash(password_hash):
            return True, None
        return True, await self._run_limited(self._hasher.hash, password)

    @cached_property
    def _dummy_hash(self) -> str:
        """A hash of the same parameters that matches no password."""
        salt, digest = secrets.token_bytes(self._hasher.salt_len), secrets.token_bytes(self._hasher.hash_len)
        cost = f"m={self._hasher.memory_cost},t={self._hasher.time_cost},p={self._hasher.parallelism}"
        return f"$argon2id$v=19${cost}${_base64(salt)}${_base64(digest)}"

    async def _run_limited(self, work: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        if len(self._pending) >= MAX_WAITING:
            raise Overloaded("Too many sign-ins at the moment: try again in a moment.", retry_after=5)
        # A cancelled caller leaves its thread at work: with a semaphore, a third one would begin.
        future = self._threads.submit(work, *arguments, **keywords)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return await asyncio.wrap_future(future)


def _normal(password: str) -> str:
    """Normalise the characters: keyboards compose them differently."""
    return unicodedata.normalize("NFKC", password)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def check_text(what: str, text: str) -> str:
    """Check a name or a password: BadUserInput for an empty, a huge or an invalid text."""
    if not text or len(text) > MAX_LENGTH or "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise BadUserInput(f"`{what}` must be a text of 1 to {MAX_LENGTH} characters.")
    return text
