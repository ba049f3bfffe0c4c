"""The SQL of devices outside provisioning: made, imported, listed, shown, re-armed and deleted by operators."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from provserver.core.attributes import METADATA, Scope
from provserver.core.events import EventType
from provserver.core.lorawan import SECRETS
from provserver.core.telemetry import Value
from provserver.store import clones, data, network_devices, outbox, wifi_sessions
from provserver.store.database import Connection


@dataclass(frozen=True, slots=True)
class DeviceSummary:
    """A device as an organization sees it that has it, made it, or is above one that does.

    credentials_type: of the newest credentials; None when it has none. maker_id: the organization that made it, None
    for those below that one, as they do not see it. holder_id: the one that has it now. owner_id: the user who does;
    owner: his name or e-mail. static_token: the status of the static token that it came of; None when of none.
    revision: another one after every change, also those that it makes itself as it provisions or first connects.
    suspected: something speaks for it being there twice.
    """

    id: UUID
    name: str
    profile_id: UUID
    profile: str
    gateway: bool
    rearmed: bool
    provision_state: object
    credentials_type: str | None
    revision: int
    created_at: datetime
    maker_id: UUID | None
    maker: str | None
    holder_id: UUID
    holder: str
    owner_id: UUID | None
    owner: str | None
    static_token: str | None
    online: bool
    last_seen_at: datetime | None
    quarantined: bool
    suspected: bool


@dataclass(frozen=True, slots=True)
class CredentialsRow:
    """Credentials as they are stored."""

    type: str
    origin: str
    pending: bool
    first_used_at: datetime | None
    created_at: datetime
    sealed: bytes


SUMMARY = """
SELECT d.id, d.name, d.profile_id, p.name, d.gateway, d.rearmed,
    (SELECT a.value FROM attribute a
     WHERE a.device_id = d.id AND a.scope = 'SERVER' AND a.key = 'provisionState'),
    (SELECT c.type FROM credentials c WHERE c.device_id = d.id ORDER BY c.pending DESC, c.created_at DESC LIMIT 1),
    d.revision, d.created_at, m.id, m.name, h.id, h.name, d.owner_id, coalesce(nullif(u.name, ''), u.email),
    (SELECT t.status FROM static_token t WHERE t.id = d.id), coalesce(r.online_until > now(), false), r.last_seen_at,
    EXISTS (SELECT FROM device_quarantine q WHERE q.device_id = d.id),
    EXISTS (SELECT FROM clone_sign s WHERE s.device_id = d.id)
FROM device d
JOIN organization h ON h.id = coalesce(d.holder_id, d.organization_id) AND h.path @> ARRAY[$1::uuid]
JOIN device_profile p ON p.id = d.profile_id
LEFT JOIN organization m ON m.id = d.organization_id AND m.path @> ARRAY[$1::uuid]
LEFT JOIN "user" u ON u.id = d.owner_id
LEFT JOIN presence r ON r.device_id = d.id
"""
"""Of a `DeviceSummary`. $1: the organization that looks."""

# The makers of what an organization can see: itself, those below it, and those above it.
_RELATED = """
SELECT r.id FROM organization o JOIN organization r ON r.path @> ARRAY[o.id] OR r.id = ANY(o.path) WHERE o.id = $1
"""


class Ambiguous(Exception):  # noqa: N818
    """Several devices have this name, each of another maker."""


def id_in(text: str) -> UUID | None:
    """The id that a text is, in the one form that ids are told in."""
    try:
        id_ = UUID(text)
    except ValueError:
        return None
    return id_ if str(id_) == text else None


async def stream(
    connection: Connection, organization_id: UUID, profile_id: UUID | None
) -> AsyncIterator[DeviceSummary]:
    """The devices that an organization sees in order of making, all or a profile's; inside a transaction."""
    statement = SUMMARY + " WHERE ($2::uuid IS NULL OR d.profile_id = $2) ORDER BY d.id"
    async for row in connection.cursor(statement, organization_id, profile_id, prefetch=1000):
        yield DeviceSummary(*row)


async def get(connection: Connection, organization_id: UUID, id_: UUID) -> DeviceSummary | None:
    """A device that an organization sees, by its id."""
    row = await connection.fetchrow(f"{SUMMARY} WHERE d.id = $2", organization_id, id_)
    return None if row is None else DeviceSummary(*row)


async def find(connection: Connection, organization_id: UUID, reference: str) -> DeviceSummary | None:
    """A device that an organization sees, by its name or id; its own go first, then ids. Raises Ambiguous."""
    rows = await connection.fetch(
        f"{SUMMARY} WHERE d.id IN (SELECT $3::uuid UNION"
        f" SELECT n.id FROM device n JOIN ({_RELATED}) AS r ON r.id = n.organization_id WHERE n.name = $2)"
        " ORDER BY d.name = $2 AND d.organization_id = $1 DESC, d.id = $3 DESC NULLS LAST, d.id LIMIT 2",
        organization_id,
        reference,
        id_ := id_in(reference),
    )
    found = [DeviceSummary(*row) for row in rows]
    if len(found) > 1 and found[0].id != id_ and found[0].maker_id != organization_id:
        raise Ambiguous
    return found[0] if found else None


async def lock(connection: Connection, device_id: UUID) -> None:
    """Have a device, and the static token it came of, neither change nor go until the transaction ends."""
    await connection.execute(  # before the device, as every move of a static token does
        "SELECT FROM static_token WHERE id = $1 FOR NO KEY UPDATE", device_id
    )
    await connection.execute("SELECT FROM device WHERE id = $1 FOR NO KEY UPDATE", device_id)


async def credentials(connection: Connection, device_id: UUID) -> list[CredentialsRow]:
    """A device's credentials, newest first."""
    rows = await connection.fetch(
        "SELECT type, origin, pending, first_used_at, created_at, sealed FROM credentials WHERE device_id = $1"
        " ORDER BY pending DESC, created_at DESC",
        device_id,
    )
    return [CredentialsRow(*row) for row in rows]


_ATTRIBUTES = f"""
SELECT scope, key, value, updated_at FROM attribute
WHERE device_id = $1 AND ($2::boolean OR scope <> '{Scope.SERVER}' OR key <> ALL($3::text[]) AND key NOT IN (
    SELECT '{METADATA}' || (f ->> 'name')
    FROM device d JOIN device_profile p ON p.id = d.profile_id
    CROSS JOIN LATERAL jsonb_array_elements(p.metadata_fields) AS f
    WHERE d.id = $1 AND f ->> 'type' = 'key128'
))
ORDER BY scope, key
"""


async def attributes(connection: Connection, device_id: UUID, *, with_keys: bool) -> list[asyncpg.Record]:
    """A device's attributes: scope, key, value, updated_at. with_keys: also the metadata that are keys of its radio."""
    return await connection.fetch(_ATTRIBUTES, device_id, with_keys, [METADATA + name for name in SECRETS])


class StagedDevice(NamedTuple):
    """A device that is to be made, with its credentials. line: of its row, which names it in errors."""

    line: int
    id: UUID
    name: str
    gateway: bool
    id_digest: bytes
    type: str
    origin: str
    sealed: bytes


class Conflict(NamedTuple):
    """A staged device whose name or credentials exist, or are staged for another one as well.

    place: where it is staged. same_name, same_credentials: the first line that has them; None where it alone has.
    """

    place: object
    line: int
    name_taken: bool
    credentials_taken: bool
    same_name: int | None
    same_credentials: int | None


_STAGES = """
CREATE TEMPORARY TABLE staged_device (
    line      bigint  NOT NULL,
    id        uuid    NOT NULL,
    name      text    NOT NULL,
    gateway   boolean NOT NULL,
    id_digest bytea   NOT NULL,
    type      text    NOT NULL,
    origin    text    NOT NULL,
    sealed    bytea   NOT NULL
) ON COMMIT DROP;
CREATE TEMPORARY TABLE staged_attribute (LIKE attribute INCLUDING DEFAULTS) ON COMMIT DROP;
"""

# Windows, as sorting costs the same whatever the planner takes the tables to be like: nothing has analysed them.
_CONFLICTS = """
SELECT place, line, name_taken, credentials_taken, nullif(first_named, 0), nullif(first_known, 0) FROM (
    SELECT s.ctid AS place, s.line, d.name IS NOT NULL AS name_taken,
        coalesce(c.id_digest, t.id_digest) IS NOT NULL AS credentials_taken,
        CASE WHEN count(*) OVER named > 1 THEN min(s.line) OVER named ELSE 0 END AS first_named,
        CASE WHEN count(*) OVER known > 1 THEN min(s.line) OVER known ELSE 0 END AS first_known
    FROM staged_device s
    LEFT JOIN device d ON d.organization_id = $1 AND d.name = s.name
    LEFT JOIN credentials c ON c.id_digest = s.id_digest
    LEFT JOIN static_token t ON t.id_digest = s.id_digest  -- whose device is still to come
    WINDOW named AS (PARTITION BY s.name), known AS (PARTITION BY s.id_digest)
) AS staged
WHERE name_taken OR credentials_taken OR first_named > 0 OR first_known > 0
ORDER BY line
"""

_LONG = 600.0
"""Seconds that a statement about everything staged may take."""


async def begin_staging(connection: Connection) -> None:
    """Make tables, gone with the transaction, for devices that are to be added: until then they lock nothing."""
    await connection.execute(_STAGES)


async def stage(
    connection: Connection,
    devices: Sequence[StagedDevice],
    attributes_: Sequence[tuple[UUID, str, str, object]],
) -> None:
    """Copy devices, and attributes as (device id, scope, key, value), into the staging tables."""
    await connection.copy_records_to_table("staged_device", records=devices)
    if attributes_:
        await connection.copy_records_to_table(
            "staged_attribute", records=attributes_, columns=("device_id", "scope", "key", "value")
        )


async def known_digests(connection: Connection, id_digests: Sequence[bytes]) -> set[bytes]:
    """Those of these that are of some device's credentials, or of a static token."""
    rows = await connection.fetch(
        "SELECT id_digest FROM credentials WHERE id_digest = ANY($1::bytea[])"
        " UNION SELECT id_digest FROM static_token WHERE id_digest = ANY($1::bytea[])",
        id_digests,
    )
    return {row["id_digest"] for row in rows}


async def conflicts(connection: Connection, organization_id: UUID, size: int) -> AsyncIterator[list[Conflict]]:
    """What cannot be added, or not all of it, in order of lines, up to `size` at a time."""
    cursor = await connection.cursor(_CONFLICTS, organization_id, timeout=_LONG)
    while rows := await cursor.fetch(size, timeout=_LONG):
        yield [Conflict(*row) for row in rows]


async def unstage(connection: Connection, places: Sequence[object]) -> None:
    """Take staged devices back, with their attributes."""
    await connection.execute(
        "WITH gone AS (DELETE FROM staged_device WHERE ctid = ANY($1::tid[]) RETURNING id)"
        " DELETE FROM staged_attribute WHERE device_id IN (SELECT id FROM gone)",
        places,
        timeout=_LONG,
    )


async def add_staged(connection: Connection, organization_id: UUID, profile_id: UUID) -> None:
    """Add what is staged; raises asyncpg.UniqueViolationError when something of it is there by now."""
    # By name, as provisioning writes: two that want the same rows do not wait for each other crosswise.
    await connection.execute(
        "INSERT INTO device (id, organization_id, profile_id, name, gateway)"
        " SELECT id, $1, $2, name, gateway FROM staged_device ORDER BY name",
        organization_id,
        profile_id,
        timeout=_LONG,
    )
    # By their key, which is random: in any other order each would be put into another page of a large index.
    await connection.execute(
        "INSERT INTO credentials (id_digest, device_id, type, origin, sealed)"
        " SELECT id_digest, id, type, origin, sealed FROM staged_device ORDER BY id_digest",
        timeout=_LONG,
    )
    await connection.execute("SET LOCAL provserver.quiet = 'on'")  # nobody can be listening for devices so new
    await connection.execute("INSERT INTO attribute SELECT * FROM staged_attribute", timeout=_LONG)


async def rearm(connection: Connection, device_id: UUID) -> None:
    """Allow one more provisioning; the nonce of the last one is spent."""
    await connection.execute(
        "UPDATE device SET rearmed = true, request_digest = NULL, revision = revision + 1 WHERE id = $1",
        device_id,
    )


async def rename(connection: Connection, device_id: UUID, name: str) -> None:
    """Give a device another name. Raises asyncpg.UniqueViolationError when another one of its maker has it."""
    await connection.execute("UPDATE device SET name = $2, revision = revision + 1 WHERE id = $1", device_id, name)


async def disarm(connection: Connection, device_id: UUID) -> None:
    """Take back that a device may provision itself once more."""
    await connection.execute(
        "UPDATE device SET rearmed = false, revision = revision + 1 WHERE id = $1 AND rearmed", device_id
    )


async def revoke(connection: Connection, device_id: UUID) -> None:
    """Remove a device's credentials; the nonce of its last provisioning is spent."""
    await connection.execute(  # the device first, as provisioning does
        "UPDATE device SET request_digest = NULL, revision = revision + 1 WHERE id = $1", device_id
    )
    if await connection.execute("DELETE FROM credentials WHERE device_id = $1", device_id) != "DELETE 0":
        await outbox.record_of_device(connection, EventType.CREDENTIALS_REVOKED, device_id, reason="revoked")


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
    """Remove a device and all that hangs on it; False when it was gone. Its attempts stay, and its static token:
    unclaimed, so that it comes back with it.
    """
    await connection.execute(  # before the device, as every move of a static token does
        "UPDATE static_token t SET status = 'UNCLAIMED', claimed_at = NULL,"
        " revision = greatest(t.revision, (SELECT revision FROM device WHERE id = $1)) + 1 WHERE id = $1",
        device_id,
    )
    # The device first, as provisioning does: who comes second finds what the other one left.
    gone = await connection.fetchrow(
        "DELETE FROM device WHERE id = $1 RETURNING coalesce(holder_id, organization_id), name, profile_id", device_id
    )
    revoked = await connection.execute("DELETE FROM credentials WHERE device_id = $1", device_id) != "DELETE 0"
    if gone is not None and revoked:
        organization_id, name, profile_id = gone
        await outbox.record(
            connection,
            EventType.CREDENTIALS_REVOKED,
            device_id,
            organization_id,
            deviceId=str(device_id),
            deviceName=name,
            profileId=str(profile_id),
            reason="deleted",
        )
    await connection.execute("DELETE FROM attribute WHERE device_id = $1", device_id)
    await connection.execute("DELETE FROM presence WHERE device_id = $1", device_id)
    await connection.execute("DELETE FROM pending_claim WHERE device_id = $1", device_id)
    await connection.execute("DELETE FROM device_quarantine WHERE device_id = $1", device_id)
    await wifi_sessions.forget(connection, device_id)
    await network_devices.leave(connection, device_id)
    await clones.forget(connection, device_id)
    await data.delete(connection, device_id)
    return gone is not None
