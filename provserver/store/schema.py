"""The schema's history: numbered SQL files, applied in order, once, and never changed after."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from provserver.errors import Misconfigured
from provserver.store.database import Connection, Database

_LOCK = 0x70726F76  # "prov": two servers that start together migrate one after the other

_RESTORE = "provserver_restore"

_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migration (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """A file `NNNN_name.sql`; checksum: hex SHA-256 of its text."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """What was applied must stay what is in the file."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known() -> list[Migration]:
    """Every migration of this release, in order."""
    found = []
    for file in files("provserver.store").joinpath("migrations").iterdir():
        if file.name.endswith(".sql"):
            number, name = file.name.removesuffix(".sql").split("_", 1)
            found.append(Migration(int(number), name, file.read_text()))
    return sorted(found, key=lambda migration: migration.number)


async def pending(database: Database) -> list[Migration]:
    """What `upgrade` would apply. Raises Misconfigured when the history is not ours."""
    async with database.connection() as connection:
        await _check_restored(connection)
        return await _pending(connection)


async def upgrade(database: Database, *, restoring: bool = False) -> list[Migration]:
    """Apply what is missing, all or nothing, and return it. Raises Misconfigured, Unavailable.

    restoring: for who restores a backup himself; others have no business in a database where that is not finished.
    """
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL lock_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK, timeout=60)
        if not restoring:
            await _check_restored(connection)
        await connection.execute(_HISTORY)
        missing = await _pending(connection)
        for migration in missing:
            await connection.execute(migration.sql, timeout=3600)
            await connection.execute(
                "INSERT INTO schema_migration (number, name, checksum) VALUES ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.checksum,
            )
        return missing


async def applied(connection: Connection) -> list[tuple[int, str, str]]:
    """The history of a database: number, name and checksum of each migration, in order."""
    rows = await connection.fetch("SELECT number, name, checksum FROM schema_migration ORDER BY number")
    return [tuple(row) for row in rows]


async def begin_restore(connection: Connection, backup: str) -> None:
    """Mark a database as one that a backup is being restored into. backup: hex, what tells it from others.

    The mark is a schema of its own: it needs no more than owning the database, and no dump brings or removes it.
    """
    await connection.execute(f"CREATE SCHEMA {_RESTORE}")
    await connection.execute(f"COMMENT ON SCHEMA {_RESTORE} IS '{int(backup, 16):0{len(backup)}x}'")


async def restoring(connection: Connection) -> str | None:
    """Which backup's restore is not finished, as `begin_restore` was told."""
    found: str | None = await connection.fetchval(
        "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = $1", _RESTORE
    )
    return found


async def end_restore(connection: Connection) -> None:
    """Say that a restore is finished, in the transaction that finishes it."""
    await connection.execute(f"DROP SCHEMA {_RESTORE}")


async def _check_restored(connection: Connection) -> None:
    if await restoring(connection) is not None:
        raise Misconfigured(
            "A backup is being restored into this database, or that was interrupted. "
            "Run the same `provserver restore` again to finish it."
        )


async def _pending(connection: Connection) -> list[Migration]:
    applied: dict[int, tuple[str, str]] = {}
    if await connection.fetchval("SELECT to_regclass('schema_migration')") is not None:
        rows = await connection.fetch("SELECT number, name, checksum FROM schema_migration")
        applied = {row["number"]: (row["name"], row["checksum"]) for row in rows}
    ours = {migration.number: migration for migration in known()}
    for number, (name, checksum) in applied.items():
        if number not in ours:
            raise Misconfigured(
                f"The database has migration {number:04}_{name}, which this release does not know. "
                "Install the release that it was upgraded with, or a newer one."
            )
        if checksum != ours[number].checksum:
            raise Misconfigured(
                f"Migration {number:04}_{name} was changed after it was applied. "
                "Install the release that this database was upgraded with, or a newer one."
            )
    return [migration for number, migration in ours.items() if number not in applied]
