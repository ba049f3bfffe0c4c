"""What is kept only for a while: attempts, ended jobs and sessions (of users, of WiFi), links and idempotency keys.

The audit is kept for ever, the outbox has a retention of its own.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from provserver.core import ids
from provserver.services import wifi_sessions
from provserver.services.idempotency import LIFE
from provserver.store import retention as store
from provserver.store import wifi_sessions as sessions
from provserver.store.database import Connection

BATCH = 500
"""Rows of one statement."""

JOBS = timedelta(days=30)
"""How long a job is kept that has ended."""


class Retention:
    """Forgets a little at a time. attempts: seconds for which they are kept; 0: for ever."""

    def __init__(self, attempts: float, clock: Callable[[], float] = time.time) -> None:
        self._attempts = attempts
        self._clock = clock
        self._start = UUID(int=0)

    async def sweep(self, connection: Connection) -> bool:
        """A batch of each; whether there is more."""
        now = self._clock()
        most = await self._sweep_attempts(connection, now) if self._attempts else 0
        most = max(most, await store.jobs(connection, JOBS, BATCH))
        most = max(most, await store.idempotency_keys(connection, LIFE, BATCH))
        most = max(most, await store.over(connection, datetime.fromtimestamp(now, UTC), BATCH))
        async with connection.transaction():
            more = await wifi_sessions.settle(connection)
        most = max(most, BATCH if more else 0, await sessions.sweep(connection, wifi_sessions.KEPT, BATCH))
        return most == BATCH

    async def _sweep_attempts(self, connection: Connection, now: float) -> int:
        gone = await store.attempts(connection, self._start, ids.floor(now - self._attempts), BATCH)
        self._start = max(gone) if len(gone) == BATCH else UUID(int=0)
        return len(gone)
