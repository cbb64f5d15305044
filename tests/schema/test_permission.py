"""Which roles may query which fields, and the errors for the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import strawberry
from starlette.requests import Request
from strawberry import Info

from candlegraph.errors import TokenExpired
from candlegraph.viewer import Role, User, Viewer
from resolvers.context import Context, Origin
from schema.build import Schema
from schema.errors import CodedErrors
from schema.permission import requires_role
from server.transport.loopback import is_loopback
from tests.fakes.laboratory import ApiWorld, laboratory


@strawberry.type
class Query:
    @strawberry.field(extensions=requires_role(Role.VIEWER))
    async def viewer(self, info: Info[Context, None]) -> bool | None:
        return True

    @strawberry.field(extensions=requires_role(Role.OPERATOR))
    async def operator(self, info: Info[Context, None]) -> bool | None:
        return True

    @strawberry.field(extensions=requires_role(Role.ADMIN))
    def admin(self, info: Info[Context, None]) -> bool | None:
        return True


SCHEMA = Schema(Query, extensions=[CodedErrors])


@pytest.fixture(scope="module")
async def empty(new_database: Callable[..., object], migrated_template: str) -> AsyncIterator[ApiWorld]:
    """A laboratory without any account."""
    async with laboratory(await new_database(migrated_template)) as opened:
        yield opened


async def _may(lab: ApiWorld, viewer: Viewer, *, trusted: bool = False) -> dict[str, Any]:
    """Each field: True, or the code and the reason of its error."""
    context = Context(lab.services, "test", viewer=viewer, origin=Origin("127.0.0.1", trusted))
    result = await SCHEMA.execute("{ viewer operator admin }", context_value=context)
    errors = {
        error.path[0]: (error.extensions["code"], error.extensions.get("reason")) for error in result.errors or ()
    }
    return {name: errors.get(name, value) for name, value in (result.data or {}).items()}


def _signed_in(role: Role) -> Viewer:
    return Viewer(User(1, "ada", role, disabled=False, version=1), frozenset(role.implied))


STRANGER = ("UNAUTHENTICATED", None)
FORBIDDEN = ("FORBIDDEN", None)
EXPIRED = ("UNAUTHENTICATED", "TOKEN_EXPIRED")


@pytest.mark.parametrize("trusted", [False, True])
async def test_each_role_may_what_those_before_it_may(empty: ApiWorld, trusted: bool) -> None:
    """The address of a signed-in caller makes no difference."""
    every = ("viewer", "operator", "admin")
    for count, role in enumerate(Role, 1):
        expected = {name: True if index < count else FORBIDDEN for index, name in enumerate(every)}
        assert await _may(empty, _signed_in(role), trusted=trusted) == expected


async def test_a_stranger_sees_market_data_alone_and_not_even_that_where_it_is_closed(empty: ApiWorld) -> None:
    assert await _may(empty, Viewer()) == {"viewer": True, "operator": STRANGER, "admin": STRANGER}
    closed = await _may(empty, Viewer(roles=frozenset()))
    assert closed == {"viewer": STRANGER, "operator": STRANGER, "admin": STRANGER}


@pytest.mark.parametrize("trusted", [False, True])
async def test_a_token_that_is_not_good_is_worse_than_none(empty: ApiWorld, trusted: bool) -> None:
    viewer = Viewer(roles=frozenset(), refusal=TokenExpired())
    assert await _may(empty, viewer, trusted=trusted) == dict.fromkeys(("viewer", "operator", "admin"), EXPIRED)


async def test_a_local_caller_is_operator_until_there_is_an_account(
    new_database: Callable[..., object], migrated_template: str
) -> None:
    async with laboratory(await new_database(migrated_template)) as lab:
        assert await _may(lab, Viewer(), trusted=True) == {"viewer": True, "operator": True, "admin": STRANGER}
        async with lab.database.connection() as connection:
            await connection.execute("insert into users (name, password_hash, role) values ('ada', '', 'viewer')")
        assert await _may(lab, Viewer(), trusted=True) == {"viewer": True, "operator": STRANGER, "admin": STRANGER}


@pytest.mark.parametrize(
    ("peer", "host", "more", "expected"),
    [
        ("127.0.0.1", "127.0.0.1:8000", {}, True),
        ("127.0.0.1", "localhost:8000", {}, True),
        ("::1", "[::1]:8000", {}, True),
        ("127.0.0.1", "rebound.example:8000", {}, False),
        ("127.0.0.1", "localhost.example", {}, False),
        ("127.0.0.1", "", {}, False),
        ("192.0.2.1", "localhost:8000", {}, False),
        ("127.0.0.1", "localhost", {"x-forwarded-for": "127.0.0.1"}, False),
        ("127.0.0.1", "localhost", {"forwarded": "for=127.0.0.1"}, False),
    ],
)
def test_only_a_direct_request_by_a_name_of_this_machine_is_from_here(
    peer: str, host: str, more: dict[str, str], expected: bool
) -> None:
    headers = [(name.encode(), value.encode()) for name, value in {"host": host, **more}.items()]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/graphql",
        "headers": headers,
        "client": (peer, 1),
        "scheme": "http",
    }
    assert is_loopback(Request(scope)) is expected
