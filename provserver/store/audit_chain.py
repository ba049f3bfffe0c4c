"""The SQL of the audit's chain: what waits for its place, who may give places, and what was signed."""

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import asyncpg

from provserver.core.auditchain import Entry, Head, Link
from provserver.store.database import Connection

_LOCK = 0x70726F78

# The detail as text: what a decoder makes of a number may not be all that it says.
_ENTRY = "a.id, a.at, a.organization_id, a.actor, a.action, a.subject_id, a.detail::text"


async def lock(connection: Connection, *, wait: bool) -> bool:
    """Be the one sequencer until the transaction ends; False when another is. wait: until it is done."""
    if wait:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        return True
    taken: bool = await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK)
    return taken


async def waiting(connection: Connection, limit: int) -> list[Entry]:
    """Entries without a place, in the order in which they were begun."""
    rows = await connection.fetch(f"SELECT {_ENTRY} FROM audit a WHERE a.seq IS NULL ORDER BY a.id LIMIT $1", limit)
    return [Entry(*row) for row in rows]


async def count_waiting(connection: Connection) -> int:
    """How many have no place."""
    count: int = await connection.fetchval("SELECT count(*) FROM audit WHERE seq IS NULL")
    return count


async def place(connection: Connection, links: Sequence[Link]) -> None:
    """Give entries their places."""
    await connection.execute(
        "UPDATE audit a SET seq = l.seq, mac = l.mac"
        " FROM unnest($1::uuid[], $2::bigint[], $3::bytea[]) AS l(id, seq, mac) WHERE a.id = l.id",
        [each.entry.id for each in links],
        [each.seq for each in links],
        [each.mac for each in links],
    )


async def head(connection: Connection) -> Head | None:
    """The end of the chain as it was signed last."""
    row = await connection.fetchrow("SELECT seq, mac, at, signature FROM audit_head")
    return None if row is None else Head(*row)


async def set_head(connection: Connection, signed: Head) -> None:
    """Have the chain end here."""
    await connection.execute(
        "INSERT INTO audit_head (seq, mac, at, signature) VALUES ($1, $2, $3, $4) ON CONFLICT (one)"
        " DO UPDATE SET seq = excluded.seq, mac = excluded.mac, at = excluded.at, signature = excluded.signature",
        *signed,
    )


async def last(connection: Connection) -> tuple[int, bytes] | None:
    """Place and mac of the last entry that has one."""
    row = await connection.fetchrow("SELECT seq, mac FROM audit WHERE seq IS NOT NULL ORDER BY seq DESC LIMIT 1")
    return None if row is None else (row[0], row[1])


async def mac_at(connection: Connection, seq: int) -> bytes | None:
    """The mac of the entry at a place."""
    found: bytes | None = await connection.fetchval("SELECT mac FROM audit WHERE seq = $1", seq)
    return found


async def sealed_keys(connection: Connection) -> dict[int, bytes]:
    """Sealed copies of the chain's keys, by version."""
    return {row[0]: row[1] for row in await connection.fetch("SELECT version, sealed FROM audit_key")}


async def keep_key(connection: Connection, version: int, sealed: bytes) -> None:
    """Keep a sealed copy of a key, for when the digest key that it comes of is gone."""
    await connection.execute(
        "INSERT INTO audit_key (version, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING", version, sealed
    )


async def links(connection: Connection, batch: int) -> AsyncIterator[list[Link]]:
    """All entries that have a place, in their order, so many at a time. Inside a transaction."""
    cursor = await connection.cursor(
        f"SELECT a.seq, a.mac, {_ENTRY} FROM audit a WHERE a.seq IS NOT NULL ORDER BY a.seq"
    )
    while rows := await cursor.fetch(batch):
        yield [_link(row) for row in rows]


async def export(
    connection: Connection, organization_id: UUID, batch: int
) -> AsyncIterator[list[tuple[int | None, bytes | None, Entry]]]:
    """The entries of an organization and those below it, oldest first, so many at a time. Inside a transaction."""
    cursor = await connection.cursor(
        f"SELECT a.seq, a.mac, {_ENTRY} FROM audit a JOIN audited_organization o ON o.id = a.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid] ORDER BY a.id",
        organization_id,
    )
    while rows := await cursor.fetch(batch):
        yield [(row[0], row[1], Entry(*row[2:])) for row in rows]


def _link(row: asyncpg.Record) -> Link:
    return Link(row[0], row[1], Entry(*row[2:]))
