"""The SQL of a rotation: which versions of the keys there are, who knows them, and rows that are under an old one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple
from uuid import UUID

from asyncpg import LockNotAvailableError, UniqueViolationError

from provserver.core.secrets import ServerKeys
from provserver.store.database import Connection

CHANNEL = "keys"
"""Told when a version has come, changed or gone."""

STALE = timedelta(seconds=20)
"""A process that was not seen for so long counts no more; it knows of that, and refuses nobody then."""

_LOCK = 0x70726F77  # one rotation at a time


class Version(NamedTuple):
    """A version of the keys, and what may be under it: see migration 0013."""

    number: int
    state: str


class Process(NamedTuple):
    """A process that works with the keys. stale: not seen for a while."""

    id: UUID
    host: str
    pid: int
    known: list[int]
    writes: int
    settled: bool
    stale: bool


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed column. key, beside: columns with their SQL types; digests: columns that are made of what is sealed."""

    table: str
    column: str
    key: dict[str, str]
    beside: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`table.column`."""
        return f"{self.table}.{self.column}"


def proof(purpose: str, key: bytes) -> bytes:
    """What shows that a key outside is the one that a database was written with."""
    return ServerKeys({1: key}, {}).digest("server-key", purpose)


async def lock(connection: Connection, *, wait: bool) -> bool:
    """Be the one who changes versions, until the connection ends."""
    if wait:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        return True
    held: bool = await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK)
    return held


async def unlock(connection: Connection) -> None:
    """Be it no more."""
    await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def versions(connection: Connection) -> list[Version]:
    """All that there ever were, oldest first."""
    rows = await connection.fetch("SELECT version, state FROM server_key WHERE purpose = 'digest' ORDER BY version")
    return [Version(*row) for row in rows]


async def proofs(connection: Connection) -> dict[tuple[str, int], bytes]:
    """By purpose and version."""
    rows = await connection.fetch("SELECT purpose, version, proof FROM server_key")
    return {(row["purpose"], row["version"]): row["proof"] for row in rows}


async def add(connection: Connection, purpose: str, version: int, proof_: bytes, state: str) -> None:
    """Note a key, unless its version is there."""
    await connection.execute(
        "INSERT INTO server_key (purpose, version, proof, state) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        purpose,
        version,
        proof_,
        state,
    )


async def become(connection: Connection, version: int, state: str) -> None:
    """Have a version be in this state, and every process told."""
    await connection.execute("UPDATE server_key SET state = $2, since = now() WHERE version = $1", version, state)
    await tell(connection)


async def tell(connection: Connection) -> None:
    """Have every process look at the versions."""
    await connection.execute("SELECT pg_notify($1, '')", CHANNEL)


async def activate(connection: Connection, version: int, columns: Sequence[Sealed]) -> bool:
    """Have a version be the current one, from one moment on for everybody; False: the tables are busy just now.

    Whoever wrote under the one before is done; whoever tries to is refused (Unavailable), and looks at the versions.
    """
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '200ms'")
            tables = sorted({column.table for column in columns})
            await connection.execute(f"LOCK TABLE {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE")
            for column in columns:
                await connection.execute(
                    f"CREATE OR REPLACE TRIGGER key_version_{column.column}"
                    f" BEFORE INSERT OR UPDATE OF {column.column} ON {column.table} FOR EACH ROW"
                    f" WHEN (get_byte(NEW.{column.column}, 0) < {int(version)}) EXECUTE FUNCTION refuse_old_key()"
                )
            await connection.execute("UPDATE server_key SET state = 'old', since = now() WHERE state = 'current'")
            await become(connection, version, "current")
    except LockNotAvailableError:
        return False
    return True


async def settled_writers(connection: Connection, columns: Sequence[Sealed]) -> bool:
    """Wait until every statement is over that wrote to these tables; False: they are busy just now."""
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '200ms'")
            tables = sorted({column.table for column in columns})
            await connection.execute(f"LOCK TABLE {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE")
    except LockNotAvailableError:
        return False
    return True


# Processes


async def beat(
    connection: Connection, id_: UUID, host: str, pid: int, known: Sequence[int], writes: int, settled: bool
) -> list[Version]:
    """Say that a process lives and what it works with; returns the versions there are."""
    rows = await connection.fetch(
        "WITH said AS ("
        " INSERT INTO server_process (id, host, pid, known, writes, settled) VALUES ($1, $2, $3, $4, $5, $6)"
        " ON CONFLICT (id) DO UPDATE SET known = excluded.known, writes = excluded.writes,"
        "     settled = excluded.settled, seen_at = now()"
        ") SELECT version, state FROM server_key WHERE purpose = 'digest' ORDER BY version",
        id_,
        host,
        pid,
        known,
        writes,
        settled,
    )
    return [Version(*row) for row in rows]


async def leave(connection: Connection, id_: UUID) -> None:
    """A process ends."""
    await connection.execute("DELETE FROM server_process WHERE id = $1", id_)


async def processes(connection: Connection) -> list[Process]:
    """Those that have not left; they that died are stale before they are forgotten."""
    await connection.execute("DELETE FROM server_process WHERE seen_at < now() - $1::interval", 30 * STALE)
    rows = await connection.fetch(
        "SELECT id, host, pid, known, writes, settled, seen_at < now() - $1::interval FROM server_process"
        " ORDER BY host, pid",
        STALE,
    )
    return [Process(*row) for row in rows]


# Rows


async def under(connection: Connection, column: Sealed, version: int) -> int:
    """How many rows are sealed under an older version than this one."""
    found: int = await connection.fetchval(
        f"SELECT count(*) FROM {column.table} WHERE get_byte({column.column}, 0) < $1", version, timeout=600
    )
    return found


async def batch(
    connection: Connection, column: Sealed, version: int, after: Sequence[object] | None, size: int
) -> tuple[list[tuple[object, ...]], Sequence[object] | None]:
    """Rows under an older version than this one, locked, after a key: (key, beside, sealed) each.

    And the last key looked at, None: there are no more. What others have locked is left out: it is found the next time.
    """
    keys = ", ".join(column.key)
    where, arguments = "true", []
    if after is not None:
        place = ", ".join(f"${n}::{type_}" for n, type_ in enumerate(column.key.values(), 3))
        where, arguments = f"({keys}) > ({place})", list(after)
    seen = await connection.fetch(
        f"SELECT {keys}, get_byte({column.column}, 0) < $2 AS old FROM {column.table} WHERE {where}"
        f" ORDER BY {keys} LIMIT $1",
        size,
        version,
        *arguments,
    )
    if not seen:
        return [], None
    last = tuple(seen[-1])[:-1]
    if not any(row["old"] for row in seen):
        return [], last
    names = ", ".join((*column.key, *column.beside, column.column))
    arrays = ", ".join(f"${n}::{type_}[]" for n, type_ in enumerate(column.key.values(), 2))
    rows = await connection.fetch(
        f"SELECT {names} FROM {column.table} WHERE ({keys}) IN (SELECT * FROM unnest({arrays}))"
        f" AND get_byte({column.column}, 0) < $1 ORDER BY {keys} FOR UPDATE SKIP LOCKED",
        version,
        *zip(*(tuple(row)[:-1] for row in seen if row["old"]), strict=True),
    )
    return [tuple(row) for row in rows], last


async def convert(
    connection: Connection, column: Sealed, rows: Sequence[tuple[tuple[object, ...], bytes, tuple[bytes, ...]]]
) -> int:
    """Write rows anew, (key, sealed, digests) each; how many could be: a digest that is there stays another's."""
    written = (column.column, *column.digests)
    changes = ", ".join(f"{name} = w.{name}_new" for name in written)
    names = ", ".join((*column.key, *(f"{name}_new" for name in written)))
    types = (*column.key.values(), *("bytea" for _ in written))
    arrays = ", ".join(f"${n}::{type_}[]" for n, type_ in enumerate(types, 1))
    same = " AND ".join(f"t.{name} = w.{name}" for name in column.key)
    values = [(*key, sealed, *digests) for key, sealed, digests in rows]
    try:
        async with connection.transaction():
            await connection.execute(
                f"UPDATE {column.table} t SET {changes} FROM unnest({arrays}) AS w({names}) WHERE {same}",
                *zip(*values, strict=True),
            )
    except UniqueViolationError:
        if len(rows) == 1:
            return 0
        return sum([await convert(connection, column, [row]) for row in rows])
    return len(rows)


async def renew(
    connection: Connection,
    table: Literal["api_key", "user_session", "one_time_link"],
    digests: Sequence[bytes],
    version: int,
) -> bytes:
    """Have what is kept under any of these digests be kept under the first one, the current version's; returns that."""
    if len(digests) > 1:
        await connection.execute(
            f"UPDATE {table} SET digest = $1, key_version = $2 WHERE digest = ANY($3::bytea[])",
            digests[0],
            version,
            digests[1:],
        )
    return digests[0]


async def mark(
    connection: Connection,
    table: Literal["api_key", "user_session", "one_time_link"],
    digest: bytes,
    version: int,
) -> None:
    """Note the version of what was just written."""
    if version != 1:
        await connection.execute(f"UPDATE {table} SET key_version = $2 WHERE digest = $1", digest, version)


@dataclass(frozen=True, slots=True)
class Remains:
    """What may still be under a version and has no sealed copy. api_keys: names. claims, nonces: by their time."""

    api_keys: list[str]
    sessions: int
    links: int
    claims: int
    nonces: int


async def remains(connection: Connection, version: int) -> Remains:
    """What would be lost with a version."""
    names = await connection.fetch(
        "SELECT name FROM api_key WHERE key_version = $1 AND (expires_at IS NULL OR expires_at > now()) ORDER BY name",
        version,
    )
    row = await connection.fetchrow(
        "WITH began AS (SELECT min(since) AS since FROM server_key WHERE version > $1 AND state <> 'new')"
        " SELECT (SELECT count(*) FROM user_session WHERE key_version = $1 AND expires_at > now()),"
        " (SELECT count(*) FROM one_time_link WHERE key_version = $1 AND expires_at > now()),"
        " (SELECT count(*) FROM claim WHERE created_at < began.since AND expires_at > now()),"
        " (SELECT count(*) FROM device WHERE request_digest IS NOT NULL AND created_at < began.since) FROM began",
        version,
    )
    assert row is not None  # noqa: S101
    return Remains([name for (name,) in names], *row)


async def forget(connection: Connection, version: int) -> None:
    """Remove what nothing can find any more."""
    await connection.execute("DELETE FROM user_session WHERE key_version = $1", version)
    await connection.execute("DELETE FROM one_time_link WHERE key_version = $1", version)
