"""Credentials whose end is near: their devices are told; and those whose end has come: their sessions end."""

from datetime import timedelta

from provserver.services.lead import Lead
from provserver.store import rotation as store
from provserver.store.database import Database
from provserver.store.lead import Connection

WINDOW = timedelta(days=30)
"""How long before their end a device is told at the earliest: in the last quarter of the credentials' life, if less."""

BATCH = 500
"""Devices that are told by one statement."""

_LOCK = 0x70726F76_65787069
"""Of the work, among advisory locks: "provexpi"."""


class Expiry(Lead):
    """Looks again and again. interval: seconds between two looks, by which a session may outlive its credentials."""

    def __init__(self, database: Database, *, interval: float = 60.0) -> None:
        super().__init__(database, _LOCK, "expiry")
        self._interval = interval

    async def look(self, connection: Connection) -> None:
        """Once: tell who is to be told, and end what is over."""
        while await store.warn(connection, WINDOW, BATCH) == BATCH:
            pass
        await store.cut(connection)

    async def _serve(self, connection: Connection) -> None:
        while True:
            await self.look(connection)
            if await self._pause(self._interval):
                return
