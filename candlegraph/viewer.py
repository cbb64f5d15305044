"""Who asks: a `User` with roles, or nobody we know; and what that one may do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from candlegraph.errors import CandlegraphError, Forbidden, Unauthenticated


class Role(StrEnum):
    """What somebody may do. Each role may do what those before it may."""

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
    """An account. ``version`` counts up when everything that was signed for it has to end."""

    id: int
    name: str
    role: Role
    disabled: bool
    version: int


@dataclass(frozen=True, slots=True)
class UserConfig:
    """What a front end keeps for its user: a JSON object, and when it was saved (None: never)."""

    config: dict[str, Any]
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class Viewer:
    """Whoever asks. ``refusal`` is what is wrong with the token that was shown; nobody is anonymous by mistake."""

    user: User | None = None
    roles: frozenset[Role] = frozenset({Role.VIEWER})
    expires_at: float | None = None  # seconds since the epoch
    refusal: CandlegraphError | None = None

    def require(self, role: Role) -> None:
        """Raise Unauthenticated, Forbidden, or what is wrong with the token, unless ``role`` is among the roles."""
        if role not in self.roles:
            self.account()
            raise Forbidden(f"This needs the role {role.name}.")

    def account(self) -> User:
        """Whose account it is; Unauthenticated, or what is wrong with the token, where it is nobody's."""
        if self.refusal:
            raise self.refusal
        if self.user is None:
            raise Unauthenticated
        return self.user
