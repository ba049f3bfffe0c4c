import asyncio
from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from provserver.core.attributes import Scope
from provserver.core.telemetry import MAX_KEYS, Value
from provserver.store import data
from provserver.store.data import Batch, Obstacle, Series, SinkRow, Written
from provserver.store.database import Connection
from tests.conftest import Space
from tests.store.test_devices import make_devices

MINUTE = timedelta(minutes=1)


async def write(
    connection: Connection,
    devices: list[UUID],
    telemetry: Mapping[tuple[UUID, str], Series] | None = None,
    attributes: Mapping[tuple[UUID, str], Value] | None = None,
    sink: tuple[SinkRow, ...] = (),
) -> Written:
    batch = Batch(devices, telemetry or {}, attributes or {}, sink)
    return await data.write(connection, batch, history_limit=3, online_period=MINUTE, sink_limit=10)


def series(*samples: tuple[int, Value]) -> Series:
    ts, value = max(samples, key=lambda sample: sample[0])
    return Series(ts, value, len(samples), list(samples))


async def test_a_batch_is_written(space: Space) -> None:
    made = await make_devices(space, "a", "b")
    a, b = made.values()
    async with space.database.connection() as connection:
        written = await write(
            connection,
            [b, a],
            {(b, "y"): series((1, True), (2, "x")), (a, "z"): series((5, 1.5)), (a, "é"): series((6, [1]))},
            {(b, "k"): {"v": 1}},
            (SinkRow(a, "a", "telemetry", b"1"), SinkRow(b, "b", "attributes", b"2")),
        )
        assert written == Written(None, 2)
        assert await data.latest(connection, a) == [("z", 5, 1.5), ("é", 6, [1])]
        assert await data.latest(connection, b, ["y", "none"]) == [("y", 2, "x")]
        assert await data.history(connection, b, "y", 9) == [(2, "x"), (1, True)]
        assert await data.attributes(connection, b, Scope.CLIENT, None) == {"k": {"v": 1}}
        assert await data.attributes(connection, b, Scope.CLIENT, ["none"]) == {}
        assert await connection.fetchval("SELECT count(*) FROM presence") == 2
        assert [row[0] for row in await connection.fetch("SELECT body FROM sink_message ORDER BY id")] == [b"1", b"2"]


async def test_the_places_in_the_history_are_each_key_s_own(space: Space) -> None:
    (a,) = (await make_devices(space, "a")).values()
    async with space.database.connection() as connection:
        for start in range(0, 12, 2):
            batch = {(a, key): series(*((start + n, key) for n in range(2))) for key in ("b", "B", "é", "\U0001f600")}
            await write(connection, [a], batch)
        for key in ("b", "B", "é", "\U0001f600"):
            assert await data.history(connection, a, key, 9) == [(11, key), (10, key), (9, key)]


async def test_two_writers_of_one_key_take_different_places(space: Space) -> None:
    (a,) = (await make_devices(space, "a")).values()
    async with space.database.connection() as first, space.database.connection() as second:
        transaction = first.transaction()
        await transaction.start()
        await write(first, [a], {(a, "k"): series((1, 1))})
        waiting = asyncio.create_task(write(second, [a], {(a, "k"): series((2, 2))}))
        while not await first.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            pass
        await transaction.commit()
        await waiting
        assert await data.history(first, a, "k", 9) == [(2, 2), (1, 1)]
        assert await first.fetchval("SELECT samples FROM telemetry") == 2


@pytest.mark.parametrize("full", [False, True])
async def test_what_is_in_the_way_of_one_row_keeps_all_of_them_out(space: Space, full: bool) -> None:
    (a,) = (await make_devices(space, "a")).values()
    gone = a if full else uuid4()
    async with space.database.connection() as connection:
        await connection.execute(
            "INSERT INTO telemetry SELECT $1, 'key-' || n, 1, '1', 1 FROM generate_series(1, $2::int) AS n", a, MAX_KEYS
        )
        written = await write(
            connection,
            list({a, gone}),
            {(a, "key-1"): series((2, 2)), (gone, "one more"): series((2, 2))},
            {(a, "k"): 1},
            (SinkRow(a, "a", "telemetry", b""),),
        )
        assert written == Written(Obstacle.TOO_MANY_KEYS if full else Obstacle.DEVICE_GONE, 0)
        assert await data.latest(connection, a, ["key-1", "one more"]) == [("key-1", 1, 1)]
        for table, column in (("telemetry_history", "key"), ("presence", "device_id"), ("sink_message", "id")):
            assert await connection.fetch(f"SELECT {column} FROM {table}") == []
        assert await data.attributes(connection, a, Scope.CLIENT, None) == {}


async def test_the_sink_s_queue_takes_as_many_as_there_is_room_for(space: Space) -> None:
    (a,) = (await make_devices(space, "a")).values()
    rows = tuple(SinkRow(a, "a", "telemetry", b"%d" % n) for n in range(7))
    async with space.database.connection() as connection:
        assert [(await write(connection, [a], sink=rows)).queued for _ in range(3)] == [7, 3, 0]
        await connection.execute("DELETE FROM sink_message WHERE id <= 8")
        assert (await write(connection, [a], sink=rows)).queued == 7
        bodies = [row[0] for row in await connection.fetch("SELECT body FROM sink_message ORDER BY id")]
        assert bodies == [b"1", b"2", *(b"%d" % n for n in range(7))]


async def test_a_claim_stays_until_it_expires(space: Space) -> None:
    (a,) = (await make_devices(space, "a")).values()
    async with space.database.connection() as connection:
        assert await data.claim(connection, a, b"1", MINUTE)
        assert not await data.claim(connection, a, b"2", MINUTE)
        assert not await data.claim(connection, uuid4(), b"2", MINUTE)
        await connection.execute("UPDATE claim SET expires_at = now()")
        assert await data.claim(connection, a, b"3", MINUTE)
        assert await connection.fetchval("SELECT secret_digest FROM claim") == b"3"
