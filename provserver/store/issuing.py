"""The SQL of the CAs that profiles issue their devices' certificates with."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from provserver.store.database import Connection


@dataclass(frozen=True, slots=True)
class IssuerRow:
    """A profile's CA. certificates: DER, its own first. key_sealed: for the profile."""

    certificates: tuple[bytes, ...]
    key_sealed: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """A profile's revision, and its CA if it has one."""

    profile_revision: int
    authority: IssuerRow | None


async def find(connection: Connection, profile_ids: Iterable[UUID]) -> dict[UUID, Found]:
    """Those of these profiles that exist, with their CAs."""
    rows = await connection.fetch(
        "SELECT p.id, p.revision, c.certificates, c.key_sealed FROM device_profile p"
        " LEFT JOIN issuing_ca c ON c.profile_id = p.id WHERE p.id = ANY($1::uuid[])",
        list(profile_ids),
    )
    return {
        row["id"]: Found(
            row["revision"],
            None if row["certificates"] is None else IssuerRow(tuple(row["certificates"]), row["key_sealed"]),
        )
        for row in rows
    }


async def put(connection: Connection, profile_id: UUID, row: IssuerRow) -> None:
    """Have a profile issue with this CA from now on."""
    await connection.execute(
        "INSERT INTO issuing_ca (profile_id, certificates, key_sealed) VALUES ($1, $2, $3)"
        " ON CONFLICT (profile_id) DO UPDATE SET certificates = excluded.certificates,"
        " key_sealed = excluded.key_sealed, created_at = now()",
        profile_id,
        list(row.certificates),
        row.key_sealed,
    )


async def is_of(connection: Connection, key: str, template_id: str) -> bool:
    """Whether a provision key is of the profile of a template id."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM provision_key k JOIN device_profile p ON p.id = k.profile_id"
        " WHERE k.key = $1 AND p.template_id = $2)",
        key,
        template_id,
    )
    return found


async def template_of(connection: Connection, profile_id: UUID) -> str | None:
    """A profile's template id."""
    found: str | None = await connection.fetchval("SELECT template_id FROM device_profile WHERE id = $1", profile_id)
    return found


async def certificates(connection: Connection, template_id: str | None) -> list[tuple[bytes, ...]]:
    """The CAs' certificates, the own first, of the profile of a template id, or of all profiles: of two at most."""
    rows = await connection.fetch(
        "SELECT c.certificates FROM issuing_ca c JOIN device_profile p ON p.id = c.profile_id"
        " WHERE $1::text IS NULL OR p.template_id = $1 ORDER BY c.profile_id LIMIT 2",
        template_id,
    )
    return [tuple(row["certificates"]) for row in rows]
