"""The SQL of what happens: attempts of a tree of organizations, and what is new of audit, attempts and presence."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from provserver.core.search import LOOKED, Found, Span
from provserver.store.attempts import AttemptSummary
from provserver.store.audit import shown
from provserver.store.database import Connection


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which attempts. device: a name or an id, of one that was never made too. refused: only those that were.

    outcome, reason, transport: as the rows have them. address: an IP address.
    """

    span: Span = field(default_factory=Span)
    profile_id: UUID | None = None
    device: str | None = None
    refused: bool = False
    outcome: str | None = None
    reason: str | None = None
    transport: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that has happened. path: of the organization that it belongs to, root first. id: None of presence."""

    id: UUID | None
    kind: str
    at: datetime
    path: Sequence[UUID]
    facts: dict[str, object]


# Of an attempt whose key nobody knows, the organization at the top is told.
_PATH = "coalesce(o.path, ARRAY[(SELECT id FROM organization WHERE parent_id IS NULL ORDER BY number LIMIT 1)])"

_ATTEMPT = """a.id, a.at, a.transport, a.address, a.outcome, a.reason, a.detail,
    a.profile_id, p.name, a.device_id, a.device_name"""

# Which an organization sees. Sets that are made once a statement, instead of looking the organization up for each row.
_SEEN = """CASE WHEN $1::uuid = (SELECT id FROM organization WHERE parent_id IS NULL ORDER BY number LIMIT 1)
    THEN (a.profile_id IN (SELECT s.id FROM device_profile s JOIN organization o ON o.id = s.organization_id
        WHERE NOT o.path @> ARRAY[$1::uuid])) IS NOT TRUE
    ELSE a.profile_id IN (SELECT s.id FROM device_profile s JOIN organization o ON o.id = s.organization_id
        WHERE o.path @> ARRAY[$1::uuid]) END"""

_SEARCH = f"""
SELECT {_ATTEMPT} FROM attempt a LEFT JOIN device_profile p ON p.id = a.profile_id
WHERE a.id >= $2 AND a.id < $3 AND {_SEEN}
    AND ($5::uuid IS NULL OR a.profile_id = $5)
    AND ($6::text IS NULL OR a.device_name = $6 OR a.device_id = $7)
    AND (NOT $8 OR a.outcome <> 'success')
    AND ($9::text IS NULL OR a.outcome = $9)
    AND ($10::text IS NULL OR a.reason = $10)
    AND ($11::text IS NULL OR a.transport = $11)
    AND ($12::text IS NULL OR a.address = $12)
ORDER BY a.id DESC LIMIT $4
"""

_STOP = "SELECT id FROM attempt WHERE id >= $1 AND id < $2 ORDER BY id DESC OFFSET $3 LIMIT 1"


async def attempts(connection: Connection, organization_id: UUID, wanted: Wanted, limit: int) -> Found[AttemptSummary]:
    """The last attempts with profiles of an organization and those below it, newest first."""
    span = wanted.span
    stop: UUID | None = await connection.fetchval(_STOP, span.start, span.end, LOOKED - 1)
    rows = await connection.fetch(
        _SEARCH,
        organization_id,
        stop or span.start,
        span.end,
        limit + 1,
        wanted.profile_id,
        wanted.device,
        _uuid(wanted.device),
        wanted.refused,
        wanted.outcome,
        wanted.reason,
        wanted.transport,
        wanted.address,
    )
    return Found.of([AttemptSummary(*row) for row in rows], limit, stop)


async def attempt(connection: Connection, organization_id: UUID, id_: UUID) -> AttemptSummary | None:
    """An attempt with a profile of an organization or one below it."""
    row = await connection.fetchrow(
        f"SELECT {_ATTEMPT} FROM attempt a LEFT JOIN device_profile p ON p.id = a.profile_id"
        f" WHERE a.id = $2 AND {_SEEN}",
        organization_id,
        id_,
    )
    return None if row is None else AttemptSummary(*row)


async def attempts_from(connection: Connection, transport: str, address: str, since: UUID) -> list[AttemptSummary]:
    """All by a transport from an address, of ids from one on."""
    rows = await connection.fetch(
        f"SELECT {_ATTEMPT} FROM attempt a LEFT JOIN device_profile p ON p.id = a.profile_id"
        " WHERE a.id >= $3 AND a.transport = $1 AND a.address = $2",
        transport,
        address,
        since,
    )
    return [AttemptSummary(*row) for row in rows]


async def now(connection: Connection) -> datetime:
    """The database's clock."""
    found: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return found


async def audits_since(
    connection: Connection, since: UUID, limit: int, organization_id: UUID | None = None
) -> list[Happening]:
    """The newest entries of the audit of ids above one; of a tree below an organization, or of all."""
    rows = await connection.fetch(
        "SELECT a.id, a.at, o.path, a.organization_id, a.actor, a.action, a.subject_id, a.detail"
        " FROM audit a JOIN audited_organization o ON o.id = a.organization_id WHERE a.id > $1"
        " AND ($3::uuid IS NULL OR o.path @> ARRAY[$3]) ORDER BY a.id DESC LIMIT $2",
        since,
        limit,
        organization_id,
    )
    names = ("organizationId", "actor", "action", "subjectId", "detail")
    return [
        Happening(row[0], "audit", row[1], row[2], dict(zip(names, (*row[3:-1], shown(row[-1])), strict=True)))
        for row in rows
    ]


async def attempts_since(
    connection: Connection, since: UUID, limit: int, organization_id: UUID | None = None
) -> list[Happening]:
    """The newest attempts of ids above one; of a tree below an organization, or of all."""
    rows = await connection.fetch(
        f"SELECT a.id, a.at, {_PATH}, a.transport, a.address, a.outcome, a.reason, a.detail, a.profile_id, p.name,"
        " a.device_id, a.device_name FROM attempt a LEFT JOIN device_profile p ON p.id = a.profile_id"
        " LEFT JOIN organization o ON o.id = p.organization_id WHERE a.id > $1"
        f" AND ($3::uuid IS NULL OR {_PATH} @> ARRAY[$3]) ORDER BY a.id DESC LIMIT $2",
        since,
        limit,
        organization_id,
    )
    names = ("transport", "address", "outcome", "reason", "detail", "profileId", "profile", "deviceId", "deviceName")
    return [Happening(row[0], "attempt", row[1], row[2], dict(zip(names, row[3:], strict=False))) for row in rows]


async def presences_since(connection: Connection, since: datetime, until: datetime, limit: int) -> list[Happening]:
    """Devices that were seen, or whose time online ran out, after one time and not after another."""
    rows = await connection.fetch(
        "SELECT greatest(r.last_seen_at, least(r.online_until, $2)), o.path, r.device_id, d.name,"
        " r.online_until > $2, r.last_seen_at"
        " FROM presence r JOIN device d ON d.id = r.device_id"
        " JOIN organization o ON o.id = coalesce(d.holder_id, d.organization_id)"
        " WHERE r.last_seen_at > $1 AND r.last_seen_at <= $2 OR r.online_until > $1 AND r.online_until <= $2"
        " ORDER BY 1 LIMIT $3",
        since,
        until,
        limit,
    )
    names = ("deviceId", "deviceName", "online", "lastSeenAt")
    return [Happening(None, "presence", row[0], row[1], dict(zip(names, row[2:], strict=False))) for row in rows]


def _uuid(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        return None
