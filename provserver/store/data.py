"""The SQL of what devices send: latest values, history, client attributes, presence and the sink's queue.

A group of messages is one statement, which writes all of it or nothing. Rows are locked in order of device and key,
as every process does, so two never wait for each other crosswise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from uuid import UUID

import msgspec

from provserver.core.attributes import Scope
from provserver.core.telemetry import MAX_KEYS, Value
from provserver.store.database import Connection


@dataclass(slots=True)
class Series:
    """What came of one key of one device: its newest sample, the samples to remember (ts, value), how many came."""

    ts: int
    value: Value
    count: int = 0
    recent: list[tuple[int, Value]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SinkRow:
    """A message for the sink."""

    device_id: UUID
    device_name: str
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """What a group of messages leaves; rows by (device, key)."""

    devices: Sequence[UUID]
    telemetry: Mapping[tuple[UUID, str], Series]
    attributes: Mapping[tuple[UUID, str], Value]
    sink: Sequence[SinkRow]


class Obstacle(Enum):
    """Why nothing of a batch was written."""

    DEVICE_GONE = "a device is gone"
    TOO_MANY_KEYS = "a device would have too many keys"


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch. queued: how many of its sink rows found room."""

    obstacle: Obstacle | None
    queued: int


# $1 devices; $2-$6 telemetry: device, key, ts, value, samples that came; $7-$12 history: device, key, the place in
# $2-$6 of its key (from 1), its place in the ring from the end, ts, value; $13-$15 attributes: device, key, value;
# $16-$19 sink: device, name, kind, body; $20 history limit; $21 online period; $22 sink limit.
# Arrays are in the order of their (device, key); `counts` has the same order, so that no join is needed.
_WRITE = f"""
WITH held AS MATERIALIZED (  -- so that none is deleted meanwhile, which would leave rows of a device that is gone
    SELECT id FROM device WHERE id = ANY($1::uuid[]) ORDER BY id FOR KEY SHARE
), samples AS MATERIALIZED (
    SELECT * FROM unnest($2::uuid[], $3::text[], $4::bigint[], $5::text[]::jsonb[], $6::bigint[])
        AS s(device_id, key, ts, value, samples)
), facts AS MATERIALIZED (
    SELECT * FROM unnest($13::uuid[], $14::text[], $15::text[]::jsonb[]) AS a(device_id, key, value)
), crowded AS MATERIALIZED (
    SELECT FROM (
        SELECT s.device_id, count(*) AS keys FROM samples s
        WHERE NOT EXISTS (SELECT FROM telemetry t WHERE t.device_id = s.device_id AND t.key = s.key)
        GROUP BY s.device_id
    ) AS fresh
    WHERE keys + (SELECT count(*) FROM telemetry t WHERE t.device_id = fresh.device_id) > {MAX_KEYS}
    UNION ALL
    SELECT FROM (
        SELECT f.device_id, count(*) AS keys FROM facts f
        WHERE NOT EXISTS (SELECT FROM attribute a
                          WHERE a.device_id = f.device_id AND a.scope = 'CLIENT' AND a.key = f.key)
        GROUP BY f.device_id
    ) AS fresh
    WHERE keys + (SELECT count(*) FROM attribute a
                  WHERE a.device_id = fresh.device_id AND a.scope = 'CLIENT') > {MAX_KEYS}
), verdict AS MATERIALIZED (
    SELECT CASE WHEN (SELECT count(*) FROM held) < cardinality($1) THEN '{Obstacle.DEVICE_GONE.name}'
                WHEN EXISTS (SELECT FROM crowded) THEN '{Obstacle.TOO_MANY_KEYS.name}' END AS obstacle
), latest AS (
    INSERT INTO telemetry AS t (device_id, key, ts, value, samples)
    SELECT * FROM samples WHERE (SELECT obstacle IS NULL FROM verdict)
    ON CONFLICT (device_id, key) DO UPDATE SET samples = t.samples + excluded.samples,
        ts = greatest(t.ts, excluded.ts), value = CASE WHEN excluded.ts < t.ts THEN t.value ELSE excluded.value END
    RETURNING device_id, key, samples
), counts AS MATERIALIZED (
    SELECT array_agg(samples ORDER BY device_id, key) AS of FROM latest
), remembered AS (
    INSERT INTO telemetry_history AS r (device_id, key, slot, ts, value)
    SELECT h.device_id, h.key, ((SELECT of FROM counts)[h.place] - h.back) % $20::integer, h.ts, h.value
    FROM unnest($7::uuid[], $8::text[], $9::integer[], $10::integer[], $11::bigint[], $12::text[]::jsonb[])
        AS h(device_id, key, place, back, ts, value)
    WHERE (SELECT obstacle IS NULL FROM verdict)
    ON CONFLICT (device_id, key, slot) DO UPDATE SET ts = excluded.ts, value = excluded.value
), published AS (
    INSERT INTO attribute (device_id, scope, key, value)
    SELECT device_id, '{Scope.CLIENT}', key, value FROM facts WHERE (SELECT obstacle IS NULL FROM verdict)
    ON CONFLICT (device_id, scope, key) DO UPDATE SET value = excluded.value, updated_at = now()
), seen AS (  -- not each time for those that send often
    INSERT INTO presence AS p (device_id, online_until, last_seen_at)
    SELECT w.id, now() + $21::interval, now() FROM held w
    WHERE (SELECT obstacle IS NULL FROM verdict) AND NOT EXISTS (
        SELECT FROM presence p WHERE p.device_id = w.id AND p.online_until > now() + $21::interval * 0.75)
    ORDER BY w.id
    ON CONFLICT (device_id) DO UPDATE SET last_seen_at = excluded.last_seen_at,
        online_until = greatest(p.online_until, excluded.online_until)
), queued AS (
    INSERT INTO sink_message (device_id, device_name, kind, body)
    SELECT * FROM unnest($16::uuid[], $17::text[], $18::text[], $19::bytea[])
    WHERE (SELECT obstacle IS NULL FROM verdict)
    LIMIT greatest(0, $22::bigint - coalesce((SELECT max(id) - min(id) + 1 FROM sink_message), 0))
    RETURNING id
)
SELECT obstacle, (SELECT count(*) FROM queued) FROM verdict
"""

_CLAIM = """
INSERT INTO claim AS c (device_id, secret_digest, expires_at)
SELECT id, $2, now() + $3 FROM device WHERE id = $1 FOR KEY SHARE
ON CONFLICT (device_id) DO UPDATE SET secret_digest = excluded.secret_digest, expires_at = excluded.expires_at,
    created_at = now()
WHERE c.expires_at <= now()
"""


async def write(
    connection: Connection, batch: Batch, *, history_limit: int, online_period: timedelta, sink_limit: int
) -> Written:
    """Write a batch, all or nothing. sink_limit: messages that may wait for the sink; past it, rows find no room."""
    telemetry = sorted(batch.telemetry.items())
    history = [
        (*key, place, back, ts, _json(value))
        for place, (key, series) in enumerate(telemetry, 1)
        for back, (ts, value) in zip(range(len(series.recent), 0, -1), series.recent, strict=True)
    ]
    ((obstacle, queued),) = await connection.fetch(
        _WRITE,
        sorted(batch.devices),
        *_columns(5, [(*key, each.ts, _json(each.value), each.count) for key, each in telemetry]),
        *_columns(6, history),
        *_columns(3, [(*key, _json(value)) for key, value in sorted(batch.attributes.items())]),
        *_columns(4, [(row.device_id, row.device_name, row.kind, row.body) for row in batch.sink]),
        history_limit,
        online_period,
        sink_limit,
    )
    return Written(Obstacle[obstacle] if obstacle else None, queued)


async def latest(
    connection: Connection, device_id: UUID, keys: Sequence[str] | None = None
) -> list[tuple[str, int, Value]]:
    """The newest sample of each telemetry key, or of these: (key, ts, value), by key."""
    rows = await connection.fetch(
        "SELECT key, ts, value FROM telemetry WHERE device_id = $1 AND ($2::text[] IS NULL OR key = ANY($2))"
        " ORDER BY key",
        device_id,
        keys,
    )
    return [tuple(row) for row in rows]


async def history(connection: Connection, device_id: UUID, key: str, limit: int) -> list[tuple[int, Value]]:
    """What is remembered of a key, newest first: (ts, value), at most `limit`."""
    rows = await connection.fetch(
        "SELECT ts, value FROM telemetry_history WHERE device_id = $1 AND key = $2 ORDER BY ts DESC, slot LIMIT $3",
        device_id,
        key,
        limit,
    )
    return [tuple(row) for row in rows]


async def attributes(
    connection: Connection, device_id: UUID, scope: Scope, keys: Sequence[str] | None
) -> dict[str, Value]:
    """A device's attributes of a scope, all or of these keys."""
    rows = await connection.fetch(
        "SELECT key, value FROM attribute WHERE device_id = $1 AND scope = $2"
        " AND ($3::text[] IS NULL OR key = ANY($3)) ORDER BY key",
        device_id,
        scope,
        keys,
    )
    return dict(map(tuple, rows))


async def claim(connection: Connection, device_id: UUID, secret_digest: bytes, duration: timedelta) -> bool:
    """Let a device be claimed for so long; False when it may be already, which nothing changes."""
    return await connection.execute(_CLAIM, device_id, secret_digest, duration) == "INSERT 0 1"


async def delete(connection: Connection, device_id: UUID) -> None:
    """Forget what a device has sent; what waits for the sink was accepted, and goes there."""
    await erase(connection, device_id)
    await connection.execute("DELETE FROM claim WHERE device_id = $1", device_id)


async def erase(connection: Connection, device_id: UUID) -> None:
    """Forget a device's samples, inside a transaction."""
    for table in ("telemetry", "telemetry_history"):
        await connection.execute(f"DELETE FROM {table} WHERE device_id = $1", device_id)


def _json(value: Value) -> str:
    """As text: asyncpg would take a list in an array of JSON for a dimension of the array."""
    return msgspec.json.encode(value).decode()


def _columns(width: int, rows: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width
