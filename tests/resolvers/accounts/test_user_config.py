"""What may be kept is kept to the last digit; what could not be is refused with the limit it breaks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlegraph.errors import BadUserInput
from candlegraph.viewer import Role
from resolvers.accounts.user_config import MAX_BYTES, MAX_DEPTH, MAX_KEYS, encode_config
from storage.database import Database
from storage.users import UserStore

_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-(2.0**63), 2.0**63, allow_nan=False) | _TEXTS
)
CONFIGS = st.dictionaries(
    _TEXTS,
    st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4)),
    max_size=6,
)


def _is(value: object, other: object) -> bool:
    """Equal, and of the same JSON: 1 is not true, and the keys are in the same order."""
    return json.dumps(value) == json.dumps(other)


@given(CONFIGS)
def test_what_is_encoded_reads_back_equal(config: dict[str, Any]) -> None:
    assert _is(json.loads(encode_config(config)), config)


async def test_what_is_stored_comes_back_equal(database: Database) -> None:
    users = UserStore(database)
    user = await users.add("ada", "hash", Role.VIEWER)
    assert user
    drawn: list[dict[str, Any]] = []

    @given(CONFIGS)
    def draw(config: dict[str, Any]) -> None:
        drawn.append(config)

    draw()
    strange = {
        "__proto__": {"a.b": 1},
        "constructor": [],
        "": "",
        "b": 1,
        "a": -0.0,
        "tiny": 5e-324,
        "pi": 0.1 + 0.2,
        "💹": "\u2028\u202e\x01\x7f",
        "sql": "'; drop table users; --",
    }
    for config in [{}, strange, *drawn]:
        saved = await users.save_config(user, encode_config(config), None)
        (kept,) = await users.configs([user.id])
        assert kept == saved
        assert _is(kept.config, config)


def _deep(levels: int, inside: Any = 1) -> dict[str, Any]:
    """That many objects and lists within each other."""
    value: Any = inside
    for level in range(levels - 1):
        value = [value] if level % 2 else {"a": value}
    return {"a": value}


def _long(size: int) -> dict[str, Any]:
    return {"a": "x" * (size - len('{"a":""}'))}


FITS: list[Any] = [
    {},
    _deep(MAX_DEPTH),
    {str(i): i for i in range(MAX_KEYS)},
    {"a": [{str(i): i} for i in range(MAX_KEYS - 1)]},
    _long(MAX_BYTES),
    {"a": [0] * 30_000},
    {"a": 2**53, "b": -(2**53), "c": 1e18, "d": 1.5e-300},
]
BEYOND: list[tuple[Any, str]] = [
    *((value, "JSON object") for value in (None, [], "x", 7, True, 1.5, [{}])),
    *((_deep(levels), "16 levels") for levels in (MAX_DEPTH + 1, 100, 100_000)),
    (_deep(MAX_DEPTH, {}), "16 levels"),
    ({str(i): i for i in range(MAX_KEYS + 1)}, "1000 keys"),
    ({"a": [{str(i): i} for i in range(MAX_KEYS)]}, "1000 keys"),
    ({str(i): i for i in range(100_000)}, "1000 keys"),
    (_long(MAX_BYTES + 1), "65536 bytes"),
    ({"a": "é" * 40_000}, "65536 bytes"),
    ({"a": "x" * 10_000_000}, "65536 bytes"),
    *(
        ({"a": [value]}, "2^53")
        for value in (2**53 + 1, -(2**53) - 1, 2**64, 10**400, 2.0**64, float("nan"), float("inf"))
    ),
    *(({"a": value}, "U+0000") for value in ("\0", "a\0b", "\ud800", "x\udfff")),
    *(({value: 1}, "U+0000") for value in ("\0", "\udc00")),
]


@pytest.mark.parametrize("config", FITS, ids=lambda config: str(config)[:40])
def test_what_lies_on_a_limit_fits(config: dict[str, Any]) -> None:
    assert _is(json.loads(encode_config(config)), config)


@pytest.mark.parametrize(("config", "reason"), BEYOND, ids=[f"{i}-{reason}" for i, (_, reason) in enumerate(BEYOND)])
def test_what_lies_beyond_is_refused_with_the_limit(config: Any, reason: str) -> None:
    with pytest.raises(BadUserInput) as raised:
        encode_config(config)
    assert reason in raised.value.message
    assert len(raised.value.message) < 200
