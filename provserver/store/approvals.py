"""The SQL of requests that wait for an operator's approval."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from provserver.core.events import EventType
from provserver.core.model import ApprovalState
from provserver.store.database import Connection


class Asked(NamedTuple):
    """A request that is to wait. digest: tells it from others of its profile. name: None when the server chooses one.

    network: whence, as who asks is told from others. credentials: the type of those that the device brings.
    """

    id: UUID
    profile_id: UUID
    digest: bytes
    name: str | None
    transport: str
    address: str
    network: str
    credentials: str | None


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """A request that waits, or that was decided on. device_name: None when the server is to choose one."""

    id: UUID
    profile_id: UUID
    profile: str
    state: ApprovalState
    device_name: str | None
    transport: str
    address: str
    credentials_type: str | None
    asks: int
    first_asked_at: datetime
    last_asked_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    expires_at: datetime
    organization_id: UUID


_COLUMNS = """a.id, a.profile_id, p.name, a.state, a.device_name, a.transport, a.address, a.credentials, a.asks,
    a.first_asked_at, a.last_asked_at, a.decided_by, a.decided_at, a.expires_at, p.organization_id"""

_SEEN = """FROM provision_approval a JOIN device_profile p ON p.id = a.profile_id
JOIN organization o ON o.id = p.organization_id AND o.path @> ARRAY[$1::uuid]
WHERE a.expires_at > now()"""

# What is new is told; of a profile or a network with many that wait, what is new finds no place. Who is waiting
# already keeps his, in the network that he first asked from: or one could go on filling it while moving away.
_ASK = f"""
WITH wanted AS MATERIALIZED (
    SELECT w.*, p.organization_id, p.name AS profile FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::text[],
        $5::text[], $6::text[], $7::text[], $8::text[]) WITH ORDINALITY
        AS w(id, profile_id, digest, device_name, transport, address, network, credentials, number)
    JOIN device_profile p ON p.id = w.profile_id
), again AS (
    UPDATE provision_approval a SET asks = a.asks + 1, last_asked_at = now(), transport = w.transport,
        address = w.address, expires_at = CASE a.state WHEN 'pending' THEN now() + $9 ELSE a.expires_at END
    FROM wanted w WHERE a.profile_id = w.profile_id AND a.digest = w.digest
    RETURNING a.profile_id, a.digest
), fresh AS (
    SELECT w.*, row_number() OVER (PARTITION BY w.profile_id, w.network ORDER BY w.number)
        + (SELECT count(*) FROM provision_approval a
           WHERE a.profile_id = w.profile_id AND a.network = w.network AND a.state = 'pending') AS beside
    FROM wanted w WHERE NOT EXISTS (SELECT FROM again g WHERE g.profile_id = w.profile_id AND g.digest = w.digest)
), placed AS (
    SELECT f.*, row_number() OVER (PARTITION BY f.profile_id ORDER BY f.number)
        + (SELECT count(*) FROM provision_approval a
           WHERE a.profile_id = f.profile_id AND a.state = 'pending') AS place
    FROM fresh f WHERE f.beside <= $11
), made AS (
    INSERT INTO provision_approval
        (id, profile_id, digest, device_name, transport, address, network, credentials, expires_at)
    SELECT id, profile_id, digest, device_name, transport, address, network, credentials, now() + $9
    FROM placed WHERE place <= $10 ORDER BY profile_id, digest
    ON CONFLICT DO NOTHING
    RETURNING id, profile_id, digest
), told AS (
    INSERT INTO outbox (type, organization_id, payload, created_at)
    SELECT '{EventType.PROVISION_PENDING}', w.organization_id, jsonb_build_object('approvalId', m.id, 'deviceName',
        w.device_name, 'profileId', w.profile_id, 'profile', w.profile, 'transport', w.transport), clock_timestamp()
    FROM made m JOIN wanted w ON w.id = m.id
)
SELECT f.digest FROM fresh f WHERE NOT EXISTS (SELECT FROM placed p WHERE p.id = f.id AND p.place <= $10)
"""

_TRIM = """
DELETE FROM provision_approval WHERE id IN (
    SELECT id FROM provision_approval WHERE profile_id = $1 AND state = $2 ORDER BY decided_at DESC, id DESC OFFSET $3
    FOR UPDATE SKIP LOCKED)
"""


async def states(
    connection: Connection, profile_ids: Sequence[UUID], digests: Sequence[bytes]
) -> dict[tuple[UUID, bytes], ApprovalState]:
    """What operators have said of these requests, as far as they were asked."""
    rows = await connection.fetch(
        "SELECT a.profile_id, a.digest, a.state FROM unnest($1::uuid[], $2::bytea[]) AS w(profile_id, digest)"
        " JOIN provision_approval a ON a.profile_id = w.profile_id AND a.digest = w.digest AND a.expires_at > now()",
        profile_ids,
        digests,
    )
    return {(row["profile_id"], row["digest"]): ApprovalState(row["state"]) for row in rows}


async def ask(
    connection: Connection, asked: Sequence[Asked], period: timedelta, limit: int, limit_of_network: int
) -> set[bytes]:
    """Have requests, each one once, wait for an operator; returns the digests of those that find no place.

    period: how long they wait without being asked again. limit: how many of a profile may wait, and of those how many
    from one network.
    """
    await connection.execute(
        "DELETE FROM provision_approval WHERE profile_id = ANY($1::uuid[]) AND expires_at <= now()",
        list({each.profile_id for each in asked}),
    )
    rows = await connection.fetch(_ASK, *zip(*asked, strict=True), period, limit, limit_of_network)
    return {row["digest"] for row in rows}


async def consume(connection: Connection, profile_id: UUID, digest: bytes) -> bool:
    """Use what was accepted, inside the transaction that does it; False when it is accepted no more."""
    gone = await connection.fetchval(
        "DELETE FROM provision_approval WHERE profile_id = $1 AND digest = $2 AND state = 'accepted'"
        " AND expires_at > now() RETURNING id",
        profile_id,
        digest,
    )
    return gone is not None


async def page(
    connection: Connection,
    organization_id: UUID,
    after: UUID | None,
    limit: int,
    *,
    state: ApprovalState | None = None,
    profile: str | None = None,
) -> list[ApprovalRow]:
    """Some of the requests of an organization and those below it, in order of their first asking, after one.

    profile: by name, template id or id.
    """
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} {_SEEN} AND ($2::uuid IS NULL OR a.id > $2) AND ($4::text IS NULL OR a.state = $4)"
        " AND ($5::text IS NULL OR $5 IN (p.name, p.template_id, p.id::text)) ORDER BY a.id LIMIT $3",
        organization_id,
        after,
        limit,
        state,
        profile,
    )
    return [_row(row) for row in rows]


async def sees_profile(connection: Connection, organization_id: UUID, profile: str) -> bool:
    """Whether there is such a profile in an organization or below it."""
    seen: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM device_profile p JOIN organization o ON o.id = p.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid] AND $2 IN (p.name, p.template_id, p.id::text))",
        organization_id,
        profile,
    )
    return seen


async def named(connection: Connection, organization_id: UUID, reference: str) -> list[ApprovalRow]:
    """The requests of an organization and those below it that have this id, or ask for this name."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} {_SEEN} AND $2 IN (a.id::text, a.device_name) ORDER BY a.id LIMIT 2",
        organization_id,
        reference,
    )
    return [_row(row) for row in rows]


async def decide(
    connection: Connection, ids: Collection[UUID], state: ApprovalState, actor: str, period: timedelta
) -> list[ApprovalRow]:
    """Say this of requests, of those at least that are there still, in order; returns them."""
    held = await connection.fetch(
        "SELECT id FROM provision_approval WHERE id = ANY($1::uuid[]) AND expires_at > now() ORDER BY id FOR UPDATE",
        list(ids),
    )
    rows = await connection.fetch(
        "WITH a AS (UPDATE provision_approval SET state = $2, decided_by = $3, decided_at = now(),"
        " expires_at = now() + $4 WHERE id = ANY($1::uuid[]) RETURNING *)"
        f" SELECT {_COLUMNS} FROM a JOIN device_profile p ON p.id = a.profile_id ORDER BY a.id",
        [row["id"] for row in held],
        state,
        actor,
        period,
    )
    return [_row(row) for row in rows]


async def trim(connection: Connection, profile_ids: Collection[UUID], state: ApprovalState, limit: int) -> None:
    """Forget the oldest of what was said of profiles' requests, past so many of each."""
    for profile_id in sorted(profile_ids):
        await connection.execute(_TRIM, profile_id, state, limit)


def _row(row: asyncpg.Record) -> ApprovalRow:
    members = [*row]
    members[3] = ApprovalState(row["state"])
    return ApprovalRow(*members)
