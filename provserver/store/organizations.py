"""The SQL of the tree of organizations: who is below whom, and what their quotas count."""

from collections.abc import Sequence
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg

from provserver.core.accounts import Organization
from provserver.store.database import Connection

_ORGANIZATION = """o.id, o.number, o.parent_id, o.name, o.path, o.device_quota, o.token_quota, o.sign_up, o.revision,
    o.created_at"""

RowLock = Literal["KEY SHARE", "NO KEY UPDATE", "UPDATE"]
"""To keep an organization from being deleted, to change or count it, to delete it."""


class Quota(NamedTuple):
    """What an organization allows of itself and all below it; None: any number."""

    organization_id: UUID
    devices: int | None
    tokens: int | None


async def insert(
    connection: Connection,
    id_: UUID,
    parent: Organization,
    name: str,
    *,
    device_quota: int | None = None,
    token_quota: int | None = None,
    sign_up: bool = False,
) -> Organization:
    """Add an organization below another. Raises asyncpg.UniqueViolationError when its name is taken there."""
    row = await connection.fetchrow(
        "INSERT INTO organization AS o (id, parent_id, name, path, device_quota, token_quota, sign_up)"
        f" VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {_ORGANIZATION}",
        id_,
        parent.id,
        name,
        [*parent.path, id_],
        device_quota,
        token_quota,
        sign_up,
    )
    assert row is not None  # noqa: S101 - RETURNING
    return _organization(row)


async def get(connection: Connection, id_: UUID, *, lock: RowLock | None = None) -> Organization | None:
    """An organization by its id; lock: taken on its row until the transaction ends."""
    row = await connection.fetchrow(
        f"SELECT {_ORGANIZATION} FROM organization o WHERE o.id = $1" + (f" FOR {lock}" if lock else ""), id_
    )
    return None if row is None else _organization(row)


async def find(
    connection: Connection, above: UUID, *, id_: UUID | None, number: int | None, name: str | None
) -> list[Organization]:
    """Those of an organization and all below it that have this id, this number or this name; two at most."""
    rows = await connection.fetch(
        f"SELECT {_ORGANIZATION} FROM organization o WHERE o.path @> ARRAY[$1::uuid]"
        " AND (o.id = $2 OR o.number = $3 OR o.name = $4) ORDER BY o.id LIMIT 2",
        above,
        id_,
        number,
        name,
    )
    return [_organization(row) for row in rows]


async def root(connection: Connection, *, lock: RowLock | None = None) -> Organization:
    """The manufacturer at the top of the tree."""
    row = await connection.fetchrow(
        f"SELECT {_ORGANIZATION} FROM organization o WHERE o.parent_id IS NULL ORDER BY o.number LIMIT 1"
        + (f" FOR {lock}" if lock else "")
    )
    assert row is not None  # noqa: S101 - made when a database is first opened
    return _organization(row)


async def open_to_sign_up(connection: Connection, number: int) -> Organization | None:
    """The organization of this number, if whoever likes may make one below it."""
    row = await connection.fetchrow(
        f"SELECT {_ORGANIZATION} FROM organization o WHERE o.number = $1 AND o.sign_up FOR KEY SHARE", number
    )
    return None if row is None else _organization(row)


async def list_(
    connection: Connection,
    above: UUID,
    *,
    after: UUID | None,
    limit: int,
    parent_id: UUID | None = None,
    search: str | None = None,
    ids: Sequence[UUID] | None = None,
) -> list[Organization]:
    """An organization and those below it, in the order they were made.

    parent_id: only those right below it. search: only those with this in the name, or with this number. ids: of these.
    """
    rows = await connection.fetch(
        f"SELECT {_ORGANIZATION} FROM organization o WHERE o.path @> ARRAY[$1::uuid]"
        " AND ($2::uuid IS NULL OR o.id > $2) AND ($3::uuid IS NULL OR o.parent_id = $3)"
        " AND ($5::text IS NULL OR strpos(lower(o.name), lower($5)) > 0 OR o.number::text = $5)"
        " AND ($6::uuid[] IS NULL OR o.id = ANY($6)) ORDER BY o.id LIMIT $4",
        above,
        after,
        parent_id,
        limit,
        search,
        ids,
    )
    return [_organization(row) for row in rows]


async def parents(connection: Connection, ids: Sequence[UUID]) -> set[UUID]:
    """Those of the organizations that have any below them."""
    rows = await connection.fetch(
        "SELECT id FROM unnest($1::uuid[]) AS asked (id)"
        " WHERE EXISTS (SELECT FROM organization o WHERE o.parent_id = asked.id)",
        ids,
    )
    return {row["id"] for row in rows}


async def update(connection: Connection, organization: Organization) -> Organization:
    """Write what can change, under a new revision. Raises asyncpg.UniqueViolationError when the name is taken."""
    row = await connection.fetchrow(
        "UPDATE organization o SET name = $2, device_quota = $3, token_quota = $4, sign_up = $5,"
        f" revision = revision + 1 WHERE o.id = $1 RETURNING {_ORGANIZATION}",
        organization.id,
        organization.name,
        organization.device_quota,
        organization.token_quota,
        organization.sign_up,
    )
    assert row is not None  # noqa: S101 - its row is locked
    return _organization(row)


_HELD = """
SELECT what FROM (VALUES
    (1, 'organizations', EXISTS (SELECT FROM organization WHERE parent_id = $1)),
    (2, 'users', EXISTS (SELECT FROM "user" WHERE organization_id = $1)),
    (3, 'device profiles', EXISTS (SELECT FROM device_profile WHERE organization_id = $1)),
    (4, 'static tokens', EXISTS (SELECT FROM static_token WHERE organization_id = $1)),
    (5, 'devices', EXISTS (SELECT FROM device WHERE organization_id = $1)
        OR EXISTS (SELECT FROM device WHERE holder_id = $1))
) AS held (place, what, there) WHERE there ORDER BY place
"""


async def held(connection: Connection, id_: UUID) -> list[str]:
    """What an organization still has, that it cannot be deleted with: the plural nouns."""
    return [row["what"] for row in await connection.fetch(_HELD, id_)]


COUNTED = 10_000
"""What `contents` counts of each at most."""

_CONTENTS = f"""
SELECT (SELECT count(*) FROM (SELECT FROM organization WHERE parent_id = $1 LIMIT {COUNTED}) c) AS organizations,
    (SELECT count(*) FROM (SELECT FROM "user" WHERE organization_id = $1 LIMIT {COUNTED}) c) AS users,
    (SELECT count(*) FROM (SELECT FROM device_profile WHERE organization_id = $1 LIMIT {COUNTED}) c) AS profiles,
    (SELECT count(*) FROM (SELECT FROM static_token WHERE organization_id = $1 LIMIT {COUNTED}) c) AS static_tokens,
    (SELECT count(*) FROM (SELECT FROM device WHERE organization_id = $1 LIMIT {COUNTED}) c) AS devices,
    (SELECT count(*) FROM (SELECT FROM device WHERE holder_id = $1 LIMIT {COUNTED}) c) AS held_devices,
    (SELECT count(*) FROM api_key WHERE organization_id = $1) AS api_keys,
    (SELECT count(*) FROM webhook WHERE organization_id = $1) AS webhooks,
    (SELECT count(*) FROM request_key WHERE organization_id = $1) AS request_keys
"""


class Contents(NamedTuple):
    """How much an organization has itself, each counted up to COUNTED. held_devices: that others have made."""

    organizations: int
    users: int
    profiles: int
    static_tokens: int
    devices: int
    held_devices: int
    api_keys: int
    webhooks: int
    request_keys: int


async def contents(connection: Connection, id_: UUID) -> Contents:
    """How much an organization has."""
    row = await connection.fetchrow(_CONTENTS, id_)
    assert row is not None  # noqa: S101 - of counts
    return Contents(*row)


async def delete(connection: Connection, id_: UUID) -> None:
    """Remove an organization that has nothing but API keys and claims that wait: those go with it.

    What was done in it is to be read above it from now on.
    """
    await connection.execute(
        "INSERT INTO former_organization (id, path) SELECT id, path FROM organization WHERE id = $1", id_
    )
    await connection.execute("DELETE FROM pending_claim WHERE organization_id = $1", id_)
    await connection.execute("DELETE FROM organization WHERE id = $1", id_)


async def lock_quotas(connection: Connection, path: Sequence[UUID], *, devices: bool, tokens: bool) -> list[Quota]:
    """The quotas along a path, from the root down; who else would count them waits until the transaction ends."""
    rows = await connection.fetch(
        "SELECT id, device_quota, token_quota FROM organization WHERE id = ANY($1::uuid[])"
        " AND ($2 AND device_quota IS NOT NULL OR $3 AND token_quota IS NOT NULL)"
        " ORDER BY cardinality(path) FOR NO KEY UPDATE",
        path,
        devices,
        tokens,
    )
    return [Quota(*row) for row in rows]


async def count_devices(connection: Connection, id_: UUID) -> int:
    """How many devices an organization and those below it have now."""
    count: int = await connection.fetchval(
        "SELECT (SELECT count(*) FROM device WHERE holder_id = ANY($1::uuid[]))"
        " + (SELECT count(*) FROM device WHERE organization_id = ANY($1::uuid[]) AND holder_id IS NULL)",
        await _below(connection, id_),
    )
    return count


async def count_tokens(connection: Connection, id_: UUID) -> int:
    """How many static tokens an organization and those below it have made."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM static_token WHERE organization_id = ANY($1::uuid[])", await _below(connection, id_)
    )
    return count


async def _below(connection: Connection, id_: UUID) -> list[UUID]:
    """An organization and those below it: by a join, Postgres would not know whether they are one or all."""
    rows = await connection.fetch("SELECT id FROM organization WHERE path @> ARRAY[$1::uuid]", id_)
    return [row["id"] for row in rows]


def _organization(row: asyncpg.Record) -> Organization:
    values = dict(row)
    return Organization(**(values | {"path": tuple(values["path"])}))
