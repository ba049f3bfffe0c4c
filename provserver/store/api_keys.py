"""The SQL of API keys. Their secrets are kept as digests; times are the caller's."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from provserver.core.accounts import ApiKey
from provserver.core.authorization import Permission
from provserver.store.database import Connection

_KEY = """k.id, k.organization_id, k.name, k.hint, k.permissions, k.created_by, k.expires_at, k.last_used_at,
    k.created_at"""


async def insert(
    connection: Connection,
    id_: UUID,
    organization_id: UUID,
    name: str,
    digest: bytes,
    hint: str,
    permissions: Sequence[Permission],
    created_by: str,
    expires_at: datetime | None,
) -> ApiKey:
    """Add a key. Raises asyncpg.UniqueViolationError when its organization has one of this name."""
    row = await connection.fetchrow(
        "INSERT INTO api_key AS k"
        " (id, organization_id, name, digest, hint, permissions, created_by, expires_at)"
        f" VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING {_KEY}",
        id_,
        organization_id,
        name,
        digest,
        hint,
        permissions,
        created_by,
        expires_at,
    )
    assert row is not None  # noqa: S101 - RETURNING
    return _key(row)


async def list_(
    connection: Connection,
    above: UUID,
    *,
    after: UUID | None,
    limit: int,
    organization_id: UUID | None = None,
    search: str | None = None,
) -> list[ApiKey]:
    """The keys of an organization and those below it, in order of ids.

    organization_id: only this one's. search: only those with this in the name, or with this hint.
    """
    rows = await connection.fetch(
        f"SELECT {_KEY} FROM api_key k JOIN organization o ON o.id = k.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid] AND ($2::uuid IS NULL OR k.id > $2)"
        " AND ($3::uuid IS NULL OR k.organization_id = $3)"
        " AND ($5::text IS NULL OR strpos(lower(k.name), lower($5)) > 0 OR k.hint = $5)"
        " ORDER BY k.id LIMIT $4",
        above,
        after,
        organization_id,
        limit,
        search,
    )
    return [_key(row) for row in rows]


async def find(connection: Connection, above: UUID, *, id_: UUID | None, name: str | None) -> list[ApiKey]:
    """Those of an organization and all below it that have this id or this name; two at most."""
    rows = await connection.fetch(
        f"SELECT {_KEY} FROM api_key k JOIN organization o ON o.id = k.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid] AND (k.id = $2 OR k.name = $3) ORDER BY k.id LIMIT 2",
        above,
        id_,
        name,
    )
    return [_key(row) for row in rows]


async def hold(connection: Connection, id_: UUID) -> ApiKey | None:
    """A key that cannot be deleted until the transaction ends."""
    row = await connection.fetchrow(f"SELECT {_KEY} FROM api_key k WHERE k.id = $1 FOR KEY SHARE", id_)
    return None if row is None else _key(row)


async def delete(connection: Connection, id_: UUID) -> bool:
    """Remove a key; False when it is gone already."""
    return await connection.execute("DELETE FROM api_key WHERE id = $1", id_) == "DELETE 1"


async def recognise(connection: Connection, digest: bytes, now: datetime) -> ApiKey | None:
    """The key of this secret, if it is good."""
    row = await connection.fetchrow(
        f"SELECT {_KEY} FROM api_key k WHERE k.digest = $1 AND (k.expires_at IS NULL OR k.expires_at > $2)", digest, now
    )
    return None if row is None else _key(row)


async def touch(connection: Connection, id_: UUID, now: datetime, since: datetime) -> None:
    """Note that a key is used, unless that was noted since."""
    await connection.execute(
        "UPDATE api_key SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $3)",
        id_,
        now,
        since,
    )


_KNOWN = {permission.value: permission for permission in Permission}


def _key(row: asyncpg.Record) -> ApiKey:
    permissions = tuple(_KNOWN[word] for word in row["permissions"] if word in _KNOWN)
    return ApiKey(**(dict(row) | {"permissions": permissions}))
