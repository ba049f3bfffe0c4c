import os
from uuid import UUID, uuid4

import asyncpg
import pytest

from provserver.core.ids import uuid7
from provserver.store import devices
from tests.conftest import Space
from tests.store.test_profiles import make_profile


async def make_devices(space: Space, *names: str, profile: str = "sensors") -> dict[str, UUID]:
    """Devices with credentials (id digest: the name) and an attribute."""
    profile_id = (await make_profile(space, profile)).id
    made = dict(zip(names, sorted(uuid7(0, os.urandom) for _ in names), strict=True))
    async with space.database.transaction() as connection:
        await devices.begin_staging(connection)
        await devices.stage(
            connection,
            [(id_, space.organization_id, profile_id, name, False) for name, id_ in made.items()],
            [(name.encode(), id_, "ACCESS_TOKEN", "imported", b"sealed") for name, id_ in made.items()],
            [(id_, "SERVER", "rack", {"row": 1}) for id_ in made.values()],
        )
        await devices.add_staged(connection)
    return made


async def test_what_is_copied_is_found(space: Space) -> None:
    made = await make_devices(space, "b", "a")
    async with space.database.transaction() as connection:
        found = await devices.find(connection, space.organization_id, "a")
        (credentials,) = await devices.credentials(connection, made["a"])
        (attribute,) = await devices.attributes(connection, made["a"])
        listed = [device async for device in devices.stream(connection, space.organization_id, None)]

    assert found is not None
    assert (found.id, found.name, found.profile) == (made["a"], "a", "sensors")
    assert (found.provision_state, found.credentials_type) == (None, "ACCESS_TOKEN")
    assert (credentials.type, credentials.origin, credentials.sealed) == ("ACCESS_TOKEN", "imported", b"sealed")
    assert tuple(attribute)[:3] == ("SERVER", "rack", {"row": 1})
    assert [device.name for device in listed] == ["b", "a"]


async def test_the_devices_of_another_organization_are_not_found(space: Space) -> None:
    made = await make_devices(space, "a")
    async with space.database.transaction() as connection:
        assert await devices.find(connection, uuid4(), "a") is None
        assert await devices.find(connection, uuid4(), str(made["a"])) is None
        assert [device async for device in devices.stream(connection, uuid4(), None)] == []
        await devices.begin_staging(connection)
        assert await devices.taken(connection, uuid4(), ["a"], [b"a"]) == (set(), {b"a"})  # credentials are of all


async def test_the_devices_of_a_profile_are_found(space: Space) -> None:
    await make_devices(space, "a", "b")
    await make_devices(space, "c", profile="meters")
    async with space.database.transaction() as connection:
        found = await devices.find(connection, space.organization_id, "c")
        assert found is not None
        listed = [device.name async for device in devices.stream(connection, space.organization_id, found.profile_id)]

    assert listed == ["c"]


async def test_what_is_taken_is_told(space: Space) -> None:
    await make_devices(space, "a", "b")
    async with space.database.transaction() as connection:
        await devices.begin_staging(connection)
        taken = await devices.taken(connection, space.organization_id, ["a", "c", "a"], [b"b", b"c"])
        assert taken == ({"a"}, {b"b"})
        assert await devices.taken(connection, space.organization_id, [], []) == (set(), set())


async def test_adding_what_is_there_adds_nothing(space: Space) -> None:
    await make_devices(space, "a")

    async def add(*names: str) -> None:
        async with space.database.transaction() as connection:
            await devices.begin_staging(connection)
            rows = [(uuid4(), space.organization_id, uuid4(), name, False) for name in names]
            await devices.stage(connection, rows, [], [])
            await devices.add_staged(connection)

    for names in (("b", "a"), ("b", "b")):
        with pytest.raises(asyncpg.UniqueViolationError):
            await add(*names)
    async with space.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM device") == 1


async def test_rearming_spends_the_nonce_but_keeps_its_device_known(space: Space) -> None:
    made = await make_devices(space, "a")
    async with space.database.connection() as connection:
        await connection.execute("UPDATE device SET nonce_digest = 'n', request_digest = 'r'")

        await devices.rearm(connection, made["a"])

        row = await connection.fetchrow("SELECT rearmed, revision, nonce_digest, request_digest FROM device")
    assert row is not None
    assert tuple(row) == (True, 2, b"n", None)


async def test_a_device_is_deleted_with_all_that_hangs_on_it(space: Space) -> None:
    made = await make_devices(space, "a", "b")
    async with space.database.transaction() as connection:
        for device_id in made.values():
            await connection.execute("INSERT INTO presence VALUES ($1, NULL, now(), now())", device_id)
            await connection.execute("INSERT INTO telemetry VALUES ($1, 'a', 1, '1', 1)", device_id)
            await connection.execute("INSERT INTO telemetry_history VALUES ($1, 'a', 0, 1, '1')", device_id)
            await connection.execute("INSERT INTO claim VALUES ($1, '', now())", device_id)
        assert await devices.delete(connection, made["a"])
        assert not await devices.delete(connection, made["a"])

        rows = await connection.fetch("SELECT id FROM device")
        assert [row["id"] for row in rows] == [made["b"]]
        for table in ("credentials", "attribute", "presence", "telemetry", "telemetry_history", "claim"):
            rows = await connection.fetch(f"SELECT device_id FROM {table}")
            assert [row["device_id"] for row in rows] == [made["b"]]
