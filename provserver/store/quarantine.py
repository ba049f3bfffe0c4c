"""The SQL of quarantine: a device whose credentials let nobody in, and that gets none, until it is released."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from provserver.core.events import EventType
from provserver.store import clones, outbox
from provserver.store.database import Connection


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """Why a device is in quarantine, who put it there, and since when."""

    reason: str
    actor: str
    since: datetime


async def get(connection: Connection, device_id: UUID) -> QuarantineRow | None:
    """Why a device is in quarantine; None when it is not."""
    row = await connection.fetchrow(
        "SELECT reason, actor, since FROM device_quarantine WHERE device_id = $1", device_id
    )
    return None if row is None else QuarantineRow(*row)


async def put(connection: Connection, device_id: UUID, reason: str, actor: str) -> UUID | None:
    """Put a device into quarantine, inside a transaction; None when it is there already, or gone.

    Its sessions are cut, as a trigger tells of its credentials. Returns the organization that has it.
    """
    holder: UUID | None = await connection.fetchval(
        "SELECT coalesce(holder_id, organization_id) FROM device WHERE id = $1 FOR NO KEY UPDATE", device_id
    )
    made = holder is not None and await connection.fetchval(
        "INSERT INTO device_quarantine (device_id, reason, actor) VALUES ($1, $2, $3)"
        " ON CONFLICT DO NOTHING RETURNING device_id",
        device_id,
        reason,
        actor,
    )
    if not made:
        return None
    await connection.execute("UPDATE device SET revision = revision + 1 WHERE id = $1", device_id)
    await connection.execute(
        "UPDATE credentials SET quarantined = true WHERE device_id = $1 AND NOT quarantined", device_id
    )
    await outbox.record_of_device(connection, EventType.DEVICE_QUARANTINED, device_id, reason=reason, by=actor)
    return holder


async def release(connection: Connection, device_id: UUID, *, rotated: bool) -> bool:
    """Let a device, which the transaction holds, out of quarantine; False when it is in none. What it did is forgotten.

    rotated: as the event says.
    """
    gone = await connection.fetchval(
        "DELETE FROM device_quarantine WHERE device_id = $1 RETURNING device_id", device_id
    )
    if gone is None:
        return False
    await connection.execute("UPDATE device SET revision = revision + 1 WHERE id = $1", device_id)
    await connection.execute(
        "UPDATE credentials SET quarantined = false WHERE device_id = $1 AND quarantined", device_id
    )
    await clones.forget(connection, device_id)
    await outbox.record_of_device(connection, EventType.DEVICE_RELEASED, device_id, rotated=rotated)
    return True
