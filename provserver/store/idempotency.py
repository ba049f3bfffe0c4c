"""The SQL of idempotency keys: which requests that create something were made, and what was answered."""

from datetime import timedelta
from typing import NamedTuple

from provserver.store.database import Connection


class KeptRow(NamedTuple):
    """What there is under a key. answer: sealed; it and status are None while the request is under way."""

    request_digest: bytes
    status: int | None
    answer: bytes | None


async def begin(connection: Connection, actor: str, key: str, request_digest: bytes, life: timedelta) -> bool:
    """Take a key for a request; False when it is taken, by one that is not older than `life`."""
    status = await connection.execute(
        "INSERT INTO idempotency_key AS k (actor, key, request_digest) VALUES ($1, $2, $3)"
        " ON CONFLICT (actor, key) DO UPDATE SET request_digest = excluded.request_digest, status = NULL,"
        " answer = NULL, created_at = now() WHERE k.created_at < now() - $4::interval",
        actor,
        key,
        request_digest,
        life,
    )
    return status != "INSERT 0 0"


async def find(connection: Connection, actor: str, key: str) -> KeptRow | None:
    """What there is under a key."""
    row = await connection.fetchrow(
        "SELECT request_digest, status, answer FROM idempotency_key WHERE actor = $1 AND key = $2", actor, key
    )
    return None if row is None else KeptRow(*row)


async def keep(connection: Connection, actor: str, key: str, status: int, answer: bytes) -> None:
    """Write what was answered."""
    await connection.execute(
        "UPDATE idempotency_key SET status = $3, answer = $4 WHERE actor = $1 AND key = $2", actor, key, status, answer
    )


async def release(connection: Connection, actor: str, key: str) -> None:
    """Give a key up whose request came to nothing."""
    await connection.execute("DELETE FROM idempotency_key WHERE actor = $1 AND key = $2 AND status IS NULL", actor, key)
