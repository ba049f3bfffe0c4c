"""The SQL of onboarding: what a device is to its network, and which jobs about it come first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from provserver.core import datastreams, lorawan, metadata
from provserver.core.attributes import METADATA, Scope
from provserver.store import profiles
from provserver.store.database import Connection

ONBOARD, REMOVE = "network.onboard", "network.remove"
"""Kinds of jobs."""

FIELDS = (*lorawan.FIELDS, lorawan.NETWORK_KEY)
"""Metadata fields that say what a device is to its network."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A device whose profile has an integration. onboarding: whether that onboards. organization_id: the profile's.

    values: of its metadata fields, or their defaults; no empty ones.
    """

    id: UUID
    name: str
    profile_id: UUID
    integration_id: UUID
    organization_id: UUID
    onboarding: bool
    values: Mapping[str, str] = field(repr=False)


_SUBJECT = f"""
SELECT d.id, d.name, d.profile_id, i.id, i.organization_id, i.onboarding, (
    SELECT jsonb_object_agg(substr(a.key, {len(METADATA) + 1}), a.value) FROM attribute a
    WHERE a.device_id = d.id AND a.scope = '{Scope.SERVER}' AND a.key = ANY($2::text[])
)
FROM device d JOIN integration i ON i.profile_id = d.profile_id WHERE d.id = $1
"""


async def subject(connection: Connection, device_id: UUID) -> Subject | None:
    """A device as its network is to have it; None when it is gone, or its profile has no integration."""
    row = await connection.fetchrow(_SUBJECT, device_id, [METADATA + name for name in FIELDS])
    if row is None:
        return None
    id_, name, profile_id, integration_id, organization_id, onboarding, stored = row
    profile = await profiles.get(connection, profile_id)
    fields = () if profile is None else profile.metadata_fields
    values = {each.name: metadata.default(each) for each in fields if each.name in FIELDS}
    values |= {name: datastreams.text(value) for name, value in (stored or {}).items()}
    values = {field_: value for field_, value in values.items() if value}
    return Subject(id_, name, profile_id, integration_id, organization_id, onboarding, values)


_EARLIER = f"""
SELECT EXISTS (
    SELECT FROM job WHERE subject_id = $2 AND id < $1 AND state IN ('waiting', 'running')
        AND kind IN ('{ONBOARD}', '{REMOVE}')
) OR EXISTS (
    SELECT FROM job WHERE kind = '{REMOVE}' AND key = $3 AND id < $1 AND state IN ('waiting', 'running')
)
"""


_CANDIDATES = f"""
SELECT d.id FROM device d WHERE d.profile_id = $1 AND ($3::uuid IS NULL OR d.id > $3)
    AND EXISTS (
        SELECT FROM attribute a
        WHERE a.device_id = d.id AND a.scope = '{Scope.SERVER}' AND a.key = '{METADATA}{lorawan.DEVICE_EUI}'
    )
    AND NOT EXISTS (
        SELECT FROM network_device n WHERE n.device_id = d.id AND n.integration_id = $2 AND n.state <> 'failed'
    )
ORDER BY d.id LIMIT $4
"""


async def candidates(
    connection: Connection, profile_id: UUID, integration_id: UUID, after: UUID | None, limit: int
) -> list[UUID]:
    """Devices of a profile, in order of ids, after one, that have a DevEUI and were never in their network.

    Or failed to get there; who was removed from it, is not meant.
    """
    rows = await connection.fetch(_CANDIDATES, profile_id, integration_id, after, limit)
    return [id_ for (id_,) in rows]


async def is_earlier(connection: Connection, job_id: UUID, device_id: UUID, key: str) -> bool:
    """Whether there is still something to be done for a device that was asked for before this job.

    key: of a removal that has to be over.
    """
    found: bool = await connection.fetchval(_EARLIER, job_id, device_id, key)
    return found


async def is_of_token(connection: Connection, profile_id: UUID, device_id: UUID, values: Mapping[str, str]) -> bool:
    """Whether a static token of a profile, other than the device's own, has a value of a field that is unique."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM static_token_value s JOIN unnest($3::text[], $4::text[]) AS v(field, value)"
        " ON s.field = v.field AND s.value = v.value WHERE s.profile_id = $1 AND s.token_id <> $2)",
        profile_id,
        device_id,
        list(values),
        list(values.values()),
    )
    return found


async def forget_token_metadata(connection: Connection, id_: UUID, names: Sequence[str]) -> None:
    """Have the static token that a device came of, if it did, have no values of metadata fields."""
    if not names:
        return
    await connection.execute("UPDATE static_token SET metadata = metadata - $2::text[] WHERE id = $1", id_, names)
    await connection.execute(
        "DELETE FROM static_token_value WHERE token_id = $1 AND field = ANY($2::text[])", id_, names
    )


async def put_token_metadata(connection: Connection, id_: UUID, values: Mapping[str, str]) -> None:
    """Have the static token that a device came of, if it did, keep values of metadata fields, too.

    Raises asyncpg.UniqueViolationError when another token of the profile has one that must be unique.
    """
    await connection.execute("UPDATE static_token SET metadata = metadata || $2::jsonb WHERE id = $1", id_, values)
    names: Sequence[str] = sorted(values)
    await connection.execute(
        "DELETE FROM static_token_value WHERE token_id = $1 AND field = ANY($2::text[])", id_, names
    )
    await connection.execute(
        "INSERT INTO static_token_value (profile_id, field, value, token_id)"
        " SELECT t.profile_id, f ->> 'name', v.value, t.id"
        " FROM static_token t JOIN device_profile p ON p.id = t.profile_id"
        " CROSS JOIN LATERAL jsonb_array_elements(p.metadata_fields) AS f"
        " JOIN unnest($2::text[], $3::text[]) AS v(name, value) ON v.name = f ->> 'name'"
        " WHERE t.id = $1 AND (f ->> 'unique')::boolean",
        id_,
        names,
        [values[name] for name in names],
    )
