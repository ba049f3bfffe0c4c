import os
from uuid import UUID, uuid4

import asyncpg
import pytest

from provserver.core.ids import uuid7
from provserver.store import devices
from provserver.store.database import Connection
from provserver.store.devices import StagedDevice
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
            [staged(line, name, id_=id_) for line, (name, id_) in enumerate(made.items(), 2)],
            [(id_, "SERVER", "rack", {"row": 1}) for id_ in made.values()],
        )
        await devices.add_staged(connection, space.organization_id, profile_id)
    return made


def staged(line: int, name: str, digest: str = "", id_: UUID | None = None) -> StagedDevice:
    """A device whose credentials have the id digest given, else its name."""
    id_digest = (digest or name).encode()
    return StagedDevice(line, id_ or uuid4(), name, False, id_digest, "ACCESS_TOKEN", "imported", b"sealed")


async def conflicts(connection: Connection, organization_id: UUID) -> list[tuple[object, ...]]:
    return [each[1:] async for found in devices.conflicts(connection, organization_id, 2) for each in found]


async def test_what_is_copied_is_found(space: Space) -> None:
    made = await make_devices(space, "b", "a")
    async with space.database.transaction() as connection:
        found = await devices.find(connection, space.organization_id, "a")
        (credentials,) = await devices.credentials(connection, made["a"])
        (attribute,) = await devices.attributes(connection, made["a"], with_keys=False)
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
        await devices.stage(connection, [staged(2, "a")], [])
        assert await conflicts(connection, uuid4()) == [(2, False, True, None, None)]  # credentials are of all


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
        assert await conflicts(connection, space.organization_id) == []
        rows = [("a", "1"), ("c", "b"), ("d", "d"), ("e", "e"), ("e", "4"), ("f", "d"), ("e", "e"), ("g", "g")]
        await devices.stage(connection, [staged(line, *row) for line, row in enumerate(rows, 2)], [])
        assert await conflicts(connection, space.organization_id) == [
            (2, True, False, None, None),
            (3, False, True, None, None),
            (4, False, False, None, 4),
            (5, False, False, 5, 5),
            (6, False, False, 5, None),
            (7, False, False, None, 4),
            (8, False, False, 5, 5),
        ]


async def test_what_is_taken_back_is_not_added(space: Space) -> None:
    profile_id = (await make_profile(space)).id
    kept, gone = uuid4(), uuid4()
    async with space.database.transaction() as connection:
        await devices.begin_staging(connection)
        rows = [staged(2, "a", id_=gone), staged(3, "b", id_=kept), staged(4, "a", "c", gone)]
        await devices.stage(connection, rows, [(id_, "SERVER", "rack", 1) for id_ in (gone, kept)])
        async for found in devices.conflicts(connection, space.organization_id, 10):
            await devices.unstage(connection, [each.place for each in found])
        await devices.unstage(connection, [])
        await devices.add_staged(connection, space.organization_id, profile_id)
    for query in ("SELECT id FROM device", "SELECT device_id FROM credentials", "SELECT device_id FROM attribute"):
        assert [row[0] for row in await space.rows(query)] == [kept]


async def test_adding_what_is_there_adds_nothing(space: Space) -> None:
    await make_devices(space, "a")

    async def add(*names: str) -> None:
        async with space.database.transaction() as connection:
            await devices.begin_staging(connection)
            await devices.stage(connection, [staged(n, name, f"{name}{n}") for n, name in enumerate(names)], [])
            await devices.add_staged(connection, space.organization_id, uuid4())

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
