import asyncio
from uuid import UUID, uuid4

import asyncpg
import pytest

from provserver.core.accounts import Organization
from provserver.store import organizations
from tests.conftest import Space


async def below(space: Space, parent: UUID, name: str, **options: int | bool) -> Organization:
    async with space.database.connection() as connection:
        above = await organizations.get(connection, parent)
        assert above is not None
        await connection.execute(
            "INSERT INTO organization (id, parent_id, name, path, device_quota, token_quota, sign_up)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7)",
            made := uuid4(),
            parent,
            name,
            [*above.path, made],
            options.get("device_quota"),
            options.get("token_quota"),
            options.get("sign_up", False),
        )
        found = await organizations.get(connection, made)
    assert found is not None
    return found


async def test_what_is_inserted_is_what_is_found(space: Space) -> None:
    async with space.database.connection() as connection:
        root = await organizations.root(connection)
        made = await organizations.insert(
            connection, uuid4(), root, "customer", device_quota=1, token_quota=2, sign_up=True
        )

        assert root.id == space.organization_id
        assert (made.path, made.parent_id) == ((root.id, made.id), root.id)
        assert (made.device_quota, made.token_quota, made.sign_up) == (1, 2, True)
        assert await organizations.get(connection, made.id) == made
        assert await organizations.find(connection, root.id, id_=None, number=made.number, name=None) == [made]
        assert await organizations.find(connection, made.id, id_=root.id, number=None, name="customer") == [made]
        with pytest.raises(asyncpg.UniqueViolationError):
            await organizations.insert(connection, uuid4(), root, "customer")


async def test_only_those_that_are_open_are_found_to_sign_up_at(space: Space) -> None:
    closed = await below(space, space.organization_id, "closed")
    opened = await below(space, space.organization_id, "open", sign_up=True)

    async with space.database.connection() as connection:
        assert await organizations.open_to_sign_up(connection, closed.number) is None
        assert await organizations.open_to_sign_up(connection, opened.number) == opened


async def test_quotas_are_locked_from_the_root_down(space: Space) -> None:
    first = await below(space, space.organization_id, "first", device_quota=3)
    second = await below(space, first.id, "second", token_quota=4)
    third = await below(space, second.id, "third", device_quota=5, token_quota=6)

    async with space.database.transaction() as connection:
        both = await organizations.lock_quotas(connection, third.path, devices=True, tokens=True)
        assert [quota.organization_id for quota in both] == [first.id, second.id, third.id]
        assert [quota[1:] for quota in both] == [(3, None), (None, 4), (5, 6)]
    async with space.database.transaction() as connection:
        for_devices = await organizations.lock_quotas(connection, third.path, devices=True, tokens=False)
        assert [quota.organization_id for quota in for_devices] == [first.id, third.id]
        waiting = asyncio.create_task(count(space, third))
        done, _ = await asyncio.wait(
            {waiting, asyncio.create_task(count(space, second))}, return_when="FIRST_COMPLETED"
        )
        assert waiting not in done  # who counts other quotas goes on
    assert await waiting == 2


async def count(space: Space, organization: Organization) -> int:
    devices = organization.device_quota is not None
    async with space.database.transaction() as connection:
        return len(
            await organizations.lock_quotas(connection, organization.path[2:], devices=devices, tokens=not devices)
        ) + (1 if devices else 0)


async def test_an_organization_counts_what_it_has_now(space: Space) -> None:
    left = await below(space, space.organization_id, "left")
    leaf = await below(space, left.id, "leaf")
    right = await below(space, space.organization_id, "right")
    for maker, holder in ((left, None), (leaf, None), (right, leaf), (left, right), (left, left)):
        await space.rows(
            "INSERT INTO device (id, organization_id, profile_id, name, holder_id) VALUES ($1, $2, $1, $3, $4)",
            made := uuid4(),
            maker.id,
            str(made),
            holder and holder.id,
        )

    async with space.database.connection() as connection:
        counts = [await organizations.count_devices(connection, each.id) for each in (left, leaf, right)]
        assert counts == [4, 2, 1]
        assert await organizations.count_devices(connection, space.organization_id) == 5
        assert await organizations.count_tokens(connection, space.organization_id) == 0


async def test_what_an_organization_still_has_is_named(space: Space) -> None:
    left = await below(space, space.organization_id, "left")
    async with space.database.connection() as connection:
        assert await organizations.held(connection, left.id) == []
        await connection.execute(
            'INSERT INTO "user" (id, organization_id, email, role) VALUES ($1, $2, $3, $4)',
            uuid4(),
            left.id,
            "ann@example.com",
            "user",
        )
        await connection.execute(
            "INSERT INTO device (id, organization_id, profile_id, name, holder_id) VALUES ($1, $2, $1, 'd', $3)",
            uuid4(),
            space.organization_id,
            left.id,
        )
        assert await organizations.held(connection, left.id) == ["users", "devices"]
        assert await organizations.held(connection, space.organization_id) == ["organizations", "devices"]
