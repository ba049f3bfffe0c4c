from uuid import UUID

from provserver.core.attributes import Scope
from provserver.store import datastreams
from provserver.store.database import Database

DEVICE, OTHER, GONE = UUID(int=1), UUID(int=2), UUID(int=3)


async def test_an_attribute_is_written_replaced_and_forgotten_but_never_of_a_device_that_is_gone(
    database: Database,
) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO device (id, organization_id, profile_id, name) VALUES ($1, $1, $1, 'a')", DEVICE
        )
        await datastreams.put_attribute(connection, DEVICE, Scope.SERVER, "k", "old")
        await datastreams.put_attribute(connection, DEVICE, Scope.SERVER, "k", ["new"])
        await datastreams.put_attribute(connection, DEVICE, Scope.CLIENT, "k", 1)
        await datastreams.put_attribute(connection, GONE, Scope.SERVER, "k", 1)
        select = "SELECT device_id, scope, value FROM attribute ORDER BY scope"
        assert [tuple(row) for row in await connection.fetch(select)] == [
            (DEVICE, "CLIENT", 1),
            (DEVICE, "SERVER", ["new"]),
        ]
        await datastreams.delete_attribute(connection, DEVICE, Scope.CLIENT, "k")
        assert [tuple(row) for row in await connection.fetch(select)] == [(DEVICE, "SERVER", ["new"])]


async def test_erasing_a_key_leaves_other_keys_and_devices(database: Database) -> None:
    async with database.transaction() as connection:
        for device, key in ((DEVICE, "a"), (DEVICE, "b"), (OTHER, "a")):
            await connection.execute("INSERT INTO telemetry VALUES ($1, $2, 1, '1', 1)", device, key)
            await connection.execute("INSERT INTO telemetry_history VALUES ($1, $2, 0, 1, '1')", device, key)
        await datastreams.erase(connection, DEVICE, "a")
        for table in ("telemetry", "telemetry_history"):
            rows = await connection.fetch(f"SELECT device_id, key FROM {table} ORDER BY device_id")
            assert [tuple(row) for row in rows] == [(DEVICE, "b"), (OTHER, "a")]


async def test_a_device_is_online_until_its_time_is_over(database: Database) -> None:
    async with database.connection() as connection:
        insert = "INSERT INTO presence (device_id, online_until, last_seen_at) VALUES ($1, now() + $2::interval, now())"
        await connection.execute(insert.replace("$2", "'1 hour'"), DEVICE)
        await connection.execute(insert.replace("$2", "'0'"), OTHER)
        online = [await datastreams.is_online(connection, device) for device in (DEVICE, OTHER, GONE)]
    assert online == [True, False, False]
