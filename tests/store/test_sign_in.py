import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from provserver.core.authorization import Role
from provserver.store import sign_in, users
from provserver.store.sign_in import Link, Purpose
from tests.conftest import Space

NOW = datetime(2026, 5, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
DIGEST = b"d" * 32


@pytest.fixture
async def user_id(space: Space) -> UUID:
    async with space.database.connection() as connection:
        user = await users.insert(
            connection, uuid4(), space.organization_id, "ann@example.com", "Ann", Role.STAFF, "hash"
        )
    return user.id


async def test_a_link_is_used_once_for_its_purpose_and_in_time(space: Space, user_id: UUID) -> None:
    async with space.database.connection() as connection:
        await sign_in.insert_link(connection, DIGEST, Purpose.PASSWORD, user_id, LATER)

        for digest, purpose, now in (
            (b"e" * 32, Purpose.PASSWORD, NOW),
            (DIGEST, Purpose.INVITATION, NOW),
            (DIGEST, Purpose.PASSWORD, LATER),
        ):
            assert await sign_in.link(connection, digest, purpose, now) is None
            assert await sign_in.use_link(connection, digest, purpose, now) is None
        assert await sign_in.link(connection, DIGEST, Purpose.PASSWORD, NOW) == Link(user_id)
        assert await sign_in.use_link(connection, DIGEST, Purpose.PASSWORD, NOW) == Link(user_id)
        assert await sign_in.use_link(connection, DIGEST, Purpose.PASSWORD, NOW) is None


async def test_a_new_link_takes_the_place_of_the_one_before(space: Space, user_id: UUID) -> None:
    async with space.database.connection() as connection:
        await sign_in.insert_link(connection, b"1", Purpose.PASSWORD, user_id, LATER)
        await sign_in.insert_link(connection, b"2", Purpose.INVITATION, user_id, LATER)
        await sign_in.insert_link(connection, b"3", Purpose.SETUP, None, LATER)
        await sign_in.insert_link(connection, b"4", Purpose.PASSWORD, user_id, LATER)
        await sign_in.insert_link(connection, b"5", Purpose.SETUP, None, LATER)
        assert await links(space) == {b"2", b"4", b"5"}
        await sign_in.delete_links(connection, user_id)
        assert await links(space) == {b"5"}
        await sign_in.delete_set_up_links(connection)
        assert await links(space) == set()


async def links(space: Space) -> set[bytes]:
    return {row["digest"] for row in await space.rows("SELECT digest FROM one_time_link")}


async def test_a_session_opens_with_the_password_that_holds_only(space: Space, user_id: UUID) -> None:
    async with space.database.connection() as connection:
        assert not await sign_in.insert_session(connection, b"1", user_id, "other hash", NOW, LATER)
        assert not await sign_in.insert_session(connection, b"1", uuid4(), "hash", NOW, LATER)
        assert await sign_in.insert_session(connection, b"1", user_id, "hash", NOW, LATER)
        assert await sign_in.insert_session(connection, b"2", user_id, "hash", NOW, LATER)

        session = await sign_in.session(connection, b"1", NOW)
        assert session == (user_id, space.organization_id, Role.STAFF, NOW)
        assert await sign_in.session(connection, b"1", LATER) is None
        await sign_in.prolong_session(connection, b"1", LATER, LATER + timedelta(hours=1))
        session = await sign_in.session(connection, b"1", LATER)
        assert session is not None
        assert session.last_seen_at == LATER
        assert await sign_in.insert_session(connection, b"3", user_id, "hash", LATER, LATER)  # the second has expired
        assert await space.value("SELECT count(*) FROM user_session") == 2
        await sign_in.delete_sessions(connection, user_id, but=b"3")
        assert await sign_in.delete_session(connection, b"1") is None
        assert await sign_in.delete_session(connection, b"3") == user_id


async def test_who_changes_the_password_ends_the_session_that_was_being_opened(space: Space, user_id: UUID) -> None:
    async def change() -> None:
        async with space.database.transaction() as connection:
            assert await users.replace_hash(connection, user_id, "hash", "new")
            await sign_in.delete_sessions(connection, user_id)

    async with space.database.transaction() as connection:
        assert await sign_in.insert_session(connection, b"1", user_id, "hash", NOW, LATER)
        changing = asyncio.create_task(change())
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await connection.execute("SELECT pg_stat_clear_snapshot()")
    await changing

    assert await space.value("SELECT count(*) FROM user_session") == 0


async def test_no_session_opens_with_a_password_that_is_being_changed(space: Space, user_id: UUID) -> None:
    async def open_() -> bool:
        async with space.database.transaction() as connection:
            return await sign_in.insert_session(connection, b"1", user_id, "hash", NOW, LATER)

    async with space.database.transaction() as connection:
        assert await users.replace_hash(connection, user_id, "hash", "new")
        opening = asyncio.create_task(open_())
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await connection.execute("SELECT pg_stat_clear_snapshot()")

    assert not await opening
