"""The SQL of the audit: what was done, written by the transaction that does it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from provserver.core.search import LOOKED, Found, Span
from provserver.core.telemetry import Value
from provserver.store.database import Connection


class AuditRow(NamedTuple):
    """An entry. actor, action: as the table has them. detail: never a secret."""

    id: UUID
    at: datetime
    organization_id: UUID
    actor: str
    action: str
    subject_id: str
    detail: Mapping[str, object]


async def record(
    connection: Connection,
    id_: UUID,
    organization_id: UUID,
    actor: str,
    action: str,
    subject_id: object,
    **detail: Value,
) -> None:
    """Write an entry of an organization, inside the transaction that does what it tells. id_: a UUIDv7."""
    await connection.execute(
        "INSERT INTO audit (id, organization_id, actor, action, subject_id, detail) VALUES ($1, $2, $3, $4, $5, $6)",
        id_,
        organization_id,
        actor,
        action,
        str(subject_id),
        detail,
    )


_COLUMNS = "a.id, a.at, a.organization_id, a.actor, a.action, a.subject_id, a.detail"

_WANTED = """($5::text IS NULL OR a.subject_id = $5) AND ($6::text IS NULL OR a.actor = $6)
    AND ($7::text IS NULL OR a.action = $7 OR starts_with(a.action, $7 || '.'))"""

_BELOW = "SELECT id FROM audited_organization WHERE path @> ARRAY[$1::uuid]"

# Each organization's newest, by their index: a walk back through all entries would find those of a small one late.
# Compared and sorted as pairs, as Postgres chooses that walk where one organization has nearly all of the entries.
_ITS = "(a.organization_id, a.id) >= (o.id, $2::uuid) AND (a.organization_id, a.id) < (o.id, $3::uuid)"
_ITS_NEWEST = "ORDER BY a.organization_id DESC, a.id DESC"

_NEWEST = f"""
SELECT {_COLUMNS} FROM ({_BELOW}) AS o CROSS JOIN LATERAL (
    SELECT * FROM audit a WHERE {_ITS} AND {_WANTED} {_ITS_NEWEST} LIMIT $4
) AS a ORDER BY a.id DESC LIMIT $4
"""

_OF_SUBJECT = f"""
SELECT {_COLUMNS} FROM audit a
WHERE a.subject_id = $5 AND a.id >= $2 AND a.id < $3 AND a.organization_id IN ({_BELOW}) AND {_WANTED}
ORDER BY a.id DESC LIMIT $4
"""

_OF_MANY = f"""
SELECT {_COLUMNS} FROM audit a WHERE a.id >= $2 AND a.id < $3 AND a.organization_id IN ({_BELOW}) AND {_WANTED}
ORDER BY a.id DESC LIMIT $4
"""

# Where a search has looked at as many as it may: at the same number of each organization's, or of everybody's.
_STOP = f"""
SELECT max(a.id::text)::uuid FROM ({_BELOW}) AS o CROSS JOIN LATERAL (
    SELECT a.id FROM audit a WHERE {_ITS} {_ITS_NEWEST} OFFSET $4 LIMIT 1
) AS a
"""

_STOP_OF_MANY = "SELECT id FROM audit WHERE id >= $1 AND id < $2 ORDER BY id DESC OFFSET $3 LIMIT 1"

_FEW = 20
"""Organizations whose entries are looked for one organization after the other, when most are not wanted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries. subject_id: of what was acted on. action: `device.created`, or all that are about a `device`."""

    span: Span = field(default_factory=Span)
    subject_id: str | None = None
    actor: str | None = None
    action: str | None = None


async def newest(connection: Connection, organization_id: UUID, wanted: Wanted, limit: int) -> Found[AuditRow]:
    """Entries of an organization and those below it, newest first."""
    span, statement, stop = wanted.span, _NEWEST, None
    if wanted.subject_id is not None:
        statement = _OF_SUBJECT
    elif wanted.actor is not None or wanted.action is not None:
        count = await connection.fetchval(f"SELECT count(*) FROM ({_BELOW} LIMIT $2) AS few", organization_id, _FEW + 1)
        if count <= _FEW:
            each = LOOKED // max(count, 1) - 1
            stop = await connection.fetchval(_STOP, organization_id, span.start, span.end, each)
        else:
            statement = _OF_MANY
            stop = await connection.fetchval(_STOP_OF_MANY, span.start, span.end, LOOKED - 1)
    rows = await connection.fetch(
        statement,
        organization_id,
        stop or span.start,
        span.end,
        limit + 1,
        wanted.subject_id,
        wanted.actor,
        wanted.action,
    )
    return Found.of([AuditRow(*row)._replace(detail=shown(row["detail"])) for row in rows], limit, stop)


def shown(detail: Mapping[str, object]) -> dict[str, object]:
    """A detail as it is answered: its members, and those that it says were changed, named as everywhere in JSON.

    The row, which the chain's mac is over, has our own names.
    """
    members = {_camel(name): value for name, value in detail.items()}
    if isinstance(changed := members.get("changed"), list):
        members["changed"] = [_camel(each) if isinstance(each, str) else each for each in changed]
    return members


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))
