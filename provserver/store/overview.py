"""The SQL of the overview: how far devices have come, what became of attempts, which provision keys end.

Counts go over all that an organization sees, so they are made behind, and nobody waits (`services/overview.py`).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from provserver.store.database import Connection

LONGEST = 60.0
"""Seconds that one count may take."""


class Stages(NamedTuple):
    """How many devices, and static tokens that are to become devices, have come how far."""

    devices: int
    tokens: int
    provisioned: int
    connected: int
    online: int
    claimed: int


class Seen(NamedTuple):
    """What an organization and those below it are. whole: there is no other."""

    organizations: Sequence[UUID]
    whole: bool


class Tally(NamedTuple):
    """How many attempts came to this. place: of the part of the time that was asked for. reason: None when granted."""

    place: int
    outcome: str
    reason: str | None
    number: int


class BudgetRow(NamedTuple):
    """A provision key that ends, and how near that is. uses: counted while there are so many at most."""

    key: str
    profile_id: UUID
    profile: str
    organization_id: UUID
    uses: int
    max_uses: int | None
    per_minute: int | None
    not_before: datetime | None
    not_after: datetime | None
    state: str


async def seen(connection: Connection, organization_id: UUID) -> Seen:
    """An organization and those below it."""
    rows = await connection.fetch("SELECT id FROM organization WHERE path @> ARRAY[$1::uuid]", organization_id)
    whole: bool = await connection.fetchval(
        "SELECT NOT EXISTS (SELECT FROM organization WHERE NOT path @> ARRAY[$1::uuid])", organization_id
    )
    return Seen([row["id"] for row in rows], whole)


# With the whole tree nothing needs to be joined: a table is read once, and rows of devices go with their devices.
_ALL_DEVICES = "SELECT count(*), count(*) FILTER (WHERE holder_id IS NOT NULL OR owner_id IS NOT NULL) FROM device"
_ALL_TOKENS = """
SELECT count(*) FILTER (WHERE d.id IS NULL),
    count(*) FILTER (WHERE t.status = 'CLAIMED' AND d.holder_id IS NULL AND d.owner_id IS NULL AND d.id IS NOT NULL)
FROM static_token t LEFT JOIN device d ON d.id = t.id
"""
_ALL_PROVISIONED = """
SELECT count(*) FROM attribute WHERE scope = 'SERVER' AND key = 'provisionState' AND value = '"provisioned"'
"""
_ALL_PRESENT = "SELECT count(*), count(*) FILTER (WHERE online_until > now()) FROM presence"

_DEVICES = """
WITH held AS MATERIALIZED (
    SELECT id, holder_id IS NOT NULL OR owner_id IS NOT NULL AS claimed FROM device
    WHERE organization_id = ANY($1::uuid[]) AND holder_id IS NULL
    UNION ALL
    SELECT id, true FROM device WHERE holder_id = ANY($1::uuid[])
)
SELECT count(*), count(a.device_id), count(r.device_id), count(*) FILTER (WHERE r.online_until > now()),
    count(*) FILTER (WHERE h.claimed OR t.status = 'CLAIMED')
FROM held h
LEFT JOIN presence r ON r.device_id = h.id
LEFT JOIN static_token t ON t.id = h.id
LEFT JOIN attribute a ON a.device_id = h.id AND a.scope = 'SERVER' AND a.key = 'provisionState'
    AND a.value = '"provisioned"'
"""
_TOKENS = """
SELECT count(*) FROM static_token t LEFT JOIN device d ON d.id = t.id
WHERE t.organization_id = ANY($1::uuid[]) AND d.id IS NULL
"""


async def stages(connection: Connection, organization_id: UUID) -> Stages:
    """How far what an organization and those below it have has come.

    A device is counted where it is held; one is claimed that a user owns, that another organization than its maker
    holds, or whose static token is claimed.
    """
    tree = await seen(connection, organization_id)
    if not tree.whole:
        row = await connection.fetchrow(_DEVICES, tree.organizations, timeout=LONGEST)
        assert row is not None  # noqa: S101 - counts are there
        tokens = await connection.fetchval(_TOKENS, tree.organizations, timeout=LONGEST)
        return Stages(row[0], tokens, *row[1:])
    devices, held = await _pair(connection, _ALL_DEVICES)
    tokens, own = await _pair(connection, _ALL_TOKENS)
    provisioned = await connection.fetchval(_ALL_PROVISIONED, timeout=LONGEST)
    connected, online = await _pair(connection, _ALL_PRESENT)
    return Stages(devices, tokens, provisioned, connected, online, held + own)


async def _pair(connection: Connection, statement: str) -> tuple[int, int]:
    row = await connection.fetchrow(statement, timeout=LONGEST)
    assert row is not None  # noqa: S101 - counts are there
    return row[0], row[1]


# The profile is looked at once for each group of attempts, not for each attempt. At the top are also those whose
# profile is not known: see store/events.py.
_TALLY = """
SELECT g.place, g.outcome, g.reason, sum(g.count)::bigint
FROM (
    SELECT width_bucket(id, $2::uuid[]) - 1 AS place, profile_id, outcome, reason, count(*) AS count
    FROM attempt WHERE id >= ($2::uuid[])[1] GROUP BY 1, 2, 3, 4
) AS g
LEFT JOIN device_profile p ON p.id = g.profile_id
LEFT JOIN organization o ON o.id = p.organization_id
WHERE coalesce(o.path, ARRAY[(SELECT id FROM organization WHERE parent_id IS NULL ORDER BY number LIMIT 1)])
    @> ARRAY[$1::uuid]
GROUP BY 1, 2, 3
"""


async def tally(connection: Connection, organization_id: UUID, bounds: Sequence[UUID]) -> list[Tally]:
    """What became of the attempts from each of these ids on until the next, with profiles an organization sees.

    bounds: in order; what is after the last one is its part.
    """
    rows = await connection.fetch(_TALLY, organization_id, bounds, timeout=LONGEST)
    return [Tally(*row) for row in rows]


_BUDGETS = """
SELECT b.key, b.profile_id, b.profile, b.organization_id, b.uses, b.max_uses, b.per_minute, b.not_before, b.not_after,
    CASE WHEN b.not_after <= now() THEN 'expired'
         WHEN b.uses >= b.max_uses THEN 'used_up'
         WHEN b.not_after <= now() + $2::interval OR b.uses >= b.max_uses * $3::float8 THEN 'ending'
         WHEN b.not_before > now() THEN 'not_yet_valid'
         ELSE 'valid' END AS state
FROM (
    SELECT k.*, p.name AS profile, p.organization_id
    FROM provision_key k JOIN device_profile p ON p.id = k.profile_id
    JOIN organization o ON o.id = p.organization_id
    WHERE o.path @> ARRAY[$1::uuid] AND (k.not_after IS NOT NULL OR k.max_uses IS NOT NULL OR k.per_minute IS NOT NULL)
) AS b
WHERE b.not_after IS NULL OR b.not_after > now() - $4::interval
ORDER BY CASE WHEN b.not_after <= now() OR b.uses >= b.max_uses THEN 1
              WHEN b.not_after <= now() + $2::interval OR b.uses >= b.max_uses * $3::float8 THEN 0
              ELSE 2 END,
    least(b.not_after, CASE WHEN b.max_uses IS NULL THEN 'infinity' ELSE now() END), b.key
LIMIT $5
"""


async def budgets(
    connection: Connection, organization_id: UUID, *, soon: timedelta, share: float, kept: timedelta, limit: int
) -> list[BudgetRow]:
    """Provision keys that have bounds, of profiles that an organization sees: those first that end next.

    soon: a key that ends within that time is ending, and so is one of whose uses that share is used. kept: how long
    one that has expired is still told of.
    """
    rows = await connection.fetch(_BUDGETS, organization_id, soon, share, kept, limit)
    return [BudgetRow(*row) for row in rows]
