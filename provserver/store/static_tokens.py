"""The SQL of static tokens: staged and added, listed, shown."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from provserver.core.definitions import SECRET_TYPES
from provserver.core.lorawan import SECRETS
from provserver.core.model import DeviceProfile
from provserver.core.statictoken import StaticToken, TokenStatus
from provserver.store import profiles
from provserver.store.database import Connection


class StagedToken(NamedTuple):
    """A token that is to be made. place: in its batch, from 1; line: of its row in the file."""

    place: int
    line: int
    id: UUID
    id_digest: bytes
    sealed: bytes
    qr_digest: bytes
    qr_sealed: bytes
    name: str | None
    metadata: dict[str, str]


class StagedValue(NamedTuple):
    """What no other token of the profile may have."""

    place: int
    line: int
    field: str
    value: str
    token_id: UUID


class Taken(NamedTuple):
    """A staged token whose name, or whose value of a field, another one or a device has. field: None for the name."""

    place: int
    line: int
    field: str | None
    by_device: bool


class BatchRow(NamedTuple):
    """Tokens that were made together, of which some are left. last: the id of the last of these.

    left, claimed: of those that are left, BOUND + 1 standing for more.
    """

    organization_id: UUID
    organization: str
    profile_id: UUID
    profile: str
    created_at: datetime
    last: UUID
    first_number: int
    last_number: int
    left: int
    claimed: int


class TokenRow(NamedTuple):
    """A token with its sealed secrets."""

    token: StaticToken
    sealed: bytes
    qr_sealed: bytes


@dataclass(frozen=True, slots=True)
class Filter:
    """Which tokens: of what these organizations made, all that fit. first, last: bounds of ids."""

    makers: Sequence[UUID]
    ids: Sequence[UUID] | None = None
    profile_id: UUID | None = None
    status: TokenStatus | None = None
    first: UUID | None = None
    last: UUID | None = None


_STAGES = """
CREATE TEMPORARY TABLE staged_token (
    place     integer NOT NULL,
    line      integer NOT NULL,
    id        uuid    NOT NULL,
    id_digest bytea   NOT NULL,
    sealed    bytea   NOT NULL,
    qr_digest bytea   NOT NULL,
    qr_sealed bytea   NOT NULL,
    name      text,
    metadata  jsonb   NOT NULL
) ON COMMIT DROP;
CREATE TEMPORARY TABLE staged_value (
    place    integer NOT NULL,
    line     integer NOT NULL,
    field    text    NOT NULL,
    value    text    NOT NULL,
    token_id uuid    NOT NULL
) ON COMMIT DROP;
"""

_TAKEN = """
SELECT s.place, s.line, NULL AS field, d.id IS NOT NULL
FROM staged_token s
LEFT JOIN device d ON d.organization_id = $1 AND d.name = s.name
LEFT JOIN static_token t ON t.organization_id = $1 AND t.name = s.name
WHERE d.id IS NOT NULL OR t.id IS NOT NULL
UNION ALL
SELECT v.place, v.line, v.field, false
FROM staged_value v JOIN static_token_value t ON t.profile_id = $2 AND t.field = v.field AND t.value = v.value
ORDER BY place, field NULLS FIRST
"""

# From one organization to the next along the index, as few make tokens and many do not. A join with all that are in the
# tree would be planned by a guess at how many that is: a small table has no statistics.
_MAKERS = """
WITH RECURSIVE maker AS (
    (SELECT organization_id FROM static_token ORDER BY organization_id LIMIT 1)
    UNION ALL
    SELECT (SELECT t.organization_id FROM static_token t WHERE t.organization_id > maker.organization_id
            ORDER BY t.organization_id LIMIT 1)
    FROM maker WHERE maker.organization_id IS NOT NULL
)
SELECT o.id FROM maker JOIN organization o ON o.id = maker.organization_id WHERE o.path @> ARRAY[$1::uuid] ORDER BY o.id
"""

_SELECT = """
SELECT t.id, t.number, t.organization_id, o.number, o.name, t.profile_id, p.name, p.template_id, t.status,
    t.claimed_at, t.name, t.metadata, t.unit, t.unit_state, t.unit_at, t.revision, t.created_at,
    d.name, d.holder_id, d.owner_id, CASE WHEN d.id IS NOT NULL THEN coalesce(h.name, o.name) END,
    coalesce(nullif(u.name, ''), u.email), t.sealed, t.qr_sealed
FROM ({}) AS t
JOIN organization o ON o.id = t.organization_id
JOIN device_profile p ON p.id = t.profile_id
LEFT JOIN device d ON d.id = t.id
LEFT JOIN organization h ON h.id = d.holder_id
LEFT JOIN "user" u ON u.id = d.owner_id
ORDER BY t.id
"""

# What begins so, of each kind as many as there may be: the ranges are the indexes' (see 0024_token_search.sql).
_SEARCH = """
(SELECT t.id FROM static_token t WHERE t.organization_id = ANY($1::uuid[]) AND t.name IS NOT NULL
    AND lower(t.name) ~>=~ lower($2) AND lower(t.name) ~<~ (lower($2) || $3) LIMIT $6)
UNION
(SELECT t.id FROM static_token t WHERE t.organization_id = ANY($1::uuid[]) AND t.unit IS NOT NULL
    AND lower(t.unit) ~>=~ lower($2) AND lower(t.unit) ~<~ (lower($2) || $3) LIMIT $6)
UNION
(SELECT v.token_id FROM (
        SELECT p.id, f ->> 'name' AS field FROM device_profile p
        CROSS JOIN LATERAL jsonb_array_elements(p.metadata_fields) AS f
        WHERE p.organization_id = ANY($1::uuid[]) AND f ->> 'unique' = 'true'
            AND NOT coalesce(f ->> 'type', '') = ANY($7::text[]) AND NOT f ->> 'name' = ANY($8::text[])
    ) AS k JOIN static_token_value v ON v.profile_id = k.id AND v.field = k.field
        AND lower(v.value) ~>=~ lower($2) AND lower(v.value) ~<~ (lower($2) || $3) LIMIT $6)
UNION
(SELECT t.id FROM static_token t WHERE t.organization_id = ANY($1::uuid[]) AND t.number = $4)
UNION
(SELECT t.id FROM static_token t WHERE t.organization_id = ANY($1::uuid[]) AND t.id = $5)
"""

# From the last token of one batch to the last of the one before along an index, as the ids of a batch are a range.
_BATCHES = """
WITH RECURSIVE batch AS (
    SELECT newest.id AS last, 1 AS place FROM ({newest_before_cursor}) AS newest
    UNION ALL
    SELECT newest.id, batch.place + 1 FROM batch CROSS JOIN LATERAL ({newest_before_batch}) AS newest
    WHERE batch.place < $3
)
SELECT t.organization_id, o.name, t.profile_id, p.name, t.created_at, t.id,
    (SELECT f.number FROM static_token f WHERE f.id > b.begins ORDER BY f.id LIMIT 1), t.number,
    (SELECT count(*) FROM (SELECT FROM static_token c WHERE c.id > b.begins AND c.id <= t.id LIMIT $4) AS counted),
    (SELECT count(*) FROM (SELECT FROM static_token c WHERE c.id > b.begins AND c.id <= t.id
        AND c.status = 'CLAIMED' LIMIT $4) AS counted)
FROM (SELECT place, last, (left(last::text, 28) || '00000000')::uuid AS begins FROM batch) AS b
JOIN static_token t ON t.id = b.last
JOIN organization o ON o.id = t.organization_id
JOIN device_profile p ON p.id = t.profile_id
ORDER BY b.place
"""
_NEWEST = """
SELECT each.id FROM unnest($1::uuid[]) AS maker
CROSS JOIN LATERAL (
    SELECT n.id FROM static_token n WHERE n.{} = maker AND n.id < {} ORDER BY n.id DESC LIMIT 1
) AS each ORDER BY each.id DESC LIMIT 1
"""
_BEFORE_BATCH = "(left(batch.last::text, 28) || '00000000')::uuid"

FOUND = 500
"""Of each kind (name, unit, value) a search has so many at most."""

BOUND = 10_000
"""How far the tokens of a batch are counted for a list of batches."""

_LAST = "\U0010ffff"
_HIGHEST = UUID(int=(1 << 128) - 1)

_LONG = 600.0
"""Seconds that a statement about everything staged may take."""

_PART, _PARTS = 10_000, 20
"""Staged tokens that one statement adds at least, and statements at most: each reads all that is staged."""


async def find_profile(connection: Connection, above: UUID, reference: str) -> list[DeviceProfile]:
    """The profiles that a name, template id or id means in an organization and those below it; the own one goes first.

    One that is an organization's own leaves no choice; else two at most.
    """
    rows = await connection.fetch(
        "SELECT p.id, p.organization_id = $1 AS own"
        " FROM device_profile p JOIN organization o ON o.id = p.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid] AND (p.name = $2 OR p.template_id = $2 OR p.id::text = $2)"
        " ORDER BY own DESC, p.name = $2 DESC LIMIT 2",
        above,
        reference,
    )
    wanted = rows[:1] if rows and rows[0]["own"] else rows
    found = [await profiles.get(connection, row["id"]) for row in wanted]
    return [profile for profile in found if profile is not None]


async def lock_profile(connection: Connection, id_: UUID) -> DeviceProfile | None:
    """A profile by its id, which nobody changes until the transaction ends."""
    await connection.execute("SELECT FROM device_profile WHERE id = $1 FOR SHARE", id_)
    return await profiles.get(connection, id_)


async def makers(connection: Connection, above: UUID) -> list[UUID]:
    """The organizations that have made tokens, of one and those below it."""
    return [row["id"] for row in await connection.fetch(_MAKERS, above)]


async def begin_staging(connection: Connection) -> None:
    """Make tables, gone with the transaction, for tokens that are to be added: until then they lock nothing."""
    await connection.execute(_STAGES)


async def stage(connection: Connection, tokens: Sequence[StagedToken], values: Sequence[StagedValue]) -> None:
    """Copy tokens, and their values that must be theirs alone, into the staging tables."""
    await connection.copy_records_to_table("staged_token", records=tokens)
    if values:
        await connection.copy_records_to_table("staged_value", records=values)


async def taken(
    connection: Connection, organization_id: UUID, profile_id: UUID, size: int
) -> AsyncIterator[list[Taken]]:
    """What cannot be added for what is there, in order of places, up to `size` at a time."""
    cursor = await connection.cursor(_TAKEN, organization_id, profile_id, timeout=_LONG)
    while rows := await cursor.fetch(size, timeout=_LONG):
        yield [Taken(*row) for row in rows]


async def add_staged(
    connection: Connection, organization_id: UUID, profile_id: UUID, progress: Callable[[int], None] | None = None
) -> tuple[int, int]:
    """Add what is staged; their first and last number. Raises asyncpg.UniqueViolationError for what is there by now.

    progress: told up to which place they are added.
    """
    end = await connection.fetchval("SELECT coalesce(max(place), 0) FROM staged_token", timeout=_LONG) + 1
    part = max(_PART, -(-end // _PARTS))
    for first in range(0, end, part):
        await connection.execute(
            "INSERT INTO static_token (id, organization_id, profile_id, id_digest, sealed, qr_digest, qr_sealed, name,"
            " metadata) SELECT id, $1, $2, id_digest, sealed, qr_digest, qr_sealed, name, metadata FROM staged_token"
            " WHERE place >= $3 AND place < $4 ORDER BY place",
            organization_id,
            profile_id,
            first,
            first + part,
            timeout=_LONG,
        )
        if progress:
            progress(min(first + part, end) - 1)
    # In the order of their key: two that add the same values do not wait for each other crosswise.
    await connection.execute(
        "INSERT INTO static_token_value (profile_id, field, value, token_id)"
        " SELECT $1, field, value, token_id FROM staged_value ORDER BY field, value",
        profile_id,
        timeout=_LONG,
    )
    row = await connection.fetchrow(
        "SELECT min(number), max(number) FROM static_token"
        " WHERE id >= (SELECT id FROM staged_token ORDER BY id LIMIT 1)"
        " AND id <= (SELECT id FROM staged_token ORDER BY id DESC LIMIT 1)",
        timeout=_LONG,
    )
    assert row is not None  # noqa: S101 - an aggregate
    return row[0], row[1]


async def analyse(connection: Connection) -> None:
    """Have Postgres count what there is, as it would in its own time: until then it plans for a table without these."""
    await connection.execute("ANALYZE static_token", timeout=_LONG)


async def find(connection: Connection, above: UUID, *, id_: UUID | None, number: int | None) -> TokenRow | None:
    """A token made in an organization or below it, by its id or number."""
    wanted = (
        "SELECT t.* FROM static_token t JOIN organization o ON o.id = t.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid] AND (t.id = $2 OR t.number = $3)"
    )
    row = await connection.fetchrow(_SELECT.format(wanted), above, id_, number)
    return None if row is None else _token(row)


async def list_(connection: Connection, filter_: Filter, *, after: UUID | None, limit: int) -> list[TokenRow]:
    """Tokens in the order they were made, after one."""
    where, arguments = _where(filter_, after)
    # The page first, then what belongs to it: no plan can take that for all that is left.
    page = f"SELECT t.* FROM static_token t WHERE {where} ORDER BY t.id LIMIT {limit:d}"
    rows = await connection.fetch(_SELECT.format(page), *arguments)
    return [_token(row) for row in rows]


async def search(
    connection: Connection, makers: Sequence[UUID], text: str, *, number: int | None, id_: UUID | None
) -> list[UUID]:
    """Tokens whose name, unit or unique value begins with a text, by either case, or that have this number or id.

    Of very many some. Secrets are not found by what they begin with.
    """
    rows = await connection.fetch(_SEARCH, makers, text, _LAST, number, id_, FOUND, list(SECRET_TYPES), list(SECRETS))
    return [row["id"] for row in rows]


async def batches(
    connection: Connection,
    makers: Sequence[UUID],
    *,
    profile_id: UUID | None = None,
    before: UUID | None = None,
    limit: int,
) -> list[BatchRow]:
    """What was made together, newest first, before a batch; of those the tokens that are left."""
    column, keys = ("organization_id", makers) if profile_id is None else ("profile_id", [profile_id])
    statement = _BATCHES.format(
        newest_before_cursor=_NEWEST.format(column, "$2"), newest_before_batch=_NEWEST.format(column, _BEFORE_BATCH)
    )
    rows = await connection.fetch(statement, keys, before or _HIGHEST, limit, BOUND + 1, timeout=_LONG)
    return [BatchRow(*row) for row in rows]


async def count(connection: Connection, filter_: Filter) -> int:
    """How many tokens there are of these."""
    where, arguments = _where(filter_)
    found: int = await connection.fetchval(
        f"SELECT count(*) FROM static_token t WHERE {where}", *arguments, timeout=_LONG
    )
    return found


async def secret_fields(connection: Connection, profile_ids: Collection[UUID]) -> dict[UUID, set[str]]:
    """The metadata fields of profiles that are secrets, by the profile's id."""
    rows = await connection.fetch(
        "SELECT p.id, f ->> 'name' FROM device_profile p"
        " CROSS JOIN LATERAL jsonb_array_elements(p.metadata_fields) AS f"
        " WHERE p.id = ANY($1::uuid[]) AND f ->> 'type' = ANY($2::text[])",
        list(profile_ids),
        list(SECRET_TYPES),
    )
    found: dict[UUID, set[str]] = {id_: set(SECRETS) for id_ in profile_ids}
    for id_, name in rows:
        found[id_].add(name)
    return found


async def mark_used(connection: Connection, ids: Sequence[UUID]) -> None:
    """Keep that tokens may be in units from now on; locked in one order, as two may mark the same ones."""
    await connection.execute(
        "UPDATE static_token t SET used_at = now() FROM ("
        " SELECT id FROM static_token WHERE id = ANY($1::uuid[]) AND used_at IS NULL ORDER BY id FOR NO KEY UPDATE"
        ") u WHERE t.id = u.id",
        ids,
    )


async def profiles_of(connection: Connection, filter_: Filter) -> list[DeviceProfile]:
    """The profiles of these tokens, in the order they were made."""
    where, arguments = _where(filter_)
    rows = await connection.fetch(
        f"SELECT DISTINCT t.profile_id FROM static_token t WHERE {where} ORDER BY t.profile_id",
        *arguments,
        timeout=_LONG,
    )
    found = [await profiles.get(connection, row["profile_id"]) for row in rows]
    return [profile for profile in found if profile is not None]


def _where(filter_: Filter, after: UUID | None = None) -> tuple[str, list[object]]:
    """Only what is asked for is in the statement, so that each gets a plan for what it asks."""
    wanted = (
        ("t.organization_id = ANY({}::uuid[])", filter_.makers),
        ("t.id = ANY({}::uuid[])", filter_.ids),
        ("t.profile_id = {}", filter_.profile_id),
        ("t.status = {}", filter_.status),
        ("t.id >= {}", filter_.first),
        ("t.id <= {}", filter_.last),
        ("t.id > {}", after),
    )
    given = [(condition, value) for condition, value in wanted if value is not None]
    where = " AND ".join(condition.format(f"${place}") for place, (condition, _) in enumerate(given, 1))
    return where, [value for _, value in given]


def _token(row: asyncpg.Record) -> TokenRow:
    *columns, sealed, qr_sealed = row
    columns[8] = TokenStatus(columns[8])
    return TokenRow(StaticToken(*columns), sealed, qr_sealed)
