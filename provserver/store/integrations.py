"""The SQL of integrations: the applications of networks that profiles' devices are onboarded into."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from provserver.core.integration import MQTT_ERROR, SETTINGS, ClaimProof, NetworkKind, Settings, Status
from provserver.store.database import Connection
from provserver.store.profiles import RowLock

_INTEGRATION = """i.id, i.organization_id, i.profile_id, i.network, i.application_id, i.settings, i.verified,
    i.onboarding, i.auto_import, i.lorawan_profile_id, i.claim_proof, i.status, i.error, i.checked_at, i.created_by,
    i.created_at, i.updated_at, i.revision,
    (SELECT p.name FROM device_profile p WHERE p.id = i.profile_id) AS profile"""


@dataclass(frozen=True, slots=True)
class Integration:
    """The application of a network that serves a profile. Its API key is asked for by itself: `sealed_key`.

    verified: an API key of it was seen to have all rights that onboarding needs, so the application is this one's and
    no other's. lorawan_profile_id: 8 digits; None where no TR005 codes are read. error: why it is broken. checked_at:
    when the status was last found out.
    """

    id: UUID
    organization_id: UUID
    profile_id: UUID
    profile: str
    network: NetworkKind
    application_id: str
    settings: Settings
    verified: bool
    onboarding: bool
    auto_import: bool
    lorawan_profile_id: str | None
    claim_proof: ClaimProof
    status: Status
    error: str | None
    checked_at: datetime | None
    created_by: str
    created_at: datetime
    updated_at: datetime
    revision: int


async def insert(
    connection: Connection, integration: Integration, host: str, key_sealed: bytes, webhook_sealed: bytes | None = None
) -> Integration:
    """Add one, as it is but for its times.

    Raises asyncpg.UniqueViolationError when the profile has one, or (both are verified) the application.
    """
    row = await connection.fetchrow(
        "INSERT INTO integration AS i (id, organization_id, profile_id, network, host, application_id, settings,"
        " key_sealed, webhook_sealed, verified, onboarding, auto_import, lorawan_profile_id, claim_proof, status,"
        " checked_at, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"
        f" RETURNING {_INTEGRATION}",
        integration.id,
        integration.organization_id,
        integration.profile_id,
        integration.network,
        host,
        integration.application_id,
        integration.settings,
        key_sealed,
        webhook_sealed,
        integration.verified,
        integration.onboarding,
        integration.auto_import,
        integration.lorawan_profile_id,
        integration.claim_proof,
        integration.status,
        integration.checked_at,
        integration.created_by,
    )
    assert row is not None  # noqa: S101 - RETURNING
    return _integration(row)


async def update(connection: Connection, id_: UUID, changes: Mapping[str, object]) -> Integration:
    """Write columns of one, in a transaction that has locked it.

    Raises asyncpg.UniqueViolationError when another has the application that it claims.
    """
    columns = "".join(f", {name} = ${place}" for place, name in enumerate(changes, 2))
    row = await connection.fetchrow(
        "UPDATE integration AS i SET updated_at = now(),"
        f" revision = i.revision + 1{columns} WHERE i.id = $1 RETURNING {_INTEGRATION}",
        id_,
        *changes.values(),
    )
    assert row is not None  # noqa: S101 - it is locked
    return _integration(row)


async def disable_all(connection: Connection) -> list[Integration]:
    """Take their API keys and webhooks from all, and onboard nothing more; returns them.

    What stands for a key is of a version that never is, and so is no old one to a rotation.
    """
    rows = await connection.fetch(
        "UPDATE integration AS i SET key_sealed = '\\xff', webhook_sealed = NULL, onboarding = false,"
        " auto_import = false, status = 'unchecked', error = NULL, updated_at = now(), revision = i.revision + 1"
        f" RETURNING {_INTEGRATION}"
    )
    return [_integration(row) for row in rows]


async def set_status(
    connection: Connection,
    id_: UUID,
    status: Status,
    error: str | None = None,
    *,
    revision: int | None = None,
    verified: bool = False,
) -> None:
    """Note what was found of a connection. error: without secrets. revision: only if it has this one still.

    verified: it claims its application from now on. Raises asyncpg.UniqueViolationError when another has that.
    """
    await connection.execute(
        "UPDATE integration SET status = $2, error = $3, checked_at = now(), verified = verified OR $5"
        " WHERE id = $1 AND ($4::bigint IS NULL OR revision = $4)",
        id_,
        status,
        error,
        revision,
        verified,
    )


async def works(connection: Connection, id_: UUID, revision: int) -> None:
    """Note that its API key has done its work: what was found broken of that is no more."""
    await connection.execute(
        "UPDATE integration SET status = $3, error = NULL, checked_at = now()"
        " WHERE id = $1 AND revision = $2 AND status = $4 AND NOT starts_with(coalesce(error, ''), $5)",
        id_,
        revision,
        Status.CONNECTED,
        Status.BROKEN,
        MQTT_ERROR,
    )


async def delete(connection: Connection, id_: UUID) -> None:
    """Remove one, with what is known of its devices."""
    await connection.execute("DELETE FROM integration WHERE id = $1", id_)


async def list_(
    connection: Connection,
    above: UUID,
    *,
    after: UUID | None,
    limit: int,
    organization_id: UUID | None = None,
    profile: str | None = None,
) -> list[Integration]:
    """Those of an organization and all below it, in order of ids. organization_id: only this one's.

    profile: only that of one of this name, template id or id.
    """
    rows = await connection.fetch(
        f"SELECT {_INTEGRATION} FROM integration i JOIN organization o ON o.id = i.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid] AND ($2::uuid IS NULL OR i.id > $2)"
        " AND ($3::uuid IS NULL OR i.organization_id = $3) AND ($5::text IS NULL OR EXISTS (SELECT"
        " FROM device_profile p WHERE p.id = i.profile_id AND $5 IN (p.name, p.template_id, p.id::text)))"
        " ORDER BY i.id LIMIT $4",
        above,
        after,
        organization_id,
        limit,
        profile,
    )
    return [_integration(row) for row in rows]


async def find(connection: Connection, above: UUID, id_: UUID, *, lock: RowLock | None = None) -> Integration | None:
    """One of an organization or those below it; lock: taken on its row until the transaction ends."""
    row = await connection.fetchrow(
        f"SELECT {_INTEGRATION} FROM integration i JOIN organization o ON o.id = i.organization_id"
        " WHERE i.id = $2 AND o.path @> ARRAY[$1::uuid]" + (f" FOR {lock} OF i" if lock else ""),
        above,
        id_,
    )
    return None if row is None else _integration(row)


async def get(connection: Connection, id_: UUID) -> Integration | None:
    """One by its id, whosever it is."""
    row = await connection.fetchrow(f"SELECT {_INTEGRATION} FROM integration i WHERE i.id = $1", id_)
    return None if row is None else _integration(row)


async def of_profile(connection: Connection, profile_id: UUID) -> Integration | None:
    """The one that serves a profile."""
    row = await connection.fetchrow(f"SELECT {_INTEGRATION} FROM integration i WHERE i.profile_id = $1", profile_id)
    return None if row is None else _integration(row)


async def all_(connection: Connection) -> list[Integration]:
    """All there are, in order of ids."""
    rows = await connection.fetch(f"SELECT {_INTEGRATION} FROM integration i ORDER BY i.id")
    return [_integration(row) for row in rows]


async def sealed_key(connection: Connection, id_: UUID) -> bytes | None:
    """The API key of one, sealed (`services.integrations.opened_key`); None when it is gone."""
    found: bytes | None = await connection.fetchval("SELECT key_sealed FROM integration WHERE id = $1", id_)
    return found


async def sealed_webhook(connection: Connection, id_: UUID) -> bytes | None:
    """The secret that its webhook comes with, sealed (`services.integrations.opened_secret`); None: it has none."""
    found: bytes | None = await connection.fetchval("SELECT webhook_sealed FROM integration WHERE id = $1", id_)
    return found


async def server(connection: Connection, above: UUID, wanted: Integration, host: str) -> str | None:
    """The name of another profile that an application serves, if an organization or one below it has it.

    In the organization of the wanted one, any that names the application; elsewhere, one that has claimed it.
    """
    name: str | None = await connection.fetchval(
        "SELECT p.name FROM integration i JOIN device_profile p ON p.id = i.profile_id"
        " JOIN organization o ON o.id = i.organization_id"
        " WHERE i.network = $2 AND i.host = $3 AND i.application_id = $4 AND i.id <> $5 AND o.path @> ARRAY[$1::uuid]"
        " AND (i.verified OR i.organization_id = $6) ORDER BY i.verified DESC, i.id LIMIT 1",
        above,
        wanted.network,
        host,
        wanted.application_id,
        wanted.id,
        wanted.organization_id,
    )
    return name


def _integration(row: asyncpg.Record) -> Integration:
    network = NetworkKind(row["network"])
    return Integration(
        id=row["id"],
        organization_id=row["organization_id"],
        profile_id=row["profile_id"],
        profile=row["profile"],
        network=network,
        application_id=row["application_id"],
        settings=msgspec.convert(row["settings"], SETTINGS[network]),
        verified=row["verified"],
        onboarding=row["onboarding"],
        auto_import=row["auto_import"],
        lorawan_profile_id=row["lorawan_profile_id"],
        claim_proof=ClaimProof(row["claim_proof"]),
        status=Status(row["status"]),
        error=row["error"],
        checked_at=row["checked_at"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        revision=row["revision"],
    )
