"""The SQL of devices that come back: whose credentials these are, their first use, who is online."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from provserver.core.events import EventType
from provserver.core.model import CREDENTIALS_EXPIRE_AT, Authenticated
from provserver.store import outbox
from provserver.store.database import Connection


@dataclass(frozen=True, slots=True)
class HeldRow:
    """Credentials and whose they are."""

    device: Authenticated
    type: str
    used: bool
    sealed: bytes
    expired: bool


class Opening(NamedTuple):
    """A live session that begins, and what it rests on: credentials as they were issued at that time.

    issued_at: None for those that nobody has looked up yet. They must have been used before; an access token counts for
    nothing when there are MQTT basic credentials of the id `before`, nor does a certificate when its profile has a
    revocation list.
    """

    session_id: UUID
    id_digest: bytes
    before: bytes | None
    issued_at: datetime | None
    certificate: bool


class Standing(NamedTuple):
    """A live session that is looked at again."""

    device_id: UUID
    session_id: UUID
    issued_at: datetime


_ROW = """d.id, d.name, d.organization_id, d.profile_id, p.revision, d.gateway, c.id_digest, c.created_at,
    c.type, c.first_used_at IS NOT NULL, c.sealed, coalesce(c.expires_at <= now(), false)"""

_HELD = f"""
SELECT {_ROW}
FROM credentials c JOIN device d ON d.id = c.device_id JOIN device_profile p ON p.id = d.profile_id
"""


async def held(connection: Connection, id_digests: Sequence[bytes]) -> dict[bytes, HeldRow]:
    """What there is under these digests."""
    rows = await connection.fetch(f"{_HELD} WHERE c.id_digest = ANY($1::bytea[]) AND NOT c.quarantined", id_digests)
    return {row["id_digest"]: HeldRow(Authenticated(*row[:8]), *row[8:]) for row in rows}


async def anybodys(connection: Connection, number: int) -> list[HeldRow]:
    """Any credentials, so many times: to do for nobody's what is done for somebody's."""
    rows = await connection.fetch(
        f"SELECT {_ROW} FROM (SELECT id_digest FROM credentials ORDER BY id_digest LIMIT 1) AS any_"
        " CROSS JOIN generate_series(1, $1::int) JOIN credentials c ON c.id_digest = any_.id_digest"
        " JOIN device d ON d.id = c.device_id JOIN device_profile p ON p.id = d.profile_id",
        number,
    )
    return [HeldRow(Authenticated(*row[:8]), *row[8:]) for row in rows]


class Shared(NamedTuple):
    """What a device id and a provision key stand for.

    tokens: the device's access tokens that are good still, digest and sealed, the one that it was told last first.
    secret: the key's, sealed.
    """

    tokens: list[tuple[bytes, bytes]]
    secret: bytes | None


# One row at least for each, whichever of the two there is: of nobody as much is read and sent as of somebody.
_SHARED = """
SELECT w.number, c.id_digest, c.sealed, k.secret_sealed
FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS w(device_id, key, number)
LEFT JOIN credentials c ON c.device_id = w.device_id AND c.type = 'ACCESS_TOKEN' AND NOT c.quarantined
    AND (c.expires_at > now()) IS NOT FALSE
LEFT JOIN provision_key k ON k.key = w.key
ORDER BY w.number, c.pending DESC, c.created_at DESC
"""


async def shared(connection: Connection, device_ids: Sequence[UUID | None], keys: Sequence[str]) -> list[Shared]:
    """For each device id and provision key, in order, what they stand for. No key may hold what no text can."""
    rows = await connection.fetch(_SHARED, device_ids, keys)
    found: list[Shared] = []
    for number, digest, sealed, secret in rows:
        if number > len(found):
            found.append(Shared([], secret))
        if digest is not None:
            found[-1].tokens.append((digest, sealed))
    return found


async def digest_of(connection: Connection, device_id: UUID, issued_at: datetime) -> bytes | None:
    """Under what a device's credentials of this time are now."""
    digest: bytes | None = await connection.fetchval(
        "SELECT id_digest FROM credentials WHERE device_id = $1 AND created_at = $2", device_id, issued_at
    )
    return digest


# Who had used what dies now goes on with other credentials; any other device has come for the first time.
_TAKE_OVER = f"""
WITH gone AS (
    DELETE FROM credentials c USING credentials u WHERE u.id_digest = ANY($1::bytea[])
        AND c.device_id = u.device_id AND c.id_digest <> u.id_digest AND c.created_at < u.created_at
    RETURNING c.device_id, c.first_used_at
), warned AS (
    DELETE FROM attribute a USING gone g
    WHERE a.device_id = g.device_id AND a.scope = 'SHARED' AND a.key = '{CREDENTIALS_EXPIRE_AT}'
)
INSERT INTO outbox (type, device_id, organization_id, payload, created_at)
SELECT CASE WHEN d.id IN (SELECT g.device_id FROM gone g WHERE g.first_used_at IS NOT NULL)
        THEN '{EventType.CREDENTIALS_ROTATED}' ELSE '{EventType.DEVICE_FIRST_CONNECTED}' END,
    d.id, coalesce(d.holder_id, d.organization_id),
    {outbox.MEMBERS} || jsonb_build_object('credentialsType', u.type), clock_timestamp()
FROM credentials u JOIN device d ON d.id = u.device_id WHERE u.id_digest = ANY($1::bytea[])
"""


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
    await connection.execute(_TAKE_OVER, used)
    return set(used)


# One notification for the group: each wakes every process. In the order of their commits they tell who is newer.
# Who is online may be lost with the machine, as its connections are, so the commit waits for no disk.
_OPEN = """
WITH found AS MATERIALIZED (
    SELECT w.number, w.session_id,
        d.id, d.name, d.organization_id, d.profile_id, p.revision, d.gateway, c.id_digest, c.created_at
    FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::timestamptz[], $5::bool[]) WITH ORDINALITY
        AS w(session_id, id_digest, before, issued_at, certificate, number)
    JOIN credentials c ON c.id_digest = w.id_digest
    JOIN device d ON d.id = c.device_id
    JOIN device_profile p ON p.id = d.profile_id
    WHERE NOT c.quarantined AND (c.expires_at > now()) IS NOT FALSE
        AND CASE WHEN w.issued_at IS NOT NULL THEN c.created_at = w.issued_at
        WHEN c.first_used_at IS NULL THEN false
        WHEN w.certificate THEN c.type = 'X509_CERTIFICATE'
            AND NOT EXISTS (SELECT FROM certificate_authority a WHERE a.profile_id = p.id AND a.crl IS NOT NULL)
        ELSE c.type = 'ACCESS_TOKEN'
            AND NOT EXISTS (SELECT FROM credentials b WHERE b.id_digest = w.before AND b.type = 'MQTT_BASIC') END
    ORDER BY d.id
), opened AS (
    INSERT INTO presence (device_id, session_id, online_until, last_seen_at)
    SELECT id, session_id, now() + $6, now() FROM found
    ON CONFLICT (device_id) DO UPDATE SET session_id = excluded.session_id, last_seen_at = excluded.last_seen_at,
        online_until = excluded.online_until
), told AS (
    SELECT set_config('synchronous_commit', 'off', true),
        pg_notify('session', $7 || ' ' || encode(string_agg(uuid_send(id), ''), 'base64')) FROM found
)
SELECT number, id, name, organization_id, profile_id, revision, gateway, id_digest, created_at FROM found, told
"""

MAX_OPENED = 256
"""Sessions that fit into one notification, of 8000 bytes at most."""


async def open_sessions(
    connection: Connection, openings: Sequence[Opening], sender: str, online: timedelta
) -> list[tuple[int, Authenticated]]:
    """Make these their devices' live sessions, and say so to every process: `{sender} {device ids, 16 bytes each}`.

    At most MAX_OPENED, of one device each; the ids are told in base64. sender: two words. Returns the sessions that
    came about, by their number in the group, and whose they are: the credentials of the others are not (or no more)
    good. Nothing is said when there is none.
    """
    rows = await connection.fetch(_OPEN, *zip(*openings, strict=True), online, sender)
    return [(row[0] - 1, Authenticated(*row[1:])) for row in rows]


async def close_sessions(connection: Connection, sessions: Sequence[tuple[UUID, UUID]]) -> None:
    """Devices whose session (device, session) is still this one have none any more, and are offline."""
    await connection.execute(
        "UPDATE presence p SET session_id = NULL, online_until = now(), last_seen_at = now()"
        " FROM (SELECT * FROM unnest($1::uuid[], $2::uuid[]) AS w(device_id, session_id) ORDER BY device_id) w,"
        "     set_config('synchronous_commit', 'off', true)"
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


async def standing(connection: Connection, sessions: Sequence[Standing]) -> tuple[set[UUID], set[UUID]]:
    """Of these sessions, those that are still their device's, and those whose credentials are still good."""
    rows = await connection.fetch(
        "SELECT w.session_id, p.session_id IS NOT DISTINCT FROM w.session_id, c.id_digest IS NOT NULL"
        " FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS w(device_id, session_id, issued_at)"
        " LEFT JOIN presence p ON p.device_id = w.device_id"
        " LEFT JOIN credentials c ON c.device_id = w.device_id AND c.created_at = w.issued_at AND NOT c.quarantined"
        " AND (c.expires_at > now()) IS NOT FALSE",
        *zip(*sessions, strict=True),
    )
    return {row[0] for row in rows if row[1]}, {row[0] for row in rows if row[2]}
