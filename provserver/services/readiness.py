"""Whether the server can do for devices what it is there for: who balances load and who deploys want to know."""

import asyncio
from collections.abc import Callable
from enum import StrEnum

from asyncpg import PostgresError

from provserver import metrics
from provserver.errors import Misconfigured, Unavailable
from provserver.store.database import Database

_TIMEOUT = 3.0
_GOOD_FOR = 1.0
"""Seconds: who asks more often is told the same again, so that no probe becomes a load."""


class Unready(StrEnum):
    """Why it cannot. All that is told: whoever reaches the listener may read it."""

    DATABASE = "Postgres cannot be reached"
    READ_ONLY = "Postgres takes no writes"
    LISTENERS = "not every listener takes devices"


class Readiness:
    """Looks at Postgres and at the listeners of all processes.

    database: need not be open. listeners: how many there are to be, in all processes together.
    """

    def __init__(self, database: Database, page: metrics.Page, listeners: int) -> None:
        self._database = database
        self._page = page
        self._listeners = listeners
        self._checking: asyncio.Task[Unready | None] | None = None
        self._checked_at = float("-inf")
        self._opened = False

    async def look(self) -> Unready | None:
        """What is missing; None: nothing."""
        if self._page.totals().value(metrics.LISTENERS) < self._listeners:
            return Unready.LISTENERS
        return await self.look_at_database()

    async def look_at_database(self, patience: float = _TIMEOUT) -> Unready | None:
        """Whether Postgres can be reached and written to; of those who ask at one time one looks for all.

        patience: seconds; when it takes longer, Postgres cannot be reached.
        """
        loop = asyncio.get_running_loop()
        if self._checking is None or (self._checking.done() and loop.time() - self._checked_at > _GOOD_FOR):
            self._checking = loop.create_task(self._check(loop.time), name="readiness")
        await asyncio.wait((self._checking,), timeout=patience)
        return self._checking.result() if self._checking.done() else Unready.DATABASE

    async def stop(self) -> None:
        """Look no more."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)

    async def _check(self, now: Callable[[], float]) -> Unready | None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                if not self._opened:
                    await self._database.open()
                    self._opened = True
                found = None if await self._database.writable() else Unready.READ_ONLY
        except (Unavailable, Misconfigured, PostgresError, TimeoutError, OSError):
            found = Unready.DATABASE
        self._checked_at = now()
        return found
