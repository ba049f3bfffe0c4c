from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from provserver.core.authorization import Role
from provserver.store import organizations, users
from tests.conftest import Space

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@dataclass
class Two:
    """The root and one below it."""

    root: UUID
    below: UUID


@pytest.fixture
async def two(space: Space) -> Two:
    async with space.database.connection() as connection:
        root = await organizations.root(connection)
        return Two(root.id, (await organizations.insert(connection, uuid4(), root, "below")).id)


async def test_a_user_is_found_from_above_by_id_and_address(space: Space, two: Two) -> None:
    async with space.database.connection() as connection:
        user = await users.insert(connection, uuid4(), two.root, "ann@example.com", "Ann", Role.ADMIN)

        assert not user.accepted
        assert await users.find(connection, two.root, id_=user.id, email=None) == user
        assert await users.find(connection, two.root, id_=None, email="ANN@example.com") == user
        assert await users.find(connection, two.below, id_=user.id, email="ann@example.com") is None
        assert await users.find(connection, two.root, id_=None, email=None) is None
        assert await users.list_(connection, two.below, after=None, limit=9) == []
        with pytest.raises(asyncpg.UniqueViolationError):
            await users.insert(connection, uuid4(), two.below, "ANN@example.com", "", Role.USER)


async def test_a_password_is_kept_as_its_hash(space: Space, two: Two) -> None:
    async with space.database.connection() as connection:
        user = await users.insert(connection, uuid4(), two.below, "ann@example.com", "Ann", Role.USER)
        assert await users.credentials(connection, "Ann@Example.com") == (user, None)
        assert await users.credentials(connection, "bob@example.com") is None

        accepted = await users.set_password(connection, user.id, "hash")
        assert accepted == msgspec.structs.replace(user, accepted=True, revision=2)
        assert await users.credentials(connection, "ann@example.com") == (accepted, "hash")
        assert "hash" not in repr(accepted)
        assert not await users.replace_hash(connection, user.id, "another", "new")
        assert await users.replace_hash(connection, user.id, "hash", "new")
        assert await users.password_hash(connection, user.id) == "new"
        assert await users.set_password(connection, uuid4(), "hash") is None


async def test_a_user_is_activated_once(space: Space, two: Two) -> None:
    async with space.database.connection() as connection:
        assert not await users.any_(connection)
        user = await users.insert(connection, uuid4(), two.below, "ann@example.com", "", Role.USER)
        assert await users.any_(connection)
        for now in (NOW, datetime.now(UTC)):
            active = await users.activate(connection, user.id, now)
            assert active is not None
            assert active.activated_at == NOW
        assert await users.activate(connection, uuid4(), NOW) is None


async def test_another_admin_is_one_of_the_same_organization_who_can_sign_in(space: Space, two: Two) -> None:
    async with space.database.connection() as connection:
        ann = await users.insert(connection, uuid4(), two.root, "ann@example.com", "", Role.ADMIN, "hash")
        for email, organization_id, role, hash_ in (
            ("below@example.com", two.below, Role.ADMIN, "hash"),
            ("staff@example.com", two.root, Role.STAFF, "hash"),
            ("invited@example.com", two.root, Role.ADMIN, None),
        ):
            await users.insert(connection, uuid4(), organization_id, email, "", role, hash_)
            assert not await users.has_other_admin(connection, two.root, ann.id)
        await users.insert(connection, uuid4(), two.root, "bob@example.com", "", Role.ADMIN, "hash")
        assert await users.has_other_admin(connection, two.root, ann.id)
