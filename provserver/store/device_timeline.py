"""The SQL of what happened to one device: attempts, moves, jobs, WiFi sessions and other records, each by an index."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from provserver.store.attempts import AttemptSummary
from provserver.store.audit import AuditRow, shown
from provserver.store.database import Connection
from provserver.store.jobs import JOB, Job, job_of

_NAMED = 1_000
"""Attempts of a name that are looked at: others may have asked by the same."""

_END = "'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid"
"""Above every id: where a page begins that is the first, as an index knows nothing to do with "a bound, or none"."""

_ATTEMPT = """a.id, a.at, a.transport, a.address, a.outcome, a.reason, a.detail, a.profile_id, p.name, a.device_id,
    a.device_name"""

# The one that made it; those while it was there; those of its name that came to nothing, with its maker's keys.
_ATTEMPTS = f"""
SELECT {_ATTEMPT} FROM (
    SELECT * FROM attempt WHERE id = $1 AND id < coalesce($4::uuid, {_END})
    UNION ALL
    (SELECT * FROM attempt WHERE device_id = $1 AND device_id <> id AND id < coalesce($4, {_END})
     ORDER BY id DESC LIMIT $5)
    UNION ALL
    (SELECT n.* FROM (
        SELECT * FROM attempt WHERE device_name = $2 AND device_id IS NULL AND id < coalesce($4, {_END})
        ORDER BY id DESC LIMIT {_NAMED}
     ) AS n JOIN device_profile q ON q.id = n.profile_id AND q.organization_id = $3 ORDER BY n.id DESC LIMIT $5)
) AS a LEFT JOIN device_profile p ON p.id = a.profile_id ORDER BY a.id DESC LIMIT $5
"""


async def attempts(
    connection: Connection, device_id: UUID, name: str, maker_id: UUID, before: UUID | None, limit: int
) -> list[AttemptSummary]:
    """Attempts of a device, and of its name while it was not there, newest first."""
    rows = await connection.fetch(_ATTEMPTS, device_id, name, maker_id, before, limit)
    return [AttemptSummary(*row) for row in rows]


async def audits(
    connection: Connection,
    organization_id: UUID,
    device_id: UUID,
    before: UUID | None,
    limit: int,
    *,
    actions: Sequence[str] | None = None,
) -> list[AuditRow]:
    """What was done with a device, as an organization and those below it were told of it; all, or only some actions."""
    rows = await connection.fetch(
        "SELECT a.id, a.at, a.organization_id, a.actor, a.action, a.subject_id, a.detail FROM audit a"
        " JOIN audited_organization o ON o.id = a.organization_id AND o.path @> ARRAY[$1::uuid]"
        f" WHERE a.subject_id = $2 AND a.id < coalesce($3::uuid, {_END}) AND ($4::text[] IS NULL OR a.action = ANY($4))"
        " ORDER BY a.id DESC LIMIT $5",
        organization_id,
        str(device_id),
        before,
        actions,
        limit,
    )
    return [AuditRow(*row)._replace(detail=shown(row["detail"])) for row in rows]


async def jobs(
    connection: Connection,
    organization_id: UUID,
    device_id: UUID,
    before: UUID | None,
    limit: int,
    *,
    actor: str | None = None,
) -> list[Job]:
    """Jobs about a device of an organization and those below it; of one actor, or everybody's."""
    rows = await connection.fetch(
        f"SELECT {JOB} FROM job j JOIN organization o ON o.id = j.organization_id AND o.path @> ARRAY[$1::uuid]"
        f" WHERE j.subject_id = $2 AND j.id < coalesce($3::uuid, {_END}) AND ($4::text IS NULL OR j.actor = $4)"
        " ORDER BY j.id DESC LIMIT $5",
        organization_id,
        device_id,
        before,
        actor,
        limit,
    )
    return [job_of(row) for row in rows]


class SessionRow(NamedTuple):
    """A WiFi session of a device, as far as its timeline tells."""

    id: UUID
    started_at: datetime
    state: str
    error: str | None
    requester: str
    again: bool


async def wifi_sessions(
    connection: Connection, organization_id: UUID, device_id: UUID, before: UUID | None, limit: int
) -> list[SessionRow]:
    """The WiFi sessions of a device that are of an organization or of one below it."""
    rows = await connection.fetch(
        "SELECT w.id, w.started_at, w.state, w.error, w.requester, w.again FROM wifi_session w"
        " JOIN organization o ON o.id = w.organization_id AND o.path @> ARRAY[$1::uuid]"
        f" WHERE w.device_id = $2 AND w.id < coalesce($3::uuid, {_END}) ORDER BY w.id DESC LIMIT $4",
        organization_id,
        device_id,
        before,
        limit,
    )
    return [SessionRow(*row) for row in rows]


class Presence(NamedTuple):
    """Whether a device is online, and when it was seen. live: it holds a connection."""

    online: bool
    live: bool
    last_seen_at: datetime


async def presence(connection: Connection, device_id: UUID) -> Presence | None:
    """When a device was seen; None when it never was."""
    row = await connection.fetchrow(
        "SELECT online_until > now(), session_id IS NOT NULL AND online_until > now(), last_seen_at FROM presence"
        " WHERE device_id = $1",
        device_id,
    )
    return None if row is None else Presence(*row)
