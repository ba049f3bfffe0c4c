import os
import re
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from provserver.core.ids import uuid7
from provserver.store import profiles, provisions
from provserver.store.database import Connection, Database
from provserver.store.provisions import AttemptRow, Kind, Look, Sighting, Write
from tests.conftest import Space
from tests.store.test_profiles import make_profile


@pytest.fixture
async def profile_id(space: Space) -> UUID:
    return (await make_profile(space)).id


NONCE, REQUEST = b"n" * 32, b"r" * 32


def write(profile_id: UUID, name: str, **members: Any) -> Write:
    """A write of a new device, all of its values its own."""
    plain = Write(
        device_id=uuid7(0, os.urandom),
        name=name,
        address="192.0.2.7",
        id_digest=os.urandom(32),
        sealed=b"sealed",
        proof=b"",
        kind=Kind(profile_id, 1, False, "ACCESS_TOKEN", "generated", "HTTP"),
        attempt_id=uuid4(),
    )
    return changed(plain, **members)


def changed(known: Write, **members: Any) -> Write:
    kind = known.kind._replace(**{name: members.pop(name) for name in Kind._fields if name in members})
    return known._replace(kind=kind, **members)


async def again(connection: Connection, known: Write, **members: Any) -> Write:
    """A write on a device as it is now, by values of its own."""
    revision = await connection.fetchval("SELECT revision FROM device WHERE id = $1", known.device_id)
    changes: dict[str, Any] = {
        "attempt_id": uuid4(),
        "id_digest": os.urandom(32),
        "device_revision": revision,
    }
    return changed(known, **changes | members)


async def held(connection: Connection, device_id: UUID) -> set[tuple[bytes, bool]]:
    rows = await connection.fetch("SELECT id_digest, pending FROM credentials WHERE device_id = $1", device_id)
    return {(row["id_digest"], row["pending"]) for row in rows}


async def counts(connection: Connection) -> list[int]:
    return [
        await connection.fetchval(f"SELECT count(*) FROM {table}")
        for table in ("device", "credentials", "attribute", "attempt", "outbox")
    ]


# --- create


async def test_create_writes_a_group_at_once(space: Space, profile_id: UUID) -> None:
    writes = [write(profile_id, f"sensor-{n}", gateway=bool(n % 2)) for n in range(50)]
    async with space.database.connection() as connection:
        assert await provisions.create(connection, writes) == {each.device_id for each in writes}

        assert await counts(connection) == [50] * 5
        found = await provisions.devices(connection, {writes[0].device_id})
    row = found[writes[0].device_id]
    assert (row.name, row.profile_id, row.revision, row.rearmed) == ("sensor-0", profile_id, 1, False)
    assert row.provision_state == "provisioned"
    assert row.credentials == (("ACCESS_TOKEN", "generated", False, False, b"sealed", None),)


@pytest.mark.parametrize("clash", ["name", "id_digest", "proof", "device_id", "profile_revision", "profile_id"])
async def test_create_leaves_out_what_clashes_and_writes_the_rest(space: Space, profile_id: UUID, clash: str) -> None:
    first = write(profile_id, "sensor-1", proof=NONCE + REQUEST)
    wrong: dict[str, Any] = {"profile_revision": 2, "profile_id": uuid4()}
    clashing = {clash: wrong[clash] if clash in wrong else getattr(first, clash)}
    second = changed(write(profile_id, "sensor-2", origin="supplied"), **clashing)
    third = write(profile_id, "sensor-3")
    async with space.database.connection() as connection:
        await provisions.create(connection, [first])

        assert third.device_id in await provisions.create(connection, [second, third])

        assert await counts(connection) == [2] * 5
        names = {row["name"] for row in await connection.fetch("SELECT name FROM device")}
    assert names == {"sensor-1", "sensor-3"}


async def test_a_profile_changed_since_the_decision_keeps_its_devices_from_being_made(
    space: Space, profile_id: UUID
) -> None:
    async with space.database.connection() as connection:
        await profiles.touch(connection, profile_id)

        assert await provisions.create(connection, [write(profile_id, "sensor-1")]) == set()
        assert await counts(connection) == [0] * 5


# --- provision


@pytest.mark.parametrize("change", ["keep", "replace", "add_pending"])
async def test_provision_does_with_the_credentials_what_was_decided(
    space: Space, profile_id: UUID, change: str
) -> None:
    first = write(profile_id, "sensor-1")
    async with space.database.connection() as connection:
        await provisions.create(connection, [first])
        second = await again(connection, first, change=change)

        assert await provisions.provision(connection, [second]) == {first.device_id}

        expected = {
            "keep": {(first.id_digest, False)},
            "replace": {(second.id_digest, False)},
            "add_pending": {(first.id_digest, False), (second.id_digest, True)},
        }
        assert await held(connection, first.device_id) == expected[change]
        assert (await counts(connection))[3:] == [2, 2]
        assert await connection.fetchval("SELECT revision FROM device") == 2


async def test_a_second_pending_takes_the_place_of_the_first(space: Space, profile_id: UUID) -> None:
    first = write(profile_id, "sensor-1")
    async with space.database.connection() as connection:
        await provisions.create(connection, [first])
        for _ in range(2):
            last = await again(connection, first, change="add_pending")
            await provisions.provision(connection, [last])

        assert await held(connection, first.device_id) == {(first.id_digest, False), (last.id_digest, True)}


async def test_credentials_replaced_under_their_own_id_are_unused_again(space: Space, profile_id: UUID) -> None:
    first = write(profile_id, "sensor-1")
    async with space.database.connection() as connection:
        await provisions.create(connection, [first])
        await connection.execute("UPDATE credentials SET first_used_at = now()")
        second = await again(connection, first, id_digest=first.id_digest, sealed=b"new", origin="supplied")

        assert await provisions.provision(connection, [second]) == {first.device_id}

        rows = await connection.fetch("SELECT id_digest, sealed, origin, first_used_at FROM credentials")
    assert [tuple(row) for row in rows] == [(first.id_digest, b"new", "supplied", None)]


async def test_credentials_are_never_taken_from_another_device(space: Space, profile_id: UUID) -> None:
    mine, theirs = write(profile_id, "sensor-1"), write(profile_id, "sensor-2")
    async with space.database.connection() as connection:
        await provisions.create(connection, [mine, theirs])
        for change in ("replace", "add_pending"):
            thief = await again(connection, mine, id_digest=theirs.id_digest, change=change)
            with pytest.raises(asyncpg.IntegrityConstraintViolationError):
                await provisions.provision(connection, [thief])

        assert await held(connection, theirs.device_id) == {(theirs.id_digest, False)}
        assert await held(connection, mine.device_id) == {(mine.id_digest, False)}
        assert await counts(connection) == [2] * 5


@pytest.mark.parametrize("stale", ["device_revision", "profile_revision", "profile_id", "device_id"])
async def test_what_was_decided_on_something_else_is_not_written(space: Space, profile_id: UUID, stale: str) -> None:
    first, neighbour = write(profile_id, "sensor-1"), write(profile_id, "sensor-2")
    other = await make_profile(space, "other")
    async with space.database.connection() as connection:
        await provisions.create(connection, [first, neighbour])
        wrong = {"device_revision": 7, "profile_revision": 7, "profile_id": other.id, "device_id": uuid4()}[stale]
        writes = [await again(connection, first, **{stale: wrong}), await again(connection, neighbour)]

        assert await provisions.provision(connection, writes) == {neighbour.device_id}

        assert await held(connection, first.device_id) == {(first.id_digest, False)}
        assert (await counts(connection))[3:] == [3, 3]


async def test_provision_ends_a_rearming_and_remembers_the_nonce(space: Space, profile_id: UUID) -> None:
    first = write(profile_id, "sensor-1", proof=NONCE + REQUEST, gateway=True)
    async with space.database.connection() as connection:
        await provisions.create(connection, [first])
        other = b"N" * 32, b"R" * 32
        for proof, expected in ((b"".join(other), other), (b"", (other[0], None))):
            await connection.execute("UPDATE device SET rearmed = true")
            write_ = await again(connection, first, proof=proof, gateway=False)
            await provisions.provision(connection, [write_])

            row = await connection.fetchrow("SELECT rearmed, gateway, nonce_digest, request_digest FROM device")
            assert row is not None
            assert tuple(row) == (False, True, *expected)  # without a nonce the old one is spent


async def test_provision_sets_the_state_of_a_device_that_has_none(space: Space, profile_id: UUID) -> None:
    first = write(profile_id, "sensor-1")
    async with space.database.connection() as connection:
        await provisions.create(connection, [first])
        for state in ("DELETE FROM attribute", "UPDATE attribute SET value = '7'"):
            await connection.execute(state)
            await provisions.provision(connection, [await again(connection, first, change="keep")])
            rows = await connection.fetch("SELECT scope, key, value FROM attribute")
            assert [tuple(row) for row in rows] == [("SERVER", "provisionState", "provisioned")]


# --- look


async def test_looks_find_names_nonces_and_credentials_in_their_order(space: Space, profile_id: UUID) -> None:
    mine = write(profile_id, "sensor-1", proof=NONCE + REQUEST)
    other = await make_profile(space, "other")
    looks = [
        Look(space.organization_id, profile_id, "sensor-1", None, None),
        Look(space.organization_id, profile_id, None, NONCE, None),
        Look(space.organization_id, other.id, "sensor-1", NONCE, mine.id_digest),
        Look(uuid4(), uuid4(), "sensor-1", NONCE, None),
        Look(space.organization_id, profile_id, None, None, None),
    ]
    async with space.database.connection() as connection:
        await provisions.create(connection, [mine])
        await profiles.touch(connection, other.id)

        found = await provisions.look(connection, looks)

    id_ = mine.device_id
    assert found == [
        Sighting(1, id_, None, None),
        Sighting(1, None, id_, None),
        Sighting(2, id_, None, id_),
        Sighting(None, None, None, None),
        Sighting(1, None, None, None),
    ]


async def test_devices_that_are_gone_are_not_found(space: Space, profile_id: UUID) -> None:
    mine = write(profile_id, "sensor-1")
    async with space.database.connection() as connection:
        await provisions.create(connection, [mine])
        assert set(await provisions.devices(connection, {mine.device_id, uuid4()})) == {mine.device_id}


# --- attempts


async def test_attempts_are_recorded_once(space: Space) -> None:
    bare = AttemptRow(uuid4(), "HTTP", "192.0.2.7", "failure")
    full = AttemptRow(uuid4(), "MQTT", "::1", "not_found", "SECRET_WRONG", "detail", uuid4(), uuid4(), "sensor-1")
    async with space.database.connection() as connection:
        await provisions.record(connection, [bare, full])
        await provisions.record(connection, [replace(full, outcome="success")])  # sent again by a broken connection

        rows = await connection.fetch(
            "SELECT id, transport, address, outcome, reason, detail, profile_id, device_id, device_name FROM attempt"
        )
        committed = await provisions.committed(connection, [full.id, uuid4()])
    assert {AttemptRow(*row) for row in rows} == {bare, full}
    assert committed == {full.id}


# --- plans


@pytest.mark.parametrize("statement", ["_CREATE", "_PROVISION", "_LOOK"])
async def test_a_plan_made_on_empty_tables_serves_when_they_are_large(own_database_url: str, statement: str) -> None:
    """As plans are kept for the life of a connection."""
    sql = getattr(provisions, statement)
    parameters = len(set(re.findall(r"\$\d+", sql)))
    database = Database(own_database_url, size=1, serving=True)
    await database.open()
    try:
        async with database.connection() as connection:
            await connection.execute("ANALYZE")
            await connection.execute("SET plan_cache_mode = force_generic_plan")
            await connection.execute(f"PREPARE s AS {sql}")
            rows = await connection.fetch(f"EXPLAIN EXECUTE s ({', '.join(['NULL'] * parameters)})")
    finally:
        await database.close()
    plan = "\n".join(row[0] for row in rows)
    for table in ("device", "credentials", "attribute"):
        assert f"Seq Scan on {table} " not in plan
    assert "Hash Join" not in plan
