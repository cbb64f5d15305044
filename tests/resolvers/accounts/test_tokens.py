"""An access token is good as it was signed, or not at all."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candlegraph.errors import TokenExpired, Unauthenticated
from candlegraph.viewer import Role, User
from resolvers.accounts import tokens as module
from resolvers.accounts.tokens import LEEWAY_S, LIFETIME_S, Tokens

KEY, OLD_KEY, OTHER_KEY = b"k" * 40, b"o" * 40, b"x" * 40
USER = User(7, "ada", Role.OPERATOR, disabled=False, version=3)
TOKENS = Tokens(lambda: [KEY, OLD_KEY])
TOKEN = TOKENS.sign(USER)[0]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {
        "iss": "candlegraph",
        "aud": "candlegraph",
        "sub": "7",
        "iat": now,
        "nbf": now,
        "exp": now + LIFETIME_S,
        "jti": "x",
        "typ": "access",
        "roles": ["VIEWER"],
        "ver": 3,
    }
    return {name: value for name, value in {**claims, **changes}.items() if value is not ...}


def _signed(claims: object, header: object = None, key: bytes = KEY) -> str:
    """Any JSON signed with HMAC-SHA-256, whatever its header says."""

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    text = part({"alg": "HS256", "typ": "JWT"} if header is None else header) + "." + part(claims)
    return text + "." + base64.urlsafe_b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode().rstrip("=")


def _is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated) as raised:
        TOKENS.read(token)
    assert raised.value.code == "UNAUTHENTICATED"
    assert len(token) < 20 or token not in raised.value.message


def test_what_was_signed_is_read() -> None:
    token, expires_at = TOKENS.sign(USER)
    claims = TOKENS.read(token)
    assert (claims.user_id, claims.version, claims.expires_at) == (7, 3, expires_at)
    said = jwt.decode(token, options={"verify_signature": False})
    assert said["exp"] - said["iat"] == LIFETIME_S
    assert said["roles"] == ["VIEWER", "OPERATOR"]
    assert "ada" not in json.dumps(said)
    assert TOKENS.sign(USER)[0] != token, "each has an id of its own"
    assert TOKENS.read(_signed(_claims())).user_id == 7


def test_a_key_that_was_changed_is_accepted_for_a_while_and_signs_nothing() -> None:
    old = Tokens(lambda: [OLD_KEY]).sign(USER)[0]
    assert TOKENS.read(old).user_id == 7
    with pytest.raises(Unauthenticated):
        Tokens(lambda: [OLD_KEY]).read(TOKEN)
    with pytest.raises(Unauthenticated):
        Tokens(lambda: [KEY]).read(old)


WRONG_CLAIMS: list[dict[str, Any]] = [
    *({name: ...} for name in _claims()),
    *({name: None} for name in _claims()),
    *({name: {"a": 1}} for name in _claims()),
    *({name: True} for name in _claims()),
    *({name: 1.5} for name in ("iat", "nbf", "exp", "ver", "sub", "jti")),
    *({name: str(int(time.time()) + 60)} for name in ("iat", "nbf", "exp", "ver")),
    *({"exp": value} for value in (0, -1, 2**63, float("inf"), int(time.time()) + 10 * LIFETIME_S)),
    {"iss": "somebody"},
    {"iss": ["candlegraph"]},
    {"aud": "somebody"},
    {"aud": ["candlegraph"]},
    {"aud": ["candlegraph", "somebody"]},
    {"typ": "refresh"},
    {"typ": "Access"},
    {"roles": "ADMIN"},
    {"roles": ["ROOT"]},
    {"roles": [["ADMIN"]]},
    {"roles": [None]},
    *({"sub": value} for value in ("", "0", "-7", "7 ", " 7", "07", "' or 1=1 --", "9" * 30, "\u0667", 7, "7\n")),
    {"nbf": int(time.time()) + 86_400},
    {"iat": int(time.time()) + 86_400, "exp": int(time.time()) + 86_500},
]


# Named by their place: some of them tell the time, and every worker has to find the same tests.
@pytest.mark.parametrize("changes", WRONG_CLAIMS, ids=[f"{n} {' '.join(c)}" for n, c in enumerate(WRONG_CLAIMS)])
def test_a_missing_or_odd_claim_is_refused(changes: dict[str, Any]) -> None:
    _is_refused(_signed(_claims(**changes)))


def test_an_expired_token_says_so_and_only_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    past = int(time.time()) - LIFETIME_S

    def token(ago: int, **more: Any) -> str:
        return _signed(_claims(iat=past - ago, nbf=past - ago, exp=past - ago + LIFETIME_S, **more))

    with pytest.raises(TokenExpired) as raised:
        TOKENS.read(token(60))
    assert raised.value.reason == "TOKEN_EXPIRED"
    with pytest.raises(TokenExpired):
        TOKENS.read(token(LEEWAY_S + 1))
    assert TOKENS.read(token(LEEWAY_S - 2)).user_id == 7
    with pytest.raises(Unauthenticated) as raised_too:
        TOKENS.read(token(60)[:-4] + "AAAA")
    assert raised_too.value.reason is None


HEADERS: list[Any] = [
    *(
        {"alg": alg, "typ": "JWT"}
        for alg in ("none", "None", "NONE", "nOnE", "", "HS384", "HS512", "RS256", "hs256", "HS256 ")
    ),
    {"alg": None},
    {"alg": ["HS256"]},
    {"typ": "JWT"},
    {},
    [],
    "HS256",
    {"alg": "HS256", "crit": ["x"]},
    {"alg": "HS256", "b64": False, "crit": ["b64"]},
]


@pytest.mark.parametrize("header", HEADERS, ids=json.dumps)
def test_an_algorithm_other_than_ours_is_refused_even_where_the_signature_is_right(header: Any) -> None:
    token = _signed(_claims(), header)
    _is_refused(token)
    _is_refused(token.rpartition(".")[0] + ".")
    _is_refused(token.rpartition(".")[0])


@pytest.mark.parametrize("alg", ["HS384", "HS512"])
def test_a_longer_hash_by_our_own_key_is_refused(alg: str) -> None:
    _is_refused(jwt.encode(_claims(), KEY * 2, algorithm=alg))
    with pytest.raises(Unauthenticated):
        Tokens(lambda: [KEY * 2]).read(jwt.encode(_claims(), KEY * 2, algorithm=alg))


@pytest.mark.parametrize("name", ["kid", "jku", "x5u", "jwk"])
def test_a_hint_where_to_find_a_key_is_not_followed(name: str) -> None:
    _is_refused(_signed(_claims(), {"alg": "HS256", name: "../../etc/passwd"}, OTHER_KEY))
    assert TOKENS.read(_signed(_claims(), {"alg": "HS256", "kid": "' or 1=1 --"})).user_id == 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        TOKEN + ".",
        "." + TOKEN,
        TOKEN * 2,
        "é" * 50,
        "\0",
        "x" * 100_000,
        "\u0667.\u0667.\u0667",
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    _is_refused(text)


@given(st.data())
def test_any_mutation_of_a_valid_token_is_refused(data: st.DataObject) -> None:
    """Not one other text is taken for it: base64 alone would admit three more, and any number with padding and blanks."""
    at = data.draw(st.integers(0, len(TOKEN)))
    kind = data.draw(st.sampled_from(["replace", "insert", "delete", "swap"]))
    char = data.draw(st.one_of(st.sampled_from(LETTERS), st.sampled_from(".=+/ \n\t\0"), st.characters()))
    other = data.draw(st.integers(0, len(TOKEN) - 1))
    mutated = {
        "replace": TOKEN[:at] + char + TOKEN[at + 1 :],
        "insert": TOKEN[:at] + char + TOKEN[at:],
        "delete": TOKEN[:at] + TOKEN[at + 1 + other % 5 :],
        "swap": TOKEN[: min(at, other)] + TOKEN[min(at, other) :][::-1],
    }[kind]
    if mutated != TOKEN:
        _is_refused(mutated)


def test_every_other_last_character_is_refused() -> None:
    for letter in LETTERS:
        if TOKEN[-1] != letter:
            _is_refused(TOKEN[:-1] + letter)


@given(st.text(max_size=200) | st.from_regex(module._SHAPE, fullmatch=True))
def test_no_text_brings_anything_but_a_refusal(text: str) -> None:
    _is_refused(text)
