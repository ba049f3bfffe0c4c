"""The SQL of webhooks, and of what operators see and do of their deliveries; `deliveries.py` has the deliverer's."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from provserver.core.webhook import Delivery, DeliveryState, Webhook
from provserver.store.database import Connection

_WEBHOOK = """w.id, w.organization_id, w.url, w.types, w.enabled, w.failing_since, w.error, w.created_by,
    w.created_at, w.revision"""

_DELIVERY = """d.event_id, e.type, d.device_id, d.state, d.tries, d.status, d.error, d.queued_at, d.tried_at,
    d.not_before"""

_COUNTED = 10_000


class Counts(NamedTuple):
    """How many events wait for a webhook, and how many are dead; 10,000 stands for that many or more."""

    waiting: int
    dead: int


class Sent(NamedTuple):
    """A delivery with what its event says. payload: JSON."""

    delivery: Delivery
    created_at: datetime
    payload: str


async def insert(
    connection: Connection,
    id_: UUID,
    organization_id: UUID,
    url: str,
    sealed: bytes,
    types: Sequence[str],
    created_by: str,
) -> Webhook:
    """Add a webhook."""
    row = await connection.fetchrow(
        "INSERT INTO webhook AS w (id, organization_id, url, sealed, types, created_by) VALUES ($1, $2, $3, $4, $5, $6)"
        f" RETURNING {_WEBHOOK}",
        id_,
        organization_id,
        url,
        sealed,
        types,
        created_by,
    )
    assert row is not None  # noqa: S101 - RETURNING
    return Webhook(*row)


async def count(connection: Connection, organization_id: UUID) -> int:
    """How many an organization has."""
    number: int = await connection.fetchval("SELECT count(*) FROM webhook WHERE organization_id = $1", organization_id)
    return number


async def list_(
    connection: Connection, above: UUID, *, after: UUID | None, limit: int, organization_id: UUID | None = None
) -> list[Webhook]:
    """Those of an organization and all below it, in order of ids. organization_id: only this one's."""
    rows = await connection.fetch(
        f"SELECT {_WEBHOOK} FROM webhook w JOIN organization o ON o.id = w.organization_id"
        " WHERE o.path @> ARRAY[$1::uuid] AND ($2::uuid IS NULL OR w.id > $2)"
        " AND ($3::uuid IS NULL OR w.organization_id = $3) ORDER BY w.id LIMIT $4",
        above,
        after,
        organization_id,
        limit,
    )
    return [Webhook(*row) for row in rows]


async def find(connection: Connection, above: UUID, id_: UUID, *, lock: bool = False) -> Webhook | None:
    """One of an organization or those below it; lock: nobody else can change it until the transaction ends."""
    row = await connection.fetchrow(
        f"SELECT {_WEBHOOK} FROM webhook w JOIN organization o ON o.id = w.organization_id"
        " WHERE w.id = $2 AND o.path @> ARRAY[$1::uuid]" + (" FOR NO KEY UPDATE OF w" if lock else ""),
        above,
        id_,
    )
    return None if row is None else Webhook(*row)


async def counts(connection: Connection, id_: UUID) -> Counts:
    """How many of its events wait or are dead."""
    numbers = [
        await connection.fetchval(
            "SELECT count(*) FROM (SELECT FROM webhook_delivery"
            f" WHERE webhook_id = $1 AND state = '{state}' LIMIT {_COUNTED}) AS first",
            id_,
        )
        for state in (DeliveryState.WAITING, DeliveryState.DEAD)
    ]
    return Counts(*numbers)


async def sealed(connection: Connection, id_: UUID) -> bytes | None:
    """Its sealed secret."""
    found: bytes | None = await connection.fetchval("SELECT sealed FROM webhook WHERE id = $1", id_)
    return found


async def update(connection: Connection, id_: UUID, changes: Mapping[str, object]) -> Webhook:
    """Change one that is there, by its columns; it is tried at once."""
    names = ("url", "types", "enabled")
    row = await connection.fetchrow(
        "UPDATE webhook w SET url = coalesce($2, url), types = coalesce($3, types), enabled = coalesce($4, enabled),"
        f" failing_since = NULL, error = NULL, revision = revision + 1 WHERE id = $1 RETURNING {_WEBHOOK}",
        id_,
        *(changes.get(name) for name in names),
    )
    assert row is not None  # noqa: S101 - it is held
    return Webhook(*row)


async def disable_all(connection: Connection) -> list[Webhook]:
    """Disable those that are enabled; returns them."""
    rows = await connection.fetch(
        f"UPDATE webhook w SET enabled = false, revision = revision + 1 WHERE enabled RETURNING {_WEBHOOK}"
    )
    return [Webhook(*row) for row in rows]


async def delete(connection: Connection, id_: UUID) -> None:
    """Remove one, with its deliveries."""
    await connection.execute("DELETE FROM webhook WHERE id = $1", id_)


async def deliveries(
    connection: Connection, id_: UUID, *, before: UUID | None, limit: int, state: str | None = None
) -> list[Delivery]:
    """Its deliveries, the newest event first, from before one on; of one state, or all."""
    # The state's name in the statement has Postgres know the index of those that wait, or are dead.
    of_state = "" if state is None else f" AND d.state = '{DeliveryState(state)}'"
    rows = await connection.fetch(
        f"SELECT {_DELIVERY} FROM webhook_delivery d JOIN event e ON e.id = d.event_id"
        f" WHERE d.webhook_id = $1 AND ($2::uuid IS NULL OR d.event_id < $2){of_state}"
        " ORDER BY d.event_id DESC LIMIT $3",
        id_,
        before,
        limit,
    )
    return [_delivery(row) for row in rows]


async def delivery(connection: Connection, id_: UUID, event_id: UUID) -> Sent | None:
    """One of its deliveries, and what the event's body is made of."""
    row = await connection.fetchrow(
        f"SELECT {_DELIVERY}, e.created_at, e.payload::text AS payload"
        " FROM webhook_delivery d JOIN event e ON e.id = d.event_id WHERE d.webhook_id = $1 AND d.event_id = $2",
        id_,
        event_id,
    )
    if row is None:
        return None
    *members, created_at, payload = row
    return Sent(_delivery(members), created_at, payload)


# Behind all that waits, in the events' order; what waits already is left alone.
_REPLAY = """
INSERT INTO webhook_delivery AS d (event_id, webhook_id, device_id, queued_at)
SELECT e.id, w.id, e.device_id, now()
FROM webhook w JOIN event e ON {wanted}
JOIN organization o ON o.id = e.organization_id AND o.path @> ARRAY[w.organization_id]
WHERE w.id = $1 ORDER BY e.place
ON CONFLICT (event_id, webhook_id) DO UPDATE SET state = 'waiting', number = excluded.number, refusals = 0,
    not_before = NULL, queued_at = excluded.queued_at
WHERE d.state <> 'waiting'
"""

_COUNT = f"""
SELECT count(*) FROM (
    SELECT FROM webhook w JOIN event e ON {{wanted}}
    JOIN organization o ON o.id = e.organization_id AND o.path @> ARRAY[w.organization_id]
    LEFT JOIN webhook_delivery d ON d.event_id = e.id AND d.webhook_id = w.id
    WHERE w.id = $1 AND d.state IS DISTINCT FROM 'waiting' LIMIT {_COUNTED}
) AS first
"""

_LONG = 600.0
"""Seconds that a replay may take."""


async def replay_event(connection: Connection, id_: UUID, event_id: UUID, *, dry: bool = False) -> int:
    """Have an event sent again, or for the first time; returns 1, or 0 where there is none or it waits already.

    dry: only count; 10,000 stands for that many or more. So of the others.
    """
    return await _replay(connection, "e.id = $2", id_, event_id, dry=dry)


async def replay_span(connection: Connection, id_: UUID, since: datetime, until: datetime, *, dry: bool = False) -> int:
    """The same of all events of its types from one time until before another; how many."""
    wanted = "e.created_at >= $2 AND e.created_at < $3 AND (w.types = '{}' OR e.type = ANY(w.types))"
    return await _replay(connection, wanted, id_, since, until, dry=dry)


async def replay_dead(connection: Connection, id_: UUID, *, dry: bool = False) -> int:
    """The same of all that are dead; how many."""
    wanted = "e.id IN (SELECT x.event_id FROM webhook_delivery x WHERE x.webhook_id = w.id AND x.state = 'dead')"
    return await _replay(connection, wanted, id_, dry=dry)


async def _replay(connection: Connection, wanted: str, *arguments: object, dry: bool) -> int:
    if dry:
        count: int = await connection.fetchval(_COUNT.format(wanted=wanted), *arguments)
        return count
    status = await connection.execute(_REPLAY.format(wanted=wanted), *arguments, timeout=_LONG)
    return int(status.split()[-1])


def _delivery(row: Iterable[Any]) -> Delivery:
    id_, type_, device_id, state, *rest = row
    return Delivery(id_, type_, device_id, DeliveryState(state), *rest)
