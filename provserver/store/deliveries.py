"""The SQL of delivery: events leave the outbox, and wait for each webhook that wants them. Times are the caller's.

On a connection of its own (`lead.py`), which has no codec for JSON.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from provserver.store.lead import Connection

LOCK = 0x6F757462  # "outb": one process at a time delivers


class Due(NamedTuple):
    """An event to send. payload: JSON. refusals: how often it failed while others got through. queued_at: for it."""

    id: UUID
    device_id: UUID | None
    refusals: int
    type: str
    created_at: datetime
    payload: str
    queued_at: datetime


class Target(NamedTuple):
    """A webhook that something waits for. sealed: its secret."""

    id: UUID
    organization_id: UUID
    url: str
    sealed: bytes
    failing_since: datetime | None


class Result(NamedTuple):
    """What became of a try. state: that the event is in now. refused: whether the failure was its own."""

    event_id: UUID
    state: str
    refused: bool
    not_before: datetime | None
    status: int | None
    error: str | None


# Taken away, whoever commits late is found as well. The order is that of the times at which events were written: of one
# device's, as a rule, that of their transactions. Ids of one millisecond are in no order, so all of it are taken
# together, though they be some more. An event that is nobody's is told to the root, as attempts are.
_FAN_OUT = """
WITH last AS (
    SELECT encode(overlay(uuid_send(id) PLACING '\\xffffffffffffffffffff'::bytea FROM 7), 'hex')::uuid AS id
    FROM outbox ORDER BY outbox.id OFFSET $1::integer - 1 LIMIT 1
), taken AS (
    DELETE FROM outbox WHERE id <= coalesce((SELECT id FROM last), 'ffffffff-ffff-ffff-ffff-ffffffffffff') RETURNING *
), placed AS MATERIALIZED (
    SELECT t.id, t.type, t.device_id, t.payload, t.created_at, o.id AS organization_id, o.path
    FROM taken t
    LEFT JOIN device d ON t.organization_id IS NULL AND d.id = t.device_id
    LEFT JOIN device_profile p ON t.organization_id IS NULL AND d.id IS NULL
        AND p.id::text = t.payload ->> 'profileId'
    LEFT JOIN organization known
        ON known.id = coalesce(t.organization_id, d.holder_id, d.organization_id, p.organization_id)
    JOIN organization o ON o.id = coalesce(known.id,
        (SELECT r.id FROM organization r WHERE r.parent_id IS NULL ORDER BY r.number LIMIT 1))
), events AS (
    INSERT INTO event (id, type, device_id, organization_id, payload, created_at)
    SELECT id, type, device_id, organization_id, payload, created_at FROM placed ORDER BY created_at, id
), wanted AS (
    INSERT INTO webhook_delivery (event_id, webhook_id, device_id, queued_at)
    SELECT p.id, w.id, p.device_id, $2 FROM placed p JOIN webhook w ON w.enabled AND w.organization_id = ANY(p.path)
        AND (w.types = '{}' OR p.type = ANY(w.types)) AND w.created_at <= p.created_at
    ORDER BY p.created_at, p.id
    RETURNING webhook_id
)
SELECT (SELECT count(*) FROM taken), ARRAY(SELECT DISTINCT webhook_id FROM wanted)
"""

_DUE = """
SELECT d.event_id, d.device_id, d.refusals, e.type, e.created_at, e.payload::text, d.queued_at
FROM webhook_delivery d JOIN event e ON e.id = d.event_id
WHERE d.webhook_id = $1 AND d.state = 'waiting' AND (d.not_before IS NULL OR d.not_before <= $2)
    AND NOT EXISTS (SELECT FROM webhook_delivery h WHERE h.webhook_id = $1 AND h.device_id = d.device_id
        AND h.state = 'waiting' AND h.not_before > $2 AND h.number < d.number)
ORDER BY d.number LIMIT $3
"""

_SETTLE = """
UPDATE webhook_delivery d SET state = w.state, tries = d.tries + 1, refusals = d.refusals + w.refused::int,
    not_before = w.not_before, status = w.status, error = w.error, tried_at = $2
FROM unnest($3::uuid[], $4::text[], $5::boolean[], $6::timestamptz[], $7::smallint[], $8::text[])
    AS w(event_id, state, refused, not_before, status, error)
WHERE d.webhook_id = $1 AND d.event_id = w.event_id AND d.state = 'waiting'
"""

_WAITING = """
SELECT coalesce(sum(waits.number), 0)::bigint, min(oldest.queued_at)
FROM webhook w
CROSS JOIN LATERAL (SELECT count(*) AS number FROM (
    SELECT FROM webhook_delivery WHERE webhook_id = w.id AND state = 'waiting' LIMIT 10000) AS first) AS waits
LEFT JOIN LATERAL (SELECT queued_at FROM webhook_delivery
    WHERE webhook_id = w.id AND state = 'waiting' ORDER BY number LIMIT 1) AS oldest ON true
WHERE w.enabled
"""


async def wanted(connection: Connection) -> bool:
    """Whether there is a webhook that is told anything."""
    there: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM webhook WHERE enabled)")
    return there


async def fan_out(connection: Connection, limit: int, now: datetime) -> tuple[int, Sequence[UUID]]:
    """Take events out of the outbox: how many there were, and the webhooks that some of them wait for now."""
    row = await connection.fetchrow(_FAN_OUT, limit, now)
    assert row is not None  # noqa: S101 - an aggregate
    return row[0], row[1]


async def targets(
    connection: Connection, now: datetime, but: Collection[UUID], limit: int, busy: Sequence[UUID], of_one: int
) -> list[Target]:
    """Enabled webhooks that something waits for that is not to be held back, but for some.

    busy: the organization of each that is told something just now; no more than of_one of an organization are to be.
    """
    rows = await connection.fetch(
        "SELECT id, organization_id, url, sealed, failing_since FROM ("
        " SELECT w.*, row_number() OVER (PARTITION BY w.organization_id ORDER BY random())"
        "  + cardinality(array_positions($4::uuid[], w.organization_id)) AS place"
        " FROM webhook w WHERE w.enabled AND w.id <> ALL($1::uuid[])"
        " AND EXISTS (SELECT FROM webhook_delivery d WHERE d.webhook_id = w.id AND d.state = 'waiting'"
        " AND (d.not_before IS NULL OR d.not_before <= $2))"
        ") AS waits WHERE place <= $5 ORDER BY random() LIMIT $3",
        list(but),
        now,
        limit,
        list(busy),
        of_one,
    )
    return [Target(*row) for row in rows]


async def due(connection: Connection, webhook_id: UUID, now: datetime, limit: int) -> list[Due]:
    """The oldest events that wait for a webhook, in order; none that comes after one of its device that failed."""
    return [Due(*row) for row in await connection.fetch(_DUE, webhook_id, now, limit)]


async def settle(connection: Connection, webhook_id: UUID, now: datetime, results: Sequence[Result]) -> None:
    """Write down what became of tries."""
    await connection.execute(_SETTLE, webhook_id, now, *zip(*results, strict=True))


async def failing(connection: Connection, webhook_id: UUID, now: datetime, error: str) -> datetime:
    """Say that a webhook cannot be reached, and why; returns since when."""
    since: datetime | None = await connection.fetchval(
        "UPDATE webhook SET failing_since = coalesce(failing_since, $2), error = $3 WHERE id = $1"
        " RETURNING failing_since",
        webhook_id,
        now,
        error,
    )
    return since or now


async def reached(connection: Connection, webhook_id: UUID) -> None:
    """Say that a webhook is reached again: what failed along with it need not wait."""
    await connection.execute("UPDATE webhook SET failing_since = NULL, error = NULL WHERE id = $1", webhook_id)
    await connection.execute(
        "UPDATE webhook_delivery SET not_before = NULL"
        " WHERE webhook_id = $1 AND state = 'waiting' AND not_before IS NOT NULL AND refusals = 0",
        webhook_id,
    )


async def give_up(connection: Connection, webhook_id: UUID, before: datetime, error: str, limit: int) -> int:
    """What has waited since before a time is dead, the oldest first, up to so many; how many."""
    status = await connection.execute(
        "UPDATE webhook_delivery d SET state = 'dead', error = $3 FROM ("
        " SELECT event_id FROM (SELECT event_id, queued_at FROM webhook_delivery"
        "  WHERE webhook_id = $1 AND state = 'waiting' ORDER BY number LIMIT $4) AS first WHERE queued_at < $2"
        ") AS old WHERE d.webhook_id = $1 AND d.event_id = old.event_id AND d.state = 'waiting'",
        webhook_id,
        before,
        error,
        limit,
    )
    return int(status.split()[-1])


_FORGET = (
    """
DELETE FROM outbox WHERE id IN (
    SELECT id FROM (SELECT id, created_at FROM outbox ORDER BY id LIMIT $2) AS first WHERE created_at < $1)
""",
    """
DELETE FROM event WHERE place IN (
    SELECT place FROM (SELECT place, id, created_at FROM event ORDER BY place LIMIT $2) AS first
    WHERE created_at < $1 AND NOT EXISTS (
        SELECT FROM webhook_delivery d JOIN webhook w ON w.id = d.webhook_id
        WHERE d.event_id = first.id AND d.state = 'waiting' AND w.enabled))
""",
)


async def forget(connection: Connection, before: datetime, limit: int) -> int:
    """Remove events of before a time, the oldest first, but those that a webhook still waits for; how many.

    Of each table only the first rows are looked at, as nothing there is indexed by time.
    """
    removed = 0
    for statement in _FORGET:
        status = await connection.execute(statement, before, limit)
        removed += int(status.split()[-1])
    return removed


async def waiting(connection: Connection) -> tuple[int, datetime | None]:
    """How many events wait for webhooks that are enabled, 10,000 of each at most, and since when the oldest does."""
    row = await connection.fetchrow(_WAITING)
    assert row is not None  # noqa: S101 - an aggregate
    return row[0], row[1]
