"""Access tokens: JWTs with one algorithm, HS256; every claim is required and checked (RFC 7519, RFC 8725)."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jwt

from candlegraph.errors import TokenExpired, Unauthenticated
from candlegraph.viewer import Role, User

LIFETIME_S = 900
LEEWAY_S = 5
ISSUER = AUDIENCE = "candlegraph"

_INTEGERS = ("iat", "nbf", "exp", "ver")
_REQUIRED = ["iss", "aud", "sub", "iat", "nbf", "exp", "jti", "typ", "roles", "ver"]
# The last character of 256 bits in base64url has two bits to spare: a decoder takes others for the same signature.
_SHAPE = re.compile(r"[A-Za-z0-9_-]{1,200}\.[A-Za-z0-9_-]{1,2000}\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_INVALID = "The access token is not valid: sign in again."


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """The claims of a valid token."""

    user_id: int
    version: int
    expires_at: int  # seconds since the epoch


class Tokens:
    """Signs with the first key, and accepts signatures of any of them."""

    def __init__(self, keys: Callable[[], Sequence[bytes]]) -> None:
        """Get the keys when they are needed: a server without sign-ins needs none."""
        self._make_keys = keys

    @cached_property
    def _keys(self) -> Sequence[bytes]:
        return self._make_keys()

    def sign(self, user: User) -> tuple[str, int]:
        """An access token for ``user``, and when it expires, in seconds since the epoch."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(user.id),
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIME_S,
            "jti": secrets.token_urlsafe(12),
            "typ": "access",
            "roles": [role.name for role in user.role.implied],
            "ver": user.version,
        }
        return jwt.encode(claims, self._keys[0], algorithm="HS256"), now + LIFETIME_S

    def read(self, token: str) -> TokenClaims:
        """Check a token. TokenExpired where its expiry is the only problem, else Unauthenticated."""
        if not _SHAPE.fullmatch(token):
            raise Unauthenticated(_INVALID)
        for key in self._keys:
            try:
                return _claims(_decode(token, key))
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise TokenExpired from None
            except jwt.InvalidTokenError:
                break
        raise Unauthenticated(_INVALID)


def _decode(token: str, key: bytes) -> dict[str, Any]:
    return jwt.decode(
        token,
        key,
        algorithms=["HS256"],
        audience=AUDIENCE,
        issuer=ISSUER,
        leeway=LEEWAY_S,
        options={"require": _REQUIRED, "strict_aud": True},
    )


def _claims(found: dict[str, Any]) -> TokenClaims:
    """Check what the library leaves open: the types of the claims, the kind of the token, and a lifetime too long to be ours."""
    subject, roles = found["sub"], found["roles"]
    sound = (
        found["typ"] == "access"
        and all(type(found[name]) is int for name in _INTEGERS)
        and found["exp"] - found["iat"] <= LIFETIME_S
        and re.fullmatch(r"[1-9][0-9]{0,8}", subject)
        and isinstance(found["jti"], str)
        and isinstance(roles, list)
        and all(role in [*Role.__members__] for role in roles)
    )
    if not sound:
        raise jwt.InvalidTokenError
    return TokenClaims(int(subject), found["ver"], found["exp"])
