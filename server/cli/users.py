"""The commands `user ...`: accounts."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from server.cli.command import command, print_table

if TYPE_CHECKING:
    from resolvers.accounts.administration import UserAdministration
    from server.settings import Settings


@click.group()
def user() -> None:
    """Create, list, disable and enable accounts, and change their passwords."""


@user.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(["viewer", "operator", "admin"]), default="viewer", show_default=True)
@command
async def add_user(settings: Settings, name: str, role: str) -> None:
    """Create an account; the command prompts for the password, or reads the first line of stdin."""
    from candlegraph.viewer import Role

    async with _administration(settings) as accounts:
        made = await accounts.add(name, _password(), Role(role))
    click.echo(f"{made.name} may sign in, as {made.role.value}.")


@user.command("list")
@command
async def list_users(settings: Settings) -> None:
    """List the accounts."""
    from server.wiring import database
    from storage.users import UserStore

    async with database(settings) as opened:
        rows = [
            (one.name, one.role.value, "closed" if one.disabled else "open") for one in await UserStore(opened).all()
        ]
    print_table(("name", "role", "state"), [*rows])


@user.command("disable")
@click.argument("name")
@command
async def disable_user(settings: Settings, name: str) -> None:
    """Disable an account: its sign-ins end within a second."""
    await _disable(settings, name, disabled=True)


@user.command("enable")
@click.argument("name")
@command
async def enable_user(settings: Settings, name: str) -> None:
    """Enable an account again."""
    await _disable(settings, name, disabled=False)


@user.command("password")
@click.argument("name")
@command
async def change_password(settings: Settings, name: str) -> None:
    """Change a password, which ends every session of the account."""
    async with _administration(settings) as accounts:
        changed = await accounts.change_password(name, _password())
    click.echo(f"{changed.name} has a new password; every older sign-in has ended.")


async def _disable(settings: Settings, name: str, *, disabled: bool) -> None:
    async with _administration(settings) as accounts:
        account = await accounts.disable(name, disabled=disabled)
    click.echo(f"{account.name} may {'no longer sign in' if disabled else 'sign in again'}.")


@asynccontextmanager
async def _administration(settings: Settings) -> AsyncIterator[UserAdministration]:
    from resolvers.accounts.administration import UserAdministration
    from server.wiring import database
    from storage.users import UserStore

    async with database(settings) as opened:
        yield UserAdministration(UserStore(opened))


def _password() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")
