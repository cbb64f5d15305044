"""Signing in, staying signed in, and every way not to."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from argon2 import PasswordHasher, extract_parameters

from candlegraph.errors import (
    BadUserInput,
    CandlegraphError,
    Conflict,
    NotFound,
    TokenUsed,
    TooManyAttempts,
    Unauthenticated,
    Unavailable,
)
from candlegraph.supervision import Supervisor
from candlegraph.viewer import Role, User, Viewer
from resolvers.accounts import accounts as module
from resolvers.accounts import passwords as passwords_module
from resolvers.accounts.accounts import Accounts, Session
from resolvers.accounts.administration import UserAdministration
from resolvers.accounts.passwords import Passwords
from resolvers.accounts.tokens import Tokens
from storage.database import Database
from storage.rate_limits import AttemptLimit, RateLimiter
from storage.users import UserStore
from tests.waiting import HANG_S, eventually

PASSWORD = "correct horse battery"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
HERE = "192.0.2.1"


@dataclass
class House:
    """Accounts over a database of their own, with passwords that cost little."""

    database: Database
    users: UserStore
    roster: UserAdministration
    accounts: Accounts
    ada: User

    async def login(self, name: str = "ada", password: str = PASSWORD, address: str = HERE) -> Session:
        return await self.accounts.login(name, password, address)

    async def age(self, interval: str) -> None:
        """Let everything have happened longer ago."""
        async with self.database.connection() as connection:
            await connection.execute(f"update refresh_tokens set used_at = used_at - interval '{interval}'")
            await connection.execute(f"update refresh_families set expires_at = expires_at - interval '{interval}'")

    async def viewer(self, session: Session) -> Viewer:
        return await self.accounts.identify(f"Bearer {session.token}")


@pytest.fixture
async def house(database: Database) -> AsyncIterator[House]:
    users = UserStore(database)
    accounts = Accounts(users, Tokens(lambda: [b"a key of thirty-two bytes and more"]), RateLimiter())
    roster = UserAdministration(users)
    accounts._passwords = roster._passwords = Passwords(CHEAP)
    supervisor = Supervisor()
    supervisor.start("accounts", accounts.revocations.run)
    yield House(database, users, roster, accounts, await roster.add("ada", PASSWORD, Role.OPERATOR))
    await supervisor.close()


async def test_a_sign_in_brings_tokens_that_say_who_it_is(house: House) -> None:
    session = await house.login()
    viewer = await house.viewer(session)
    assert viewer.user == session.user == house.ada
    assert viewer.roles == {Role.VIEWER, Role.OPERATOR}
    assert session.expires_at.timestamp() == viewer.expires_at
    assert (await house.login("ADA")).user == house.ada
    assert len(session.refresh_token) == 43


async def test_only_hashes_of_secrets_are_stored(house: House) -> None:
    session = await house.login()
    again = await house.accounts.refresh(session.refresh_token, HERE)
    async with house.database.connection() as connection:
        for table in ("users", "refresh_families", "refresh_tokens"):
            rows = str(await connection.fetch(f"select t::text from {table} t"))
            for secret in (PASSWORD, session.refresh_token, again.refresh_token, session.token):
                assert secret not in rows
    assert (await house.users.credentials("ada"))[1].startswith("$argon2id$")


WRONG = [
    ("ada", "wrong horse battery"),
    ("ada", PASSWORD + " "),
    ("ada", PASSWORD.upper()),
    ("ada ", PASSWORD),
    ("adb", PASSWORD),
    ("' or 1=1 --", PASSWORD),
    ("%", PASSWORD),
    ("\uff21da", PASSWORD),
    ("x" * 256, "y" * 256),
]


@pytest.mark.parametrize(("name", "password"), WRONG, ids=[name[:12] for name, _ in WRONG])
async def test_a_wrong_name_and_a_wrong_password_give_the_same_error(house: House, name: str, password: str) -> None:
    with pytest.raises(Unauthenticated) as raised:
        await house.login(name, password)
    assert type(raised.value) is Unauthenticated
    assert raised.value.message == "The user name or the password is wrong."


@pytest.mark.parametrize("text", ["", "x" * 257, "x" * 1_000_000, "a\0b", "\0", "\ud800"], ids=range(6))
async def test_what_can_be_no_name_or_password_is_bad_input(house: House, text: str) -> None:
    for name, password in ((text, PASSWORD), ("ada", text)):
        with pytest.raises(BadUserInput) as raised:
            await house.login(name, password)
        assert len(raised.value.message) < 100
    for name, password in ((text, PASSWORD), ("bob", text)):
        with pytest.raises(BadUserInput):
            await house.roster.add(name, password, Role.VIEWER)


@pytest.mark.parametrize("name", ["a b", "-a", ".", "é", "a/b", "x" * 65, "a\n"])
async def test_a_name_that_could_be_taken_for_another_is_not_given(house: House, name: str) -> None:
    with pytest.raises(BadUserInput):
        await house.roster.add(name, PASSWORD, Role.VIEWER)


async def test_a_name_is_given_once_in_any_case(house: House) -> None:
    with pytest.raises(Conflict):
        await house.roster.add("ADA", PASSWORD, Role.VIEWER)
    for change in (house.roster.disable("bob", disabled=True), house.roster.change_password("bob", PASSWORD)):
        with pytest.raises(NotFound):
            await change
    with pytest.raises(BadUserInput):
        await house.roster.add("bob", "short", Role.VIEWER)


async def test_a_password_is_the_same_however_a_keyboard_composes_it(house: House) -> None:
    await house.roster.add("zoe", "café-crème-brûlée", Role.VIEWER)
    assert await house.login("zoe", "cafe\u0301-cre\u0300me-bru\u0302le\u0301e")


async def test_of_twenty_refreshes_at_once_exactly_one_has_a_successor(house: House) -> None:
    for _ in range(5):
        session = await house.login()
        results = await asyncio.gather(
            *(house.accounts.refresh(session.refresh_token, HERE) for _ in range(20)), return_exceptions=True
        )
        assert Counter(map(type, results)) == {Session: 1, TokenUsed: 19}
        (winner,) = (result for result in results if isinstance(result, Session))
        assert (await house.accounts.refresh(winner.refresh_token, HERE)).user == house.ada, "nothing was revoked"


async def test_a_token_that_is_used_again_later_ends_its_family_and_no_other(house: House) -> None:
    first, other = await house.login(), await house.login()
    second = await house.accounts.refresh(first.refresh_token, HERE)
    third = await house.accounts.refresh(second.refresh_token, HERE)
    await house.age("9 seconds")
    with pytest.raises(TokenUsed):
        await house.accounts.refresh(first.refresh_token, HERE)
    await house.age("2 seconds")
    for session in (first, third, second, first):
        with pytest.raises(Unauthenticated) as raised:
            await house.accounts.refresh(session.refresh_token, HERE)
        assert type(raised.value) is Unauthenticated
    assert await house.accounts.refresh(other.refresh_token, HERE)


async def test_a_successor_that_is_made_while_the_family_is_ended_ends_with_it(house: House) -> None:
    for _ in range(10):
        first = await house.login()
        second = await house.accounts.refresh(first.refresh_token, HERE)
        await house.age("11 seconds")
        results = await asyncio.gather(
            house.accounts.refresh(second.refresh_token, HERE),
            house.accounts.refresh(first.refresh_token, HERE),
            return_exceptions=True,
        )
        for result in (*results, second):
            if isinstance(result, Session):
                with pytest.raises(Unauthenticated):
                    await house.accounts.refresh(result.refresh_token, HERE)


async def test_a_family_has_an_end_however_often_it_is_refreshed(house: House) -> None:
    session = await house.login()
    for _ in range(3):
        await house.age("9 days")
        session = await house.accounts.refresh(session.refresh_token, HERE)
    await house.age("4 days")
    with pytest.raises(Unauthenticated):
        await house.accounts.refresh(session.refresh_token, HERE)
    await house.login()
    async with house.database.connection() as connection:
        assert await connection.fetchval("select count(*) from refresh_families") == 1, "what has ended is swept"


@pytest.mark.parametrize("token", ["", "x", "x" * 43, "\0", "\ud800", "x" * 100_000, "' or 1=1 --"], ids=range(7))
async def test_what_is_no_refresh_token_is_refused(house: House, token: str) -> None:
    session = await house.login()
    with pytest.raises(Unauthenticated):
        await house.accounts.refresh(token, HERE)
    with pytest.raises(Unauthenticated):
        await house.accounts.refresh(session.token, HERE)
    assert await house.accounts.logout(token, HERE) is False


async def test_a_refresh_token_is_no_access_token(house: House) -> None:
    session = await house.login()
    viewer = await house.accounts.identify(f"Bearer {session.refresh_token}")
    assert viewer.user is None
    assert isinstance(viewer.refusal, Unauthenticated)


async def test_signing_out_ends_the_family_once(house: House) -> None:
    session = await house.login()
    newer = await house.accounts.refresh(session.refresh_token, HERE)
    assert await house.accounts.logout(newer.refresh_token, HERE) is True
    assert await house.accounts.logout(newer.refresh_token, HERE) is False
    with pytest.raises(Unauthenticated):
        await house.accounts.refresh(newer.refresh_token, HERE)


@pytest.mark.parametrize("change", ["disable", "password", "delete"])
async def test_a_disabled_changed_or_deleted_account_is_signed_out(house: House, change: str) -> None:
    session = await house.login()
    assert (await house.viewer(session)).user
    ended = asyncio.create_task(house.accounts.revocations.ended(house.ada))
    await asyncio.sleep(0)
    if change == "disable":
        await house.roster.disable("Ada", disabled=True)
    elif change == "password":
        await house.roster.change_password("Ada", "another password")
    else:
        async with house.database.connection() as connection:
            await connection.execute("delete from users")

    async def refused() -> bool:
        return (await house.viewer(session)).refusal is not None

    await eventually(refused)
    await asyncio.wait_for(ended, HANG_S)
    with pytest.raises(Unauthenticated):
        await house.accounts.refresh(session.refresh_token, HERE)
    if change == "disable":
        with pytest.raises(Unauthenticated, match="The user name or the password is wrong"):
            await house.login()
        await house.roster.disable("ada", disabled=False)
        again = await house.login()

        async def admitted() -> bool:
            return (await house.viewer(again)).user is not None

        await eventually(admitted)
        house.accounts.revocations._known.clear()  # it is looked up again
        assert (await house.viewer(session)).refusal, "what had ended stays ended"


async def test_a_database_that_is_away_is_never_a_wrong_password(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await house.login()
    house.accounts.revocations._known.clear()  # nothing is known any more

    async def away(*_: object) -> None:
        raise Unavailable(retry_after=1)

    with monkeypatch.context() as patch:
        patch.setattr(house.users, "credentials", away)
        patch.setattr(house.users, "rotate_token", away)
        patch.setattr(house.users, "find", away)
        for _ in range(30):
            with pytest.raises(Unavailable):
                await house.login()
        with pytest.raises(Unavailable):
            await house.accounts.refresh(session.refresh_token, HERE)
        assert isinstance((await house.viewer(session)).refusal, Unavailable)
    assert (await house.viewer(session)).user
    assert await house.login()
    assert await house.accounts.refresh(session.refresh_token, HERE)


async def test_a_guesser_waits_and_no_other_user_does(house: House) -> None:
    """A stranger's attempts do not count for the owner, who has another address."""
    await house.login(address="198.51.100.7")
    found: Counter[str] = Counter()
    waits: list[float] = []
    for _ in range(15):
        try:
            await house.login(password="guess number one", address=HERE)
        except CandlegraphError as error:
            found[error.code] += 1
            waits.append(error.retry_after or 0)
    assert found == {"UNAUTHENTICATED": 10, "RATE_LIMITED": 5}
    assert all(0 < wait <= 30 for wait in waits[10:])
    with pytest.raises(TooManyAttempts):
        await house.login(address=HERE)
    assert await house.login(address="198.51.100.7")
    assert await house.login(address="203.0.113.9")


async def test_an_address_cannot_try_one_name_after_the_other(house: House) -> None:
    found: Counter[str] = Counter()
    for number in range(70):
        try:
            await house.login(f"user{number}", address=f"2001:db8::{number:x}")
        except CandlegraphError as error:
            found[error.code] += 1
    assert found["UNAUTHENTICATED"] <= 62, "the addresses of one IPv6 network are one"
    assert found["RATE_LIMITED"] >= 8


async def test_a_thousand_addresses_slow_an_account_down_but_not_its_owner(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ACCOUNT_LIMIT", AttemptLimit(burst=20, every_s=6))
    await house.login(address="198.51.100.7")
    found: Counter[str] = Counter()
    for number in range(40):
        try:
            await house.login(password="guess number one", address=f"10.0.0.{number}")
        except CandlegraphError as error:
            found[error.code] += 1
    assert found == {"UNAUTHENTICATED": 19, "RATE_LIMITED": 21}
    for _ in range(5):
        assert await house.login(address="198.51.100.7"), "where the owner has signed in before"
    with pytest.raises(TooManyAttempts) as raised:
        await house.login(address="203.0.113.9")
    assert raised.value.retry_after <= 6, "from elsewhere it is a matter of seconds"


async def test_signing_in_and_out_all_day_is_no_guessing(house: House) -> None:
    for _ in range(25):
        await house.login()


async def test_a_better_hash_takes_the_place_of_an_older_one(house: House) -> None:
    _, old = await house.users.credentials("ada")
    house.accounts._passwords = Passwords(PasswordHasher(time_cost=2, memory_cost=16, parallelism=1))
    session = await house.login()
    _, new = await house.users.credentials("ada")
    assert old != new
    assert "m=16,t=2,p=1" in new
    assert (await house.viewer(session)).user, "it signs no user out"
    await house.login()
    assert (await house.users.credentials("ada"))[1] == new


def test_the_cost_of_a_password_is_what_owasp_advises() -> None:
    hasher = passwords_module._hasher
    assert (hasher.memory_cost, hasher.time_cost, hasher.parallelism) >= (19_456, 2, 1)
    assert hasher.hash("x").startswith("$argon2id$")


async def test_at_most_two_passwords_are_hashed_at_once_and_the_loop_goes_on() -> None:
    passwords, running, most = Passwords(), 0, 0
    real = passwords._hasher

    class Watched:
        def hash(self, password: str) -> str:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return str(real.hash(password))
            finally:
                running -= 1

    passwords._hasher = Watched()  # type: ignore[assignment]
    work = asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(8)))
    ticks = 0
    while not work.done():
        await asyncio.sleep(0.002)
        ticks += 1
    await work
    assert most == 2
    assert ticks > 10


async def test_callers_that_give_up_do_not_widen_the_hashing() -> None:
    """A thread cannot be cancelled: the two that hash still count after their callers have gone."""
    passwords, held, running = Passwords(), threading.Event(), []

    class Held:
        def hash(self, password: str) -> str:
            running.append(password)
            held.wait()
            return password

    passwords._hasher = Held()  # type: ignore[assignment]
    for _ in range(10):
        work = asyncio.create_task(passwords.hash(PASSWORD))
        await asyncio.sleep(0)
        await eventually(lambda: len(running) == 2 or not passwords._threads._work_queue.qsize())
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    assert len(running) == 2
    assert len(passwords._pending) == 2
    held.set()
    await eventually(lambda: not passwords._pending)


async def test_beyond_a_hundred_who_wait_somebody_is_sent_away() -> None:
    passwords, held = Passwords(), threading.Event()

    class Held:
        def hash(self, password: str) -> str:
            held.wait()
            return password

    passwords._hasher = Held()  # type: ignore[assignment]
    tasks = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(150)]
    await eventually(lambda: sum(task.done() for task in tasks) == 150 - passwords_module.MAX_WAITING)
    held.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result).__name__ for result in results} == {"str", "Overloaded"}
    assert sum(isinstance(result, str) for result in results) == passwords_module.MAX_WAITING


async def test_a_known_and_an_unknown_user_are_refused_after_as_much_work(house: House) -> None:
    """The time that a refusal takes does not reveal whether the user exists."""
    verified: list[tuple[object, int, int]] = []

    class Watched:
        def __getattr__(self, name: str) -> object:
            return getattr(CHEAP, name)

        def verify(self, password_hash: str, password: str) -> bool:
            salt, digest = password_hash.split("$")[-2:]
            verified.append((extract_parameters(password_hash), len(salt), len(digest)))
            return CHEAP.verify(password_hash, password)

    house.accounts._passwords = Passwords(Watched())  # type: ignore[arg-type]
    for name in ("ada", "absent"):
        with pytest.raises(Unauthenticated):
            await house.login(name, "wrong horse battery")
    known, unknown = verified
    assert known == unknown


async def test_a_configuration_is_its_owners_alone(house: House) -> None:
    bob = await house.roster.add("bob", PASSWORD, Role.ADMIN)
    ada, anonymous = Viewer(house.ada, frozenset(Role)), Viewer()
    saved = await house.accounts.save_config(ada, {"a": 1}, None)
    assert saved.config == {"a": 1}
    assert [one.config for one in await house.accounts.configs([bob, house.ada])] == [{}, {"a": 1}]
    with pytest.raises(Unauthenticated):
        await house.accounts.save_config(anonymous, {}, None)
    with pytest.raises(TokenUsed):
        await house.accounts.save_config(Viewer(refusal=TokenUsed()), {}, None)


async def test_of_those_who_save_over_the_same_version_one_wins(house: House) -> None:
    ada = Viewer(house.ada)
    first = await house.accounts.save_config(ada, {"n": 0}, None)
    results = await asyncio.gather(
        *(house.accounts.save_config(ada, {"n": n}, first.updated_at) for n in range(10)), return_exceptions=True
    )
    assert Counter(type(result).__name__ for result in results) == {"UserConfig": 1, "Conflict": 9}
    stamps = [(await house.accounts.save_config(ada, {"n": n}, None)).updated_at for n in range(10)]
    assert stamps == sorted(set(stamps)), "every save has an instant of its own"
    assert all(stamp.microsecond % 1000 == 0 for stamp in stamps), "as it is printed"
    with pytest.raises(Conflict):
        await house.accounts.save_config(Viewer(await house.roster.add("eve", PASSWORD, Role.VIEWER)), {}, stamps[0])


async def test_saving_has_a_rate(house: House) -> None:
    found: Counter[str] = Counter()
    for _ in range(70):
        try:
            await house.accounts.save_config(Viewer(house.ada), {}, None)
            found["saved"] += 1
        except TooManyAttempts:
            found["refused"] += 1
    assert found["saved"] < 66
    assert found["refused"] > 4


@pytest.mark.parametrize("header", [None, "", "  ", "Basic YTpi", "Digest username=x", "ApiKey x"])
async def test_a_header_without_a_token_of_ours_is_anonymous(house: House, header: str | None) -> None:
    assert await house.accounts.identify(header) == Viewer()


@pytest.mark.parametrize("header", ["Bearer", "Bearer x", "bearer x", "eyJhbGciOi", "BEARER   ", "Bearer a.b.c d"])
async def test_an_invalid_token_is_refused_and_not_anonymous(house: House, header: str) -> None:
    viewer = await house.accounts.identify(header)
    assert (viewer.user, viewer.roles) == (None, frozenset())
    assert isinstance(viewer.refusal, Unauthenticated)


async def test_the_scheme_is_read_in_any_case(house: House) -> None:
    session = await house.login()
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert (await house.accounts.identify(f" {scheme}  {session.token} ")).user
