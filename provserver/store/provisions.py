"""The SQL of provisioning: what requests found, and what they leave, a group of them in one statement.

Each write is guarded by the revisions it was decided on and by unique constraints; a row that does not come
back was decided on something that is no longer so, and nothing of it was written.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from provserver.store.database import Connection


@dataclass(frozen=True, slots=True)
class Look:
    """What to look for, for one request; the digests of its nonce and of its supplied credentials' id."""

    organization_id: UUID
    profile_id: UUID
    name: str | None
    nonce_digest: bytes | None
    id_digest: bytes | None


@dataclass(frozen=True, slots=True)
class Sighting:
    """The ids of the devices a look found, by name, by nonce and by credentials.

    profile_revision: the profile's, as it is now; None when it is gone.
    """

    profile_revision: int | None
    named: UUID | None
    nonce_holder: UUID | None
    credentials_holder: UUID | None


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device as a decision needs it; `credentials` are (type, origin, pending, used, sealed, expires_at)."""

    id: UUID
    profile_id: UUID
    name: str
    revision: int
    rearmed: bool
    request_digest: bytes | None
    provision_state: object
    credentials: tuple[tuple[str, str, bool, bool, bytes, datetime | None], ...]
    quarantined: bool


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt. Nothing in it is secret; of an unrecognised request little is known."""

    id: UUID
    transport: str
    address: str
    outcome: str
    reason: str | None = None
    detail: str | None = None
    profile_id: UUID | None = None
    device_id: UUID | None = None
    device_name: str | None = None


class Kind(NamedTuple):
    """What most writes of a group have in common. expires_at: when the credentials end, in whole seconds."""

    profile_id: UUID
    profile_revision: int
    gateway: bool
    type: str
    origin: str
    transport: str
    expires_at: datetime | None = None


class Write(NamedTuple):
    """What one successful provision leaves; one row of the grouped statements.

    id_digest: 32 bytes. proof: digests of nonce and of request, 32 bytes each; empty where there is no nonce.
    attempt_id: also the event's, and that of the device where it is created.
    device_revision: None for a device to create, else the revision it was decided on.
    change: `keep`, `replace` or `add_pending`; what becomes of a known device's credentials.
    """

    device_id: UUID
    name: str
    address: str
    id_digest: bytes
    sealed: bytes
    proof: bytes
    kind: Kind
    attempt_id: UUID
    device_revision: int | None = None
    change: str = "replace"


def _wanted(*more: str) -> str:
    """The writes whose profile is still what they were decided on.

    asyncpg takes half a microsecond for each element of each array: so there are few.
    """
    names = ("device_id", "name", "address", "secret", "proof", "kind", *(each.split("::")[0] for each in more))
    arrays = ["uuid", "text", "text", "bytea", "bytea", "smallint", *(each.split("::")[1] for each in more)]
    kinds = ["uuid", "bigint", "boolean", "text", "text", "text", "timestamptz"]
    parameters = [f"${n}::{type_}[]" for n, type_ in enumerate(kinds + arrays, 1)]
    return f"""
kinds AS MATERIALIZED (
    SELECT k.*, p.organization_id
    FROM unnest({", ".join(parameters[: len(kinds)])}) WITH ORDINALITY AS k({", ".join(Kind._fields)}, kind)
    JOIN device_profile p ON p.id = k.profile_id AND p.revision = k.profile_revision
), wanted AS (
    SELECT k.*, {", ".join(f"w.{name}" for name in names if name != "kind")},
        substr(secret, 1, 32) AS id_digest, substr(secret, 33) AS sealed,
        nullif(substr(proof, 1, 32), '') AS nonce_digest, nullif(substr(proof, 33), '') AS request_digest
    FROM unnest({", ".join(parameters[len(kinds) :])}) AS w({", ".join(names)}) JOIN kinds k USING (kind)
)"""


_ACCEPTED = """
accepted AS (  -- all as a rule: then no row is searched for
    SELECT * FROM wanted WHERE (SELECT count(*) FROM done) = (SELECT count(*) FROM wanted)
        OR device_id = ANY (ARRAY(SELECT id FROM done))
)"""

_EVENT = """jsonb_build_object('deviceId', device_id, 'deviceName', name, 'profileId', profile_id,
        'credentialsType', type, 'transport', transport)"""


def _records(attempt_id: str) -> str:
    return f"""
attempts AS (
    INSERT INTO attempt (id, transport, address, outcome, profile_id, device_id, device_name)
    SELECT {attempt_id}, transport, address, 'success', profile_id, device_id, name FROM accepted
), events AS (
    INSERT INTO outbox (id, device_id, type, payload)
    SELECT {attempt_id}, device_id, 'device.provisioned', {_EVENT} FROM accepted
)
SELECT device_id FROM accepted
"""


# A generated token is nobody else's; should it be, credentials' primary key makes the statement fail.
_CREATE = f"""
WITH {_wanted()}, done AS (
    INSERT INTO device (id, organization_id, profile_id, name, gateway, nonce_digest, request_digest)
    SELECT device_id, organization_id, profile_id, name, gateway, nonce_digest, request_digest FROM wanted w
    WHERE origin = 'generated' OR NOT EXISTS (SELECT FROM credentials c WHERE c.id_digest = w.id_digest)
    ORDER BY name  -- as every process and import does, lest two wait for each other
    ON CONFLICT DO NOTHING
    RETURNING id
), {_ACCEPTED}, given AS (
    INSERT INTO credentials (id_digest, device_id, type, origin, sealed, expires_at)
    SELECT id_digest, device_id, type, origin, sealed, expires_at FROM accepted
), states AS (
    INSERT INTO attribute (device_id, scope, key, value)
    SELECT device_id, 'SERVER', 'provisionState', '"provisioned"' FROM accepted
), {_records("device_id")}
"""

# Kept credentials begin a new life: their first use is yet to come, until when the new nonce is good.
# A replaced credential may keep its id (a new password, say), so it is upserted; that it is not another
# device's is enforced by making the statement fail (device_id is NOT NULL).
_PROVISION = f"""
WITH {_wanted("attempt_id::uuid", "device_revision::bigint", "change::text")}, done AS (
    UPDATE device d SET revision = d.revision + 1, rearmed = false, gateway = d.gateway OR w.gateway,
        nonce_digest = coalesce(w.nonce_digest, d.nonce_digest), request_digest = w.request_digest
    FROM wanted w WHERE d.id = w.device_id AND d.revision = w.device_revision AND d.profile_id = w.profile_id
    RETURNING d.id
), {_ACCEPTED}, gone AS (
    DELETE FROM credentials c USING accepted a
    WHERE c.device_id = a.device_id AND c.id_digest <> a.id_digest
        AND (a.change = 'replace' OR a.change = 'add_pending' AND c.pending)
), kept AS (
    UPDATE credentials c SET first_used_at = NULL FROM accepted a
    WHERE c.device_id = a.device_id AND a.change = 'keep' AND c.first_used_at IS NOT NULL
), given AS (
    INSERT INTO credentials AS c (id_digest, device_id, type, origin, pending, sealed, expires_at)
    SELECT id_digest, device_id, type, origin, change = 'add_pending', sealed, expires_at
    FROM accepted WHERE change <> 'keep'
    ON CONFLICT (id_digest) DO UPDATE SET type = excluded.type, origin = excluded.origin,
        pending = excluded.pending, sealed = excluded.sealed, first_used_at = NULL, created_at = now(),
        expires_at = excluded.expires_at,
        device_id = CASE WHEN c.device_id = excluded.device_id THEN c.device_id END
), states AS (
    INSERT INTO attribute (device_id, scope, key, value)
    SELECT device_id, 'SERVER', 'provisionState', '"provisioned"' FROM accepted
    ON CONFLICT (device_id, scope, key) DO UPDATE SET value = excluded.value, updated_at = now()
), {_records("attempt_id")}
"""

_LOOK = """
SELECT p.revision, named.id, holder.id, taken.device_id
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::bytea[])
    WITH ORDINALITY AS l(organization_id, profile_id, name, nonce_digest, id_digest, n)
LEFT JOIN device_profile p ON p.id = l.profile_id
LEFT JOIN device named ON named.organization_id = l.organization_id AND named.name = l.name
LEFT JOIN device holder ON holder.profile_id = l.profile_id AND holder.nonce_digest = l.nonce_digest
LEFT JOIN credentials taken ON taken.id_digest = l.id_digest
ORDER BY l.n
"""

_DEVICES = """
SELECT d.id, d.profile_id, d.name, d.revision, d.rearmed, d.request_digest,
    EXISTS (SELECT FROM device_quarantine q WHERE q.device_id = d.id) AS quarantined,
    (SELECT a.value FROM attribute a
     WHERE a.device_id = d.id AND a.scope = 'SERVER' AND a.key = 'provisionState') AS provision_state,
    ARRAY(SELECT ROW(c.type, c.origin, c.pending, c.first_used_at IS NOT NULL, c.sealed, c.expires_at)
          FROM credentials c
          WHERE c.device_id = d.id ORDER BY c.pending DESC, c.created_at DESC) AS credentials
FROM device d WHERE d.id = ANY($1::uuid[])
"""

_ATTEMPTS = """
INSERT INTO attempt (id, transport, address, outcome, reason, detail, profile_id, device_id, device_name)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::uuid[],
    $8::uuid[], $9::text[])
ON CONFLICT (id) DO NOTHING
"""


class Uses(NamedTuple):
    """How often a provision key was used, and may be."""

    uses: int
    max_uses: int | None


async def hold_uses(connection: Connection, keys: Collection[str]) -> dict[str, Uses]:
    """How often these provision keys, as far as they are there, were used: nobody else changes it in a transaction."""
    rows = await connection.fetch(
        "SELECT key, uses, max_uses FROM provision_key WHERE key = ANY($1::text[]) ORDER BY key FOR NO KEY UPDATE",
        list(keys),
    )
    return {row["key"]: Uses(row["uses"], row["max_uses"]) for row in rows}


async def add_uses(connection: Connection, uses: Mapping[str, int]) -> None:
    """Count uses of provision keys, and when they were used last."""
    await connection.execute(
        "UPDATE provision_key k SET uses = k.uses + w.uses, used_at = now()"
        " FROM unnest($1::text[], $2::bigint[]) AS w(key, uses) WHERE k.key = w.key",
        list(uses),
        list(uses.values()),
    )


async def look(connection: Connection, looks: Sequence[Look]) -> list[Sighting]:
    """What each look finds, in the same order."""
    rows = await connection.fetch(_LOOK, *zip(*map(_row, looks), strict=True))
    return [Sighting(*row) for row in rows]


async def devices(connection: Connection, ids: set[UUID]) -> dict[UUID, DeviceRow]:
    """The devices of these ids that still exist."""
    rows = await connection.fetch(_DEVICES, list(ids))
    return {
        row["id"]: DeviceRow(
            row["id"],
            row["profile_id"],
            row["name"],
            row["revision"],
            row["rearmed"],
            row["request_digest"],
            row["provision_state"],
            tuple(tuple(each) for each in row["credentials"]),
            row["quarantined"],
        )
        for row in rows
    }


async def create(connection: Connection, writes: Sequence[Write]) -> set[UUID]:
    """Create devices; returns the ids of those that were. May raise asyncpg.IntegrityConstraintViolationError."""
    return await _write(connection, _CREATE, writes)


async def provision(connection: Connection, writes: Sequence[Write]) -> set[UUID]:
    """Provision known devices; returns the ids of those that were. Raises as `create`."""
    return await _write(
        connection,
        _PROVISION,
        writes,
        [write.attempt_id for write in writes],
        [write.device_revision for write in writes],
        [write.change for write in writes],
    )


async def committed(connection: Connection, attempt_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these attempts were written: for after a connection broke while a statement was under way."""
    rows = await connection.fetch("SELECT id FROM attempt WHERE id = ANY($1::uuid[])", attempt_ids)
    return {row["id"] for row in rows}


async def record(connection: Connection, attempts: Sequence[AttemptRow]) -> None:
    """Write attempts that changed nothing else."""
    await connection.execute(_ATTEMPTS, *zip(*map(_row, attempts), strict=True))


async def _write(connection: Connection, statement: str, writes: Sequence[Write], *more: Sequence[object]) -> set[UUID]:
    numbers: dict[Kind, int] = {}
    kinds = [numbers.setdefault(write.kind, len(numbers) + 1) for write in writes]
    rows = await connection.fetch(
        statement,
        *zip(*numbers, strict=True),
        [write.device_id for write in writes],
        [write.name for write in writes],
        [write.address for write in writes],
        [write.id_digest + write.sealed for write in writes],
        [write.proof for write in writes],
        kinds,
        *more,
    )
    return {row[0] for row in rows}


def _row(row: Look | AttemptRow) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in type(row).__slots__)
