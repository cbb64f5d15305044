"""The mutation root."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import strawberry
from strawberry import Info

from candlegraph import backfill as job
from candlegraph import viewer
from candlegraph.viewer import Role
from resolvers.accounts.accounts import Session
from resolvers.backfills import author, cancel_backfill, start_backfill, track, untrack
from resolvers.context import Context
from schema import arguments as arg
from schema.backfill import Backfill, BackfillInput, Tracked, TrackInput
from schema.permission import requires_role
from schema.scalars import JSON
from schema.user import AuthPayload, UserConfig

UsernameArg = Annotated[str, strawberry.argument(description="The name of the account, in any case.")]
PasswordArg = Annotated[str, strawberry.argument(description="Its password.")]
TokenArg = Annotated[str, strawberry.argument(description="The refresh token of the last `AuthPayload`.")]
ConfigArg = Annotated[
    JSON,
    strawberry.argument(
        description="A JSON object of at most 64 kB, 16 levels and 1,000 keys, with integers up to 2^53."
    ),
]
IfUpdatedAtArg = Annotated[
    datetime | None,
    strawberry.argument(
        description="Save only if the last save was at this instant, else CONFLICT; without it the last save wins."
    ),
]
BackfillInputArg = Annotated[BackfillInput, strawberry.argument(description="What to fetch.")]
TrackInputArg = Annotated[TrackInput, strawberry.argument(description="Which symbols.")]


@strawberry.type(description="The mutation root. Over HTTP it needs POST.")
class Mutation:
    """The contract's mutations."""

    @strawberry.mutation(
        description=(
            "Sign in. UNAUTHENTICATED for a wrong name or password, RATE_LIMITED with `retryAfter` after too many attempts."
        ),
        graphql_type=AuthPayload,
    )
    async def login(self, info: Info[Context, None], username: UsernameArg, password: PasswordArg) -> Session:
        context = info.context
        return await context.services.accounts.login(username, password, context.origin.address)

    @strawberry.mutation(
        description=(
            "New tokens for the refresh token of the last AuthPayload, which is used up; replaying it later revokes the "
            "whole family. UNAUTHENTICATED with `reason` TOKEN_USED if another tab used it less than 10 s before."
        ),
        graphql_type=AuthPayload,
    )
    async def refresh(self, info: Info[Context, None], token: TokenArg) -> Session:
        context = info.context
        return await context.services.accounts.refresh(token, context.origin.address)

    @strawberry.mutation(
        description=(
            "Sign out: no token of this sign-in can be refreshed any more. False if it was signed out already."
        )
    )
    async def logout(self, info: Info[Context, None], token: TokenArg) -> bool:
        context = info.context
        return await context.services.accounts.logout(token, context.origin.address)

    @strawberry.mutation(
        description="Store a configuration for the signed-in user and replace the one before.", graphql_type=UserConfig
    )
    async def save_config(
        self, info: Info[Context, None], config: ConfigArg, if_updated_at: IfUpdatedAtArg = None
    ) -> viewer.UserConfig:
        context = info.context
        return await context.services.accounts.save_config(context.viewer, config, if_updated_at)

    @strawberry.mutation(
        description=(
            "Fetch the missing parts of some history; every server of the cluster works on it. BAD_USER_INPUT for a pattern that "
            "matches nothing, a span in the future or beyond the provider's reach, or a million pieces; NOT_FOUND for an "
            "unknown symbol. Needs the role OPERATOR."
        ),
        extensions=requires_role(Role.OPERATOR),
        graphql_type=Backfill,
    )
    async def start_backfill(self, info: Info[Context, None], input: BackfillInputArg) -> job.Backfill:
        return await start_backfill(info.context, input.order(author(info.context)))

    @strawberry.mutation(
        description=(
            "End a job; stored candles stay. Needs the role OPERATOR, for another user's job ADMIN (FORBIDDEN). "
            "NOT_FOUND for an unknown one; an ended one is returned unchanged."
        ),
        extensions=requires_role(Role.OPERATOR),
        graphql_type=Backfill,
    )
    async def cancel_backfill(self, info: Info[Context, None], id: arg.JobArg) -> job.Backfill:
        return await cancel_backfill(info.context, id)

    @strawberry.mutation(
        description=(
            "Track symbols: from now on the server fills the gaps of their 1m candles, the newest first. A symbol that "
            "is tracked already takes the earlier `since`. Needs the role OPERATOR."
        ),
        extensions=requires_role(Role.OPERATOR),
        graphql_type=list[Tracked],
    )
    async def track(self, info: Info[Context, None], input: TrackInputArg) -> list[job.TrackedSeries]:
        return await track(info.context, input.selection(), input.since)

    @strawberry.mutation(
        description="Stop tracking symbols; returns how many were tracked. Stored candles stay. Needs the role OPERATOR.",
        extensions=requires_role(Role.OPERATOR),
    )
    async def untrack(self, info: Info[Context, None], input: TrackInputArg) -> int:
        return await untrack(info.context, input.selection())
