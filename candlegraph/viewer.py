"""The caller: a `User` with roles, or an anonymous one; and the permissions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from candlegraph.errors import CandlegraphError, Forbidden, Unauthenticated


class Role(StrEnum):
    """A role. Each role includes those before it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def implied(self) -> tuple[Role, ...]:
        """This role and those before it."""
        every = tuple(Role)
        return every[: every.index(self) + 1]


@dataclass(frozen=True, slots=True)
class User:
    """An account. ``version`` goes up when every token that was signed for it must end."""

    id: int
    name: str
    role: Role
    disabled: bool
    version: int


@dataclass(frozen=True, slots=True)
class UserConfig:
    """A user's saved configuration: a JSON object, and when it was saved (None: never)."""

    config: dict[str, Any]
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class Viewer:
    """The caller. ``refusal`` is the problem with the token, if any; an invalid token never makes a caller anonymous."""

    user: User | None = None
    roles: frozenset[Role] = frozenset({Role.VIEWER})
    expires_at: float | None = None  # seconds since the epoch
    refusal: CandlegraphError | None = None

    def require(self, role: Role) -> None:
        """Raise Unauthenticated, Forbidden, or the refusal of the token, unless ``role`` is among the roles."""
        if role not in self.roles:
            self.account()
            raise Forbidden(f"This needs the role {role.name}.")

    def account(self) -> User:
        """The caller's account; Unauthenticated, or the refusal of the token, where there is none."""
        if self.refusal:
            raise self.refusal
        if self.user is None:
            raise Unauthenticated
        return self.user
