"""The SQL of what is known of devices in the networks that they are onboarded into."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from provserver.core.integration import NetworkState
from provserver.store.database import Connection

_DEVICE = """n.device_id, n.integration_id, n.network_device_id, n.dev_eui, n.join_eui, n.state, n.made, n.error,
    n.remedy, n.job_id, n.last_join_at, n.last_uplink_at, n.rssi, n.snr, n.created_at, n.updated_at,
    (SELECT d.name FROM device d WHERE d.id = n.device_id) AS device_name"""

_LIVE = "n.state <> 'removed' AND (n.state <> 'failed' OR n.made <> '[]')"


@dataclass(frozen=True, slots=True)
class NetworkDevice:
    """A device in its network. device_id: ours, which it has although it may not be here yet (a static token's).

    dev_eui, join_eui: 16 digits in capitals. made: the steps whose components we have created there. error, remedy: why
    it failed, and what to do. rssi, snr: of the gateway that heard its last uplink best, in dBm and dB.
    device_name: None while it is not here; it is read, and never written.
    """

    device_id: UUID
    integration_id: UUID
    network_device_id: str
    dev_eui: str
    join_eui: str | None
    state: NetworkState
    made: tuple[str, ...] = ()
    error: str | None = None
    remedy: str | None = None
    job_id: UUID | None = None
    last_join_at: datetime | None = None
    last_uplink_at: datetime | None = None
    rssi: float | None = None
    snr: float | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    device_name: str | None = None


async def put(connection: Connection, device: NetworkDevice) -> None:
    """Add a device, or have it be so, but for its times and what its uplinks have told.

    Raises asyncpg.UniqueViolationError when another has its network_device_id (`network_device_id_taken`) or DevEUI
    (`network_device_eui_taken`) in the integration.
    """
    await connection.execute(
        "INSERT INTO network_device (device_id, integration_id, network_device_id, dev_eui, join_eui, state, made,"
        " error, remedy, job_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
        " ON CONFLICT (device_id) DO UPDATE SET integration_id = excluded.integration_id,"
        " network_device_id = excluded.network_device_id, dev_eui = excluded.dev_eui, join_eui = excluded.join_eui,"
        " state = excluded.state, made = excluded.made, error = excluded.error, remedy = excluded.remedy,"
        " job_id = excluded.job_id, updated_at = now()",
        device.device_id,
        device.integration_id,
        device.network_device_id,
        device.dev_eui,
        device.join_eui,
        device.state,
        device.made,
        device.error,
        device.remedy,
        device.job_id,
    )


async def change(
    connection: Connection, device_id: UUID, changes: Mapping[str, object], *, job_id: UUID | None = None
) -> bool:
    """Write columns of a device; False when it is gone, or (job_id) another job's by now.

    Raises as `put`.
    """
    columns = "".join(f", {name} = ${place}" for place, name in enumerate(changes, 3))
    status = await connection.execute(
        f"UPDATE network_device SET updated_at = now(){columns}"
        " WHERE device_id = $1 AND ($2::uuid IS NULL OR job_id = $2)",
        device_id,
        job_id,
        *changes.values(),
    )
    return status != "UPDATE 0"


async def delete(connection: Connection, device_id: UUID) -> None:
    """Forget a device."""
    await connection.execute("DELETE FROM network_device WHERE device_id = $1", device_id)


LEFT = "Its device was deleted here, and stays in the network."

_GONE = """NOT EXISTS (SELECT FROM device WHERE id = n.device_id)
    AND NOT EXISTS (SELECT FROM static_token WHERE id = n.device_id)"""


async def leave(connection: Connection, device_id: UUID) -> None:
    """Forget a device that was deleted, unless it comes back with its static token.

    What we have made of it is remembered for as long as it is there, and stands in nobody's way.
    """
    await connection.execute(
        "UPDATE network_device n SET state = 'removed', error = $2, remedy = $3, job_id = NULL, updated_at = now()"
        f" WHERE n.device_id = $1 AND n.made <> '[]' AND n.state <> 'removing' AND {_GONE}",
        device_id,
        LEFT,
        f"Remove it there: provserver device leave-network {device_id}.",
    )
    await connection.execute(
        f"DELETE FROM network_device n WHERE n.device_id = $1 AND (n.made = '[]' OR n.state = 'removing') AND {_GONE}",
        device_id,
    )


async def left(connection: Connection, device_id: UUID, *, lock: bool = False) -> NetworkDevice | None:
    """What is known of a device that was deleted and stays in its network."""
    row = await connection.fetchrow(
        f"SELECT {_DEVICE} FROM network_device n WHERE n.device_id = $1 AND {_GONE}"
        + (" FOR NO KEY UPDATE" if lock else ""),
        device_id,
    )
    return None if row is None else _device(row)


async def take_over(
    connection: Connection,
    integration_id: UUID,
    network_device_id: str,
    dev_eui: str,
    join_eui: str,
    *,
    device_id: UUID,
) -> NetworkDevice | None:
    """Have a device, of which nothing is known, be one that was deleted here and stays in the network."""
    row = await connection.fetchrow(
        "UPDATE network_device n SET device_id = $5, state = 'failed', error = NULL, remedy = NULL, job_id = NULL"
        " WHERE n.integration_id = $1 AND n.network_device_id = $2 AND n.dev_eui = $3 AND n.join_eui = $4"
        f" AND n.state = 'removed' AND n.made <> '[]' AND {_GONE} RETURNING {_DEVICE}",
        integration_id,
        network_device_id,
        dev_eui,
        join_eui,
        device_id,
    )
    return None if row is None else _device(row)


async def get(connection: Connection, device_id: UUID, *, lock: bool = False) -> NetworkDevice | None:
    """A device by our id; lock: nobody else can change it until the transaction ends."""
    row = await connection.fetchrow(
        f"SELECT {_DEVICE} FROM network_device n WHERE n.device_id = $1" + (" FOR NO KEY UPDATE" if lock else ""),
        device_id,
    )
    return None if row is None else _device(row)


async def by_network_id(connection: Connection, integration_id: UUID, network_device_id: str) -> NetworkDevice | None:
    """The device that has an id in its network."""
    row = await connection.fetchrow(
        f"SELECT {_DEVICE} FROM network_device n WHERE n.integration_id = $1 AND n.network_device_id = $2 AND {_LIVE}",
        integration_id,
        network_device_id,
    )
    return None if row is None else _device(row)


async def by_eui(connection: Connection, integration_id: UUID, dev_eui: str) -> NetworkDevice | None:
    """The device that has a DevEUI (in normal form) in its network."""
    row = await connection.fetchrow(
        f"SELECT {_DEVICE} FROM network_device n WHERE n.integration_id = $1 AND n.dev_eui = $2 AND {_LIVE}",
        integration_id,
        dev_eui,
    )
    return None if row is None else _device(row)


async def list_(
    connection: Connection,
    integration_id: UUID,
    *,
    after: UUID | None,
    limit: int,
    state: NetworkState | None = None,
) -> list[NetworkDevice]:
    """The devices of an integration in order of our ids. state: only those."""
    rows = await connection.fetch(
        f"SELECT {_DEVICE} FROM network_device n WHERE n.integration_id = $1"
        " AND ($2::uuid IS NULL OR n.device_id > $2) AND ($3::text IS NULL OR n.state = $3)"
        " ORDER BY n.device_id LIMIT $4",
        integration_id,
        after,
        state,
        limit,
    )
    return [_device(row) for row in rows]


async def counts(connection: Connection, integration_id: UUID) -> dict[NetworkState, int]:
    """How many devices of an integration are in which state."""
    rows = await connection.fetch(
        "SELECT state, count(*) FROM network_device WHERE integration_id = $1 GROUP BY state ORDER BY state",
        integration_id,
    )
    return {NetworkState(state): count for state, count in rows}


async def live(connection: Connection, integration_id: UUID) -> int:
    """How many devices of an integration are in its network, wholly or in part, or on their way."""
    found: int = await connection.fetchval(
        f"SELECT count(*) FROM network_device n WHERE n.integration_id = $1 AND ({_LIVE} OR n.made <> '[]')",
        integration_id,
    )
    return found


async def saw_join(connection: Connection, device_id: UUID, at: datetime) -> None:
    """Note when a device joined."""
    await connection.execute(
        "UPDATE network_device SET last_join_at = greatest(last_join_at, $2) WHERE device_id = $1", device_id, at
    )


async def saw_uplink(
    connection: Connection, device_id: UUID, at: datetime, rssi: float | None, snr: float | None
) -> None:
    """Note when a device was heard and how well, unless a later uplink is known."""
    await connection.execute(
        "UPDATE network_device SET last_uplink_at = $2, rssi = $3, snr = $4"
        " WHERE device_id = $1 AND (last_uplink_at IS NULL OR last_uplink_at <= $2)",
        device_id,
        at,
        rssi,
        snr,
    )


def _device(row: asyncpg.Record) -> NetworkDevice:
    values = dict(row)
    return NetworkDevice(**values | {"state": NetworkState(values["state"]), "made": tuple(values["made"])})
