"""The SQL of devices that networks tell of: which of ours one is, and those that are none of ours."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from provserver.core.attributes import METADATA, Scope
from provserver.core.lorawan import DEVICE_EUI
from provserver.core.model import Authenticated
from provserver.core.uplink import Heard
from provserver.store.database import Connection

MAX_SIGHTINGS = 1_000
"""Of one integration: what else is heard is not kept."""

_SIGHTING = """s.id, s.integration_id, s.network_device_id, s.dev_eui, s.join_eui, s.obstacle, s.times, s.first_at,
    s.last_at"""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A device of a network that is none of ours. dev_eui, join_eui: where the network has told them.

    obstacle: why it is not imported, where that is wanted. times: that it was heard.
    """

    id: UUID
    integration_id: UUID
    network_device_id: str
    dev_eui: str | None
    join_eui: str | None
    obstacle: str | None
    times: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Known:
    """A device of ours that was heard. device: None while it is not here yet, as its static token is not claimed.

    last_at: of its last uplink.
    """

    device_id: UUID
    device: Authenticated | None
    quarantined: bool
    last_at: datetime | None


async def known(
    connection: Connection, integration_id: UUID, network_device_id: str, dev_eui: str | None = None
) -> Known | None:
    """The device that has an id, or (dev_eui) a DevEUI, in its network."""
    row = await connection.fetchrow(
        "SELECT n.device_id, n.last_uplink_at, q.device_id IS NOT NULL,"
        " d.id, d.name, d.organization_id, d.profile_id, p.revision, d.gateway"
        " FROM network_device n LEFT JOIN device d ON d.id = n.device_id"
        " LEFT JOIN device_profile p ON p.id = d.profile_id LEFT JOIN device_quarantine q ON q.device_id = n.device_id"
        " WHERE n.integration_id = $1 AND CASE WHEN $3::text IS NULL THEN n.network_device_id = $2"
        " ELSE n.dev_eui = $3 END AND n.state <> 'removed' AND (n.state <> 'failed' OR n.made <> '[]')",
        integration_id,
        network_device_id,
        dev_eui,
    )
    if row is None:
        return None
    device_id, last_at, quarantined, id_, name, organization_id, profile_id, revision, gateway = row
    found = None
    if id_ is not None:  # its network has let it in, by no credentials of ours
        now = datetime.now(UTC)
        found = Authenticated(id_, name, organization_id, profile_id, revision, gateway, b"", now)
    return Known(device_id, found, quarantined, last_at)


async def namesake(connection: Connection, integration_id: UUID, profile_id: UUID, dev_eui: str) -> UUID | None:
    """What of ours has this DevEUI, but is another device to the network: a device, or a static token."""
    found: UUID | None = await connection.fetchval(
        "SELECT device_id FROM network_device n WHERE n.integration_id = $1 AND n.dev_eui = $3"
        " AND n.state <> 'removed' AND (n.state <> 'failed' OR n.made <> '[]')"
        " UNION ALL SELECT token_id FROM static_token_value WHERE profile_id = $2 AND field = $4 AND value = $3"
        " UNION ALL SELECT d.id FROM device d JOIN attribute a ON a.device_id = d.id"
        f" AND a.scope = '{Scope.SERVER}' AND a.key = $5 AND a.value = to_jsonb($3::text)"
        " WHERE d.profile_id = $2 LIMIT 1",
        integration_id,
        profile_id,
        dev_eui,
        DEVICE_EUI,
        METADATA + DEVICE_EUI,
    )
    return found


async def note(connection: Connection, id_: UUID, integration_id: UUID, heard: Heard, obstacle: str | None) -> None:
    """Keep that a device was heard which is none of ours, if there is room."""
    await connection.execute(
        "INSERT INTO network_sighting AS s (id, integration_id, network_device_id, dev_eui, join_eui, obstacle)"
        " SELECT $1, $2, $3, $4, $5, $6"
        " WHERE (SELECT count(*) FROM network_sighting WHERE integration_id = $2) < $7 OR EXISTS"
        " (SELECT FROM network_sighting WHERE integration_id = $2 AND network_device_id = $3)"
        " ON CONFLICT (integration_id, network_device_id) DO UPDATE SET last_at = now(), times = s.times + 1,"
        " dev_eui = coalesce(excluded.dev_eui, s.dev_eui), join_eui = coalesce(excluded.join_eui, s.join_eui),"
        " obstacle = excluded.obstacle",
        id_,
        integration_id,
        heard.network_device_id,
        heard.dev_eui or None,
        heard.join_eui,
        obstacle,
        MAX_SIGHTINGS,
    )


async def by_network_id(connection: Connection, integration_id: UUID, network_device_id: str) -> Sighting | None:
    """One by its id in the network, which nobody else changes until the transaction ends."""
    row = await connection.fetchrow(
        f"SELECT {_SIGHTING} FROM network_sighting s"
        " WHERE s.integration_id = $1 AND s.network_device_id = $2 FOR UPDATE",
        integration_id,
        network_device_id,
    )
    return None if row is None else _sighting(row)


async def list_(connection: Connection, integration_id: UUID, *, after: UUID | None, limit: int) -> list[Sighting]:
    """Those of an integration, in the order in which they were first heard."""
    rows = await connection.fetch(
        f"SELECT {_SIGHTING} FROM network_sighting s WHERE s.integration_id = $1"
        " AND ($2::uuid IS NULL OR s.id > $2) ORDER BY s.id LIMIT $3",
        integration_id,
        after,
        limit,
    )
    return [_sighting(row) for row in rows]


async def forget(connection: Connection, integration_id: UUID, network_device_id: str) -> None:
    """A device is one of ours now, or is to be."""
    await connection.execute(
        "DELETE FROM network_sighting WHERE integration_id = $1 AND network_device_id = $2",
        integration_id,
        network_device_id,
    )


def _sighting(row: asyncpg.Record) -> Sighting:
    return Sighting(*row)
