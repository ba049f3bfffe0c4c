"""What speaks for clones: noted in groups, and nobody waits for it; and what the profile's policy makes of it.

All processes count in the database. The first time that a session takes a device's place costs nothing: as a rule it
comes back before its old connection is known to be dead.
"""

import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from asyncpg import PostgresError

from provserver.core import ids
from provserver.core.clones import TAKE_OVERS, TURNS, WINDOW, Place, Sign, take_overs, turns
from provserver.core.limits import network
from provserver.core.model import ClonePolicy
from provserver.errors import Unavailable
from provserver.services.grouping import Grouper
from provserver.store import audit, quarantine
from provserver.store import clones as store
from provserver.store.clones import Sighting, Watched
from provserver.store.database import Connection, Database

log = logging.getLogger("provserver.clones")

ACTOR = "provserver"
"""Who the audit says it was when a profile's policy put a device into quarantine."""

REASON = "two connections in turns used its credentials"

MAX_WAITING = 5_000
MAX_WATCHED = 10_000
"""Devices of which a process remembers that a session was taken over; of more, the oldest are forgotten."""


class _Seen(NamedTuple):
    device_id: UUID
    places: list[Place]


class Clones:
    """Notes what speaks for clones, and acts on it."""

    def __init__(
        self, database: Database, random: ids.Randomness = os.urandom, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._random = random
        self._clock = clock
        self._sightings = Grouper("clone-sign", self._note, max_waiting=MAX_WAITING)
        self._taken = Grouper("clone-watch", self._watch, max_waiting=MAX_WAITING)
        self._last: OrderedDict[UUID, list[Place]] = OrderedDict()

    def note(self, device_id: UUID, sign: Sign, address: str, *, certain: bool) -> None:
        """Have a sign counted; dropped when too many wait."""
        self._sightings.post(Sighting(device_id, sign, address, certain))

    def taken_over(self, device_id: UUID, address: str, by: str | None = None) -> None:
        """A live session of a device, with a peer at this address, has given way to a newer one.

        by: the address of the newer one; None: it is another process', which will say when it gives way.
        """
        now = self._clock()
        places = [Place(now, network(address), gave_way=True)]
        if by is not None:
            places.append(Place(math.nextafter(now, math.inf), network(by), gave_way=False))
        before = self._last.pop(device_id, None)
        self._last[device_id] = places
        if len(self._last) > MAX_WATCHED:
            self._last.popitem(last=False)
        if before is not None and now - before[0].at < WINDOW:
            self._taken.post(_Seen(device_id, [*before, *places]))  # what was told already is told twice

    async def drain(self) -> None:
        """Wait until everything is noted."""
        await self._taken.drain()
        await self._sightings.drain()

    async def _note(self, sightings: Sequence[Sighting]) -> list[None]:
        try:
            async with self._database.connection() as connection:
                await store.note(connection, sightings)
        except (Unavailable, PostgresError) as fault:
            log.warning("%d signs of clones were not noted: %s", len(sightings), type(fault).__name__)
        return [None] * len(sightings)

    async def _watch(self, seen: Sequence[_Seen]) -> list[None]:
        places: dict[UUID, list[Place]] = {}
        for device_id, more in seen:
            places.setdefault(device_id, []).extend(more)
        try:
            async with self._database.transaction() as connection:
                for each in await store.watch(connection, places):
                    await self._judge(connection, each)
        except (Unavailable, PostgresError) as fault:
            log.warning("%d take-overs were not counted: %s", len(seen), type(fault).__name__)
        return [None] * len(seen)

    async def _judge(self, connection: Connection, watched: Watched) -> None:
        two = turns(watched.places) >= TURNS
        if not two and take_overs(watched.places) < TAKE_OVERS:
            return
        await store.note(connection, [Sighting(watched.device_id, Sign.SESSIONS, "", certain=True)])
        if not two or watched.policy != ClonePolicy.QUARANTINE:
            return
        holder = await quarantine.put(connection, watched.device_id, REASON, ACTOR)
        if holder is not None:
            log.warning("device %s is in quarantine: %s", watched.device_id, REASON)
            id_ = ids.uuid7(time.time(), self._random)
            await audit.record(connection, id_, holder, ACTOR, "device.quarantined", watched.device_id, reason=REASON)
