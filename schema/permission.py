"""Field permissions."""

from __future__ import annotations

from typing import Any

from strawberry import Info
from strawberry.extensions import FieldExtension
from strawberry.permission import BasePermission, PermissionExtension

from candlegraph.viewer import Role
from resolvers.context import Context
from resolvers.permission import require_role


class RequiresRole(BasePermission):
    """Requires a role; raises the error itself."""

    def __init__(self, role: Role) -> None:
        """``role`` is the lowest role with the permission."""
        self._role = role

    async def has_permission(self, source: Any, info: Info[Context, None], **arguments: Any) -> bool:  # noqa: ARG002 - Strawberry calls it
        """Raise Unauthenticated or Forbidden, or return True."""
        await require_role(info.context, self._role)
        return True


def requires_role(role: Role) -> list[FieldExtension]:
    """The extensions of a field that requires ``role``; the printed schema does not show them."""
    return [PermissionExtension([RequiresRole(role)], use_directives=False)]
