"""The SQL of devices outside provisioning: made, imported, listed, shown, re-armed and deleted by operators."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from provserver.core.attributes import Scope
from provserver.core.telemetry import Value
from provserver.store import data
from provserver.store.database import Connection


@dataclass(frozen=True, slots=True)
class DeviceSummary:
    """A device as lists show it. credentials_type: of the newest credentials; None when it has none."""

    id: UUID
    name: str
    profile_id: UUID
    profile: str
    gateway: bool
    rearmed: bool
    provision_state: object
    credentials_type: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CredentialsRow:
    """Credentials as they are stored."""

    type: str
    origin: str
    pending: bool
    first_used_at: datetime | None
    created_at: datetime
    sealed: bytes


_SUMMARY = """
SELECT d.id, d.name, d.profile_id, p.name, d.gateway, d.rearmed,
    (SELECT a.value FROM attribute a
     WHERE a.device_id = d.id AND a.scope = 'SERVER' AND a.key = 'provisionState'),
    (SELECT c.type FROM credentials c WHERE c.device_id = d.id ORDER BY c.pending DESC, c.created_at DESC LIMIT 1),
    d.created_at
FROM device d JOIN device_profile p ON p.id = d.profile_id
WHERE d.organization_id = $1
"""


async def stream(
    connection: Connection, organization_id: UUID, profile_id: UUID | None
) -> AsyncIterator[DeviceSummary]:
    """An organization's devices in order of making, all or a profile's; inside a transaction."""
    statement = _SUMMARY + " AND ($2::uuid IS NULL OR d.profile_id = $2) ORDER BY d.id"
    async for row in connection.cursor(statement, organization_id, profile_id, prefetch=1000):
        yield DeviceSummary(*row)


async def find(connection: Connection, organization_id: UUID, reference: str) -> DeviceSummary | None:
    """A device by its name or id."""
    row = await connection.fetchrow(
        _SUMMARY + " AND (d.name = $2 OR d.id::text = $2) ORDER BY d.name = $2 DESC LIMIT 1",
        organization_id,
        reference,
    )
    return None if row is None else DeviceSummary(*row)


async def credentials(connection: Connection, device_id: UUID) -> list[CredentialsRow]:
    """A device's credentials, newest first."""
    rows = await connection.fetch(
        "SELECT type, origin, pending, first_used_at, created_at, sealed FROM credentials WHERE device_id = $1"
        " ORDER BY pending DESC, created_at DESC",
        device_id,
    )
    return [CredentialsRow(*row) for row in rows]


async def attributes(connection: Connection, device_id: UUID) -> list[asyncpg.Record]:
    """A device's attributes: scope, key, value, updated_at."""
    return await connection.fetch(
        "SELECT scope, key, value, updated_at FROM attribute WHERE device_id = $1 ORDER BY scope, key",
        device_id,
    )


_STAGES = """
CREATE TEMPORARY TABLE staged_device (LIKE device INCLUDING DEFAULTS, PRIMARY KEY (name)) ON COMMIT DROP;
CREATE TEMPORARY TABLE staged_credentials (LIKE credentials INCLUDING DEFAULTS, PRIMARY KEY (id_digest)) ON COMMIT DROP;
CREATE TEMPORARY TABLE staged_attribute (LIKE attribute INCLUDING DEFAULTS) ON COMMIT DROP;
"""


async def begin_staging(connection: Connection) -> None:
    """Make tables, gone with the transaction, for devices that are to be added: until then they lock nothing."""
    await connection.execute(_STAGES)


async def taken(
    connection: Connection, organization_id: UUID, names: Sequence[str], id_digests: Sequence[bytes]
) -> tuple[set[str], set[bytes]]:
    """Which of these names the organization has, and which of these credentials exist anywhere; staged ones too."""
    rows = await connection.fetch(
        "SELECT name FROM device WHERE organization_id = $1 AND name = ANY($2::text[])"
        " UNION ALL SELECT name FROM staged_device WHERE name = ANY($2::text[])",
        organization_id,
        names,
    )
    digests = await connection.fetch(
        "SELECT id_digest FROM credentials WHERE id_digest = ANY($1::bytea[])"
        " UNION ALL SELECT id_digest FROM staged_credentials WHERE id_digest = ANY($1::bytea[])",
        id_digests,
    )
    return {row["name"] for row in rows}, {row["id_digest"] for row in digests}


async def stage(
    connection: Connection,
    devices: Sequence[tuple[UUID, UUID, UUID, str, bool]],
    credentials_: Sequence[tuple[bytes, UUID, str, str, bytes]],
    attributes_: Sequence[tuple[UUID, str, str, object]],
) -> None:
    """Copy devices into the staging tables."""
    await connection.copy_records_to_table(
        "staged_device", records=devices, columns=("id", "organization_id", "profile_id", "name", "gateway")
    )
    await connection.copy_records_to_table(
        "staged_credentials", records=credentials_, columns=("id_digest", "device_id", "type", "origin", "sealed")
    )
    await connection.copy_records_to_table(
        "staged_attribute", records=attributes_, columns=("device_id", "scope", "key", "value")
    )


async def add_staged(connection: Connection) -> None:
    """Add what is staged; raises asyncpg.UniqueViolationError when something of it is there by now."""
    # By name, as provisioning writes: two that want the same rows do not wait for each other crosswise.
    await connection.execute("INSERT INTO device SELECT * FROM staged_device ORDER BY name", timeout=600)
    await connection.execute("INSERT INTO credentials SELECT * FROM staged_credentials", timeout=600)
    await connection.execute("SET LOCAL provserver.quiet = 'on'")  # nobody can be listening for devices so new
    await connection.execute("INSERT INTO attribute SELECT * FROM staged_attribute", timeout=600)


async def rearm(connection: Connection, device_id: UUID) -> None:
    """Allow one more provisioning; the nonce of the last one is spent."""
    await connection.execute(
        "UPDATE device SET rearmed = true, request_digest = NULL, revision = revision + 1 WHERE id = $1",
        device_id,
    )


async def revoke(connection: Connection, device_id: UUID) -> None:
    """Remove a device's credentials; the nonce of its last provisioning is spent."""
    await connection.execute(  # the device first, as provisioning does
        "UPDATE device SET request_digest = NULL, revision = revision + 1 WHERE id = $1", device_id
    )
    await connection.execute("DELETE FROM credentials WHERE device_id = $1", device_id)


async def change_attributes(
    connection: Connection,
    device_id: UUID,
    set_: Mapping[tuple[Scope, str], Value],
    deleted: Sequence[tuple[Scope, str]],
) -> None:
    """Write and remove attributes, by (scope, key)."""
    await connection.execute("UPDATE device SET revision = revision + 1 WHERE id = $1", device_id)
    await connection.executemany(
        "DELETE FROM attribute WHERE device_id = $1 AND scope = $2 AND key = $3",
        [(device_id, scope, key) for scope, key in sorted(deleted)],
    )
    await connection.executemany(
        "INSERT INTO attribute (device_id, scope, key, value) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (device_id, scope, key) DO UPDATE SET value = excluded.value, updated_at = now()",
        [(device_id, scope, key, value) for (scope, key), value in sorted(set_.items())],
    )


async def delete(connection: Connection, device_id: UUID) -> bool:
    """Remove a device and all that hangs on it; False when it was gone. Its attempts stay."""
    # The device first, as provisioning does: who comes second finds what the other one left.
    status = await connection.execute("DELETE FROM device WHERE id = $1", device_id)
    await connection.execute("DELETE FROM credentials WHERE device_id = $1", device_id)
    await connection.execute("DELETE FROM attribute WHERE device_id = $1", device_id)
    await connection.execute("DELETE FROM presence WHERE device_id = $1", device_id)
    await data.delete(connection, device_id)
    return status != "DELETE 0"
