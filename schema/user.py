"""Users in the contract."""

from __future__ import annotations

from datetime import datetime

import strawberry
from strawberry import Info, Parent

from candlegraph.viewer import Role
from candlegraph.viewer import User as UserNoun
from resolvers.context import Context
from schema.scalars import JSON

strawberry.enum(
    Role,
    name="Role",
    description=(
        "VIEWER sees market data and keeps a configuration; OPERATOR also starts backfills and tracks symbols; ADMIN may "
        "do everything."
    ),
)


@strawberry.type(description="An account.")
class User:
    """Resolved from `candlegraph.viewer.User`."""

    @strawberry.field(description="The name to sign in with.")
    def username(parent: Parent[UserNoun]) -> str:
        return parent.name

    @strawberry.field(description="The user's roles, including the implied ones.")
    def roles(parent: Parent[UserNoun]) -> list[Role]:
        return list(parent.role.implied)

    @strawberry.field(description="The last configuration of `saveConfig`; an empty object before the first save.")
    async def config(parent: Parent[UserNoun], info: Info[Context, None]) -> JSON:
        return JSON((await info.context.loaders.config_by_user.load(parent)).config)

    @strawberry.field(description="When it was saved: the `ifUpdatedAt` of a careful `saveConfig`.")
    async def config_updated_at(parent: Parent[UserNoun], info: Info[Context, None]) -> datetime | None:
        return (await info.context.loaders.config_by_user.load(parent)).updated_at


@strawberry.type(description="A user's saved configuration.")
class UserConfig:
    """Resolved from `candlegraph.viewer.UserConfig`."""

    config: JSON = strawberry.field(description="The object, as it was given.")
    updated_at: datetime = strawberry.field(description="When it was saved.")


@strawberry.type(description="The tokens of a sign-in.")
class AuthPayload:
    """Resolved from `resolvers.accounts.accounts.Session`."""

    token: str = strawberry.field(
        description="The access token: `Authorization: Bearer ...`, as a header or in the payload of `connection_init`."
    )
    refresh_token: str = strawberry.field(
        description="Valid for one `refresh`, which returns the next; keep it where no other page can read it."
    )
    expires_at: datetime = strawberry.field(description="When the access token expires.")
    user: User = strawberry.field(description="The signed-in user.")
