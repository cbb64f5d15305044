"""Who may read the schema; and texts of clients that are too long to be kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from candlegraph.viewer import Role, User, Viewer
from resolvers.context import Context, Introspection, Origin
from schema import broadcast, encoding
from schema.build import build_schema
from tests.server.stage import Stage, services

SCHEMA = build_schema()
ASKED = ("{ __schema { queryType { name } } }", '{ ...F } fragment F on Query { a: __type(name: "Query") { name } }')
MISTAKEN = '{ candle(market: "m", provider: "p", symbol: "s") { complete } }'
SIGNED_IN = {"viewer": Viewer(User(1, "ada", Role.VIEWER, disabled=False, version=1), frozenset({Role.VIEWER}))}
OWNER = {"origin": Origin(trusted=True)}


async def _answer(allowed: Introspection, text: str, **who: Any) -> tuple[Any, str, str]:
    context = Context(replace(services(Stage()), introspection=allowed), "test", **who)
    result = await SCHEMA.execute(text, context_value=context)
    error = result.errors[0] if result.errors else None
    return result.data, error.message if error else "", (error.extensions or {})["code"] if error else ""


@pytest.mark.parametrize(
    ("allowed", "who", "code"),
    [
        (Introspection.ON, {}, ""),
        (Introspection.SIGNED_IN, {}, "UNAUTHENTICATED"),
        (Introspection.SIGNED_IN, SIGNED_IN, ""),
        (Introspection.SIGNED_IN, OWNER, ""),
        (Introspection.OFF, {}, "FORBIDDEN"),
        (Introspection.OFF, SIGNED_IN, "FORBIDDEN"),
        (Introspection.OFF, OWNER, "FORBIDDEN"),
    ],
)
async def test_only_permitted_callers_can_read_or_guess_the_schema(
    allowed: Introspection, who: dict[str, Any], code: str
) -> None:
    """The cache of documents does not pass a document that was valid for another caller."""
    for text in ASKED:
        data, _, found = await _answer(allowed, text, **who)
        assert (found, data is None) == (code, bool(code))
    _, message, _ = await _answer(allowed, MISTAKEN, **who)
    assert ("Did you mean" in message) == (not code)
    assert (await _answer(allowed, "{ __typename }", **who))[0] == {"__typename": "Query"}


async def _subscribe(text: str) -> None:
    context = Context(services(Stage()), "test")
    events: AsyncIterator[Any] = await SCHEMA.open(text, None, None, context)
    assert "caughtUp" in await anext(events)
    await events.aclose()  # type: ignore[attr-defined]


async def test_a_padded_text_is_not_kept() -> None:
    """500 of them took 540 MB."""
    text = 'subscription { candles(market: "m", provider: "p", symbol: "s") { caughtUp } } # '
    before = broadcast._selection.cache_info().currsize
    for number in range(3):
        await _subscribe(f"{text}{number}{' ' * 100_000}")
    assert broadcast._selection.cache_info().currsize == before
    await _subscribe(f"{text} short")
    assert broadcast._selection.cache_info().currsize == before + 1


def test_long_names_of_fields_are_not_kept() -> None:
    before = encoding._kept_maker.cache_info().currsize
    for number in range(3):
        name = f"{'x' * 100_000}{number}"
        assert encoding.make_rows((name,), [[1]]) == [{name: 1}]
    assert encoding._kept_maker.cache_info().currsize == before
