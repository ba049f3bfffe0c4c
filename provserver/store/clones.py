"""The SQL of what speaks for clones: signs, and sessions that take over from each other; counted over all processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from provserver.core.events import EventType
from provserver.store import outbox
from provserver.store.database import Connection


class Sighting(NamedTuple):
    """A sign of a device. certain: else it is one only if its device was made from another address."""

    device_id: UUID
    sign: str
    address: str
    certain: bool


class TakenOver(NamedTuple):
    """Sessions of a device that ended by newer ones. first, last: their addresses. turns: changes of it between."""

    device_id: UUID
    first: str
    last: str
    take_overs: int
    turns: int


class Watched(NamedTuple):
    """What became of a device's sessions in the window. policy: its profile's."""

    device_id: UUID
    take_overs: int
    turns: int
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
    SELECT s.device_id, s.sign, count(*) AS n
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::boolean[]) AS s(device_id, sign, address, certain)
    JOIN device d ON d.id = s.device_id JOIN device_profile p ON p.id = d.profile_id AND p.clone_policy <> 'ignore'
    LEFT JOIN attempt a ON a.id = s.device_id
    WHERE s.certain OR a.address <> s.address
    GROUP BY 1, 2 ORDER BY 1, 2
), noted AS (
    INSERT INTO clone_sign AS c (device_id, kind, count) SELECT device_id, sign, n FROM seen
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
INSERT INTO clone_watch AS w (device_id, address, take_overs, turns)
SELECT t.device_id, t.last, t.take_overs, t.turns
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::integer[], $5::integer[])
    AS t(device_id, first, last, take_overs, turns)
JOIN device d ON d.id = t.device_id JOIN device_profile p ON p.id = d.profile_id AND p.clone_policy <> 'ignore'
ORDER BY t.device_id
ON CONFLICT (device_id) DO UPDATE SET address = excluded.address,
    since = CASE WHEN w.since < now() - $6::interval THEN now() ELSE w.since END,
    take_overs = CASE WHEN w.since < now() - $6::interval THEN 0 ELSE w.take_overs END + excluded.take_overs,
    turns = CASE WHEN w.since < now() - $6::interval THEN 0
        ELSE w.turns + (w.address <> (SELECT f.first FROM unnest($1::uuid[], $2::text[]) AS f(id, first)
                                      WHERE f.id = w.device_id))::integer END + excluded.turns
RETURNING device_id, take_overs, turns,
    (SELECT p.clone_policy FROM device d JOIN device_profile p ON p.id = d.profile_id WHERE d.id = w.device_id)
"""


async def note(connection: Connection, sightings: Sequence[Sighting]) -> None:
    """Count signs, and tell of each at most once a minute."""
    await connection.execute(_NOTE, *zip(*sightings, strict=True))


async def watch(connection: Connection, taken: Sequence[TakenOver], window: timedelta) -> list[Watched]:
    """Count take-overs, of one device each; returns what they come to."""
    rows = await connection.fetch(_WATCH, *zip(*taken, strict=True), window)
    return [Watched(*row) for row in rows]


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
