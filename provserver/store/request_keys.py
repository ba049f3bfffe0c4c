"""The SQL of the keys that devices seal their requests to."""

from collections.abc import Sequence
from uuid import UUID

from provserver.core.sealed import RequestKey
from provserver.store.database import Connection

_KEY = "k.id, k.organization_id, k.key_id, k.public_key, k.created_at"


async def insert(
    connection: Connection, id_: UUID, organization_id: UUID, key_id: str, public_key: bytes, sealed: bytes
) -> RequestKey:
    """Add a key."""
    row = await connection.fetchrow(
        "INSERT INTO request_key AS k (id, organization_id, key_id, public_key, sealed)"
        f" VALUES ($1, $2, $3, $4, $5) RETURNING {_KEY}",
        id_,
        organization_id,
        key_id,
        public_key,
        sealed,
    )
    assert row is not None  # noqa: S101 - RETURNING
    return RequestKey(*row)


async def list_(
    connection: Connection, above: UUID, *, after: UUID | None, limit: int, organization_id: UUID | None = None
) -> list[RequestKey]:
    """The keys of an organization and those below it, in order of ids. organization_id: only this one's."""
    rows = await connection.fetch(
        f"SELECT {_KEY} FROM request_key k JOIN organization o ON o.id = k.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid] AND ($2::uuid IS NULL OR k.id > $2)"
        " AND ($3::uuid IS NULL OR k.organization_id = $3) ORDER BY k.id LIMIT $4",
        above,
        after,
        organization_id,
        limit,
    )
    return [RequestKey(*row) for row in rows]


async def find(connection: Connection, above: UUID, reference: str) -> RequestKey | None:
    """One of an organization or of those below it, by id or key id."""
    row = await connection.fetchrow(
        f"SELECT {_KEY} FROM request_key k JOIN organization o ON o.id = k.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid] AND (k.id::text = $2 OR k.key_id = $2)",
        above,
        reference,
    )
    return None if row is None else RequestKey(*row)


async def delete(connection: Connection, id_: UUID) -> bool:
    """Remove a key; False when it is gone already."""
    return await connection.execute("DELETE FROM request_key WHERE id = $1", id_) == "DELETE 1"


async def sealed(connection: Connection, key_ids: Sequence[str]) -> dict[str, tuple[UUID, bytes]]:
    """Id and sealed private key of those of these key ids that exist."""
    rows = await connection.fetch("SELECT key_id, id, sealed FROM request_key WHERE key_id = ANY($1::text[])", key_ids)
    return {row["key_id"]: (row["id"], row["sealed"]) for row in rows}
