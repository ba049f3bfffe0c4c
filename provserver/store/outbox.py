"""The SQL of the outbox: events, written by the transaction that does what they tell.

Provisioning and first connections write theirs within their own statements (`provisions.py`, `claiming.py`,
`access.py`).
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from provserver.core.events import Event, EventType
from provserver.core.telemetry import Value
from provserver.store.database import Connection

MEMBERS = "jsonb_build_object('deviceId', d.id, 'deviceName', d.name, 'profileId', d.profile_id)"
"""What the payload of every event of a device has, where its row is `d`."""

# The database makes the ids (a default), and the time is that of the statement: whoever waited for a lock comes after
# the one he waited for. Those of one statement are a microsecond apart at least, as it is their order.
_RECORD = """
INSERT INTO outbox (type, device_id, organization_id, payload, created_at)
SELECT type, device_id, organization_id, payload::jsonb, clock_timestamp() + place * interval '1 microsecond'
FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::text[]) WITH ORDINALITY
    AS e(type, device_id, organization_id, payload, place)
"""


async def record(
    connection: Connection,
    type_: EventType,
    device_id: UUID | None = None,
    organization_id: UUID | None = None,
    **payload: Value,
) -> None:
    """Write an event, inside the transaction that does what it tells; its members as `core/events.py` has them."""
    await record_all(connection, [Event(type_, payload, device_id, organization_id)])


async def record_of_device(
    connection: Connection, type_: EventType, device_id: UUID, organization_id: UUID | None = None, **payload: Value
) -> None:
    """The same of a device that is there: with its id, name and profile, and as who has it now is to be told."""
    await connection.execute(
        "INSERT INTO outbox (type, device_id, organization_id, payload, created_at)"
        f" SELECT $1, d.id, coalesce($3, d.holder_id, d.organization_id), {MEMBERS} || $4::jsonb, clock_timestamp()"
        " FROM device d WHERE d.id = $2",
        type_,
        device_id,
        organization_id,
        payload,
    )


async def record_all(connection: Connection, events: Sequence[Event]) -> None:
    """Write events, in order."""
    await connection.execute(
        _RECORD,
        [event.type for event in events],
        [event.device_id for event in events],
        [event.organization_id for event in events],
        [msgspec.json.encode(event.payload).decode() for event in events],
    )
