import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_network
from uuid import UUID, uuid4

import asyncpg
import pytest

from provserver.core import ids
from provserver.core.model import (
    CertificateAuthority,
    ChainRules,
    Datastream,
    DeviceProfile,
    KeyBudget,
    MetadataField,
    NameSource,
    ProvisionKey,
    ProvisionStrategy,
    ReprovisionPolicy,
)
from provserver.store import profiles
from provserver.store.database import Database
from provserver.store.profiles import AuthorityRow
from tests.conftest import Space


async def make_profile(space: Space, name: str = "sensors") -> DeviceProfile:
    profile = DeviceProfile(
        id=ids.uuid7(0, os.urandom),
        organization_id=space.organization_id,
        name=name,
        template_id=ids.template_id(os.urandom),
        strategy=ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES,
        reprovision_policy=ReprovisionPolicy.DENY,
        revision=1,
        created_at=datetime.now(UTC),
        metadata_fields=(MetadataField("serial", "text"),),
        datastreams=(Datastream("temperature", "V1", "double", -40.0, None),),
    )
    async with space.database.connection() as connection:
        await profiles.insert(connection, profile)
        found = await profiles.find(connection, space.organization_id, name)
    assert found is not None
    assert (found.metadata_fields, found.datastreams) == (profile.metadata_fields, profile.datastreams)
    return found


async def test_there_is_one_root_organization_however_many_make_it(database: Database) -> None:
    async def make() -> UUID:
        async with database.connection() as connection:
            return await profiles.root_organization(connection, uuid4(), "Manufacturer")

    assert len(set(await asyncio.gather(*(make() for _ in range(8))))) == 1
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM organization") == 1


async def test_a_key_shows_its_profile_to_whom_it_came_with_its_secret(space: Space) -> None:
    sensors = await make_profile(space)
    async with space.database.connection() as connection:
        for key in ("s1", "s2"):
            await profiles.insert_key(connection, sensors.id, key, b"digest of " + key.encode(), b"sealed")
        found = await profiles.prove(connection, ["s1", "s2", "unknown", "s1"], [b"digest of s1", b"wrong"])
        nothing = await profiles.prove(connection, ["s1"], [])

    unproven = {key: profiles.Unproven(sensors.id, b"digest of " + key.encode()) for key in ("s1", "s2")}
    assert found == unproven | {"s1": ProvisionKey("s1", b"digest of s1", sensors)}
    assert nothing == {"s1": unproven["s1"]}


async def test_keys_are_recognised_with_their_profiles(space: Space) -> None:
    sensors, meters = await make_profile(space), await make_profile(space, "meters")
    async with space.database.connection() as connection:
        for key, profile in (("s1", sensors), ("s2", sensors), ("m1", meters)):
            await profiles.insert_key(connection, profile.id, key, key.encode(), b"sealed")

        found = await profiles.recognise(connection, ["s1", "m1", "m1", "unknown", ""])

        assert found == {"s1": ProvisionKey("s1", b"s1", sensors), "m1": ProvisionKey("m1", b"m1", meters)}
        assert [row.key for row in await profiles.keys(connection, sensors.id)] == ["s1", "s2"]


async def test_a_key_keeps_its_budget(space: Space) -> None:
    profile = await make_profile(space)
    begin, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    budgets = {
        "a": KeyBudget(begin, end, (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))),
        "b": KeyBudget(not_after=end),
        "c": KeyBudget(networks=(ip_network("0.0.0.0/0"),)),
        "d": None,
    }
    async with space.database.connection() as connection:
        for key, budget in budgets.items():
            await profiles.insert_key(connection, profile.id, key, b"d", b"s", budget)
        await profiles.insert_key(connection, profile.id, "e", b"d", b"s", KeyBudget())

        recognised = await profiles.recognise(connection, [*budgets, "e"])
        kept = {row.key: row.budget for row in await profiles.keys(connection, profile.id)}

    assert {key: each.budget for key, each in recognised.items()} == kept == budgets | {"e": None}


async def test_a_profile_keeps_what_it_is_changed_to(space: Space) -> None:
    profile = await make_profile(space)
    changed = replace(
        profile,
        name="meters",
        metadata_fields=(MetadataField("Model", "list", unique=False, options=("a", "b"), default="a"),),
        chain=ChainRules(NameSource.SAN_URI, "x", allow_create=False),
        two_sided_claim=True,
    )
    async with space.database.connection() as connection:
        await profiles.update(connection, changed)
        assert await profiles.get(connection, profile.id) == replace(changed, revision=profile.revision + 1)


async def test_fields_of_an_older_release_are_read(space: Space) -> None:
    profile = await make_profile(space)
    await space.rows('UPDATE device_profile SET metadata_fields = \'[{"name": "serial", "type": "text"}]\'')
    async with space.database.connection() as connection:
        assert await profiles.get(connection, profile.id) == profile


async def test_a_key_is_of_one_profile(space: Space) -> None:
    sensors, meters = await make_profile(space), await make_profile(space, "meters")
    async with space.database.connection() as connection:
        await profiles.insert_key(connection, sensors.id, "key", b"d", b"s")
        with pytest.raises(asyncpg.UniqueViolationError):
            await profiles.insert_key(connection, meters.id, "key", b"d", b"s")

        assert not await profiles.delete_key(connection, meters.id, "key")
        assert await profiles.delete_key(connection, sensors.id, "key")
        assert not await profiles.delete_key(connection, sensors.id, "key")


async def test_the_profiles_of_another_organization_are_not_found(space: Space) -> None:
    profile = await make_profile(space)
    async with space.database.connection() as connection:
        for reference in (profile.name, profile.template_id, str(profile.id)):
            assert await profiles.find(connection, uuid4(), reference) is None
        assert await profiles.list_(connection, uuid4()) == []
        assert await profiles.list_(connection, space.organization_id) == [profile]


async def test_a_deleted_profile_takes_its_keys_along(space: Space) -> None:
    profile = await make_profile(space)
    async with space.database.connection() as connection:
        await profiles.insert_key(connection, profile.id, "key", b"d", b"s")

        await profiles.delete(connection, profile.id)

        assert await profiles.recognise(connection, ["key"]) == {}
        assert await profiles.keys(connection, profile.id) == []


async def test_devices_are_barred_until_the_transaction_ends(space: Space, database_url: str) -> None:
    profile = await make_profile(space)
    making = "INSERT INTO device (id, organization_id, profile_id, name) VALUES (gen_random_uuid(), $1, $2, 'a')"
    other = await asyncpg.connect(database_url)
    async with space.database.transaction() as connection:
        await profiles.bar_devices(connection)
        task = asyncio.create_task(other.execute(making, space.organization_id, profile.id))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not await connection.fetchval(waiting):
            assert not task.done()
        assert await profiles.count_devices(connection, profile.id) == 0

    await task
    async with space.database.connection() as connection:
        assert await profiles.count_devices(connection, profile.id) == 1
        assert await connection.fetchval("SHOW lock_timeout") == "0"  # it was for that transaction
    await other.close()


async def test_devices_that_are_being_made_for_long_are_not_waited_for(space: Space, database_url: str) -> None:
    other = await asyncpg.connect(database_url)
    await other.execute("BEGIN; LOCK TABLE device IN ROW EXCLUSIVE MODE")

    with pytest.raises(asyncpg.LockNotAvailableError):
        async with space.database.transaction() as connection:
            await profiles.bar_devices(connection)

    await other.close()


async def test_profiles_are_found_by_the_subjects_of_their_cas(space: Space) -> None:
    sensors, meters = await make_profile(space), await make_profile(space, "meters")
    rows = {
        sensors.id: [
            AuthorityRow(b"i1", b"root", CertificateAuthority(b"c1", b"crl")),
            AuthorityRow(b"i2", b"factory", CertificateAuthority(b"c2")),
        ],
        meters.id: [AuthorityRow(b"i3", b"root", CertificateAuthority(b"c3"))],
    }
    async with space.database.connection() as connection:
        for profile_id, authorities in rows.items():
            await profiles.replace_authorities(connection, profile_id, authorities)

        found = await profiles.trusting(connection, [b"root", b"factory", b"unknown"])
        assert found == {
            b"root": {sensors.id: 1, meters.id: 1},
            b"factory": {sensors.id: 1},
            b"unknown": {},
        }
        assert await profiles.authorities(connection, sensors.id) == tuple(row.authority for row in rows[sensors.id])
        root = space.organization_id
        assert await profiles.authority_holder(connection, [b"i3"], sensors.id, root) == "meters"
        assert await profiles.authority_holder(connection, [b"i3"], meters.id, root) is None
        assert await profiles.authority_holder(connection, [b"i3"], sensors.id, uuid4()) is None
        with pytest.raises(asyncpg.UniqueViolationError):
            async with connection.transaction():
                await profiles.replace_authorities(connection, meters.id, rows[sensors.id])
        await profiles.replace_authorities(connection, sensors.id, [])
        assert await profiles.trusting(connection, [b"root"]) == {b"root": {meters.id: 1}}


async def test_cas_are_found_by_their_keys(own_database_url: str) -> None:
    """However many profiles there are: no table is read as a whole."""
    serving = Database(own_database_url, size=1, serving=True)
    await serving.open()
    statement = (
        "EXPLAIN SELECT a.subject_digest, p.id, p.revision FROM certificate_authority a"
        " JOIN device_profile p ON p.id = a.profile_id WHERE a.subject_digest = ANY($1::bytea[])"
    )
    async with serving.connection() as connection:
        plan = " ".join(row[0] for row in await connection.fetch(statement, [b"x"]))
    await serving.close()
    assert "Seq Scan" not in plan
    assert "certificate_authority_subject_digest_idx" in plan
