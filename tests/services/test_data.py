import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from provserver.core import ids
from provserver.core.model import Authenticated, Peer, Transport
from provserver.core.telemetry import MAX_KEYS, MAX_SAMPLES, InvalidData, Sample
from provserver.errors import Unavailable
from provserver.services import data as module
from provserver.services.data import MAX_ROWS, Data
from provserver.services.sink import Sink
from provserver.store import data as store
from provserver.store.data import Batch
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.conftest import Fleet, Locking, Outage, until
from tests.services.imports import load

NOW = 1_800_000_000.0


class Queue(Sink):
    """A sink that queues and sends nothing."""

    def __init__(self, database: Database, limit: int = 1_000) -> None:
        super().__init__(database, None, limit=limit)  # type: ignore[arg-type]
        self.calls: list[tuple[int, int]] = []

    def queued(self, number: int, dropped: int) -> None:
        super().queued(number, dropped)
        self.calls.append((number, dropped))


async def make_device(space: Space, name: str = "sensor-1") -> Authenticated:
    """A device that has authenticated."""
    id_, profile_id = ids.uuid7(NOW, os.urandom), UUID(int=1)
    async with space.database.connection() as connection:
        await connection.execute(
            "INSERT INTO device_profile (id, organization_id, name, template_id, strategy, reprovision_policy)"
            " VALUES ($1, $2, 'any', 'TMPLany', 'DISABLED', 'deny') ON CONFLICT DO NOTHING",
            profile_id,
            space.organization_id,
        )
        await connection.execute(
            "INSERT INTO device (id, organization_id, profile_id, name) VALUES ($1, $2, $3, $4)",
            id_,
            space.organization_id,
            profile_id,
            name,
        )
    return Authenticated(id_, name, space.organization_id, profile_id, 1, False, b"", datetime.now(UTC))


@pytest.fixture
async def device(space: Space) -> Authenticated:
    return await make_device(space)


@pytest.fixture
async def data(space: Space, database_url: str) -> AsyncIterator[Data]:
    """As the server has it: on connections that plan for keys. But whom a test has wait for a lock, waits for it."""
    opened = Database(database_url, size=4, serving=True)
    opened._settings["lock_timeout"] = "7s"
    await opened.open()
    made = Data(opened, space.keys, history_limit=3, clock=lambda: NOW)
    yield made
    await made.drain()
    await opened.close()


async def history(space: Space, device: Authenticated, key: str, limit: int = 100) -> list[tuple[int, object]]:
    async with space.database.connection() as connection:
        return list(await store.history(connection, device.device_id, key, limit))


async def as_one_group(data: Data, lock: Locking, space: Space, *calls: Awaitable[None]) -> list[Any]:
    """What becomes of calls that are written in one group, as another one was under way meanwhile."""
    other = await make_device(space, f"under way {uuid4()}")
    async with lock("LOCK TABLE presence IN ACCESS EXCLUSIVE MODE") as held:
        under_way = asyncio.create_task(data.telemetry(other, b'{"a":1}'))
        await held.until_waiting()
        tasks = [asyncio.ensure_future(call) for call in calls]
        await until(lambda: data._messages._waiting == len(calls))
    await asyncio.gather(under_way, return_exceptions=True)
    return await asyncio.gather(*tasks, return_exceptions=True)


# --- telemetry


async def test_the_latest_values_are_kept_with_their_types(data: Data, device: Authenticated, space: Space) -> None:
    values = {"a": True, "b": -(2**63), "c": 1.5, "d": "é\U0001f600", "e": {"f": [1, None]}, "g": [], "h": 0, "i": 2.0}
    await data.telemetry(device, json.dumps(values).encode())

    latest = await data.latest(device.device_id)

    assert latest == values
    assert {key: type(value) for key, value in latest.items()} == {key: type(value) for key, value in values.items()}
    assert await data.latest(device.device_id, ["a", "h", "none", "\0", "\ud800"]) == {"a": True, "h": 0}
    assert await data.latest(uuid4()) == {}
    assert await space.value("SELECT ts FROM telemetry WHERE key = 'a'") == NOW * 1000


async def test_the_newest_sample_wins_whenever_it_came(data: Data, device: Authenticated) -> None:
    await data.telemetry(device, b'{"ts":2000,"values":{"a":2}}')
    await data.telemetry(device, b'{"ts":1000,"values":{"a":1}}')
    assert await data.latest(device.device_id) == {"a": 2}
    await data.telemetry(device, b'{"ts":2000,"values":{"a":3}}')
    assert await data.latest(device.device_id) == {"a": 3}
    await data.telemetry(device, b'[{"ts":5000,"values":{"a":5}},{"ts":4000,"values":{"a":4}}]')
    assert await data.latest(device.device_id) == {"a": 5}


async def test_the_history_holds_the_last_samples_of_each_key(data: Data, device: Authenticated, space: Space) -> None:
    for n in range(1, 8):
        await data.telemetry(device, b'{"ts":%d,"values":{"a":%d}}' % (n, n))
    await data.telemetry(device, b'{"ts":1,"values":{"b":1}}')

    assert await history(space, device, "a") == [(7, 7), (6, 6), (5, 5)]
    assert await history(space, device, "a", 2) == [(7, 7), (6, 6)]
    assert await history(space, device, "b") == [(1, 1)]


async def test_more_samples_than_the_history_holds_come_at_once(
    data: Data, device: Authenticated, space: Space
) -> None:
    await data.telemetry(device, b'[{"ts":1,"values":{"a":1}},{"ts":2,"values":{"a":2}}]')
    await data.record(device, [Sample("a", n, n) for n in range(3, MAX_SAMPLES + 3)], kind="ds")

    last = MAX_SAMPLES + 2
    assert await history(space, device, "a") == [(last, last), (last - 1, last - 1), (last - 2, last - 2)]
    assert await space.value("SELECT samples FROM telemetry") == last


async def test_a_larger_history_goes_on_where_the_smaller_one_was(
    data: Data, device: Authenticated, space: Space
) -> None:
    for n in range(1, 6):
        await data.telemetry(device, b'{"ts":%d,"values":{"a":%d}}' % (n, n))
    larger = Data(space.database, space.keys, history_limit=5)
    for n in range(6, 12):
        await larger.telemetry(device, b'{"ts":%d,"values":{"a":%d}}' % (n, n))

    assert [ts for ts, _ in await history(space, device, "a", 5)] == [11, 10, 9, 8, 7]


async def test_messages_of_one_group_share_a_statement(
    data: Data, device: Authenticated, space: Space, lock: Locking, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = 0
    write = store.write

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal statements
        statements += 1
        return await write(*arguments, **options)

    monkeypatch.setattr(store, "write", counted)
    others = [await make_device(space, f"other-{n}") for n in range(5)]
    calls = [data.telemetry(each, b'{"b":1,"a":%d}' % n) for n in range(10) for each in (*others, device)]

    results = await as_one_group(data, lock, space, *calls, data.publish_attributes(device, b'{"x":1}'))

    assert results == [None] * 61
    assert statements == 2
    assert await data.latest(device.device_id) == {"a": 9, "b": 1}
    assert [value for _, value in await history(space, others[4], "b")] == [1, 1, 1]
    assert await space.value("SELECT count(*) FROM telemetry") == 13
    assert await data.attributes(device, None, None) == {"client": {"x": 1}}


async def test_large_groups_are_written_in_parts(
    data: Data, device: Authenticated, space: Space, lock: Locking, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    write = store.write

    async def sized(connection: Any, batch: Batch, **options: Any) -> Any:
        sizes.append(sum(series.count for series in batch.telemetry.values()))
        return await write(connection, batch, **options)

    monkeypatch.setattr(store, "write", sized)
    samples = [Sample("a", n) for n in range(MAX_ROWS // 2)]
    calls = [data.record(device, samples, kind="ds") for _ in range(5)]
    whole = data.record(device, [Sample("a", n) for n in range(MAX_SAMPLES)], kind="ds")

    assert await as_one_group(data, lock, space, *calls, whole) == [None] * 6
    assert sizes == [1, MAX_ROWS, MAX_ROWS, MAX_ROWS // 2, MAX_SAMPLES]


async def test_what_cannot_be_taken_is_refused_and_leaves_nothing(
    data: Data, device: Authenticated, space: Space
) -> None:
    for payload in (b"", b"{", b"[1]", b'{"a":"\\u0000"}'):
        with pytest.raises(InvalidData):
            await data.telemetry(device, payload)
        with pytest.raises(InvalidData):
            await data.publish_attributes(device, payload)
    with pytest.raises(InvalidData):
        await data.record(device, [Sample("a", 1)] * (MAX_SAMPLES + 1), kind="ds")
    assert await space.value("SELECT count(*) FROM presence") == 0


async def test_an_empty_message_shows_the_device_online_and_leaves_nothing_else(space: Space) -> None:
    queue = Queue(space.database)
    data = Data(space.database, space.keys, queue)
    device = await make_device(space)

    await data.telemetry(device, b"{}")
    await data.publish_attributes(device, b'{"a":null}')

    assert await space.value("SELECT count(*) FROM presence") == 1
    assert await space.value("SELECT count(*) FROM sink_message") == 0
    assert await data.latest(device.device_id) == {}


async def test_the_keys_of_a_device_are_bounded(data: Data, device: Authenticated, space: Space, lock: Locking) -> None:
    for n in range(0, MAX_KEYS, 100):
        await data.record(device, [Sample(f"key-{n + i}", 1) for i in range(100)], kind="ds")
    other = await make_device(space, "other")

    results = await as_one_group(
        data,
        lock,
        space,
        data.telemetry(device, b'{"key-0":2}'),
        data.telemetry(device, b'{"one-more":1}'),
        data.telemetry(other, b'{"one-more":1}'),
    )

    assert [type(result) for result in results] == [type(None), InvalidData, type(None)]
    latest = await data.latest(device.device_id)
    assert (len(latest), latest["key-0"]) == (MAX_KEYS, 2)

    await data.publish_attributes(device, json.dumps({f"key-{n}": 1 for n in range(MAX_KEYS)}).encode())
    await data.publish_attributes(device, b'{"key-0":2}')
    with pytest.raises(InvalidData):
        await data.publish_attributes(device, b'{"one-more":1}')
    assert len((await data.attributes(device, None, None))["client"]) == MAX_KEYS  # type: ignore[arg-type]


# --- alone or together


async def test_a_message_that_postgres_refuses_fails_alone(
    data: Data, space: Space, lock: Locking, caplog: pytest.LogCaptureFixture
) -> None:
    async with space.database.connection() as connection:
        await connection.execute("ALTER TABLE telemetry ADD CONSTRAINT obstacle CHECK (key <> 'poison') NOT VALID")
    try:
        devices = [await make_device(space, f"sensor-{n}") for n in range(4)]
        payloads = [b'{"a":1}', b'{"a":1,"poison":"pl4nted"}', b'{"a":1}', b'{"b":1}']

        results = await as_one_group(
            data, lock, space, *(data.telemetry(*each) for each in zip(devices, payloads, strict=True))
        )
    finally:
        async with space.database.connection() as connection:
            await connection.execute("ALTER TABLE telemetry DROP CONSTRAINT obstacle")

    assert [type(result) for result in results] == [type(None), Unavailable, type(None), type(None)]
    assert await data.latest(devices[1].device_id) == {}
    assert await data.latest(devices[3].device_id) == {"b": 1}
    assert "a data statement failed: CheckViolationError" in caplog.text
    assert "pl4nted" not in caplog.text


@pytest.mark.parametrize("code", ["22003", "22P05", "54001"])  # numbers and characters out of range, nesting
async def test_what_postgres_can_never_hold_is_the_senders_fault_and_no_neighbours(
    data: Data, space: Space, lock: Locking, code: str
) -> None:
    async with space.database.connection() as connection:
        await connection.execute(
            f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '{code}'; END $$;"
            " CREATE TRIGGER obstacle BEFORE INSERT ON telemetry FOR EACH ROW WHEN (NEW.key = 'poison')"
            " EXECUTE FUNCTION refuse()"
        )
    try:
        first, second = await make_device(space, "first"), await make_device(space, "second")
        results = await as_one_group(
            data, lock, space, data.telemetry(first, b'{"poison":1}'), data.telemetry(second, b'{"a":1}')
        )
    finally:
        async with space.database.connection() as connection:
            await connection.execute("DROP TRIGGER obstacle ON telemetry; DROP FUNCTION refuse()")

    assert [type(result) for result in results] == [InvalidData, type(None)]
    assert await data.latest(second.device_id) == {"a": 1}


async def test_a_device_that_is_gone_leaves_nothing_and_costs_no_other_one(
    data: Data, device: Authenticated, space: Space, lock: Locking
) -> None:
    other = await make_device(space, "other")
    await data.telemetry(other, b'{"a":1}')
    await data.claim(other, b"")
    await space.devices.delete("other")

    results = await as_one_group(
        data,
        lock,
        space,
        data.telemetry(other, b'{"a":1}'),
        data.telemetry(device, b'{"a":1}'),
        data.publish_attributes(other, b'{"a":1}'),
    )
    await data.claim(other, b"")

    assert [type(result) for result in results] == [Unavailable, type(None), Unavailable]
    for table in ("telemetry", "telemetry_history", "attribute", "presence", "claim"):
        rows = await space.rows(f"SELECT * FROM {table} WHERE device_id = $1", other.device_id)
        assert rows == []


async def test_who_holds_a_device_keeps_its_messages_waiting_and_no_others(
    device: Authenticated, space: Space, database_url: str, lock: Locking
) -> None:
    other = await make_device(space, "other")
    opened = Database(database_url, size=4, serving=True)
    await opened.open()
    data = Data(opened, space.keys, history_limit=3, clock=lambda: NOW)
    async with lock("SELECT FROM device WHERE id = $1 FOR UPDATE", device.device_id):
        results = await asyncio.gather(
            data.telemetry(device, b'{"a":1}'), data.telemetry(other, b'{"a":1}'), return_exceptions=True
        )
    assert [type(result) for result in results] == [Unavailable, type(None)]
    await data.drain()
    await opened.close()


async def test_two_processes_never_wait_for_each_other_crosswise(data: Data, space: Space, database_url: str) -> None:
    devices = [await make_device(space, f"sensor-{n}") for n in range(20)]
    opened = Database(database_url, size=4, serving=True)
    opened._settings["lock_timeout"] = "7s"
    await opened.open()
    other = Data(opened, space.keys, history_limit=3)

    async def send(process: Data, order: int) -> None:
        for _ in range(10):
            for device in devices[::order]:
                payload = b'{"a":1,"b":2}' if order > 0 else b'{"b":1,"a":2}'
                await asyncio.gather(process.telemetry(device, payload), process.publish_attributes(device, payload))

    await asyncio.gather(*(send(process, order) for process in (data, other) for order in (1, -1)))

    await other.drain()
    await opened.close()
    assert await space.value("SELECT sum(samples) FROM telemetry") == 4 * 10 * 20 * 2
    assert await space.value("SELECT count(*) FROM telemetry_history") == 20 * 2 * 3


async def test_while_postgres_is_away_nothing_is_accepted(space: Space, outage: Outage, device: Authenticated) -> None:
    data = Data(outage.database, space.keys)
    await outage.begin()
    for call in (
        data.telemetry(device, b'{"a":1}'),
        data.publish_attributes(device, b'{"a":1}'),
        data.attributes(device, None, None),
        data.changed_attributes(device.device_id, ["a"]),
        data.latest(device.device_id),
        data.claim(device, b""),
    ):
        with pytest.raises(Unavailable):
            await call
    outage.end()
    await data.telemetry(device, b'{"a":1}')
    assert await data.latest(device.device_id) == {"a": 1}


# --- when Postgres is slow


async def test_what_waits_is_bounded_in_bytes(
    space: Space, device: Authenticated, lock: Locking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SIZE", 1000)
    data = Data(space.database, space.keys)
    large = b'{"a":"%s"}' % (b"x" * 391)  # 400 bytes
    texts, numbers = [Sample("b", "x" * 390)], [Sample("c", n, n) for n in range(25)]
    async with lock("LOCK TABLE presence IN ACCESS EXCLUSIVE MODE") as held:
        first = asyncio.create_task(data.telemetry(device, large))
        await held.until_waiting()
        calls = [
            data.telemetry(device, large),
            data.telemetry(device, large),
            data.publish_attributes(device, large),
            data.record(device, texts, kind="ds"),
            data.record(device, numbers, kind="ds"),
            data.publish_attributes(device, b'{"d":1}'),
        ]
        tasks = [asyncio.create_task(call) for call in calls]
        await asyncio.wait(tasks[1:5])
        assert not tasks[0].done()
        assert not tasks[5].done()
    results = await asyncio.gather(first, *tasks, return_exceptions=True)

    assert [type(each) for each in results] == [type(None)] * 2 + [Unavailable] * 4 + [type(None)]
    await data.record(device, texts, kind="ds")
    await data.record(device, numbers, kind="ds")
    assert await data.latest(device.device_id) == {"a": "x" * 391, "b": "x" * 390, "c": 24}


async def test_nobody_waits_for_a_slow_postgres_longer_than_the_limit(
    space: Space, device: Authenticated, lock: Locking
) -> None:
    data = Data(space.database, space.keys, wait_limit=0.05)
    async with lock("LOCK TABLE presence, attribute, telemetry, device IN ACCESS EXCLUSIVE MODE") as held:
        writes = [asyncio.create_task(data.telemetry(device, b'{"a":1}'))]
        await held.until_waiting()
        writes += [
            asyncio.create_task(call)
            for call in (
                data.telemetry(device, b'{"a":2}'),
                data.publish_attributes(device, b'{"a":3}'),
                data.record(device, [Sample("a", 4)], kind="ds"),
            )
        ]
        for write in writes:
            with pytest.raises(Unavailable, match="in time"):
                await write
        for call in (
            data.attributes(device, None, None),
            data.changed_attributes(device.device_id, ["a"]),
            data.latest(device.device_id),
            data.claim(device, b""),
            data.credentials(device, b"{}", Peer(Transport.HTTP, "192.0.2.7")),
        ):
            with pytest.raises(Unavailable, match="in time"):
                await call
        assert await held.waiters()  # the first of them: what was begun is not taken back
    await data.drain()
    assert await data.latest(device.device_id) == {"a": 1}


# --- presence


async def test_a_message_shows_its_device_online_for_a_while(data: Data, device: Authenticated, space: Space) -> None:
    await data.telemetry(device, b'{"a":1}')
    (seen,) = await space.rows("SELECT *, now() AS now FROM presence")
    assert (seen["device_id"], seen["session_id"]) == (device.device_id, None)
    assert timedelta(seconds=50) < seen["online_until"] - seen["now"] <= timedelta(seconds=60)
    assert seen["last_seen_at"] <= seen["now"]

    await data.telemetry(device, b'{"a":1}')  # not written again each time
    assert await space.value("SELECT online_until FROM presence") == seen["online_until"]

    await space.rows("UPDATE presence SET online_until = now() + '40 s', last_seen_at = now() - '20 s'::interval")
    await data.publish_attributes(device, b'{"a":1}')
    (again,) = await space.rows("SELECT * FROM presence")
    assert again["online_until"] > seen["online_until"]
    assert again["last_seen_at"] >= seen["last_seen_at"]


async def test_a_live_session_stays_as_long_online_as_it_said(data: Data, device: Authenticated, space: Space) -> None:
    session = uuid4()
    await space.rows(
        "INSERT INTO presence VALUES ($1, $2, now() + '1 hour', now() - interval '1 hour')", device.device_id, session
    )
    (before,) = await space.rows("SELECT * FROM presence")
    await data.telemetry(device, b'{"a":1}')
    assert await space.rows("SELECT * FROM presence") == [before]


# --- attributes


async def set_attribute(space: Space, device: Authenticated, scope: str, key: str, value: object) -> None:
    await space.rows(
        "INSERT INTO attribute (device_id, scope, key, value) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (device_id, scope, key) DO UPDATE SET value = excluded.value",
        device.device_id,
        scope,
        key,
        value,
    )


async def test_a_device_sees_its_own_and_the_shared_attributes_only(
    data: Data, device: Authenticated, space: Space
) -> None:
    await data.publish_attributes(device, b'{"firmware":"1.0","n":1}')
    await set_attribute(space, device, "SHARED", "interval", 30)
    await set_attribute(space, device, "SHARED", "n", 2)
    await set_attribute(space, device, "SERVER", "secret", "x")
    client, shared = {"firmware": "1.0", "n": 1}, {"interval": 30, "n": 2}

    assert await data.attributes(device, None, None) == {"client": client, "shared": shared}
    assert await data.attributes(device, ["n", "secret"], None) == {"client": {"n": 1}}
    assert await data.attributes(device, None, ["n", "secret", "firmware"]) == {"shared": {"n": 2}}
    assert await data.attributes(device, ["n"], ["interval"]) == {"client": {"n": 1}, "shared": {"interval": 30}}
    assert await data.attributes(device, ["none", "\0"], []) == {}
    assert await data.attributes(await make_device(space, "other"), None, None) == {}


async def test_publishing_changes_nothing_but_what_is_named(data: Data, device: Authenticated, space: Space) -> None:
    await set_attribute(space, device, "SERVER", "provisionState", "provisioned")
    await data.publish_attributes(device, b'{"a":1,"b":2}')
    await data.publish_attributes(device, b'{"a":{"c":3},"provisionState":"mine"}')

    rows = await space.rows("SELECT scope, key, value FROM attribute ORDER BY scope, key")
    assert list(map(tuple, rows)) == [
        ("CLIENT", "a", {"c": 3}),
        ("CLIENT", "b", 2),
        ("CLIENT", "provisionState", "mine"),
        ("SERVER", "provisionState", "provisioned"),
    ]


async def test_a_push_says_what_has_changed_and_what_is_gone(data: Data, device: Authenticated, space: Space) -> None:
    await set_attribute(space, device, "SHARED", "a", 1)
    await set_attribute(space, device, "SHARED", "b", False)
    await set_attribute(space, device, "SERVER", "c", 3)

    assert await data.changed_attributes(device.device_id, ["a"]) == {"a": 1}
    assert await data.changed_attributes(device.device_id, ["b", "c", "d"]) == {"b": False, "deleted": ["c", "d"]}
    assert await data.changed_attributes(device.device_id, []) == {"a": 1, "b": False}


@pytest.fixture
async def heard(database_url: str) -> AsyncIterator[list[str]]:
    """What is told on the channel."""
    payloads: list[str] = []
    connection = await asyncpg.connect(database_url)
    await connection.add_listener("attributes", lambda *told: payloads.append(str(told[-1])))
    yield payloads
    await connection.close()


async def test_changes_of_shared_attributes_are_told_however_they_are_made(
    data: Data, device: Authenticated, space: Space, heard: list[str]
) -> None:
    key = 'é\U0001f600, "\\' * 30
    await set_attribute(space, device, "SERVER", "a", 1)
    await data.publish_attributes(device, b'{"a":1}')
    await set_attribute(space, device, "SHARED", "a", 1)
    await set_attribute(space, device, "SHARED", "a", 2)
    await set_attribute(space, device, "SHARED", key, 1)
    await space.rows("DELETE FROM attribute")

    await until(lambda: len(heard) >= 5)
    assert all(payload.startswith(f"{device.device_id} ") for payload in heard)
    told = [json.loads(payload.partition(" ")[2]) for payload in heard]
    assert told[:3] == [["a"], ["a"], [key]]
    assert sorted(told[3:]) == [["a"], [key]]


async def test_an_import_tells_nothing(space: Space, heard: list[str], device: Authenticated) -> None:

    fleet = await Fleet.make(space)
    report = await load(fleet, ["name,shared:interval\n", "a,30\n"])
    assert report.imported == 1
    await set_attribute(space, device, "SHARED", "last", 1)
    await until(lambda: len(heard) >= 1)
    assert [payload.partition(" ")[2] for payload in heard] == ['["last"]']


# --- claims


async def claims(space: Space) -> list[tuple[UUID, bytes, timedelta]]:
    return [tuple(row) for row in await space.rows("SELECT device_id, secret_digest, expires_at - now() FROM claim")]


async def test_a_claim_is_kept_as_a_digest(data: Data, device: Authenticated, space: Space) -> None:
    await data.claim(device, b'{"secretKey":"pl4nted","durationMs":"60000"}')

    ((device_id, digest, left),) = await claims(space)
    assert device_id == device.device_id
    assert digest == space.keys.digest("claim-secret", device_id.bytes, "pl4nted")
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)


async def test_a_second_claim_does_not_replace_a_live_one(data: Data, device: Authenticated, space: Space) -> None:
    await data.claim(device, b"")
    before = await space.rows("SELECT * FROM claim")
    await data.claim(device, b'{"secretKey":"other"}')
    assert await space.rows("SELECT * FROM claim") == before

    await space.rows("UPDATE claim SET expires_at = now() - interval '1 s'")
    await data.claim(device, b'{"secretKey":"other"}')
    ((_, digest, left),) = await claims(space)
    assert digest == space.keys.digest("claim-secret", device.device_id.bytes, "other")
    assert left > timedelta(hours=23)


async def test_a_claim_that_is_none_is_refused(data: Data, device: Authenticated, space: Space) -> None:
    with pytest.raises(InvalidData):
        await data.claim(device, b"[]")
    assert await claims(space) == []


# --- the sink's queue


async def queued(space: Space) -> list[tuple[UUID, str, str, dict[str, Any]]]:
    rows = await space.rows("SELECT device_id, device_name, kind, body FROM sink_message ORDER BY id")
    return [(row[0], row[1], row[2], json.loads(row[3])) for row in rows]


async def test_what_is_accepted_is_queued_for_the_sink_in_order(space: Space, lock: Locking) -> None:
    queue = Queue(space.database)
    data = Data(space.database, space.keys, queue, clock=lambda: NOW)
    device = await make_device(space)

    await as_one_group(
        data,
        lock,
        space,
        data.telemetry(device, b'{"a":1}'),
        data.publish_attributes(device, b'{"b":[2]}'),
        data.record(device, [Sample("c", 3, 5), Sample("d", 4, 5)], kind="ds"),
    )

    rows = (await queued(space))[1:]  # the one under way is another's
    assert [row[:3] for row in rows] == [
        (device.device_id, "sensor-1", kind) for kind in ("telemetry", "attributes", "ds")
    ]
    bodies = [row[3] for row in rows]
    now = int(NOW * 1000)
    assert [body["data"] for body in bodies] == [
        [{"ts": now, "values": {"a": 1}}],
        {"b": [2]},
        [{"ts": 5, "values": {"c": 3, "d": 4}}],
    ]
    assert len({body["id"] for body in bodies}) == 3
    assert queue.calls == [(1, 0), (3, 0)]


async def test_without_a_sink_and_for_claims_nothing_is_queued(data: Data, device: Authenticated, space: Space) -> None:
    await data.telemetry(device, b'{"a":1}')
    await Data(space.database, space.keys, Queue(space.database)).claim(device, b'{"secretKey":"pl4nted"}')
    assert await queued(space) == []


async def test_past_the_bound_messages_are_dropped_for_the_sink_alone(space: Space, lock: Locking) -> None:
    queue = Queue(space.database, limit=3)
    data = Data(space.database, space.keys, queue)
    device = await make_device(space)

    await as_one_group(data, lock, space, *(data.telemetry(device, b'{"a":%d}' % n) for n in range(4)))
    await data.telemetry(device, b'{"a":4}')

    assert len(await queued(space)) == 3
    assert (queue.dropped, queue.calls) == (3, [(1, 0), (2, 2), (0, 1)])
    assert await data.latest(device.device_id) == {"a": 4}

    await space.rows("DELETE FROM sink_message WHERE id = (SELECT min(id) FROM sink_message)")
    await data.telemetry(device, b'{"a":5}')
    assert queue.calls[-1] == (1, 0)


async def test_what_is_not_accepted_is_not_queued(space: Space) -> None:
    data = Data(space.database, space.keys, Queue(space.database))
    device = await make_device(space)
    await space.devices.delete("sensor-1")
    with pytest.raises(Unavailable):
        await data.telemetry(device, b'{"a":1}')
    assert await queued(space) == []
