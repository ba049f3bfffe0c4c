"""The SQL of ownership: devices that come of static tokens, who has them, and the moves between.

Rows are locked in one order: the user who is to own, the static token, the device, its credentials, the rest. A static
token's row stands for its device before there is one, so every move of either waits there for the one before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from provserver.core.attributes import METADATA, Scope
from provserver.core.claiming import CLAIMING_DATA
from provserver.core.events import EventType
from provserver.core.model import PROVISION_STATE, PROVISIONED, CredentialsType, Origin
from provserver.store import data, devices, network_devices, wifi_sessions
from provserver.store.database import Connection


class Appearing(NamedTuple):
    """An access token that may be a static token's. event_id: of the event, if its device is made. transport: by which
    the device came; None when it did not.
    """

    id_digest: bytes
    event_id: UUID
    transport: str | None


class Appeared(NamedTuple):
    """A static token that was found. made: its device was made now; there: it was there already."""

    id_digest: bytes
    made: bool
    there: bool


@dataclass(frozen=True, slots=True)
class Claimable:
    """A static token that may be claimed just now, or was a moment ago.

    two_sided: the device has to say yes first.
    """

    id: UUID
    maker_id: UUID
    id_digest: bytes
    two_sided: bool


class Awaited(NamedTuple):
    """What a device's word that it may be claimed is good for. waits: a claim waits for it, of this user or of nobody
    in particular. two_sided: and it is good for nothing else.
    """

    two_sided: bool
    waits: bool
    user_id: UUID | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A claim that its device has confirmed: whose, and of what."""

    token: Claimable
    organization_id: UUID
    user_id: UUID | None
    actor: str


@dataclass(frozen=True, slots=True)
class Holding:
    """A static token, the device of its id, or both, locked until the transaction ends.

    status: None when there is no token. holder_id: the organization that has the device, or would have it.
    The paths are those of the maker's and the holder's organizations. revision: of the device; None without one.
    """

    id: UUID
    status: str | None
    has_device: bool
    maker_id: UUID
    maker_path: tuple[UUID, ...]
    holder_id: UUID
    holder_path: tuple[UUID, ...]
    owner_id: UUID | None
    revision: int | None

    @property
    def claimed(self) -> bool:
        """Whether somebody has it who claimed it or to whom it was transferred."""
        if self.status is not None:
            return self.status == "CLAIMED"
        return self.has_device and (self.holder_id != self.maker_id or self.owner_id is not None)


class Candidate(NamedTuple):
    """A device of a name that nobody has. static: it came of a static token. secret_digest: of its live claim;
    claiming_data: the attribute.
    """

    id: UUID
    static: bool
    secret_digest: bytes | None
    claiming_data: object


class Owner(NamedTuple):
    """A user who may be given a device."""

    id: UUID
    organization_id: UUID
    activated: bool


NOBODY = ""
"""Whose a pending claim is when two have come for one device: until it expires, the device's word is for neither."""

_SAME = "c.organization_id = $2 AND c.user_id IS NOT DISTINCT FROM $3"

# The first of three names that is free; should another device take it meanwhile, the row does not come back as made.
# What waits for a token's row sees the devices as they were before: a device that was made meanwhile does not count
# as there, and is not made a second time; who asks again finds it.
_APPEAR = f"""
WITH wanted AS MATERIALIZED (
    SELECT t.id, t.organization_id, t.profile_id, t.number, t.name, t.id_digest, t.sealed, t.metadata, t.revision,
        w.event_id, w.transport
    FROM unnest($1::bytea[], $2::uuid[], $3::text[]) AS w(id_digest, event_id, transport)
    JOIN static_token t ON t.id_digest = w.id_digest
    ORDER BY t.id FOR UPDATE OF t
), fresh AS MATERIALIZED (
    SELECT w.*, free.name AS given
    FROM wanted w JOIN device_profile p ON p.id = w.profile_id
    CROSS JOIN LATERAL (SELECT coalesce(w.name, left(p.name, 200) || ' ' || w.number) AS name) AS first
    CROSS JOIN LATERAL (
        SELECT c.name
        FROM unnest(ARRAY[first.name, first.name || ' (' || w.number || ')', first.name || ' (' || w.id || ')'])
            WITH ORDINALITY AS c(name, place)
        WHERE NOT EXISTS (SELECT FROM device d WHERE d.organization_id = w.organization_id AND d.name = c.name)
        ORDER BY c.place LIMIT 1
    ) AS free
    WHERE NOT EXISTS (SELECT FROM device d WHERE d.id = w.id)
), made AS (
    INSERT INTO device (id, organization_id, profile_id, name, revision)
    SELECT id, organization_id, profile_id, given, revision FROM fresh  -- above any that it had: see devices.delete
    ORDER BY given  -- as every process and import does, lest two wait for each other
    ON CONFLICT DO NOTHING
    RETURNING id
), accepted AS (
    SELECT f.* FROM fresh f JOIN made m ON m.id = f.id
), given AS (
    INSERT INTO credentials (id_digest, device_id, type, origin, sealed, first_used_at)
    SELECT id_digest, id, '{CredentialsType.ACCESS_TOKEN}', '{Origin.GENERATED}', sealed,
        CASE WHEN $4::boolean THEN now() END FROM accepted
), states AS (
    INSERT INTO attribute (device_id, scope, key, value)
    SELECT id, '{Scope.SERVER}', '{PROVISION_STATE}', '"{PROVISIONED}"'::jsonb FROM accepted
    UNION ALL
    SELECT a.id, '{Scope.SERVER}', '{METADATA}' || m.key, m.value
    FROM accepted a CROSS JOIN LATERAL jsonb_each(a.metadata) AS m
), events AS (
    INSERT INTO outbox (id, device_id, type, payload)
    SELECT event_id, id, 'device.provisioned', jsonb_build_object('deviceId', id, 'deviceName', given,
        'profileId', profile_id, 'credentialsType', '{CredentialsType.ACCESS_TOKEN}', 'transport', transport)
    FROM accepted
), connected AS (
    INSERT INTO outbox (type, device_id, organization_id, payload, created_at)
    SELECT '{EventType.DEVICE_FIRST_CONNECTED}', id, organization_id, jsonb_build_object('deviceId', id,
        'deviceName', given, 'profileId', profile_id, 'credentialsType', '{CredentialsType.ACCESS_TOKEN}'),
        clock_timestamp() FROM accepted WHERE $4::boolean
), spent AS (
    UPDATE static_token t SET used_at = now() FROM accepted a WHERE t.id = a.id AND t.used_at IS NULL
)
SELECT w.id_digest, w.id IN (SELECT id FROM made), w.id NOT IN (SELECT id FROM fresh) FROM wanted w
"""


async def appear(connection: Connection, appearing: Sequence[Appearing], *, used: bool) -> list[Appeared]:
    """Find static tokens by what may be theirs, and make the devices of those that have none: the maker's, unowned.

    used: whether the credentials are being used. One that was neither made nor there has lost its name to another just
    now: ask again.
    """
    rows = await connection.fetch(_APPEAR, *zip(*appearing, strict=True), used)
    return [Appeared(*row) for row in rows]


async def claim(
    connection: Connection, qr_digests: Sequence[bytes], organization_id: UUID, *, two_sided: bool = False
) -> Claimable | None:
    """Have the token of one of these QR tokens claimed, for an organization of its maker's tree, inside a transaction.

    None when there is none, or it is claimed, or not for that organization. One whose device must say yes first is
    held, but stays unclaimed. two_sided: it must, whatever its profile says.
    """
    row = await connection.fetchrow(
        "UPDATE static_token t SET status = CASE WHEN p.two_sided_claim OR $3 THEN t.status ELSE 'CLAIMED' END,"
        " claimed_at = CASE WHEN p.two_sided_claim OR $3 THEN NULL ELSE now() END,"
        " used_at = coalesce(t.used_at, now()), revision = t.revision + 1"
        " FROM device_profile p, organization o"
        " WHERE t.qr_digest = ANY($1::bytea[]) AND t.status = 'UNCLAIMED' AND p.id = t.profile_id"
        " AND o.id = $2 AND t.organization_id = ANY(o.path)"
        " RETURNING t.id, t.organization_id, t.id_digest, p.two_sided_claim OR $3",
        qr_digests,
        organization_id,
        two_sided,
    )
    return None if row is None else Claimable(*row)


async def pend(
    connection: Connection, token_id: UUID, organization_id: UUID, user_id: UUID | None, actor: str, period: timedelta
) -> datetime | None:
    """Have a claim wait for the device's word, while its token is held; until when, or None when nobody's does.

    Whose claim comes while another one's waits takes that away, and nobody's waits for the period: unless he comes
    alone then, the device's word could mean the other.
    """
    await connection.execute("DELETE FROM pending_claim WHERE device_id = $1 AND expires_at <= now()", token_id)
    row = await connection.fetchrow(
        "INSERT INTO pending_claim AS c (device_id, organization_id, user_id, actor, expires_at)"
        " VALUES ($1, $2, $3, $4, now() + $5)"
        " ON CONFLICT (device_id) DO UPDATE SET organization_id = $2, user_id = $3,"
        f" actor = CASE WHEN {_SAME} THEN c.actor ELSE '{NOBODY}' END,"
        f" expires_at = CASE WHEN {_SAME} THEN c.expires_at ELSE excluded.expires_at END"
        " RETURNING actor, expires_at",
        token_id,
        organization_id,
        user_id,
        actor,
        period,
    )
    assert row is not None  # noqa: S101 - it is made or updated
    expires_at: datetime = row["expires_at"]
    return None if row["actor"] == NOBODY else expires_at


async def awaited(connection: Connection, device_id: UUID) -> Awaited | None:
    """What a device's word is good for; None when the device is gone."""
    row = await connection.fetchrow(
        "SELECT p.two_sided_claim, c.device_id IS NOT NULL, c.user_id"
        " FROM device d JOIN device_profile p ON p.id = d.profile_id"
        f" LEFT JOIN pending_claim c ON c.device_id = d.id AND c.expires_at > now() AND c.actor <> '{NOBODY}'"
        " WHERE d.id = $1",
        device_id,
    )
    return None if row is None else Awaited(*row)


async def confirm(connection: Connection, device_id: UUID, user_id: UUID | None) -> Waiting | None:
    """Have the claim come true that waits for this device's word, for that user, inside a transaction.

    None when there is none, any more.
    """
    # By itself, as a statement that has to wait for the token would see the claims as they were before.
    await connection.execute("SELECT FROM static_token WHERE id = $1 FOR UPDATE", device_id)
    row = await connection.fetchrow(
        "UPDATE static_token t SET status = 'CLAIMED', claimed_at = now(), revision = t.revision + 1"
        " FROM pending_claim c JOIN organization o ON o.id = c.organization_id"
        " WHERE t.id = $1 AND t.status = 'UNCLAIMED' AND c.device_id = t.id AND c.expires_at > now()"
        f" AND c.actor <> '{NOBODY}'"
        " AND c.user_id IS NOT DISTINCT FROM $2 AND t.organization_id = ANY(o.path)"
        " RETURNING t.id, t.organization_id, t.id_digest, c.organization_id, c.user_id, c.actor",
        device_id,
        user_id,
    )
    return None if row is None else Waiting(Claimable(row[0], row[1], row[2], two_sided=True), *row[3:])


async def pending(connection: Connection, device_id: UUID, above: UUID, actor: str) -> datetime | None:
    """Until when somebody's claim waits for its device's word, within his tree; None when none of his does."""
    expires_at: datetime | None = await connection.fetchval(
        "SELECT c.expires_at FROM pending_claim c JOIN organization o ON o.id = c.organization_id"
        " WHERE c.device_id = $1 AND c.expires_at > now() AND c.actor = $3 AND o.path @> ARRAY[$2::uuid]",
        device_id,
        above,
        actor,
    )
    return expires_at


async def candidates(connection: Connection, organization_id: UUID, reference: str) -> list[Candidate]:
    """Devices of this name or id that nobody has, of an organization or those above it, the nearest maker's first.

    Not those that have to say yes to whoever scans their code.
    """
    rows = await connection.fetch(
        "SELECT d.id, t.id IS NOT NULL, c.secret_digest, a.value"
        " FROM organization o CROSS JOIN LATERAL unnest(o.path) WITH ORDINALITY AS m(id, depth)"
        " JOIN device d ON d.organization_id = m.id AND (d.name = $2 OR d.id = $3)"
        " JOIN device_profile p ON p.id = d.profile_id AND NOT p.two_sided_claim"
        " LEFT JOIN static_token t ON t.id = d.id"
        " LEFT JOIN claim c ON c.device_id = d.id AND c.expires_at > now()"
        f" LEFT JOIN attribute a ON a.device_id = d.id AND a.scope = '{Scope.SERVER}' AND a.key = '{CLAIMING_DATA}'"
        " WHERE o.id = $1 AND d.holder_id IS NULL AND d.owner_id IS NULL AND t.status IS DISTINCT FROM 'CLAIMED'"
        " ORDER BY m.depth DESC, d.id",
        organization_id,
        reference,
        devices.id_in(reference),
    )
    return [Candidate(*row) for row in rows]


async def consume(connection: Connection, candidate: Candidate) -> bool:
    """Take away what a device may be claimed by, as it was found; False when it was used, or another came, since."""
    if candidate.secret_digest is not None:
        status = await connection.execute(
            "DELETE FROM claim WHERE device_id = $1 AND secret_digest = $2 AND expires_at > now()",
            candidate.id,
            candidate.secret_digest,
        )
        return status == "DELETE 1"
    status = await connection.execute(
        f"DELETE FROM attribute WHERE device_id = $1 AND scope = '{Scope.SERVER}' AND key = '{CLAIMING_DATA}'"
        " AND value = $2",
        candidate.id,
        candidate.claiming_data,
    )
    return status == "DELETE 1"


async def spoil(connection: Connection, candidates_: Sequence[Candidate]) -> None:
    """Devices that were claimed with another secret than theirs have to say again that they may be."""
    await connection.execute(
        "DELETE FROM claim c USING unnest($1::uuid[], $2::bytea[]) AS w(device_id, secret_digest)"
        " WHERE c.device_id = w.device_id AND c.secret_digest = w.secret_digest",
        [each.id for each in candidates_],
        [each.secret_digest for each in candidates_],
    )


_HOLDING = """
SELECT t.status, d.id IS NOT NULL, m.id, m.path, h.id, h.path, d.owner_id, d.revision
FROM (SELECT $1::uuid AS id) AS w
LEFT JOIN static_token t ON t.id = w.id
LEFT JOIN device d ON d.id = w.id
JOIN organization m ON m.id = coalesce(d.organization_id, t.organization_id)
JOIN organization h ON h.id = coalesce(d.holder_id, m.id)
"""


async def hold(connection: Connection, id_: UUID) -> Holding | None:
    """A static token and the device of its id, held until the transaction ends; None when there is neither."""
    await connection.execute("SELECT FROM static_token WHERE id = $1 FOR UPDATE", id_)
    await connection.execute("SELECT FROM device WHERE id = $1 FOR UPDATE", id_)  # whoever writes of it has done so
    row = await connection.fetchrow(_HOLDING, id_)
    if row is None:
        return None
    status, has_device, maker_id, maker_path, holder_id, holder_path, *device = row
    return Holding(id_, status, has_device, maker_id, tuple(maker_path), holder_id, tuple(holder_path), *device)


async def give(connection: Connection, device_id: UUID, organization_id: UUID, user_id: UUID | None) -> None:
    """Have an organization, and a user, have a device; what it might be claimed by is good no more."""
    await wifi_sessions.leave(connection, device_id)
    await connection.execute(
        "UPDATE static_token SET status = 'CLAIMED', claimed_at = now(), revision = revision + 1"
        " WHERE id = $1 AND status = 'UNCLAIMED'",
        device_id,
    )
    await connection.execute(
        "UPDATE device SET holder_id = nullif($2, organization_id), owner_id = $3, revision = revision + 1"
        " WHERE id = $1",
        device_id,
        organization_id,
        user_id,
    )
    await connection.execute("DELETE FROM claim WHERE device_id = $1", device_id)
    await connection.execute("DELETE FROM pending_claim WHERE device_id = $1", device_id)
    await connection.execute(
        f"DELETE FROM attribute WHERE device_id = $1 AND scope = '{Scope.SERVER}' AND key = '{CLAIMING_DATA}'",
        device_id,
    )


_CUT = """
UPDATE credentials c SET created_at = c.created_at + (now() - newest.created_at)  -- which of them is older stays so
FROM (SELECT max(created_at) AS created_at FROM credentials WHERE device_id = $1) AS newest
WHERE c.device_id = $1
"""

_METADATA = f"""
INSERT INTO attribute (device_id, scope, key, value)
SELECT t.id, '{Scope.SERVER}', '{PROVISION_STATE}', '"{PROVISIONED}"'::jsonb FROM static_token t WHERE t.id = $1
UNION ALL
SELECT t.id, '{Scope.SERVER}', '{METADATA}' || m.key, m.value
FROM static_token t CROSS JOIN LATERAL jsonb_each(t.metadata) AS m WHERE t.id = $1
"""


async def release(connection: Connection, holding: Holding) -> None:
    """Give what is held back to its maker, unclaimed, without anything of who had it, and cut its sessions.

    The device may come back with the credentials that it has.
    """
    id_ = holding.id
    await connection.execute(
        "UPDATE static_token SET status = 'UNCLAIMED', claimed_at = NULL, revision = revision + 1 WHERE id = $1", id_
    )
    await connection.execute("DELETE FROM pending_claim WHERE device_id = $1", id_)
    if not holding.has_device:
        return
    await wifi_sessions.leave(connection, id_)
    await connection.execute(
        "UPDATE device SET holder_id = NULL, owner_id = NULL, revision = revision + 1 WHERE id = $1",
        id_,
    )
    await connection.execute(_CUT, id_)
    await wipe(connection, holding)


async def wipe(connection: Connection, holding: Holding) -> None:
    """Forget what whoever had a device left on it.

    Of one without a static token the maker's server attributes stay, as nobody below may write those; of one with a
    token, what the token has is put back.
    """
    await connection.execute(
        "DELETE FROM attribute WHERE device_id = $1"
        f" AND ($2::boolean OR scope <> '{Scope.SERVER}' OR starts_with(key, '{METADATA}') OR key = '{CLAIMING_DATA}')",
        holding.id,
        holding.status is not None,
    )
    await connection.execute(_METADATA, holding.id)
    await data.delete(connection, holding.id)


async def is_below(connection: Connection, organization_id: UUID, above: UUID) -> bool:
    """Whether an organization is another one or below it."""
    below: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM organization WHERE id = $1 AND path @> ARRAY[$2::uuid])", organization_id, above
    )
    return below


async def has_device(connection: Connection, id_: UUID) -> bool:
    """Whether the device of a static token is there yet."""
    there: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM device WHERE id = $1)", id_)
    return there


async def delete(connection: Connection, id_: UUID) -> None:
    """Remove a static token that is held, and the device that came of it."""
    await devices.delete(connection, id_)
    await connection.execute("DELETE FROM static_token WHERE id = $1", id_)
    await network_devices.leave(connection, id_)


async def owner(connection: Connection, organization_id: UUID, reference: UUID | str) -> Owner | None:
    """A user of an organization or one below it, by id or e-mail, who cannot be deleted until the transaction ends."""
    row = await connection.fetchrow(
        'SELECT u.id, u.organization_id, u.activated_at IS NOT NULL FROM "user" u'
        " JOIN organization o ON o.id = u.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid] AND (u.id = $2 OR lower(u.email) = lower($3)) FOR KEY SHARE OF u",
        organization_id,
        reference if isinstance(reference, UUID) else devices.id_in(reference),
        reference if isinstance(reference, str) else None,
    )
    return None if row is None else Owner(*row)


async def keep_user(connection: Connection, user_id: UUID) -> bool:
    """Have a user not be deleted until the transaction ends; False when he is gone already."""
    return await connection.fetchval('SELECT true FROM "user" WHERE id = $1 FOR KEY SHARE', user_id) is not None
