"""How many devices each profile has: all are counted in one pass, and where that takes long, once a minute."""

import asyncio
from collections.abc import Callable, Mapping
from time import monotonic
from uuid import UUID

from provserver.store import profiles as store
from provserver.store.database import Database

LARGE = 100_000
"""Devices, of all profiles together, from which on they are not counted each time."""

KEPT = 60.0
"""Seconds."""


class DeviceCounts:
    """The number of devices by profile, for who looks at profiles; of those of others, too, which it is not told."""

    def __init__(self, database: Database, clock: Callable[[], float] = monotonic, large: int = LARGE) -> None:
        self._database = database
        self._clock = clock
        self._large = large
        self._counts: Mapping[UUID, int] = {}
        self._good_until = 0.0
        self._counting = asyncio.Lock()

    async def get(self) -> Mapping[UUID, int]:
        """By the profile's id; a profile without devices is not there."""
        async with self._counting:  # who comes meanwhile waits for the same count
            if self._clock() >= self._good_until:
                async with self._database.connection() as connection:
                    self._counts = await store.count_all_devices(connection)
                if sum(self._counts.values()) >= self._large:
                    self._good_until = self._clock() + KEPT
            return self._counts
