"""The SQL of organizations, device profiles, provision keys and trusted CAs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from provserver.core.model import (
    CertificateAuthority,
    ChainRules,
    ClonePolicy,
    Datastream,
    DeviceProfile,
    KeyBudget,
    MetadataField,
    NameSource,
    ProvisionKey,
    ProvisionStrategy,
    ReprovisionPolicy,
)
from provserver.store.database import Connection

_PROFILE = """p.id, p.organization_id, p.name, p.template_id, p.strategy, p.reprovision_policy, p.revision,
    p.created_at, p.metadata_fields, p.datastreams, p.name_from, p.name_pattern, p.allow_create, p.two_sided_claim,
    p.clone_policy, p.approval, p.credentials_lifetime"""

_BUDGET = "k.not_before, k.not_after, k.networks, k.max_uses, k.per_minute"

RowLock = Literal["KEY SHARE", "SHARE", "NO KEY UPDATE", "UPDATE"]
"""To keep a profile from being deleted, from being changed, to change it, to delete it."""


class Unproven(NamedTuple):
    """A provision key that exists, and came without its secret."""

    profile_id: UUID
    secret_digest: bytes


class KeyRow(NamedTuple):
    """A provision key as a profile has it. uses: counted while its budget bounds them; used_at: the last of those."""

    key: str
    secret_sealed: bytes
    budget: KeyBudget | None
    created_at: datetime
    uses: int = 0
    used_at: datetime | None = None


async def root_organization(connection: Connection, id_: UUID, name: str) -> UUID:
    """The manufacturer at the top of the tree; made with this id and name when there is none."""
    await connection.execute(
        "INSERT INTO organization (id, name, path) SELECT $1::uuid, $2, ARRAY[$1::uuid]"
        " WHERE NOT EXISTS (SELECT FROM organization WHERE parent_id IS NULL) ON CONFLICT DO NOTHING",
        id_,
        name,
    )
    found: UUID = await connection.fetchval(
        "SELECT id FROM organization WHERE parent_id IS NULL ORDER BY number LIMIT 1"
    )
    return found


async def insert(connection: Connection, profile: DeviceProfile) -> None:
    """Add a profile. Raises asyncpg.UniqueViolationError when its name is taken."""
    await connection.execute(
        "INSERT INTO device_profile (id, organization_id, name, template_id, strategy, reprovision_policy,"
        " metadata_fields, datastreams, name_from, name_pattern, allow_create, two_sided_claim, clone_policy, approval,"
        " credentials_lifetime) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        profile.id,
        profile.organization_id,
        profile.name,
        profile.template_id,
        profile.strategy,
        profile.reprovision_policy,
        profile.metadata_fields,
        profile.datastreams,
        profile.chain.name_from,
        profile.chain.name_pattern,
        profile.chain.allow_create,
        profile.two_sided_claim,
        profile.clone_policy,
        profile.approval,
        profile.credentials_lifetime,
    )


async def update(connection: Connection, profile: DeviceProfile) -> None:
    """Write a profile's changeable columns. Raises asyncpg.UniqueViolationError when its name is taken."""
    await connection.execute(
        "UPDATE device_profile SET name = $2, strategy = $3, reprovision_policy = $4, metadata_fields = $5,"
        " datastreams = $6, name_from = $7, name_pattern = $8, allow_create = $9, two_sided_claim = $10,"
        " clone_policy = $11, approval = $12, credentials_lifetime = $13, revision = revision + 1 WHERE id = $1",
        profile.id,
        profile.name,
        profile.strategy,
        profile.reprovision_policy,
        profile.metadata_fields,
        profile.datastreams,
        profile.chain.name_from,
        profile.chain.name_pattern,
        profile.chain.allow_create,
        profile.two_sided_claim,
        profile.clone_policy,
        profile.approval,
        profile.credentials_lifetime,
    )


async def delete(connection: Connection, id_: UUID) -> None:
    """Remove a profile and its keys."""
    await connection.execute("DELETE FROM device_profile WHERE id = $1", id_)


async def list_(connection: Connection, organization_id: UUID) -> list[DeviceProfile]:
    """An organization's profiles by name."""
    rows = await connection.fetch(
        f"SELECT {_PROFILE} FROM device_profile p WHERE p.organization_id = $1 ORDER BY p.name",
        organization_id,
    )
    return [_profile(row) for row in rows]


async def find(
    connection: Connection, organization_id: UUID, reference: str, *, lock: RowLock | None = None, below: bool = False
) -> DeviceProfile | None:
    """A profile by its name, template id or id; lock: taken on its row until the transaction ends.

    below: by template id or id those of the organizations below it, too.
    """
    own = "p.organization_id = $1"
    seen = "p.organization_id IN (SELECT o.id FROM organization o WHERE o.path @> ARRAY[$1])" if below else own
    row = await connection.fetchrow(
        f"SELECT {_PROFILE} FROM device_profile p"
        f" WHERE {own} AND p.name = $2 OR (p.template_id = $2 OR p.id::text = $2) AND {seen}"
        f" ORDER BY {own} AND p.name = $2 DESC LIMIT 1" + (f" FOR {lock} OF p" if lock else ""),
        organization_id,
        reference,
    )
    return None if row is None else _profile(row)


async def get(connection: Connection, id_: UUID) -> DeviceProfile | None:
    """A profile by its id."""
    row = await connection.fetchrow(f"SELECT {_PROFILE} FROM device_profile p WHERE p.id = $1", id_)
    return None if row is None else _profile(row)


async def bar_devices(connection: Connection) -> None:
    """Wait for the devices that are being made, and have no further one made until the transaction ends.

    Raises asyncpg.LockNotAvailableError after a short time, as all who make devices wait behind it.
    """
    await connection.execute("SET LOCAL lock_timeout = '500ms'")
    await connection.execute("LOCK TABLE device IN SHARE MODE")


async def count_devices(connection: Connection, profile_id: UUID) -> int:
    """How many devices a profile has."""
    count: int = await connection.fetchval("SELECT count(*) FROM device WHERE profile_id = $1", profile_id)
    return count


async def count_all_devices(connection: Connection) -> dict[UUID, int]:
    """How many devices each profile has that has any; as long as reading all of them takes."""
    rows = await connection.fetch("SELECT profile_id, count(*) FROM device GROUP BY profile_id", timeout=60)
    return {row[0]: row[1] for row in rows}


async def count_static_tokens(connection: Connection, profile_id: UUID) -> int:
    """How many static tokens a profile has."""
    count: int = await connection.fetchval("SELECT count(*) FROM static_token WHERE profile_id = $1", profile_id)
    return count


async def reserve_values(connection: Connection, profile_id: UUID, field: str) -> None:
    """Have the values that static tokens have of a metadata field taken.

    Raises asyncpg.UniqueViolationError when two have the same.
    """
    await connection.execute(
        "INSERT INTO static_token_value (profile_id, field, value, token_id)"
        " SELECT profile_id, $2::text, metadata ->> $2::text, id FROM static_token"
        " WHERE profile_id = $1 AND metadata ->> $2::text <> ''",
        profile_id,
        field,
    )


async def release_values(connection: Connection, profile_id: UUID, fields: Iterable[str]) -> None:
    """Have the values of these metadata fields free for all static tokens."""
    await connection.execute(
        "DELETE FROM static_token_value WHERE profile_id = $1 AND field = ANY($2::text[])", profile_id, list(fields)
    )


async def insert_key(
    connection: Connection,
    profile_id: UUID,
    key: str,
    secret_digest: bytes,
    secret_sealed: bytes,
    budget: KeyBudget | None = None,
) -> None:
    """Add a provision key. Raises asyncpg.UniqueViolationError when it is in use."""
    bounds = budget or KeyBudget()
    await connection.execute(
        "INSERT INTO provision_key (key, profile_id, secret_digest, secret_sealed, not_before, not_after, networks,"
        " max_uses, per_minute) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        key,
        profile_id,
        secret_digest,
        secret_sealed,
        bounds.not_before,
        bounds.not_after,
        bounds.networks or None,
        bounds.max_uses,
        bounds.per_minute,
    )


async def set_budget(connection: Connection, profile_id: UUID, key: str, budget: KeyBudget) -> bool:
    """Bound a key anew; False when the profile has none of that name."""
    status = await connection.execute(
        "UPDATE provision_key SET not_before = $3, not_after = $4, networks = $5, max_uses = $6, per_minute = $7"
        " WHERE profile_id = $1 AND key = $2",
        profile_id,
        key,
        budget.not_before,
        budget.not_after,
        budget.networks or None,
        budget.max_uses,
        budget.per_minute,
    )
    return status != "UPDATE 0"


async def delete_key(connection: Connection, profile_id: UUID, key: str) -> bool:
    """Remove a key; False when the profile has none of that name."""
    status = await connection.execute("DELETE FROM provision_key WHERE profile_id = $1 AND key = $2", profile_id, key)
    return status != "DELETE 0"


async def touch(connection: Connection, profile_id: UUID) -> None:
    """Give a profile whose keys have changed a new revision."""
    await connection.execute("UPDATE device_profile SET revision = revision + 1 WHERE id = $1", profile_id)


async def keys(connection: Connection, profile_id: UUID) -> list[KeyRow]:
    """A profile's keys, oldest first."""
    rows = await connection.fetch(
        f"SELECT k.key, k.secret_sealed, k.created_at, k.uses, k.used_at, {_BUDGET} FROM provision_key k"
        " WHERE k.profile_id = $1 ORDER BY k.created_at, k.key",
        profile_id,
    )
    return [
        KeyRow(row["key"], row["secret_sealed"], _budget(row), row["created_at"], row["uses"], row["used_at"])
        for row in rows
    ]


async def count_keys(connection: Connection, profile_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many provision keys each of these profiles has; those that have none are not there."""
    rows = await connection.fetch(
        "SELECT profile_id, count(*) FROM provision_key WHERE profile_id = ANY($1::uuid[]) GROUP BY profile_id",
        profile_ids,
    )
    return {row[0]: row[1] for row in rows}


async def recognise(connection: Connection, wanted: Sequence[str]) -> dict[str, ProvisionKey]:
    """Those of these provision keys that exist, with their profiles."""
    rows = await connection.fetch(
        f"SELECT k.key, k.secret_digest, {_BUDGET}, {_PROFILE} FROM provision_key k"
        " JOIN device_profile p ON p.id = k.profile_id WHERE k.key = ANY($1::text[])",
        wanted,
    )
    return {row["key"]: _key(row) for row in rows}


async def prove(
    connection: Connection, wanted: Sequence[str], secret_digests: Sequence[bytes]
) -> dict[str, ProvisionKey | Unproven]:
    """Those of these provision keys that exist: with their profiles if their secrets are among these.

    Of one whose secret is not, as much is read and sent as of one that does not exist, lest time tell the two apart.
    """
    rows = await connection.fetch(
        f"SELECT w.key AS wanted, f.profile_id AS owner, f.secret_digest AS known, k.key, k.secret_digest, {_BUDGET},"
        f" {_PROFILE} FROM unnest($1::text[]) AS w(key) LEFT JOIN provision_key f ON f.key = w.key"
        " LEFT JOIN provision_key k ON k.key = CASE WHEN f.secret_digest = ANY($2::bytea[]) THEN f.key END"
        " LEFT JOIN device_profile p ON p.id = k.profile_id",
        wanted,
        secret_digests,
    )
    return {
        row["wanted"]: Unproven(row["owner"], row["known"]) if row["key"] is None else _key(row)
        for row in rows
        if row["owner"] is not None
    }


@dataclass(frozen=True, slots=True)
class AuthorityRow:
    """A CA of a profile, with what it is looked up by."""

    identity: bytes
    subject_digest: bytes
    authority: CertificateAuthority


async def replace_authorities(connection: Connection, profile_id: UUID, rows: Sequence[AuthorityRow]) -> None:
    """Have a profile trust these CAs and no others, inside a transaction.

    Raises asyncpg.UniqueViolationError when another profile trusts one.
    """
    await connection.execute("DELETE FROM certificate_authority WHERE profile_id = $1", profile_id)
    await connection.executemany(
        "INSERT INTO certificate_authority (profile_id, identity, subject_digest, certificate, crl)"
        " VALUES ($1, $2, $3, $4, $5)",
        [(profile_id, row.identity, row.subject_digest, row.authority.certificate, row.authority.crl) for row in rows],
    )


async def authorities(connection: Connection, profile_id: UUID) -> tuple[CertificateAuthority, ...]:
    """The CAs that a profile trusts."""
    rows = await connection.fetch(
        "SELECT certificate, crl FROM certificate_authority WHERE profile_id = $1 ORDER BY identity", profile_id
    )
    return tuple(CertificateAuthority(*row) for row in rows)


async def issuers(connection: Connection, profile_id: UUID) -> list[bytes]:
    """The intermediates, in DER, of chains that a profile has accepted."""
    rows = await connection.fetch("SELECT der FROM chain_issuer WHERE profile_id = $1", profile_id)
    return [row["der"] for row in rows]


async def add_issuers(connection: Connection, profile_id: UUID, found: Mapping[bytes, bytes], limit: int) -> None:
    """Remember intermediates, DER by fingerprint, up to so many of a profile; nothing for a profile that is gone."""
    await connection.execute(
        "INSERT INTO chain_issuer (profile_id, fingerprint, der)"
        " SELECT p.id, f.fingerprint, f.der FROM unnest($2::bytea[], $3::bytea[]) AS f (fingerprint, der),"
        " (SELECT id FROM device_profile WHERE id = $1 FOR KEY SHARE) AS p"
        " LIMIT greatest(0, $4 - (SELECT count(*) FROM chain_issuer WHERE profile_id = $1))"
        " ON CONFLICT DO NOTHING",
        profile_id,
        list(found),
        list(found.values()),
        limit,
    )


async def authority_holder(
    connection: Connection, identities: Sequence[bytes], other_than: UUID, organization_id: UUID
) -> str | None:
    """The name of another profile that trusts one of these CAs, of an organization or one below it."""
    holder: str | None = await connection.fetchval(
        "SELECT p.name FROM certificate_authority a JOIN device_profile p ON p.id = a.profile_id"
        " JOIN organization o ON o.id = p.organization_id"
        " WHERE a.identity = ANY($1::bytea[]) AND p.id <> $2 AND o.path @> ARRAY[$3::uuid] LIMIT 1",
        identities,
        other_than,
        organization_id,
    )
    return holder


async def trusting(connection: Connection, subject_digests: Iterable[bytes]) -> dict[bytes, dict[UUID, int]]:
    """Which profiles, in which revision, trust CAs of these subjects."""
    found: dict[bytes, dict[UUID, int]] = {digest: {} for digest in subject_digests}
    rows = await connection.fetch(
        "SELECT a.subject_digest, p.id, p.revision FROM certificate_authority a"
        " JOIN device_profile p ON p.id = a.profile_id WHERE a.subject_digest = ANY($1::bytea[])",
        list(found),
    )
    for digest, profile_id, revision in rows:
        found[digest][profile_id] = revision
    return found


def _key(row: asyncpg.Record) -> ProvisionKey:
    return ProvisionKey(row["key"], row["secret_digest"], _profile(row), _budget(row))


def _budget(row: asyncpg.Record) -> KeyBudget | None:
    networks = tuple(row["networks"] or ())
    budget = KeyBudget(row["not_before"], row["not_after"], networks, row["max_uses"], row["per_minute"])
    return None if budget == KeyBudget() else budget


def _profile(row: asyncpg.Record) -> DeviceProfile:
    return DeviceProfile(
        id=row["id"],
        organization_id=row["organization_id"],
        name=row["name"],
        template_id=row["template_id"],
        strategy=ProvisionStrategy(row["strategy"]),
        reprovision_policy=ReprovisionPolicy(row["reprovision_policy"]),
        revision=row["revision"],
        created_at=row["created_at"],
        metadata_fields=msgspec.convert(row["metadata_fields"], tuple[MetadataField, ...]),
        datastreams=msgspec.convert(row["datastreams"], tuple[Datastream, ...]),
        chain=ChainRules(NameSource(row["name_from"]), row["name_pattern"], row["allow_create"]),
        two_sided_claim=row["two_sided_claim"],
        clone_policy=ClonePolicy(row["clone_policy"]),
        approval=row["approval"],
        credentials_lifetime=row["credentials_lifetime"],
    )
