"""The SQL of devices that come back: whose credentials these are, their first use, who is online."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from provserver.core.model import Authenticated
from provserver.store.database import Connection


@dataclass(frozen=True, slots=True)
class HeldRow:
    """Credentials and whose they are."""

    device: Authenticated
    type: str
    used: bool
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Opening:
    """A live session that begins."""

    device_id: UUID
    session_id: UUID
    id_digest: bytes
    issued_at: object


_HELD = """
SELECT d.id, d.name, d.organization_id, d.profile_id, p.revision, d.gateway, c.id_digest, c.created_at,
    c.type, c.first_used_at IS NOT NULL, c.sealed
FROM credentials c JOIN device d ON d.id = c.device_id JOIN device_profile p ON p.id = d.profile_id
"""


async def held(connection: Connection, id_digests: Sequence[bytes]) -> dict[bytes, HeldRow]:
    """What there is under these digests."""
    rows = await connection.fetch(f"{_HELD} WHERE c.id_digest = ANY($1::bytea[])", id_digests)
    return {row["id_digest"]: HeldRow(Authenticated(*row[:8]), *row[8:]) for row in rows}


async def tokens(connection: Connection, device_id: UUID) -> list[HeldRow]:
    """A device's access tokens, the one that it was told last first."""
    rows = await connection.fetch(
        f"{_HELD} WHERE d.id = $1 AND c.type = 'ACCESS_TOKEN' ORDER BY c.pending DESC, c.created_at DESC", device_id
    )
    return [HeldRow(Authenticated(*row[:8]), *row[8:]) for row in rows]


async def sealed_secret(connection: Connection, key: str) -> bytes | None:
    """The sealed secret of a provision key."""
    sealed: bytes | None = await connection.fetchval("SELECT secret_sealed FROM provision_key WHERE key = $1", key)
    return sealed


async def use(connection: Connection, id_digests: Sequence[bytes]) -> set[bytes]:
    """Record the first use of credentials, inside a transaction: pending ones take over, older ones die.

    Returns those that were used for the first time now.
    """
    await connection.execute(  # the devices first and in order, as provisioning does
        "SELECT FROM device d WHERE d.id IN (SELECT device_id FROM credentials WHERE id_digest = ANY($1::bytea[]))"
        " ORDER BY d.id FOR NO KEY UPDATE",
        id_digests,
    )
    first = await connection.fetch(
        "UPDATE credentials SET first_used_at = now(), pending = false"
        " WHERE id_digest = ANY($1::bytea[]) AND first_used_at IS NULL RETURNING id_digest, device_id",
        id_digests,
    )
    if not first:
        return set()
    await connection.execute(
        "UPDATE device SET revision = revision + 1 WHERE id = ANY($1::uuid[])", [row["device_id"] for row in first]
    )
    used = [row["id_digest"] for row in first]
    await connection.execute(
        "DELETE FROM credentials c USING credentials u WHERE u.id_digest = ANY($1::bytea[])"
        " AND c.device_id = u.device_id AND c.id_digest <> u.id_digest AND c.created_at < u.created_at",
        used,
    )
    return set(used)


# One notification for the group: each wakes every process. In the order of their commits they tell who is newer.
_OPEN = """
WITH opened AS (
    INSERT INTO presence (device_id, session_id, online_until, last_seen_at)
    SELECT w.device_id, w.session_id, now() + $6, now()
    FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::timestamptz[])
        AS w(device_id, session_id, id_digest, issued_at)
    JOIN credentials c ON c.id_digest = w.id_digest AND c.created_at = w.issued_at AND c.device_id = w.device_id
    ORDER BY w.device_id
    ON CONFLICT (device_id) DO UPDATE SET session_id = excluded.session_id, last_seen_at = excluded.last_seen_at,
        online_until = excluded.online_until
    RETURNING device_id, session_id
)
SELECT array_agg(session_id) AS sessions,
    pg_notify('session', $5 || string_agg(' ' || device_id || ' ' || session_id, '')) FROM opened
"""

MAX_OPENED = 90
"""Sessions that fit into one notification, of 8000 bytes at most."""


async def open_sessions(
    connection: Connection, openings: Sequence[Opening], process: UUID, online: timedelta
) -> set[UUID]:
    """Make these the devices' live sessions, and say so to every process: `{process} {device} {session} …`.

    At most MAX_OPENED, each device once. Returns the sessions whose credentials are still good: the others are not.
    """
    row = await connection.fetchrow(
        _OPEN,
        [opening.device_id for opening in openings],
        [opening.session_id for opening in openings],
        [opening.id_digest for opening in openings],
        [opening.issued_at for opening in openings],
        str(process),
        online,
    )
    return set(row["sessions"] or ()) if row is not None else set()


async def close_sessions(connection: Connection, sessions: Sequence[tuple[UUID, UUID]]) -> None:
    """Devices whose session (device, session) is still this one have none any more, and are offline."""
    await connection.execute(
        "UPDATE presence p SET session_id = NULL, online_until = now(), last_seen_at = now()"
        " FROM unnest($1::uuid[], $2::uuid[]) AS w(device_id, session_id)"
        " WHERE p.device_id = w.device_id AND p.session_id = w.session_id",
        [device_id for device_id, _ in sessions],
        [session_id for _, session_id in sessions],
    )


async def keep_online(connection: Connection, sessions: Sequence[tuple[UUID, UUID]], online: timedelta) -> None:
    """Say that sessions (device, session) live on."""
    await connection.execute(
        "UPDATE presence p SET online_until = now() + $3"
        " FROM unnest($1::uuid[], $2::uuid[]) AS w(device_id, session_id)"
        " WHERE p.device_id = w.device_id AND p.session_id = w.session_id",
        [device_id for device_id, _ in sessions],
        [session_id for _, session_id in sessions],
        online,
    )


async def standing(connection: Connection, openings: Sequence[Opening]) -> tuple[set[UUID], set[UUID]]:
    """Of these sessions, those that are still their device's, and those whose credentials are still good."""
    rows = await connection.fetch(
        "SELECT w.session_id, p.session_id IS NOT DISTINCT FROM w.session_id, c.id_digest IS NOT NULL"
        " FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::timestamptz[])"
        "     AS w(device_id, session_id, id_digest, issued_at)"
        " LEFT JOIN presence p ON p.device_id = w.device_id"
        " LEFT JOIN credentials c ON c.id_digest = w.id_digest AND c.created_at = w.issued_at",
        [opening.device_id for opening in openings],
        [opening.session_id for opening in openings],
        [opening.id_digest for opening in openings],
        [opening.issued_at for opening in openings],
    )
    return {row[0] for row in rows if row[1]}, {row[0] for row in rows if row[2]}
