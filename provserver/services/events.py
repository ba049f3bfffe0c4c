"""What happens in an organization and those below it: attempts, and a live feed of audit, attempts and presence."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from provserver.core import ids
from provserver.core.authorization import Permission, Principal
from provserver.core.search import Found
from provserver.errors import NotFound, TooManyRequests, Unavailable, described
from provserver.store import events as store
from provserver.store import profiles
from provserver.store.attempts import AttemptSummary
from provserver.store.database import Connection, Database
from provserver.store.events import Happening, Wanted

__all__ = ["Activity", "AttemptSummary", "Feed", "Happening", "Reader", "Wanted"]

log = logging.getLogger("provserver.events")

MAX_FEEDS = 100
"""Feeds of a process at once."""

MAX_HELD = 1_000
"""Events that wait for a slow reader; older ones are left out."""

BATCH = 500
"""Events of a kind that are told in a second: of more the newest, and others of them in the seconds after."""

_LATENESS = 10.0
"""Seconds by which an event may be committed later than its id or time says."""

PRESENCE_ROUNDS = 5
"""Presence is looked at every so many rounds: it takes a look at all devices that were ever online."""


class Activity:
    """The record of provisioning attempts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def attempts(
        self,
        principal: Principal,
        wanted: Wanted | None = None,
        *,
        profile: str | None = None,
        limit: int = 50,
    ) -> Found[AttemptSummary]:
        """The last ones with the profiles of the principal's organization and those below it, newest first.

        At the top of the tree, those of keys that nobody knows, too. profile: by name, template id or id of the
        principal's organization. Raises NotFound.
        """
        principal.require(Permission.PROFILES_VIEW)
        wanted = wanted or Wanted()
        async with self._database.connection() as connection:
            if profile is not None:
                found = await profiles.find(connection, principal.organization_id, profile)
                if found is None:
                    raise NotFound(f"There is no profile {profile!r}.")
                wanted = replace(wanted, profile_id=found.id)
            return await store.attempts(connection, principal.organization_id, wanted, limit)

    async def attempt(self, principal: Principal, id_: UUID) -> AttemptSummary:
        """One of these. Raises NotFound."""
        principal.require(Permission.PROFILES_VIEW)
        async with self._database.connection() as connection:
            found = await store.attempt(connection, principal.organization_id, id_)
        if found is None:
            raise NotFound("There is no such attempt, or it is kept no longer.")
        return found


class Reader:
    """Hears what happens in an organization and those below it. kinds: of audit, attempt and presence."""

    def __init__(self, organization_id: UUID, kinds: frozenset[str]) -> None:
        self._organization_id = organization_id
        self._begun = asyncio.get_running_loop().time()
        self._ended = False
        self._kinds = kinds
        self._held: deque[Happening] = deque(maxlen=MAX_HELD)
        self._missed: set[UUID | None] = set()
        self._arrived = asyncio.Event()

    def tell(self, happenings: Sequence[Happening]) -> None:
        """Keep what concerns it."""
        for each in happenings:
            if each.kind in self._kinds and self._organization_id in each.path and each.id not in self._missed:
                self._held.append(each)
                self._arrived.set()

    def catch_up(self, missed: Sequence[Happening]) -> None:
        """Begin with these, of which some may have been told while they were looked for, or will be yet."""
        meanwhile = list(self._held)
        self._held.clear()
        self.tell(missed)
        self._missed = {each.id for each in missed}
        self.tell(meanwhile)

    @property
    def age(self) -> float:
        """Seconds."""
        return asyncio.get_running_loop().time() - self._begun

    def end(self) -> None:
        """Have it hear no more."""
        self._ended = True
        self._arrived.set()

    async def next(self, timeout: float) -> list[Happening] | None:
        """What has happened since the last time; nothing when nothing does in that many seconds; None: no more will."""
        try:
            async with asyncio.timeout(timeout):
                await self._arrived.wait()
        except TimeoutError:
            return []
        if self._ended:
            return None
        self._arrived.clear()
        taken = list(self._held)
        self._held.clear()
        return taken


class Feed:
    """Looks once a second for all who read, and not at all while nobody does."""

    def __init__(self, database: Database, interval: float = 1.0, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._interval = interval
        self._clock = clock
        self._readers: set[Reader] = set()
        self._task: asyncio.Task[None] | None = None
        self._beginning = asyncio.Lock()
        self._closed = False

    def close(self) -> None:
        """End all, and take no more."""
        self._closed = True
        for reader in self._readers:
            reader.end()

    @asynccontextmanager
    async def read(self, principal: Principal, since: UUID | None = None) -> AsyncIterator[Reader]:
        """Hear what happens from now on; since: and what did after the event of this id, the last BATCH of it.

        Devices need devices:view, attempts profiles:view, the audit audit:read.
        Raises Forbidden, TooManyRequests, Unavailable.
        """
        if self._closed:
            raise Unavailable("The server is stopping.")
        principal.require(Permission.DEVICES_VIEW)
        kinds = {"presence"}
        if Permission.PROFILES_VIEW in principal.permissions:
            kinds.add("attempt")
        if Permission.AUDIT_READ in principal.permissions:
            kinds.add("audit")
        if len(self._readers) >= MAX_FEEDS:
            raise TooManyRequests(f"{MAX_FEEDS} feeds are open. Close one.", retry_after=10)
        reader = Reader(principal.organization_id, frozenset(kinds))
        self._readers.add(reader)
        try:
            await self._begin()  # before the look at what was missed: else what happens meanwhile is in neither
            if since is not None:
                reader.catch_up(await self._missed(principal.organization_id, since))
            yield reader
        finally:
            self._readers.discard(reader)
            if not self._readers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _begin(self) -> None:
        async with self._beginning:
            if self._task is None:
                rounds = _Rounds(self._database, self._clock)
                await rounds.begin()
                self._task = asyncio.create_task(self._run(rounds), name="events")

    async def _missed(self, organization_id: UUID, since: UUID) -> list[Happening]:
        async with self._database.connection() as connection:
            found = await store.audits_since(connection, since, BATCH, organization_id)
            found += await store.attempts_since(connection, since, BATCH, organization_id)
        return sorted(found, key=_order)

    async def _run(self, rounds: "_Rounds") -> None:
        while True:
            try:
                happened = await rounds.next()
            except Unavailable as fault:
                log.debug("nothing is heard: %s", fault)
            except Exception as fault:
                log.error("looking for events has failed: %s", described(fault))  # noqa: TRY400 - Postgres quotes rows
            else:
                for reader in self._readers:
                    reader.tell(happened)
            await asyncio.sleep(self._interval)


class _Rounds:
    """Looks for what is new, time after time.

    Ids and times are made before the commit, so a later commit may have an earlier one: each look goes back by
    _LATENESS, and what was told is not told again.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._start = ids.floor(clock() - _LATENESS)
        self._told: dict[UUID, None] = {}
        self._count = 0
        self._presence_start: datetime | None = None
        self._told_presences: set[tuple[object, ...]] = set()

    async def begin(self) -> None:
        """What is there by now is not told."""
        there = await self.next()
        for kind in ("audit", "attempt"):
            of_kind = [each.id for each in there if each.kind == kind and each.id is not None]
            if len(of_kind) == BATCH:  # nor is what was there before these
                self._start = max(self._start, min(of_kind))

    async def next(self) -> list[Happening]:
        """What is new."""
        since = max(self._start, ids.floor(self._clock() - _LATENESS))
        self._told = {id_: None for id_ in self._told if id_ > since}
        async with self._database.connection() as connection:
            found = await store.audits_since(connection, since, len(self._told) + BATCH)
            found += await store.attempts_since(connection, since, len(self._told) + BATCH)
            presences: list[Happening] = []
            if self._presence_start is None:
                self._presence_start = await store.now(connection)
            elif self._count % PRESENCE_ROUNDS == 0:
                presences = await self._presences(connection, self._presence_start)
            self._count += 1
        new = [each for each in found if each.id is not None and each.id not in self._told]
        self._told.update((each.id, None) for each in new if each.id is not None)
        return sorted(new + presences, key=_order)

    async def _presences(self, connection: Connection, start: datetime) -> list[Happening]:
        until = await store.now(connection)
        begin = max(start, until - timedelta(seconds=_LATENESS))
        found = await store.presences_since(connection, begin, until, len(self._told_presences) + BATCH)
        told, self._told_presences = self._told_presences, {_presence(each) for each in found}
        return [each for each in found if _presence(each) not in told]


def _presence(happening: Happening) -> tuple[object, ...]:
    facts = happening.facts
    return facts["deviceId"], facts["online"], facts["lastSeenAt"]


def _order(happening: Happening) -> tuple[datetime, int]:
    return happening.at, 0 if happening.id is None else happening.id.int
