"""The SQL of the production line: which unit has which static token."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg

from provserver.store.database import Connection

UnitState = Literal["reserved", "written", "failed"]

PATIENCE = 1.5
"""Seconds for which a unit is waited for that another station has."""


class ProfileRow(NamedTuple):
    """A profile that a line works on."""

    id: UUID
    organization_id: UUID
    name: str
    template_id: str


class UnitRow(NamedTuple):
    """A token that was given to a unit. connected_at: when the unit first came with it, if it has."""

    token_id: UUID
    number: int
    organization_id: UUID
    unit: str
    state: UnitState
    at: datetime
    status: str
    connected_at: datetime | None


class HeldRow(NamedTuple):
    """A token that a unit holds, with its secrets sealed."""

    token_id: UUID
    number: int
    organization_id: UUID
    organization_number: int
    state: UnitState
    at: datetime
    status: str
    sealed: bytes
    qr_sealed: bytes
    metadata: Mapping[str, str]


class Counts(NamedTuple):
    """How many tokens of a profile are free, and how many are with units in each state."""

    free: int
    reserved: int
    written: int
    failed: int


_HELD = (
    "t.id, t.number, t.organization_id, o.number, t.unit_state, t.unit_at, t.status, t.sealed, t.qr_sealed, t.metadata"
)
# Looked up first, and once: as a join it is misjudged, and the tokens are sorted for each that is taken.
_REACHED = "t.organization_id = ANY (ARRAY(SELECT id FROM organization WHERE path @> ARRAY[$1::uuid]))"
# One that was used is in a unit, or may be, by another way than ours; also when its device has been deleted since.
FREE = (
    "t.unit IS NULL AND t.used_at IS NULL"
    " AND t.status = 'UNCLAIMED' AND NOT EXISTS (SELECT FROM device d WHERE d.id = t.id)"
)
# Whatever is done with a token but to show it raises its revision: a claim, a unit, the deletion of its device.
EXPORTED = (
    "t.unit IS NULL AND t.used_at IS NOT NULL AND t.revision = 1"
    " AND t.status = 'UNCLAIMED' AND NOT EXISTS (SELECT FROM device d WHERE d.id = t.id)"
)
_MATCHES = "($4::text IS NULL OR t.metadata ->> $4 = $3)"


async def profiles(connection: Connection, organization_id: UUID, reference: str) -> list[ProfileRow]:
    """The profiles that a name, template id or id may mean, of an organization and those below; its own first."""
    rows = await connection.fetch(
        "SELECT p.id, p.organization_id, p.name, p.template_id"
        " FROM device_profile p JOIN organization o ON o.id = p.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid] AND (p.name = $2 OR p.template_id = $2 OR p.id::text = $2)"
        " ORDER BY p.organization_id = $1 DESC, p.name = $2 DESC LIMIT 2",
        organization_id,
        reference,
    )
    return [ProfileRow(*row) for row in rows]


async def hold(connection: Connection, profile_id: UUID, unit: str) -> None:
    """Have a unit to oneself until the connection ends, whatever ends it.

    Raises asyncpg.LockNotAvailableError after a moment, which the connection of a killed station takes to end, be it
    to Postgres or to a server.
    """
    await connection.execute(f"SET lock_timeout = '{PATIENCE}s'")
    await connection.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", f"eol:{profile_id}:{unit}")


async def held(connection: Connection, organization_id: UUID, profile_id: UUID, unit: str) -> HeldRow | None:
    """The token that is reserved for a unit or written to it, locked; of those that an organization reaches."""
    row = await connection.fetchrow(
        f"SELECT {_HELD} FROM static_token t JOIN organization o ON o.id = t.organization_id"
        " WHERE t.profile_id = $2 AND t.unit = $3 AND t.unit_state IN ('reserved', 'written')"
        f" AND {_REACHED} FOR UPDATE OF t",
        organization_id,
        profile_id,
        unit,
    )
    return _held(row)


async def take(
    connection: Connection, organization_id: UUID, profile_id: UUID, unit: str, field: str | None = None
) -> HeldRow | None:
    """Reserve the oldest free token for a unit; stations that do so at once pass each other by.

    field: a metadata field that must have the unit as its value. Raises asyncpg.UniqueViolationError when the unit has
    got one meanwhile.
    """
    row = await connection.fetchrow(
        "UPDATE static_token t SET unit = $3, unit_state = 'reserved', unit_at = now(), revision = t.revision + 1"
        " FROM organization o WHERE o.id = t.organization_id AND t.id = ("
        f" SELECT t.id FROM static_token t WHERE t.profile_id = $2 AND {_REACHED} AND {FREE}"
        f" AND {_MATCHES}"
        f" ORDER BY t.id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING {_HELD}",
        organization_id,
        profile_id,
        unit,
        field,
    )
    return _held(row)


async def used(
    connection: Connection, organization_id: UUID, profile_id: UUID, unit: str, field: str | None = None
) -> int:
    """How many tokens no unit was given here, and are not free all the same. unit, field: see `take`."""
    found: int = await connection.fetchval(
        f"SELECT count(*) FROM static_token t WHERE t.profile_id = $2 AND {_REACHED}"
        f" AND t.unit IS NULL AND NOT ({FREE}) AND {_MATCHES}",
        organization_id,
        profile_id,
        unit,
        field,
    )
    return found


async def mark(
    connection: Connection,
    organization_id: UUID,
    token_id: UUID,
    unit: str,
    state: UnitState,
    *,
    before: tuple[UnitState, ...],
) -> UnitRow | None:
    """Move a unit's token on from one of some states; None when it is in none, or the organization reaches it not."""
    row = await connection.fetchrow(
        "UPDATE static_token t SET unit_state = $4, unit_at = now(), revision = t.revision + 1"
        f" WHERE t.id = $2 AND t.unit = $3 AND t.unit_state = ANY($5::text[]) AND {_REACHED}"
        " RETURNING t.id, t.number, t.organization_id, t.unit, t.unit_state, t.unit_at, t.status, NULL::timestamptz",
        organization_id,
        token_id,
        unit,
        state,
        before,
    )
    return None if row is None else UnitRow(*row)


async def state(connection: Connection, organization_id: UUID, token_id: UUID, unit: str) -> UnitRow | None:
    """How things are with a unit's token, of those that an organization reaches."""
    rows = await connection.fetch(
        f"{_UNITS} WHERE t.id = $2 AND t.unit = $3 AND {_REACHED}", organization_id, token_id, unit
    )
    return UnitRow(*rows[0]) if rows else None


_UNITS = (
    "SELECT t.id, t.number, t.organization_id, t.unit, t.unit_state, t.unit_at, t.status, d.created_at"
    " FROM static_token t LEFT JOIN device d ON d.id = t.id"
)


async def units(
    connection: Connection,
    organization_id: UUID,
    profile_id: UUID,
    *,
    unit: str | None = None,
    state: UnitState | None = None,
    limit: int,
) -> list[UnitRow]:
    """The units of a profile that an organization reaches, the last one touched first; unit: only this one's."""
    rows = await connection.fetch(
        f"{_UNITS} WHERE t.profile_id = $2 AND {_REACHED} AND t.unit IS NOT NULL"
        " AND ($3::text IS NULL OR t.unit = $3) AND ($4::text IS NULL OR t.unit_state = $4)"
        " ORDER BY t.unit_at DESC, t.id DESC LIMIT $5",
        organization_id,
        profile_id,
        unit,
        state,
        limit,
    )
    return [UnitRow(*row) for row in rows]


async def counts(connection: Connection, organization_id: UUID, profile_id: UUID) -> Counts:
    """How many of a profile's tokens that an organization reaches are in which state."""
    row = await connection.fetchrow(
        f"SELECT count(*) FILTER (WHERE {FREE}), count(*) FILTER (WHERE t.unit_state = 'reserved'),"
        " count(*) FILTER (WHERE t.unit_state = 'written'), count(*) FILTER (WHERE t.unit_state = 'failed')"
        f" FROM static_token t WHERE t.profile_id = $2 AND {_REACHED}",
        organization_id,
        profile_id,
    )
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Counts(*row)


def _held(row: asyncpg.Record | None) -> HeldRow | None:
    return None if row is None else HeldRow(*row)
