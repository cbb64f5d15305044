"""Accounts: sign-in, refresh, sign-out, and saved configurations. See docs/accounts.md for the rules."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from candlegraph.errors import CandlegraphError, TokenUsed, TooManyAttempts, Unauthenticated, Unavailable
from candlegraph.timings import Timings
from candlegraph.viewer import Role, User, UserConfig, Viewer
from resolvers.accounts.passwords import Passwords, check_text
from resolvers.accounts.revocation import RevocationWatch
from resolvers.accounts.tokens import Tokens
from resolvers.accounts.user_config import encode_config
from storage.rate_limits import AttemptLimit, RateLimiter
from storage.users import UserStore

log = logging.getLogger(__name__)

FAMILY_LIFETIME_S = 30 * 86_400
REPLAY_GRACE_S = 10

_WRONG_CREDENTIALS = "The user name or the password is wrong."
_INVALID_REFRESH_TOKEN = "The refresh token is not valid: sign in again."  # noqa: S105 - a sentence

# Only attempts from the same address can use up the first bucket. The third slows a guesser with many addresses down;
# it does not count an address with a recent sign-in, so that a stranger cannot lock the owner out.
_ACCOUNT_FROM_ADDRESS_LIMIT = AttemptLimit(burst=10, every_s=30)
_ADDRESS_LIMIT = AttemptLimit(burst=60, every_s=2)
_ACCOUNT_LIMIT = AttemptLimit(burst=100, every_s=6)
_REFRESH_LIMIT = AttemptLimit(burst=120, every_s=0.5)
_SAVE_LIMIT = AttemptLimit(burst=60, every_s=1)
_KNOWN_ADDRESS_TTL_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Session:
    """The result of a sign-in or a refresh."""

    token: str
    refresh_token: str
    expires_at: datetime
    user: User


class Accounts:
    """The operations of the API on accounts. Raises Unavailable while the database is unavailable."""

    def __init__(
        self,
        users: UserStore,
        tokens: Tokens,
        limiter: RateLimiter,
        *,
        require_auth: bool = False,
        timings: Timings | None = None,
    ) -> None:
        """With ``require_auth``, anonymous callers see nothing."""
        self._users = users
        self._tokens = tokens
        self._limiter = limiter
        self._passwords = Passwords()
        self._anonymous = Viewer(roles=frozenset() if require_auth else frozenset({Role.VIEWER}))
        self.revocations = RevocationWatch(users, (timings or Timings()).account_freshness_s)

    async def identify(self, authorization: str | None) -> Viewer:
        """The caller of this Authorization header. Never raises: the fields that need an identity report the error."""
        scheme, _, token = (authorization or "").strip().partition(" ")
        if not scheme or (token and scheme.lower() != "bearer"):  # a header for a proxy in front is not ours
            return self._anonymous
        try:
            if not token:
                raise Unauthenticated("Authorization must be `Bearer` and an access token.")
            claims = self._tokens.read(token.strip())
            user = await self.revocations.user(claims.user_id)
            if user is None or user.version != claims.version:
                raise Unauthenticated("The access token is no longer valid: sign in again.")
        except CandlegraphError as refusal:
            return Viewer(roles=frozenset(), refusal=refusal)
        return Viewer(user, frozenset(user.role.implied), claims.expires_at)

    async def any_account_exists(self) -> bool:
        """Whether there is any account."""
        return await self._users.any_exist()

    async def login(self, username: str, password: str, address: str) -> Session:
        """Sign in. An unknown user, a disabled one and a wrong password give the same Unauthenticated, after the same time."""
        check_text("username", username)
        check_text("password", password)
        name, address = username.lower(), network(address)
        pair = f"login:{name}:{address}"
        known = f"known:{name}:{address}"
        await self._count(f"login:{address}", _ADDRESS_LIMIT)
        await self._count(pair, _ACCOUNT_FROM_ADDRESS_LIMIT)
        if not await self._limiter.has_mark(known):
            await self._count(f"login:{name}", _ACCOUNT_LIMIT)
        try:
            found = await self._users.credentials(username)
        except Unavailable:
            await self._limiter.reset(pair)  # it was no attempt
            raise
        user, password_hash = found or (None, None)
        right, better_hash = await self._passwords.check(password_hash, password)
        if user is None or password_hash is None or not right or user.disabled:
            raise Unauthenticated(_WRONG_CREDENTIALS)
        await self._limiter.reset(pair)
        await self._limiter.set_mark(known, _KNOWN_ADDRESS_TTL_S)
        if better_hash:
            await self._users.rehash(user, password_hash, better_hash)
        refresh_token = _new_token()
        if not await self._users.begin_session(user, _hash(refresh_token), FAMILY_LIFETIME_S):
            raise Unauthenticated(_WRONG_CREDENTIALS)
        return self._session(user, refresh_token)

    async def refresh(self, token: str, address: str) -> Session:
        """Use a refresh token up for new tokens. TokenUsed where another tab was faster, else Unauthenticated."""
        await self._count(f"refresh:{network(address)}", _REFRESH_LIMIT)
        successor = _new_token()
        user = await self._users.rotate_token(_hash(token), _hash(successor))
        if user:
            return self._session(user, successor)
        misuse = await self._users.classify_misuse(_hash(token), REPLAY_GRACE_S)
        if misuse and misuse.recent:
            raise TokenUsed
        if misuse:
            log.warning("user %s presented a used refresh token again: its sessions are ended", misuse.user_id)
        raise Unauthenticated(_INVALID_REFRESH_TOKEN)

    async def logout(self, token: str, address: str) -> bool:
        """End the session of a refresh token; False if there is none to end."""
        await self._count(f"refresh:{network(address)}", _REFRESH_LIMIT)
        return await self._users.end_session(_hash(token))

    async def save_config(self, viewer: Viewer, config: object, if_updated_at: datetime | None) -> UserConfig:
        """Store the viewer's own configuration. BadUserInput; Conflict if it was saved after ``if_updated_at``."""
        user = viewer.account()
        text = encode_config(config)
        await self._count(f"config:{user.id}", _SAVE_LIMIT)
        return await self._users.save_config(user, text, if_updated_at)

    async def configs(self, users: Sequence[User]) -> list[UserConfig]:
        """The configuration of each user."""
        return await self._users.configs([user.id for user in users])

    async def _count(self, key: str, bucket: AttemptLimit) -> None:
        if wait := await self._limiter.count_attempt(key, bucket):
            raise TooManyAttempts(f"Too many attempts: try again in {wait:.0f} s.", retry_after=wait)

    def _session(self, user: User, refresh_token: str) -> Session:
        token, expires_at = self._tokens.sign(user)
        return Session(token, refresh_token, datetime.fromtimestamp(expires_at, UTC), user)


def _new_token() -> str:
    return secrets.token_urlsafe(32)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def network(address: str) -> str:
    """The network of one client: an IPv6 host has 2^64 addresses."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((int(found), 64), strict=False))
    return str(found)
