"""Who may do what: a role of the caller, or the owner of a development machine until there is an account."""

from __future__ import annotations

from candlegraph.viewer import Role
from resolvers.context import Context


async def require_role(context: Context, role: Role) -> None:
    """Raise Unauthenticated or Forbidden where the caller may not do what needs ``role``."""
    viewer = context.viewer
    if role in viewer.roles:  # without an `await`, so that fields go on in the same tick
        return
    is_owner = context.origin.trusted and viewer.user is None and viewer.refusal is None
    if not is_owner or role is Role.ADMIN or await context.services.accounts.any_account_exists():
        viewer.require(role)
