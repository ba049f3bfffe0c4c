"""The SQL of what waits for an operator: counted up to a bound, and listed where no other module does.

Each statement begins at a small table (quarantine, signs, failed jobs, integrations, keys), never at the devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from provserver.store.clones import SignRow
from provserver.store.database import Connection
from provserver.store.jobs import JOB, Job, job_of


@dataclass(frozen=True, slots=True)
class Counts:
    """How many wait of each kind, each counted up to a bound; None: the asker may do nothing about it."""

    approvals: int | None
    quarantined: int | None
    clone_signs: int | None
    failed_jobs: int | None
    broken_integrations: int | None
    ending_keys: int | None


class Wants(NamedTuple):
    """What to count."""

    approvals: bool
    devices: bool
    jobs: bool
    integrations: bool
    provision_keys: bool
    api_keys: bool
    particle: bool


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A device in quarantine: why, by whom, since when; and what speaks for its being there twice.

    holder: the organization that has it. static_token: the status of the one that it came of; None: of none.
    """

    id: UUID
    name: str
    profile_id: UUID
    profile: str
    holder: str
    static_token: str | None
    reason: str
    actor: str
    since: datetime
    signs: Sequence[SignRow]


@dataclass(frozen=True, slots=True)
class SuspectRow:
    """A device with signs of a clone, in no quarantine."""

    id: UUID
    name: str
    profile_id: UUID
    profile: str
    holder: str
    signs: Sequence[SignRow]


@dataclass(frozen=True, slots=True)
class EndingRow:
    """A key that ends soon, or has ended. kind: provision_key, api_key or particle.

    name: what people know it by; reference: where it is to be changed: the profile's id, or its own. uses, max_uses: of
    a provision key whose uses are bounded.
    """

    kind: str
    name: str
    reference: str
    organization: str
    profile: str | None
    ends_at: datetime | None
    uses: int | None
    max_uses: int | None


# Devices that somebody can do something about: of a maker in reach, as only makers release.
_MADE = """JOIN organization m ON m.id = d.organization_id AND m.path @> ARRAY[$1::uuid]
JOIN organization h ON h.id = coalesce(d.holder_id, d.organization_id) AND h.path @> ARRAY[$1::uuid]"""

_HELD = f"device_quarantine q JOIN device d ON d.id = q.device_id {_MADE}"

# Maker by maker, so that nobody pays for the signs of others' devices. The pairs are what no other index serves, and
# each OFFSET 0 has the walk go along it, device by device, for as long as somebody wants more.
_SUSPECTS = """organization m CROSS JOIN LATERAL (
    SELECT s.device_id, t.name, t.profile_id, t.holder FROM (
        SELECT DISTINCT c.organization_id, c.device_id FROM clone_sign c
        WHERE (c.organization_id, c.device_id) > (m.id, {after})
            AND (c.organization_id, c.device_id) < (m.id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
        ORDER BY c.organization_id, c.device_id OFFSET 0) s
    CROSS JOIN LATERAL (
        SELECT d.name, d.profile_id, h.name AS holder
        FROM device d JOIN organization h ON h.id = coalesce(d.holder_id, d.organization_id)
        WHERE d.id = s.device_id AND h.path @> ARRAY[$1::uuid] AND {only}
            AND NOT EXISTS (SELECT FROM device_quarantine q WHERE q.device_id = d.id) OFFSET 0) t
    ORDER BY s.organization_id, s.device_id LIMIT $3) s
WHERE m.path @> ARRAY[$1::uuid]"""

# Where a walk begins that has no place to go on from: a bound, as an index knows nothing to do with a choice.
_FIRST = "'00000000-0000-0000-0000-000000000000'::uuid"
_LAST = "'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid"

_SIGNS = """(SELECT coalesce(jsonb_agg(jsonb_build_array(c.kind, c.count, c.first_at, c.last_at) ORDER BY c.kind), '[]')
    FROM clone_sign c WHERE c.device_id = {device})"""

# What was asked for anew waits for nobody: of one device, what its network is to have was said again.
_FAILED = """job j JOIN organization o ON o.id = j.organization_id AND o.path @> ARRAY[$1::uuid]
WHERE j.state = 'failed' AND j.durable AND NOT EXISTS (
    SELECT FROM job l WHERE l.subject_id = j.subject_id AND l.id > j.id
    AND (l.kind = j.kind OR j.kind LIKE 'network.%' AND l.kind LIKE 'network.%'))"""

_PROVISION_KEYS = """provision_key k JOIN device_profile p ON p.id = k.profile_id
JOIN organization o ON o.id = p.organization_id AND o.path @> ARRAY[$1::uuid]
WHERE (k.not_after < now() + $2 OR k.uses >= k.max_uses * 0.9)"""

_API_KEYS = """api_key k JOIN organization o ON o.id = k.organization_id AND o.path @> ARRAY[$1::uuid]
WHERE k.expires_at < now() + $2"""

_PARTICLE = """particle_product k JOIN device_profile p ON p.id = k.profile_id
JOIN organization o ON o.id = k.organization_id AND o.path @> ARRAY[$1::uuid]
WHERE k.expires_at < now() + $2"""


def _count(what: str, wanted: str) -> str:
    return f"CASE WHEN ${wanted} THEN (SELECT count(*) FROM (SELECT FROM {what} LIMIT $3) AS seen) END"


_COUNTS = f"""
SELECT {_count("provision_approval a JOIN device_profile p ON p.id = a.profile_id "
               "JOIN organization o ON o.id = p.organization_id AND o.path @> ARRAY[$1::uuid] "
               "WHERE a.state = 'pending' AND a.expires_at > now()", "4::boolean")},
    {_count(_HELD, "5::boolean")},
    {_count(_SUSPECTS.format(after=_FIRST, only="true"), "5::boolean")},
    {_count(_FAILED, "6::boolean")},
    {_count("integration i JOIN organization o ON o.id = i.organization_id AND o.path @> ARRAY[$1::uuid] "
            "WHERE i.status = 'broken'", "7::boolean")},
    {_count(_PROVISION_KEYS, "8::boolean")},
    {_count(_API_KEYS, "9::boolean")},
    {_count(_PARTICLE, "10::boolean")}
"""  # fmt: skip


async def counts(connection: Connection, above: UUID, wants: Wants, soon: timedelta, limit: int) -> Counts:
    """How many wait in an organization and those below it, of each kind up to `limit`."""
    row = await connection.fetchrow(_COUNTS, above, soon, limit, *wants)
    assert row is not None  # noqa: S101 - it has no FROM
    approvals, held, suspects, failed, broken, *ending = row
    known = [each for each in ending if each is not None]
    return Counts(approvals, held, suspects, failed, broken, min(sum(known), limit) if known else None)


async def quarantined(connection: Connection, above: UUID, after: UUID | None, limit: int) -> list[HeldRow]:
    """Devices in quarantine, in order of their ids, after one."""
    rows = await connection.fetch(
        "SELECT d.id, d.name, d.profile_id, p.name AS profile, h.name AS holder,"
        " (SELECT t.status FROM static_token t WHERE t.id = d.id) AS static_token, q.reason, q.actor, q.since,"
        f" {_SIGNS.format(device='d.id')} AS signs FROM {_HELD} JOIN device_profile p ON p.id = d.profile_id"
        f" WHERE q.device_id > coalesce($2::uuid, {_FIRST}) ORDER BY q.device_id LIMIT $3",
        above,
        after,
        limit,
    )
    return [HeldRow(**dict(row) | {"signs": _signs(row["signs"])}) for row in rows]


async def suspects(
    connection: Connection, above: UUID, after: UUID | None, limit: int, *, profile_id: UUID | None = None
) -> list[SuspectRow]:
    """Devices with signs of a clone, in no quarantine, in order of their ids, after one; profile_id: only its."""
    wanted = _SUSPECTS.format(after=f"coalesce($2::uuid, {_FIRST})", only="($4::uuid IS NULL OR d.profile_id = $4)")
    rows = await connection.fetch(
        "SELECT s.device_id AS id, s.name, s.profile_id, p.name AS profile, s.holder,"
        f" {_SIGNS.format(device='s.device_id')} AS signs FROM (SELECT s.* FROM {wanted}"
        " ORDER BY s.device_id LIMIT $3) AS s JOIN device_profile p ON p.id = s.profile_id ORDER BY s.device_id",
        above,
        after,
        limit,
        profile_id,
    )
    return [SuspectRow(**dict(row) | {"signs": _signs(row["signs"])}) for row in rows]


async def dismiss(connection: Connection, device_ids: Sequence[UUID]) -> list[UUID]:
    """Forget the signs of devices; returns those that had any. What is counted towards a quarantine goes on."""
    rows = await connection.fetch(
        "WITH gone AS (DELETE FROM clone_sign WHERE (device_id, kind) IN (SELECT device_id, kind FROM clone_sign"
        " WHERE device_id = ANY($1::uuid[]) ORDER BY device_id, kind FOR UPDATE) RETURNING device_id)"
        " SELECT DISTINCT device_id FROM gone",
        list(device_ids),
    )
    return [row["device_id"] for row in rows]


async def failed_jobs(connection: Connection, above: UUID, before: UUID | None, limit: int) -> list[Job]:
    """Durable jobs that failed and were not asked for anew, newest first, from before one on."""
    rows = await connection.fetch(
        f"SELECT {JOB} FROM {_FAILED} AND j.id < coalesce($2::uuid, {_LAST}) ORDER BY j.id DESC LIMIT $3",
        above,
        before,
        limit,
    )
    return [job_of(row) for row in rows]


async def ending_keys(
    connection: Connection, above: UUID, wants: Wants, soon: timedelta, limit: int
) -> list[EndingRow]:
    """Keys that end within `soon`, have ended, or are nearly used up; those that end first before the others."""
    rows = await connection.fetch(
        "SELECT * FROM ("
        f" (SELECT 'provision_key' AS kind, k.key AS name, p.id::text AS reference, o.name AS organization,"
        f" p.name AS profile, k.not_after AS ends_at, CASE WHEN k.max_uses IS NOT NULL THEN k.uses END AS uses,"
        f" k.max_uses FROM {_PROVISION_KEYS} AND $4 LIMIT $3)"
        f" UNION ALL (SELECT 'api_key', k.name, k.id::text, o.name, NULL, k.expires_at, NULL, NULL"
        f" FROM {_API_KEYS} AND $5 LIMIT $3)"
        f" UNION ALL (SELECT 'particle', k.product, k.id::text, o.name, p.name, k.expires_at, NULL, NULL"
        f" FROM {_PARTICLE} AND $6 LIMIT $3)"
        ") AS ending ORDER BY ends_at NULLS LAST, name LIMIT $3",
        above,
        soon,
        limit,
        wants.provision_keys,
        wants.api_keys,
        wants.particle,
    )
    return [EndingRow(**dict(row)) for row in rows]


def _signs(found: Sequence[Sequence[Any]]) -> list[SignRow]:
    return [
        SignRow(kind, count, datetime.fromisoformat(first_at), datetime.fromisoformat(last_at))
        for kind, count, first_at, last_at in found
    ]
