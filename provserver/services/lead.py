"""Work that one process at a time does, of however many there are: the one whose connection has the lock.

Whoever is killed loses the lock with the connection, and another goes on. A fault of the work, or of the database,
makes it begin anew.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from contextlib import suppress

from provserver.core import ids
from provserver.store import lead as store
from provserver.store.database import Database
from provserver.store.lead import Connection

IDLE = 1.0
"""Seconds between looks at what may have changed unasked."""


def backoff(failures: int, first: float, last: float, random: ids.Randomness) -> float:
    """Seconds: doubling with each failure, and at random between half of it and all: who failed together parts."""
    longest: float = min(last, first * 2 ** min(failures - 1, 16))
    return longest * (0.5 + random(1)[0] / 512)


class Lead(ABC):
    """A task that does the work whenever this process is the one that does.

    lock: of the work. name: what it is called in the log.
    """

    def __init__(self, database: Database, lock: int, name: str, idle: float = IDLE) -> None:
        self._database = database
        self._lock = lock
        self._name = name
        self._idle = idle
        self._log = logging.getLogger(f"provserver.{name}")
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Work from now on."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self, grace: float) -> None:
        """Let what is under way end within `grace` seconds."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=grace)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @abstractmethod
    async def _serve(self, connection: Connection) -> None:
        """Work, until it is time to stop. Whatever is raised makes it begin anew, with another connection."""

    async def _watch(self, connection: Connection) -> None:  # noqa: B027 - there may be nothing to see
        """Once in a while, as long as it is another process that works."""

    async def _run(self) -> None:
        away = False
        while not self._stopping.is_set():
            try:
                connection = await self._database.dedicated()
                try:
                    away = False
                    if await self._win(connection):
                        await self._serve(connection)
                finally:
                    connection.terminate()
            except Exception as fault:  # whatever it is, who is waited for must not end
                if not self._database.is_away(fault):
                    self._log.exception("the %s has failed, and begins anew", self._name)
                elif not away:
                    self._log.warning("the %s waits for the database: %s", self._name, type(fault).__name__)
                away = True
                await self._pause(self._idle)

    async def _win(self, connection: Connection) -> bool:
        while not await store.take(connection, self._lock):
            await self._watch(connection)
            if await self._pause(self._idle):
                return False
        return True

    async def _pause(self, seconds: float) -> bool:
        """Wait; True when it is time to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # `wait_for` may lose a cancellation until Python 3.12
                await self._stopping.wait()
        return self._stopping.is_set()
