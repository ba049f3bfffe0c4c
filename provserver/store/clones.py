"""The SQL of what speaks for clones: signs, and sessions that take over from each other; counted over all processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from provserver.core.clones import Place, remembered
from provserver.core.events import EventType
from provserver.store import outbox
from provserver.store.database import Connection


class Sighting(NamedTuple):
    """A sign of a device. certain: else it is one only if its device was made from another address."""

    device_id: UUID
    sign: str
    address: str
    certain: bool


class Watched(NamedTuple):
    """Where a device's sessions were that took over from each other. policy: its profile's."""

    device_id: UUID
    places: list[Place]
    policy: str


@dataclass(frozen=True, slots=True)
class SignRow:
    """How often a sign was seen, since when, and when last."""

    sign: str
    count: int
    first_at: datetime
    last_at: datetime


# Of a device that provisioning made, the attempt has its id. Devices in order: two that see the same do not wait
# crosswise. An event is written when the last one of this sign is a minute old.
_NOTE = f"""
WITH seen AS (
    SELECT s.device_id, d.organization_id, s.sign, count(*) AS n
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::boolean[]) AS s(device_id, sign, address, certain)
    JOIN device d ON d.id = s.device_id JOIN device_profile p ON p.id = d.profile_id AND p.clone_policy <> 'ignore'
    LEFT JOIN attempt a ON a.id = s.device_id
    WHERE s.certain OR a.address <> s.address
    GROUP BY 1, 2, 3 ORDER BY 1, 3
), noted AS (
    INSERT INTO clone_sign AS c (device_id, organization_id, kind, count)
    SELECT device_id, organization_id, sign, n FROM seen
    ON CONFLICT (device_id, kind) DO UPDATE SET count = c.count + excluded.count, last_at = now(),
        told_at = CASE WHEN c.told_at < now() - interval '1 minute' THEN now() ELSE c.told_at END
    RETURNING device_id, kind, count, told_at
)
INSERT INTO outbox (type, device_id, organization_id, payload, created_at)
SELECT '{EventType.CLONE_SUSPECTED}', d.id, coalesce(d.holder_id, d.organization_id),
    {outbox.MEMBERS} || jsonb_build_object('sign', n.kind, 'count', n.count), clock_timestamp()
FROM noted n JOIN device d ON d.id = n.device_id WHERE n.told_at = now()
"""

_WATCH = """
INSERT INTO clone_watch (device_id, places)
SELECT d.id, '[]' FROM unnest($1::uuid[]) AS t(id)
JOIN device d ON d.id = t.id JOIN device_profile p ON p.id = d.profile_id AND p.clone_policy <> 'ignore'
ORDER BY d.id ON CONFLICT DO NOTHING
"""

_WATCHED = """
SELECT w.device_id, w.places, p.clone_policy FROM clone_watch w
JOIN device d ON d.id = w.device_id JOIN device_profile p ON p.id = d.profile_id AND p.clone_policy <> 'ignore'
WHERE w.device_id = ANY($1::uuid[]) ORDER BY w.device_id FOR UPDATE OF w
"""


async def note(connection: Connection, sightings: Sequence[Sighting]) -> None:
    """Count signs, and tell of each at most once a minute."""
    await connection.execute(_NOTE, *zip(*sightings, strict=True))


async def watch(connection: Connection, seen: Mapping[UUID, Sequence[Place]]) -> list[Watched]:
    """Remember, inside a transaction, where devices were seen; returns what is known of each."""
    await connection.execute(_WATCH, list(seen))
    found = []
    for device_id, known, policy in await connection.fetch(_WATCHED, list(seen)):
        places = remembered([*(Place(*each) for each in known), *seen[device_id]])
        found.append(Watched(device_id, places, policy))
    await connection.executemany(
        "UPDATE clone_watch SET places = $2 WHERE device_id = $1", [(each.device_id, each.places) for each in found]
    )
    return found


async def signs(connection: Connection, device_id: UUID) -> list[SignRow]:
    """What speaks for a device being there twice."""
    rows = await connection.fetch(
        "SELECT kind, count, first_at, last_at FROM clone_sign WHERE device_id = $1 ORDER BY kind", device_id
    )
    return [SignRow(*row) for row in rows]


async def forget(connection: Connection, device_id: UUID) -> None:
    """Begin anew with a device."""
    await connection.execute("DELETE FROM clone_sign WHERE device_id = $1", device_id)
    await connection.execute("DELETE FROM clone_watch WHERE device_id = $1", device_id)
