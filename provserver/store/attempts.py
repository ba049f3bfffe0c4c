"""The SQL of reading attempts, for operators; `provisions.py` writes them."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from provserver.store.database import Connection


@dataclass(frozen=True, slots=True)
class AttemptSummary:
    """An attempt as lists show it. profile: None also when it is gone. device: the name that was asked for or made."""

    id: UUID
    at: datetime
    transport: str
    address: str
    outcome: str
    reason: str | None
    detail: str | None
    profile_id: UUID | None
    profile: str | None
    device_id: UUID | None
    device: str | None


# Ids are time-ordered, so the primary key's index has the newest at its end.
_NEWEST = """
SELECT a.id, a.at, a.transport, a.address, a.outcome, a.reason, a.detail,
    a.profile_id, p.name, a.device_id, a.device_name
FROM attempt a LEFT JOIN device_profile p ON p.id = a.profile_id
WHERE ($1::uuid IS NULL OR a.profile_id = $1)
    AND ($2::text IS NULL OR a.device_name = $2 OR a.device_id::text = $2)
    AND (NOT $3 OR a.outcome <> 'success')
ORDER BY a.id DESC LIMIT $4
"""


async def newest(
    connection: Connection, limit: int, *, profile_id: UUID | None, device: str | None, refused: bool
) -> list[AttemptSummary]:
    """The last attempts, newest first. device: a name or an id, of one that was never made too."""
    rows = await connection.fetch(_NEWEST, profile_id, device, refused, limit)
    return [AttemptSummary(*row) for row in rows]
