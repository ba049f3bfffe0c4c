import asyncio
import logging
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import argon2
import pytest

from provserver.core import passwords as core
from provserver.core.authorization import PERMISSIONS, Principal, Role
from provserver.errors import (
    Conflict,
    Forbidden,
    Invalid,
    Misconfigured,
    NotFound,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from provserver.services.sign_in import SignIn
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.accounts import ADDRESS, PASSWORD, Accounts, principal
from tests.services.conftest import contents

EMAIL = "ann@example.com"
OTHER = "198.51.100.9"
PREFIX = "http://127.0.0.1:8081/set-up#"


@pytest.fixture
def accounts(space: Space, tmp_path: Path) -> Accounts:
    return Accounts(space, tmp_path)


# Sessions


async def test_who_signs_in_has_a_session(accounts: Accounts) -> None:
    user, own = await accounts.user(EMAIL, Role.STAFF)

    token, csrf, signed_in = await accounts.sign_in.password(" ANN@example.com", PASSWORD, ADDRESS)

    assert signed_in.id == user.id
    assert signed_in.activated_at is not None
    assert await accounts.sign_in.authenticate(token) == own
    assert own.permissions == PERMISSIONS[Role.STAFF]
    accounts.sign_in.check_csrf(token, csrf)
    (row,) = await accounts.space.rows("SELECT detail FROM audit WHERE action = 'user.signed_in'")
    assert row["detail"] == {"address": ADDRESS}


async def test_he_is_activated_once(accounts: Accounts) -> None:
    await accounts.user(EMAIL)
    done = await asyncio.gather(*(accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS) for _ in range(5)))
    first = {user.activated_at for _, _, user in done}
    accounts.clock.advance(days=1)

    *_, user = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)

    assert {user.activated_at} == first
    assert len({token for token, _, _ in done}) == 5


@pytest.mark.parametrize("token", ["", "x", "a" * 32, "\ud800", "\0", "a" * 100_000])
async def test_whatever_is_no_session_is_nobody(accounts: Accounts, token: str) -> None:
    await accounts.user(EMAIL)
    real, _, _ = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)

    for wrong in (token, real + token + "x", real.swapcase()):
        with pytest.raises(Unauthenticated):
            await accounts.sign_in.authenticate(wrong)
        await accounts.sign_in.sign_out(wrong)
    await accounts.sign_in.authenticate(real)


async def test_a_session_lives_while_it_is_used(accounts: Accounts) -> None:
    await accounts.user(EMAIL)
    used, _, _ = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)
    idle, _, _ = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)

    for _ in range(3):
        accounts.clock.advance(hours=11, minutes=58)
        await accounts.sign_in.authenticate(used)
    with pytest.raises(Unauthenticated):
        await accounts.sign_in.authenticate(idle)
    accounts.clock.advance(hours=12)
    with pytest.raises(Unauthenticated):
        await accounts.sign_in.authenticate(used)

    await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)
    assert await accounts.space.value("SELECT count(*) FROM user_session") == 1


async def test_that_a_session_is_used_is_written_once_a_minute(accounts: Accounts) -> None:
    await accounts.user(EMAIL)
    token, _, _ = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)

    async def written() -> object:
        await accounts.sign_in.authenticate(token)
        return await accounts.space.value("SELECT last_seen_at FROM user_session")

    first = await written()
    accounts.clock.advance(seconds=55)
    assert await written() == first
    accounts.clock.advance(seconds=5)
    assert await written() != first


async def test_who_signs_out_is_out(accounts: Accounts) -> None:
    await accounts.user(EMAIL)
    token, _, _ = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)
    other, _, _ = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)

    await accounts.sign_in.sign_out(token)
    await accounts.sign_in.sign_out(token)
    assert await accounts.space.value("SELECT count(*) FROM audit WHERE action = 'user.signed_out'") == 1

    with pytest.raises(Unauthenticated):
        await accounts.sign_in.authenticate(token)
    await accounts.sign_in.authenticate(other)


async def test_a_csrf_token_is_of_one_session(accounts: Accounts) -> None:
    await accounts.user(EMAIL)
    token, csrf, _ = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)
    other, others, _ = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)

    accounts.process().check_csrf(token, csrf)
    assert csrf == accounts.sign_in.csrf_token(token) != others
    for session, wrong in ((token, others), (other, csrf), (token, ""), (token, token), (token, "é\ud800")):
        with pytest.raises(Forbidden):
            accounts.sign_in.check_csrf(session, wrong)


# Wrong passwords


async def test_nobody_hears_which_of_the_two_was_wrong(accounts: Accounts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await accounts.user(EMAIL)
    await accounts.users.invite(accounts.operator, "invited@example.com", Role.USER)
    heard = set()

    for email, password in ((EMAIL, "guessed"), ("invited@example.com", PASSWORD), ("no@example.com", PASSWORD)):
        with pytest.raises(Unauthenticated) as refused:
            await accounts.sign_in.password(email, password, ADDRESS)
        heard.add(str(refused.value))

    assert len(heard) == 1
    assert await accounts.space.value("SELECT count(*) FROM user_session") == 0
    for secret in (EMAIL, "no@example.com", "guessed", PASSWORD):
        assert secret not in caplog.text
    assert caplog.text.count(ADDRESS) == 3


async def test_every_attempt_costs_one_hash_and_the_same_statements(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.user(EMAIL)
    await accounts.users.invite(accounts.operator, "invited@example.com", Role.USER)
    hashes: list[str | None] = []
    verify = core.verify

    def noted(hash_: str | None, password: str) -> bool:
        hashes.append(hash_)
        return verify(hash_, password)

    monkeypatch.setattr(core, "verify", noted)
    connections = 0
    connection = Database.connection

    def counted(self: Database) -> Any:
        nonlocal connections
        connections += 1
        return connection(self)

    monkeypatch.setattr(Database, "connection", counted)
    counts = []
    for email in (EMAIL, "invited@example.com", "no@example.com"):
        connections = 0
        with pytest.raises(Unauthenticated):
            await accounts.sign_in.password(email, "wrong password", ADDRESS)
        counts.append(connections)
        await accounts.sign_in.drain()  # the audit of it, for which nobody waits

    assert counts == [1, 1, 1]
    known, *others = hashes
    assert known is not None
    assert others == [None, None]
    assert argon2.extract_parameters(known) == argon2.extract_parameters(core.NOBODYS)


@pytest.mark.parametrize("password", ["", "x" * 100_000, "\ud800", "\0", f"{PASSWORD} "])
async def test_odd_passwords_are_wrong(accounts: Accounts, password: str) -> None:
    await accounts.user(EMAIL)
    with pytest.raises(Unauthenticated):
        await accounts.sign_in.password(EMAIL, password, ADDRESS)


async def test_what_is_no_address_signs_nobody_in(accounts: Accounts) -> None:
    for email in ("", "ann", "' OR 1=1 --", "\ud800"):
        with pytest.raises(Invalid):
            await accounts.sign_in.password(email, PASSWORD, ADDRESS)


async def test_a_password_hashed_with_other_parameters_is_hashed_anew(accounts: Accounts) -> None:
    user, _ = await accounts.user(EMAIL)
    old = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
    await accounts.space.rows('UPDATE "user" SET password_hash = $2 WHERE id = $1', user.id, old)

    tokens = [
        token
        for token, _, _ in await asyncio.gather(
            *(accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS) for _ in range(5))
        )
    ]

    hash_ = await accounts.space.value('SELECT password_hash FROM "user" WHERE id = $1', user.id)
    assert hash_.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    for token in tokens:
        await accounts.sign_in.authenticate(token)
    await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)
    assert await accounts.space.value('SELECT password_hash FROM "user" WHERE id = $1', user.id) == hash_


async def test_a_hash_that_cannot_be_renewed_now_is_another_time(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, _ = await accounts.user(EMAIL)
    old = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
    await accounts.space.rows('UPDATE "user" SET password_hash = $2 WHERE id = $1', user.id, old)

    async def busy(_password: str) -> str:
        raise TooManyRequests("busy", 1)

    monkeypatch.setattr(accounts.passwords, "hash", busy)
    token, _, _ = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)

    await accounts.sign_in.authenticate(token)
    assert await accounts.space.value('SELECT password_hash FROM "user" WHERE id = $1', user.id) == old


async def test_who_is_removed_while_the_password_is_looked_at_does_not_sign_in(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, _ = await accounts.user(EMAIL)
    await accounts.user("other@example.com")
    verify = accounts.passwords.verify

    async def removed(hash_: str | None, password: str) -> bool:
        if hash_ is not None:
            await accounts.users.delete(accounts.operator, user.id)
        return await verify(hash_, password)

    monkeypatch.setattr(accounts.passwords, "verify", removed)
    with pytest.raises(Unauthenticated):
        await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)


# How often


async def guess(sign_in: SignIn, address: str, email: str = EMAIL) -> float:
    """Seconds to wait after a wrong guess; 0.0: it was looked at."""
    try:
        await sign_in.password(email, "wrong password", address)
    except TooManyRequests as refused:
        return refused.retry_after
    except Unauthenticated:
        return 0.0
    raise AssertionError


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verifying costs nothing, where it is only about how often."""
    monkeypatch.setattr(core, "verify", lambda hash_, password: hash_ is not None and password == PASSWORD)


@pytest.mark.usefixtures("quick")
async def test_one_address_guesses_a_few_times_then_waits(accounts: Accounts) -> None:
    await accounts.user(EMAIL)

    assert [await guess(accounts.sign_in, ADDRESS) for _ in range(5)] == [0.0] * 5
    wait = await guess(accounts.sign_in, ADDRESS)
    assert 0 < wait <= 60
    with pytest.raises(TooManyRequests):
        await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)
    accounts.clock.now += wait
    await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)


@pytest.mark.usefixtures("quick")
async def test_one_address_tries_a_few_users_then_waits(accounts: Accounts) -> None:
    done = [await guess(accounts.sign_in, ADDRESS, f"u{n}@example.com") for n in range(25)]

    assert done[:20] == [0.0] * 20
    assert all(done[21:])
    assert await guess(accounts.sign_in, OTHER, "u24@example.com") == 0.0


@pytest.mark.usefixtures("quick")
async def test_what_is_unknown_is_limited_as_what_is_known(accounts: Accounts) -> None:
    await accounts.user(EMAIL)
    one, other = accounts.process(), accounts.process()
    start = accounts.clock.now

    known = [await guess(one, ADDRESS) for _ in range(8)]
    accounts.clock.now = start
    assert [round(wait) for wait in known] == [
        round(wait) for wait in [await guess(other, ADDRESS, "no@example.com") for _ in range(8)]
    ]


@pytest.mark.usefixtures("quick")
async def test_one_stranger_locks_nobody_out(accounts: Accounts) -> None:
    """However long he goes on: he uses up what is his."""
    await accounts.user(EMAIL)
    for _ in range(500):
        await guess(accounts.sign_in, OTHER)
        accounts.clock.advance(seconds=1)

    await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)


@pytest.mark.usefixtures("quick")
async def test_many_strangers_do_not_lock_out_who_signs_in_where_he_has_before(accounts: Accounts) -> None:
    user, _ = await accounts.user(EMAIL)
    await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)

    for n in range(200):
        await guess(accounts.sign_in, f"203.0.113.{n}")
    assert await guess(accounts.sign_in, OTHER) > 0
    await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)

    # Elsewhere he waits, unless an admin gives him a link.
    with pytest.raises(TooManyRequests) as refused:
        await accounts.sign_in.password(EMAIL, PASSWORD, "192.0.2.99")
    link = await accounts.users.reset_password(accounts.operator, user.id)
    await accounts.sign_in.choose_password(link, PASSWORD, "192.0.2.99")
    await accounts.sign_in.password(EMAIL, PASSWORD, "192.0.2.99")
    accounts.clock.now += refused.value.retry_after
    await accounts.sign_in.password(EMAIL, PASSWORD, "192.0.2.98")


@pytest.mark.usefixtures("quick")
async def test_who_is_right_is_never_limited(accounts: Accounts) -> None:
    await accounts.user(EMAIL)

    for _ in range(50):
        await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("unix", "unix", True),
    ],
)
async def test_what_one_requester_has_is_one_address(accounts: Accounts, one: str, other: str, same: bool) -> None:
    while not await guess(accounts.sign_in, one):
        pass

    assert bool(await guess(accounts.sign_in, other)) == same


async def test_what_says_nothing_of_the_password_is_not_counted(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await accounts.user(EMAIL)

    async def busy(*_: object) -> bool:
        raise TooManyRequests("busy", 1)

    async def away(*_: object) -> bool:
        raise Unavailable("away")

    for fault in (busy, away):
        with monkeypatch.context() as context:
            context.setattr(accounts.passwords, "verify", fault)
            for _ in range(30):
                with pytest.raises((TooManyRequests, Unavailable), match=r"busy|away"):
                    await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)
    await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)


# Other passwords


async def test_a_new_password_ends_the_other_sessions(accounts: Accounts) -> None:
    user, own = await accounts.user(EMAIL)
    token, _, _ = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)
    other, _, _ = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)
    reset = await accounts.users.reset_password(accounts.operator, user.id)

    await accounts.sign_in.change_password(own, PASSWORD, "another password", ADDRESS, token)

    await accounts.sign_in.authenticate(token)
    for act in (
        accounts.sign_in.authenticate(other),
        accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS),
    ):
        with pytest.raises(Unauthenticated):
            await act
    with pytest.raises(NotFound):
        await accounts.sign_in.choose_password(reset, "third password", ADDRESS)
    await accounts.sign_in.password(EMAIL, "another password", ADDRESS)


async def test_who_changes_a_password_knows_the_old_one(accounts: Accounts) -> None:
    _, own = await accounts.user(EMAIL)
    before = await contents(accounts.space)

    for _ in range(5):
        with pytest.raises(Invalid, match="current"):
            await accounts.sign_in.change_password(own, "wrong password", "another password", ADDRESS)
    with pytest.raises(TooManyRequests):
        await accounts.sign_in.change_password(own, PASSWORD, "another password", ADDRESS)
    for password in ("short", EMAIL, "password123"):
        with pytest.raises(Invalid):
            await accounts.sign_in.change_password(own, PASSWORD, password, OTHER)
    key = Principal("key:x", accounts.space.organization_id)
    with pytest.raises(Conflict):
        await accounts.sign_in.change_password(key, PASSWORD, "another password", OTHER)
    await accounts.sign_in.drain()
    (*_, failed) = await accounts.space.rows("SELECT actor, action, detail FROM audit ORDER BY at, id")
    assert tuple(failed) == ("nobody", "user.sign_in_failed", {"address": ADDRESS, "count": 1})
    kept = await contents(accounts.space)
    assert {**kept, "audit": kept["audit"][:-1]} == before


async def test_of_two_changes_at_once_one_is_made(accounts: Accounts) -> None:
    _, own = await accounts.user(EMAIL)
    chosen = ["another password", "a third password"]

    done = await asyncio.gather(
        *(accounts.sign_in.change_password(own, PASSWORD, each, ADDRESS) for each in chosen), return_exceptions=True
    )

    (winner,) = [chosen[n] for n, each in enumerate(done) if each is None]
    assert sum(isinstance(each, Conflict) for each in done) == 1
    await accounts.sign_in.password(EMAIL, winner, ADDRESS)


async def test_a_session_that_is_opened_while_the_password_changes_does_not_outlive_the_old_one(
    accounts: Accounts,
) -> None:
    _, own = await accounts.user(EMAIL)

    for n in range(3):
        old, new = (PASSWORD, "another password") if n % 2 == 0 else ("another password", PASSWORD)
        *opened, changed = await asyncio.gather(
            *(accounts.sign_in.password(EMAIL, old, f"192.0.2.{n}") for _ in range(4)),
            accounts.sign_in.change_password(own, old, new, OTHER),
            return_exceptions=True,
        )
        assert changed is None
        for each in opened:
            if isinstance(each, tuple):
                with pytest.raises(Unauthenticated):
                    await accounts.sign_in.authenticate(each[0])


async def test_who_changes_his_address_knows_the_password(accounts: Accounts) -> None:
    user, own = await accounts.user(EMAIL)
    await accounts.user("taken@example.com")
    reset = await accounts.users.reset_password(accounts.operator, user.id)
    token, _, _ = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)
    before = await contents(accounts.space)

    for email in ("no address", "a b@example.com"):
        with pytest.raises(Invalid):
            await accounts.sign_in.change_email(own, PASSWORD, email, ADDRESS)
    with pytest.raises(Conflict):
        await accounts.sign_in.change_email(own, PASSWORD, "Taken@example.com", ADDRESS)
    key = Principal("key:x", accounts.space.organization_id)
    with pytest.raises(Conflict, match="key"):
        await accounts.sign_in.change_email(key, PASSWORD, "new@example.com", ADDRESS)
    assert await contents(accounts.space) == before

    changed = await accounts.sign_in.change_email(own, PASSWORD, "New@example.com", ADDRESS)
    assert (changed.id, changed.email, changed.revision) == (user.id, "new@example.com", user.revision + 1)
    await accounts.sign_in.authenticate(token)
    await accounts.sign_in.password("new@example.com", PASSWORD, ADDRESS)
    with pytest.raises(Unauthenticated):
        await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)
    with pytest.raises(NotFound):
        await accounts.sign_in.choose_password(reset, "third password", ADDRESS)
    assert (f"user:{user.id}", "user.updated") in await accounts.actions(user.id)


async def test_the_password_is_not_guessed_where_the_address_is_changed(accounts: Accounts) -> None:
    _, own = await accounts.user(EMAIL)
    for _ in range(5):
        with pytest.raises(Invalid, match="current"):
            await accounts.sign_in.change_email(own, "wrong password", "new@example.com", ADDRESS)
    with pytest.raises(TooManyRequests):
        await accounts.sign_in.change_email(own, PASSWORD, "new@example.com", ADDRESS)


async def test_a_reset_link_is_good_once_and_for_a_day(accounts: Accounts) -> None:
    user, _ = await accounts.user(EMAIL)
    token, _, _ = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)
    old = await accounts.users.reset_password(accounts.operator, user.id)
    link = await accounts.users.reset_password(accounts.operator, user.id)

    with pytest.raises(NotFound):
        await accounts.sign_in.choose_password(old, "another password", ADDRESS)
    with pytest.raises(Invalid):
        await accounts.sign_in.choose_password(link, "short", ADDRESS)
    done = await asyncio.gather(
        *(accounts.sign_in.choose_password(link, "another password", ADDRESS) for _ in range(4)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, NotFound) for each in done) == 3
    with pytest.raises(Unauthenticated):
        await accounts.sign_in.authenticate(token)
    await accounts.sign_in.password(EMAIL, "another password", ADDRESS)

    late = await accounts.users.reset_password(accounts.operator, user.id)
    accounts.clock.now += timedelta(days=1).total_seconds()
    with pytest.raises(NotFound):
        await accounts.sign_in.choose_password(late, PASSWORD, ADDRESS)


# Setting up


def link_in(path: Path) -> str:
    return path.read_text().strip().removeprefix(PREFIX)


async def test_a_new_server_leaves_a_link_by_which_the_first_admin_is_made(
    accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert await accounts.sign_in.offer_set_up(PREFIX)
    path = accounts.set_up_file
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith(PREFIX)
    link = link_in(path)
    assert len(link) == 32
    assert link not in repr(await contents(accounts.space))

    user = await accounts.sign_in.set_up(link, "Ann@example.com", PASSWORD, "Ann")

    assert (user.email, user.name, user.role, user.accepted) == (EMAIL, "Ann", Role.ADMIN, True)
    assert user.organization_id == accounts.space.organization_id
    assert not path.exists()
    assert await accounts.space.value("SELECT count(*) FROM one_time_link") == 0
    *_, signed_in = await accounts.sign_in.password(EMAIL, PASSWORD, ADDRESS)
    assert signed_in.activated_at is not None
    with pytest.raises(NotFound, match="While there is no user"):
        await accounts.sign_in.set_up(link, "eve@example.com", PASSWORD)
    assert not await accounts.sign_in.offer_set_up(PREFIX)
    assert not path.exists()
    assert link not in caplog.text


async def test_of_several_who_set_up_at_once_one_does(accounts: Accounts) -> None:
    await accounts.sign_in.offer_set_up(PREFIX)
    link = link_in(accounts.set_up_file)

    done = await asyncio.gather(
        *(accounts.sign_in.set_up(link, f"u{n}@example.com", PASSWORD) for n in range(5)), return_exceptions=True
    )

    assert sum(isinstance(each, NotFound) for each in done) == 4
    assert len(await accounts.users.list_(accounts.operator)) == 1


async def test_of_several_processes_one_writes_the_link(accounts: Accounts) -> None:
    processes = [accounts.process() for _ in range(6)]

    assert all(await asyncio.gather(*(process.offer_set_up(PREFIX) for process in processes)))

    assert await accounts.space.value("SELECT count(*) FROM one_time_link") == 1
    assert [path.name for path in accounts.set_up_file.parent.iterdir() if path.name.endswith("link")] == ["setup-link"]
    await processes[3].set_up(link_in(accounts.set_up_file), EMAIL, PASSWORD)


async def test_a_link_that_is_good_stays_at_a_later_start(accounts: Accounts) -> None:
    await accounts.sign_in.offer_set_up(PREFIX)
    first = link_in(accounts.set_up_file)
    accounts.clock.advance(minutes=59)

    assert await accounts.process().offer_set_up(PREFIX)

    assert link_in(accounts.set_up_file) == first


@pytest.mark.parametrize(
    "fate", ["expired", "removed", "altered", "emptied", "elsewhere", "unreadable", "read by others"]
)
async def test_one_that_is_not_good_is_written_anew(accounts: Accounts, fate: str) -> None:
    await accounts.sign_in.offer_set_up(PREFIX)
    path = accounts.set_up_file
    first = link_in(path)
    prefix = PREFIX
    match fate:
        case "expired":
            accounts.clock.advance(hours=1)
        case "removed":
            path.unlink()
        case "altered":
            path.write_text(PREFIX + "a" * 32)
        case "emptied":
            path.write_text("")
        case "elsewhere":
            prefix = "https://example.com/set-up#"
        case "unreadable":
            path.write_bytes(b"\xff\xfe")
        case "read by others":
            path.chmod(0o640)

    assert await accounts.process().offer_set_up(prefix)

    link = path.read_text().strip().removeprefix(prefix)
    assert link != first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(NotFound):
        await accounts.sign_in.set_up(first, EMAIL, PASSWORD)
    await accounts.sign_in.set_up(link, EMAIL, PASSWORD)


async def test_a_link_expires_in_an_hour(accounts: Accounts) -> None:
    await accounts.sign_in.offer_set_up(PREFIX)
    accounts.clock.advance(hours=1)

    with pytest.raises(NotFound, match="when it starts"):
        await accounts.sign_in.set_up(link_in(accounts.set_up_file), EMAIL, PASSWORD)


async def test_where_there_is_a_user_nobody_sets_up(accounts: Accounts) -> None:
    await accounts.sign_in.offer_set_up(PREFIX)
    link = link_in(accounts.set_up_file)
    await accounts.users.invite(accounts.operator, EMAIL, Role.USER)

    with pytest.raises(Conflict, match="already"):
        await accounts.sign_in.set_up(link, "eve@example.com", PASSWORD)
    assert not await accounts.process().offer_set_up(PREFIX)
    assert not accounts.set_up_file.exists()
    with pytest.raises(NotFound):
        await accounts.sign_in.set_up(link, "eve@example.com", PASSWORD)


async def test_a_bad_password_does_not_cost_the_link(accounts: Accounts) -> None:
    await accounts.sign_in.offer_set_up(PREFIX)
    link = link_in(accounts.set_up_file)
    for email, password in ((EMAIL, "short"), (EMAIL, "password123"), ("ann", PASSWORD)):
        with pytest.raises(Invalid):
            await accounts.sign_in.set_up(link, email, password)

    user = await accounts.sign_in.set_up(link, EMAIL, PASSWORD)
    assert principal(user).permissions == PERMISSIONS[Role.ADMIN]


async def test_a_file_that_cannot_be_removed_does_not_undo_what_was_done(
    accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    await accounts.sign_in.offer_set_up(PREFIX)
    link = link_in(accounts.set_up_file)
    accounts.set_up_file.unlink()
    accounts.set_up_file.mkdir()

    user = await accounts.sign_in.set_up(link, EMAIL, PASSWORD)

    assert user.email == EMAIL
    assert str(accounts.set_up_file) in caplog.text
    assert link not in caplog.text


async def test_a_link_that_cannot_be_written_is_not_kept(accounts: Accounts) -> None:
    accounts.set_up_file.mkdir()

    with pytest.raises(Misconfigured, match="setup-link"):
        await accounts.sign_in.offer_set_up(PREFIX)
    assert await accounts.space.value("SELECT count(*) FROM one_time_link") == 0


async def test_without_a_file_there_is_no_link(accounts: Accounts) -> None:
    sign_in = SignIn(accounts.space.database, accounts.space.keys, accounts.passwords)

    assert not await sign_in.offer_set_up(PREFIX)
    assert await accounts.space.value("SELECT count(*) FROM one_time_link") == 0
