"""The SQL of what actors are called: people by their addresses, API keys by their names."""

from collections.abc import Collection
from uuid import UUID

from provserver.store.database import Connection

_NAMES = """
SELECT 'user:' || u.id, u.email FROM "user" u JOIN organization o ON o.id = u.organization_id
WHERE u.id = ANY($2::uuid[]) AND o.path @> ARRAY[$1::uuid]
UNION ALL
SELECT 'key:' || k.id, k.name FROM api_key k JOIN organization o ON o.id = k.organization_id
WHERE k.id = ANY($3::uuid[]) AND o.path @> ARRAY[$1::uuid]
UNION ALL
SELECT 'device:' || d.id, d.name FROM device d JOIN organization o ON o.id = coalesce(d.holder_id, d.organization_id)
WHERE d.id = ANY($4::uuid[]) AND o.path @> ARRAY[$1::uuid]
"""

_FIND = """
SELECT actor FROM (
    SELECT 'user:' || u.id, o.path FROM "user" u JOIN organization o ON o.id = u.organization_id
    WHERE lower(u.email) = lower($2)
    UNION ALL
    SELECT 'key:' || k.id, o.path FROM api_key k JOIN organization o ON o.id = k.organization_id WHERE k.name = $2
) AS found (actor, path) WHERE path @> ARRAY[$1::uuid] ORDER BY cardinality(path), actor LIMIT 1
"""


async def names(connection: Connection, organization_id: UUID, actors: Collection[str]) -> dict[str, str]:
    """What those of an organization and those below it are called, by actor; of others nothing is said."""
    found: dict[str, list[UUID]] = {"user": [], "key": [], "device": []}
    for actor in set(actors):
        kind, _, id_ = actor.partition(":")
        if kind in found and (parsed := _uuid(id_)) is not None:
            found[kind].append(parsed)
    if not any(found.values()):
        return {}
    rows = await connection.fetch(_NAMES, organization_id, found["user"], found["key"], found["device"])
    return {row[0]: row[1] for row in rows}


async def find(connection: Connection, organization_id: UUID, name: str) -> str | None:
    """The actor whose address or name this is, of an organization or one below it; of several the nearest."""
    found: str | None = await connection.fetchval(_FIND, organization_id, name)
    return found


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
