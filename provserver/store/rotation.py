"""The SQL of credentials that give way to others: what a device has, what is to come, and when what it has ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from provserver.core.attributes import Scope
from provserver.core.model import CREDENTIALS_EXPIRE_AT
from provserver.store.database import Connection


@dataclass(frozen=True, slots=True)
class RotatingDevice:
    """A device whose credentials are about to change. holder_id: the organization that has it.

    strategy, profile_revision, credentials_lifetime: its profile's. static: it came of a static token.
    """

    name: str
    holder_id: UUID
    profile_id: UUID
    profile_revision: int
    strategy: str
    credentials_lifetime: timedelta | None
    static: bool


class HeldCredentials(NamedTuple):
    """Credentials as a device has them, newest first."""

    type: str
    origin: str
    pending: bool
    used: bool
    sealed: bytes
    expires_at: datetime | None
    created_at: datetime


async def lock(connection: Connection, device_id: UUID) -> RotatingDevice | None:
    """A device that nobody else can change until the transaction ends; None when it is gone."""
    row = await connection.fetchrow(
        "SELECT d.name, coalesce(d.holder_id, d.organization_id), d.profile_id, p.revision, p.strategy,"
        " p.credentials_lifetime, EXISTS (SELECT FROM static_token t WHERE t.id = d.id)"
        " FROM device d JOIN device_profile p ON p.id = d.profile_id WHERE d.id = $1 FOR NO KEY UPDATE OF d",
        device_id,
    )
    return None if row is None else RotatingDevice(*row)


async def held(connection: Connection, device_id: UUID) -> list[HeldCredentials]:
    """A device's credentials, pending ones first; none while it is in quarantine."""
    rows = await connection.fetch(
        "SELECT type, origin, pending, first_used_at IS NOT NULL, sealed, expires_at, created_at FROM credentials"
        " WHERE device_id = $1 AND NOT quarantined ORDER BY pending DESC, created_at DESC",
        device_id,
    )
    return [HeldCredentials(*row) for row in rows]


async def is_taken(connection: Connection, id_digests: Sequence[bytes], device_id: UUID) -> bool:
    """Whether another device has credentials of an id, under whichever key it was digested."""
    taken: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM credentials WHERE id_digest = ANY($1::bytea[]) AND device_id <> $2)",
        list(id_digests),
        device_id,
    )
    return taken


async def add_pending(
    connection: Connection,
    device_id: UUID,
    id_digest: bytes,
    type_: str,
    origin: str,
    sealed: bytes,
    expires_at: datetime | None,
) -> None:
    """Have credentials take over at their first use, instead of others that were to; the last nonce is spent.

    Raises asyncpg.UniqueViolationError when another device has them.
    """
    await connection.execute(  # the device first, as provisioning does
        "UPDATE device SET request_digest = NULL, revision = revision + 1 WHERE id = $1", device_id
    )
    await connection.execute("DELETE FROM credentials WHERE device_id = $1 AND pending", device_id)
    await connection.execute(
        "INSERT INTO credentials (id_digest, device_id, type, origin, pending, sealed, expires_at, created_at)"
        " VALUES ($1, $2, $3, $4, true, $5, $6, clock_timestamp())",
        id_digest,
        device_id,
        type_,
        origin,
        sealed,
        expires_at,
    )


async def end(connection: Connection, device_id: UUID, overlap: timedelta) -> datetime:
    """Have what a device has now end after this time, and tell it; returns when. Nothing lasts longer than it would."""
    ends: datetime = await connection.fetchval(
        "UPDATE credentials SET expires_at = least(expires_at, date_trunc('second', now()) + $2::interval)"
        " WHERE device_id = $1 AND NOT pending RETURNING expires_at",
        device_id,
        overlap,
    )
    await connection.execute("UPDATE device SET revision = revision + 1 WHERE id = $1", device_id)
    await connection.execute(
        "INSERT INTO attribute (device_id, scope, key, value) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (device_id, scope, key) DO UPDATE SET value = excluded.value, updated_at = now()",
        device_id,
        Scope.SHARED,
        CREDENTIALS_EXPIRE_AT,
        int(ends.timestamp() * 1000),
    )
    return ends


async def replace(connection: Connection, device_id: UUID) -> None:
    """Have the pending credentials take over now: those before are good no more."""
    await connection.execute("DELETE FROM credentials WHERE device_id = $1 AND NOT pending", device_id)
    await connection.execute("UPDATE credentials SET pending = false WHERE device_id = $1", device_id)
    await connection.execute(
        "DELETE FROM attribute WHERE device_id = $1 AND scope = $2 AND key = $3",
        device_id,
        Scope.SHARED,
        CREDENTIALS_EXPIRE_AT,
    )


# In order of devices, as all do who write attributes of several. Some at a time: others wait for these rows.
_WARN = f"""
WITH near AS (
    SELECT c.device_id, min(c.expires_at) AS ends FROM credentials c
    WHERE c.expires_at > now() AND c.expires_at <= now() + $1::interval AND NOT c.pending
        AND c.expires_at <= now() + (c.expires_at - c.created_at) / 4
        AND NOT EXISTS (SELECT FROM attribute a WHERE a.device_id = c.device_id AND a.scope = '{Scope.SHARED}'
            AND a.key = '{CREDENTIALS_EXPIRE_AT}')
    GROUP BY c.device_id ORDER BY c.device_id LIMIT $2
)
INSERT INTO attribute (device_id, scope, key, value)
SELECT device_id, '{Scope.SHARED}', '{CREDENTIALS_EXPIRE_AT}', to_jsonb(extract(epoch FROM ends)::bigint * 1000)
FROM near
ON CONFLICT DO NOTHING
"""

_CUT = """
SELECT count(pg_notify('revoked', c.device_id || ' ' || (extract(epoch FROM c.created_at) * 1000000)::bigint))
FROM credentials c JOIN presence p ON p.device_id = c.device_id
WHERE c.expires_at <= now() AND p.session_id IS NOT NULL AND p.online_until > now()
"""


async def warn(connection: Connection, window: timedelta, limit: int) -> int:
    """Tell devices whose credentials end within this time, and the last quarter of their life; returns how many."""
    status = await connection.execute(_WARN, window, limit)
    return int(status.rpartition(" ")[2])


async def cut(connection: Connection) -> None:
    """End the sessions of devices whose credentials have ended."""
    await connection.execute(_CUT)
