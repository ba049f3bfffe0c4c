"""The SQL of Blynk's calls that is not that of data in general: single attributes, erasing, who is online."""

from uuid import UUID

from provserver.core.attributes import Scope
from provserver.core.telemetry import Value
from provserver.store.database import Connection

_PUT = """
INSERT INTO attribute (device_id, scope, key, value)
SELECT d.id, $2, $3, $4 FROM (SELECT id FROM device WHERE id = $1 FOR KEY SHARE) d
ON CONFLICT (device_id, scope, key) DO UPDATE SET value = excluded.value, updated_at = now()
"""


async def put_attribute(connection: Connection, device_id: UUID, scope: Scope, key: str, value: Value) -> None:
    """Write one attribute, unless the device is gone."""
    await connection.execute(_PUT, device_id, scope, key, value)


async def delete_attribute(connection: Connection, device_id: UUID, scope: Scope, key: str) -> None:
    """Forget one attribute."""
    await connection.execute(
        "DELETE FROM attribute WHERE device_id = $1 AND scope = $2 AND key = $3", device_id, scope, key
    )


async def erase(connection: Connection, device_id: UUID, key: str) -> None:
    """Forget the latest value of a key and its history, inside a transaction."""
    await connection.execute("DELETE FROM telemetry WHERE device_id = $1 AND key = $2", device_id, key)
    await connection.execute("DELETE FROM telemetry_history WHERE device_id = $1 AND key = $2", device_id, key)


async def is_online(connection: Connection, device_id: UUID) -> bool:
    """Whether the device has a live session, or sent something not long ago."""
    online: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM presence WHERE device_id = $1 AND online_until > now())", device_id
    )
    return online
