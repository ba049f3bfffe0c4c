"""The SQL of the sink's queue (it is filled by `store/data.py`)."""

from collections.abc import Sequence
from datetime import timedelta

from provserver.core.sink import QueuedMessage
from provserver.store.lead import Connection

LOCK = 0x73696E6B  # "sink": one process at a time sends

_DUE = """
SELECT m.id, m.device_id, m.device_name, m.kind, m.body, m.refusals FROM sink_message m
WHERE NOT EXISTS (SELECT FROM sink_message r
                  WHERE r.device_id = m.device_id AND r.not_before > now() AND r.id <= m.id)
ORDER BY m.id LIMIT $1
"""

_COUNTED = 10_000


async def due(connection: Connection, limit: int) -> list[QueuedMessage]:
    """The oldest messages, in order, but those of devices whose oldest was refused and waits."""
    return [QueuedMessage(*row) for row in await connection.fetch(_DUE, limit)]


async def delete(connection: Connection, ids: Sequence[int]) -> None:
    """Take messages out of the queue."""
    await connection.execute("DELETE FROM sink_message WHERE id = ANY($1::bigint[])", ids)


async def refused(connection: Connection, id_: int, delay: timedelta) -> None:
    """Have a message wait, and its device's later ones with it."""
    await connection.execute(
        "UPDATE sink_message SET refusals = refusals + 1, not_before = now() + $2 WHERE id = $1", id_, delay
    )


async def waiting(connection: Connection) -> int:
    """How many messages wait; past 10,000 an upper bound."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM (SELECT FROM sink_message ORDER BY id LIMIT $1) AS first", _COUNTED
    )
    if count == _COUNTED:
        count = await connection.fetchval("SELECT max(id) - min(id) + 1 FROM sink_message")
    return count
