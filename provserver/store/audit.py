"""The SQL of the audit: what was done, written by the transaction that does it."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

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

# Each organization's newest, by their index: a walk back through all entries would find those of a small one late.
_NEWEST = f"""
SELECT {_COLUMNS} FROM audited_organization o CROSS JOIN LATERAL (
    SELECT * FROM audit a WHERE a.organization_id = o.id AND ($2::uuid IS NULL OR a.id < $2) ORDER BY a.id DESC LIMIT $3
) AS a WHERE o.path @> ARRAY[$1::uuid] ORDER BY a.id DESC LIMIT $3
"""

_OF_SUBJECT = f"""
SELECT {_COLUMNS} FROM audit a JOIN audited_organization o ON o.id = a.organization_id
WHERE a.subject_id = $4 AND o.path @> ARRAY[$1::uuid] AND ($2::uuid IS NULL OR a.id < $2) ORDER BY a.id DESC LIMIT $3
"""


async def newest(
    connection: Connection,
    organization_id: UUID,
    limit: int,
    *,
    before: UUID | None = None,
    subject_id: str | None = None,
) -> list[AuditRow]:
    """Entries of an organization and those below it, or of one subject there, newest first, from before one on."""
    if subject_id is None:
        rows = await connection.fetch(_NEWEST, organization_id, before, limit)
    else:
        rows = await connection.fetch(_OF_SUBJECT, organization_id, before, limit, subject_id)
    return [AuditRow(*row)._replace(detail=shown(row["detail"])) for row in rows]


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
