"""The SQL of forgetting: rows that are over, a few at a time, so that nobody waits for it."""

from datetime import datetime, timedelta
from uuid import UUID

from provserver.store.database import Connection

# Ids are time-ordered, so the primary key finds the oldest; from where the last batch ended, as what was removed there
# is still in the index until Postgres has cleaned it up.
_ATTEMPTS = """
DELETE FROM attempt WHERE id = ANY(ARRAY(SELECT id FROM attempt WHERE id >= $1 AND id < $2 ORDER BY id LIMIT $3))
RETURNING id
"""

_JOBS = """
DELETE FROM job WHERE id = ANY(ARRAY(
    SELECT id FROM job WHERE finished_at < now() - $1::interval LIMIT $2
)) RETURNING id
"""

_IDEMPOTENCY_KEYS = """
DELETE FROM idempotency_key k USING (
    SELECT actor, key FROM idempotency_key WHERE created_at < now() - $1::interval LIMIT $2
) AS old WHERE (k.actor, k.key) = (old.actor, old.key) AND k.created_at < now() - $1::interval RETURNING 1
"""

_SESSIONS = """
DELETE FROM user_session WHERE digest = ANY(ARRAY(SELECT digest FROM user_session WHERE expires_at <= $1 LIMIT $2))
    AND expires_at <= $1 RETURNING 1
"""

_LINKS = """
DELETE FROM one_time_link WHERE digest = ANY(ARRAY(SELECT digest FROM one_time_link WHERE expires_at <= $1 LIMIT $2))
RETURNING 1
"""

_CLAIMS = """
DELETE FROM pending_claim WHERE device_id = ANY(ARRAY(
    SELECT device_id FROM pending_claim WHERE expires_at <= $1 LIMIT $2
)) AND expires_at <= $1 RETURNING 1
"""


async def attempts(connection: Connection, start: UUID, end: UUID, limit: int) -> list[UUID]:
    """Forget attempts of ids from one on and before another; which it were."""
    return [row[0] for row in await connection.fetch(_ATTEMPTS, start, end, limit)]


async def jobs(connection: Connection, age: timedelta, limit: int) -> int:
    """Forget jobs that ended so long ago; how many it were."""
    return len(await connection.fetch(_JOBS, age, limit))


async def idempotency_keys(connection: Connection, age: timedelta, limit: int) -> int:
    """Forget keys of requests so long ago; how many it were."""
    return len(await connection.fetch(_IDEMPOTENCY_KEYS, age, limit))


async def over(connection: Connection, now: datetime, limit: int) -> int:
    """Forget sessions, links and claims that are over, so many of each; how many of what it were most of."""
    return max([len(await connection.fetch(each, now, limit)) for each in (_SESSIONS, _LINKS, _CLAIMS)])
