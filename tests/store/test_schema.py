import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from provserver.errors import Misconfigured
from provserver.store import schema
from provserver.store.database import Database
from provserver.store.schema import Migration

BROKEN = Migration(9001, "broken", "CREATE TABLE half (n integer); SELECT no_such_function()")
NEWER = Migration(9000, "newer", "CREATE TABLE newer (n integer)")


@pytest.fixture(scope="module")
async def bare_url(postgres: str) -> str:
    name = f"bare_{os.urandom(4).hex()}"
    connection = await asyncpg.connect(postgres)
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    await connection.close()
    return postgres.replace("/provserver?", f"/{name}?")


@pytest.fixture
async def bare(bare_url: str) -> AsyncIterator[Database]:
    """A database that nothing was done to."""
    opened = Database(bare_url, size=4)
    await opened.open()
    yield opened
    async with opened.connection() as connection:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await opened.close()


async def tables(database: Database) -> set[str]:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row["tablename"] for row in rows}


async def history(database: Database) -> list[tuple[int, str, str]]:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT number, name, checksum FROM schema_migration ORDER BY number")
    return [(row["number"], row["name"], row["checksum"]) for row in rows]


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> list[Migration]:
    """The migrations of a release, to add to."""
    migrations = schema.known()
    monkeypatch.setattr(schema, "known", lambda: list(migrations))
    return migrations


def test_migrations_are_numbered_from_one_without_a_gap() -> None:
    found = schema.known()

    assert [migration.number for migration in found] == list(range(1, len(found) + 1))
    assert all(re.fullmatch(r"[a-z0-9_]+", migration.name) for migration in found)
    assert len({migration.checksum for migration in found}) == len(found)


async def test_upgrading_nothing_applies_everything(bare: Database) -> None:
    known = schema.known()
    assert await schema.pending(bare) == known
    assert await tables(bare) == set()  # asking changes nothing

    assert await schema.upgrade(bare) == known

    assert await schema.pending(bare) == []
    assert await history(bare) == [(m.number, m.name, m.checksum) for m in known]
    assert {"device", "credentials", "attempt", "outbox", "schema_migration"} <= await tables(bare)


async def test_upgrading_again_applies_nothing(bare: Database) -> None:
    await schema.upgrade(bare)
    before = await history(bare)

    assert await schema.upgrade(bare) == []

    assert await history(bare) == before


async def test_two_that_upgrade_at_once_apply_everything_once(bare_url: str, bare: Database) -> None:
    other = Database(bare_url, size=4)
    await other.open()

    applied = await asyncio.gather(*(schema.upgrade(database) for database in (bare, other) * 4))

    assert sorted(map(len, applied)) == [0] * 7 + [len(schema.known())]
    assert len(await history(bare)) == len(schema.known())
    await other.close()


async def test_who_upgrades_waits_for_who_upgrades_already(bare_url: str, bare: Database) -> None:
    holder = await asyncpg.connect(bare_url)
    await holder.execute("BEGIN")
    await holder.execute("SELECT pg_advisory_xact_lock($1)", schema._LOCK)
    task = asyncio.create_task(schema.upgrade(bare))
    while not await holder.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
        assert not task.done()

    await holder.execute("COMMIT")

    assert await task == schema.known()
    await holder.close()


async def test_what_a_new_release_brings_is_applied_to_what_is_there(bare: Database, release: list[Migration]) -> None:
    await schema.upgrade(bare)
    release.append(NEWER)
    assert await schema.pending(bare) == [NEWER]

    assert await schema.upgrade(bare) == [NEWER]

    assert "newer" in await tables(bare)
    assert await schema.pending(bare) == []


async def test_a_migration_that_fails_leaves_nothing_of_the_upgrade(bare: Database, release: list[Migration]) -> None:
    await schema.upgrade(bare)
    before = await history(bare)
    release += [NEWER, BROKEN]

    with pytest.raises(asyncpg.UndefinedFunctionError):
        await schema.upgrade(bare)

    assert not {"newer", "half"} & await tables(bare)
    assert await history(bare) == before
    release.remove(BROKEN)
    assert await schema.upgrade(bare) == [NEWER]


async def test_a_migration_that_was_changed_after_it_was_applied_is_refused(
    bare: Database, release: list[Migration]
) -> None:
    await schema.upgrade(bare)
    release[0] = replace(release[0], sql=release[0].sql + "\n")
    release.append(NEWER)

    for act in (schema.upgrade, schema.pending):
        with pytest.raises(Misconfigured, match=r"0001_\w+ was changed.*Install the release"):
            await act(bare)

    assert "newer" not in await tables(bare)


async def test_a_restore_is_known_by_its_backup_whatever_digits_it_begins_with(bare: Database) -> None:
    backup = "00c4" + "5e" * 30
    async with bare.transaction() as connection:
        await schema.begin_restore(connection, backup)
        assert await schema.restoring(connection) == backup
        await schema.end_restore(connection)
        assert await schema.restoring(connection) is None


async def test_a_database_of_a_newer_release_is_refused(bare: Database, release: list[Migration]) -> None:
    release.append(NEWER)
    await schema.upgrade(bare)
    release.remove(NEWER)

    for act in (schema.upgrade, schema.pending):
        with pytest.raises(Misconfigured, match=r"9000_newer, which this release does not know.*Install"):
            await act(bare)


_PROFILE = (
    "INSERT INTO device_profile (id, organization_id, name, template_id, strategy, reprovision_policy)"
    " VALUES (gen_random_uuid(), $1, {}, 't', {}, {})"
)


@pytest.mark.parametrize(
    "statement",
    [
        _PROFILE.format("''", "'DISABLED'", "'deny'"),
        _PROFILE.format("'p'", "'NONSENSE'", "'deny'"),
        _PROFILE.format("'p'", "'DISABLED'", "'nonsense'"),
        "INSERT INTO organization (id, name, path) VALUES ($1, '', '{}')",
        "INSERT INTO credentials (id_digest, device_id, type, origin, sealed) VALUES ('', $1, 'X', 'imported', '')",
        "INSERT INTO credentials (id_digest, device_id, type, origin, sealed) VALUES ('', $1, 'MQTT_BASIC', 'x', '')",
        "INSERT INTO attribute (device_id, scope, key, value) VALUES ($1, 'NONSENSE', 'k', 'null')",
    ],
)
async def test_the_schema_refuses_what_no_release_writes(bare: Database, statement: str) -> None:
    await schema.upgrade(bare)
    async with bare.connection() as connection:
        id_ = await connection.fetchval(
            "INSERT INTO organization (id, name, path) VALUES (gen_random_uuid(), 'o', '{}') RETURNING id"
        )
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(statement, id_)
