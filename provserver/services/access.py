"""What becomes of credentials when a device comes back with them."""

from provserver.core.secrets import ServerKeys
from provserver.store import devices
from provserver.store.database import Database


class Access:
    """Looks credentials up and keeps their life."""

    def __init__(self, database: Database, keys: ServerKeys) -> None:
        self._database = database
        self._keys = keys

    async def used(self, credentials_id: str) -> bool:
        """Record a first use: it ends `until_first_use` and completes a `rotate`. False when it was not the first."""
        async with self._database.transaction() as connection:
            return await devices.used(connection, self._keys.digest("credentials", credentials_id))
