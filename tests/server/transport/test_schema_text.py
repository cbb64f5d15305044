"""The schema at an address of its own, for callers with permission."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import pytest

from candlegraph.viewer import Role
from resolvers.accounts.tokens import Tokens
from resolvers.context import Introspection
from schema.build import build_schema
from storage.database import Database
from storage.users import UserStore
from tests.server.stage import Stage, services, staged


@pytest.mark.parametrize(
    ("allowed", "stranger", "user"),
    [
        (Introspection.ON, 200, 200),
        (Introspection.SIGNED_IN, (401, "UNAUTHENTICATED"), 200),
        (Introspection.OFF, (403, "FORBIDDEN"), (403, "FORBIDDEN")),
    ],
)
async def test_the_schema_is_a_text_for_those_who_may_read_it(
    database: Database, allowed: Introspection, stranger: object, user: object
) -> None:
    users, tokens = UserStore(database), Tokens(lambda: [b"k" * 32])
    token, _ = tokens.sign(await users.add("ann", "hash", Role.VIEWER))
    made = replace(services(Stage(), users, tokens), introspection=allowed)
    async with staged(made) as serving, aiohttp.ClientSession(serving.url) as http:
        for headers, expected in (({}, stranger), ({"authorization": f"Bearer {token}"}, user)):
            async with http.get("/schema.graphql", headers=headers) as response:
                if expected == 200:
                    assert (response.status, response.content_type) == (200, "text/plain")
                    assert await response.text() == build_schema().as_str() + "\n"
                else:
                    (error,) = (await response.json())["errors"]
                    assert (response.status, error["extensions"]["code"]) == expected
