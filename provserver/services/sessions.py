"""Live sessions: one a device, whatever process holds it; cut when the device's credentials go.

Who opens a session tells every process (`store/notifications.py`). What they hear comes in the order of the commits,
so a session that has heard of itself yields to any other that is heard of later, and no clock decides.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from enum import Enum
from itertools import islice
from typing import Protocol
from uuid import UUID

import msgspec
from asyncpg import PostgresError

from provserver.core import ids
from provserver.core.model import Authenticated
from provserver.errors import Unavailable
from provserver.services.grouping import Grouper
from provserver.store import access as store
from provserver.store.access import MAX_OPENED, Opening
from provserver.store.database import Database
from provserver.store.notifications import Notifications

log = logging.getLogger("provserver.sessions")

ONLINE = timedelta(seconds=150)
"""How long a session counts as online that its process does not speak for any more."""

_REFRESH = 60.0

_REVIEWED_AT_ONCE = 50

Wake = Callable[[tuple[str, ...] | None], None]
"""Called with the keys that have changed, () when any may have; None: none have, but authenticate again."""

_keys = msgspec.json.Decoder(tuple[str, ...])


class Cause(Enum):
    """Why a session is ended."""

    TAKEN_OVER = "the device has a newer session"
    REVOKED = "the credentials are good no more"


class LiveConnection(Protocol):
    """What a transport keeps open for a device."""

    def end(self, cause: Cause) -> None:
        """Close it. May come before `Sessions.open` has returned."""

    def attributes_changed(self, keys: tuple[str, ...]) -> None:
        """Shared attributes have changed: these; all of them may have when there are none."""

    async def still_welcome(self) -> bool:
        """Whether the certificate it came with would be let in again; true if there is none, or nobody can say."""


class LiveSession:
    """A device's session of this process.

    written: it is in the database. told: it has heard of itself, so what it hears of others is newer.
    """

    __slots__ = ("_sessions", "connection", "device", "id", "told", "written")

    def __init__(self, sessions: "Sessions", id_: UUID, device: Authenticated, connection: LiveConnection) -> None:
        self._sessions: Sessions | None = sessions
        self.id = id_
        self.device = device
        self.connection = connection
        self.written = self.told = False

    @property
    def closed(self) -> bool:
        """Whether it has ended, from either side."""
        return self._sessions is None

    def close(self) -> None:
        """The connection is gone; again is harmless."""
        if self._sessions is not None:
            sessions, self._sessions = self._sessions, None
            sessions._closed(self)  # noqa: SLF001 - the two are one thing

    def end(self, cause: Cause) -> None:
        """End it from this side."""
        if self._sessions is not None:
            self.close()
            self.connection.end(cause)


class Sessions:
    """The live sessions of this process."""

    def __init__(
        self, database: Database, random: ids.Randomness = os.urandom, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._random = random
        self._clock = clock
        self._process = ids.uuid7(clock(), random)
        self._live: dict[UUID, LiveSession] = {}
        self._by_credentials: dict[bytes, LiveSession] = {}
        self._watchers: dict[UUID, list[Wake]] = {}
        self._to_review: dict[LiveSession, None] = {}
        self._reviewing: asyncio.Task[None] | None = None
        self._opening: Grouper[LiveSession, bool] = Grouper("session-open", self._open, max_group=MAX_OPENED)
        self._closing: Grouper[tuple[UUID, UUID], None] = Grouper("session-close", self._close, max_waiting=1_000_000)
        self._refreshing: asyncio.Task[None] | None = None
        self._notifications = Notifications(
            database,
            {
                "session": self._opened_elsewhere,
                "revoked": self._revoked,
                "profile": self._authorities_changed,
                "attributes": self._attributes_changed,
            },
            self._catch_up,
        )

    def __len__(self) -> int:
        return len(self._live)

    async def start(self) -> None:
        """Hear of other processes from now on."""
        await self._notifications.start()
        self._refreshing = asyncio.create_task(self._refresh(), name="sessions:refresh")

    async def stop(self) -> None:
        """Let what has ended be written, and hear no more."""
        await self._notifications.stop()  # first: what it hears may begin a review
        for task in (self._refreshing, self._reviewing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._opening.drain()
        await self._closing.drain()

    async def open(self, device: Authenticated, connection: LiveConnection) -> LiveSession:
        """Make this the device's session: an older one is ended, here at once, elsewhere when it is heard.

        The session comes back closed, and its connection ended, when the credentials were revoked meanwhile or a
        newer session came. Raises Unavailable.
        """
        session = LiveSession(self, ids.uuid7(self._clock(), self._random), device, connection)
        older = self._live.get(device.device_id)
        if older is not None:
            older.end(Cause.TAKEN_OVER)
        self._live[device.device_id] = session  # before the write: what is revoked after it must find the session
        self._by_credentials[device.id_digest] = session
        try:
            opened = await self._opening.submit(session)
        except BaseException:
            session.close()
            raise
        session.written = opened
        if not opened:
            session.end(Cause.REVOKED)
        return session

    def watch(self, device_id: UUID, wake: Wake) -> Callable[[], None]:
        """Have `wake` called when a device's shared attributes change, or credentials that it may have used went.

        Until the returned function is called.
        """
        self._watchers.setdefault(device_id, []).append(wake)

        def unwatch() -> None:
            watchers = self._watchers.get(device_id, [])
            if wake in watchers:
                watchers.remove(wake)
            if not watchers:
                self._watchers.pop(device_id, None)

        return unwatch

    def _closed(self, session: LiveSession) -> None:
        device = session.device
        if self._live.get(device.device_id) is session:
            del self._live[device.device_id]
        if self._by_credentials.get(device.id_digest) is session:
            del self._by_credentials[device.id_digest]
        self._closing.post((device.device_id, session.id))

    async def _open(self, sessions: Sequence[LiveSession]) -> list[bool | Exception]:
        # Of two sessions of one device the first has ended by now: it is not written, and nobody waits for it.
        openings = [_opening(session) for session in sessions if not session.closed]
        if not openings:
            return [True] * len(sessions)
        try:
            async with self._database.connection() as connection:
                opened = await store.open_sessions(connection, openings, self._process, ONLINE)
        except PostgresError as fault:
            if len(sessions) == 1:
                log.warning("a session could not be opened: %s", type(fault).__name__)
                return [Unavailable("The session could not be opened.")]
            return [(await self._open([session]))[0] for session in sessions]
        return [session.closed or session.id in opened for session in sessions]

    async def _close(self, closed: Sequence[tuple[UUID, UUID]]) -> list[None]:
        try:
            async with self._database.connection() as connection:
                await store.close_sessions(connection, closed)
        except (Unavailable, PostgresError) as fault:  # it is offline anyway when its time is over
            log.warning("%d ended sessions were not recorded: %s", len(closed), type(fault).__name__)
        return [None] * len(closed)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH)
            sessions = [(device_id, session.id) for device_id, session in self._live.items()]
            try:
                for start in range(0, len(sessions), 1000):
                    async with self._database.connection() as connection:
                        await store.keep_online(connection, sessions[start : start + 1000], ONLINE)
            except (Unavailable, PostgresError) as fault:
                log.warning("live sessions were not recorded as online: %s", type(fault).__name__)

    async def _catch_up(self) -> None:
        """End what was taken over or revoked while nothing was heard."""
        sessions = [session for session in self._live.values() if session.written]
        for start in range(0, len(sessions), 1000):
            part = sessions[start : start + 1000]
            async with self._database.connection() as connection:
                newest, good = await store.standing(connection, [_opening(session) for session in part])
            for session in part:
                if session.id not in good:
                    session.end(Cause.REVOKED)
                elif session.id not in newest:
                    session.end(Cause.TAKEN_OVER)
                session.told = True
        for session in tuple(self._live.values()):
            session.connection.attributes_changed(())
        for wake in [wake for watchers in self._watchers.values() for wake in watchers]:
            wake(())
        self._review(self._live.values())

    def _opened_elsewhere(self, payload: str) -> None:
        process, *pairs = payload.split(" ")
        for device, session_id in zip(pairs[::2], pairs[1::2], strict=True):
            session = self._live.get(UUID(device))
            if session is None:
                continue
            if session.id == UUID(session_id):
                session.told = True
            elif session.told and process != str(self._process):
                session.end(Cause.TAKEN_OVER)

    def _revoked(self, payload: str) -> None:
        digest, device = payload.split(" ")
        session = self._by_credentials.get(bytes.fromhex(digest))
        if session is not None:
            session.end(Cause.REVOKED)
        for wake in tuple(self._watchers.get(UUID(device), ())):
            wake(None)

    def _authorities_changed(self, payload: str) -> None:
        profile_id = UUID(payload)
        self._review(session for session in self._live.values() if session.device.profile_id == profile_id)
        for wake in [wake for watchers in self._watchers.values() for wake in watchers]:  # whose profile is not known
            wake(None)

    def _review(self, sessions: Iterable[LiveSession]) -> None:
        """Have sessions judged again, in the background."""
        for session in sessions:  # one that is being judged just now was taken out, and is judged once more
            self._to_review[session] = None
        if self._to_review and (self._reviewing is None or self._reviewing.done()):
            self._reviewing = asyncio.create_task(self._judge_again(), name="sessions:review")

    async def _judge_again(self) -> None:
        while self._to_review:
            part = list(islice(self._to_review, _REVIEWED_AT_ONCE))
            for session in part:
                del self._to_review[session]
            await asyncio.gather(*(self._end_unwelcome(session) for session in part if not session.closed))

    async def _end_unwelcome(self, session: LiveSession) -> None:
        try:
            if not await session.connection.still_welcome():
                session.end(Cause.REVOKED)
        except Exception as fault:  # one must not keep the others from being judged
            log.error("a session could not be judged again: %s", type(fault).__name__)  # noqa: TRY400

    def _attributes_changed(self, payload: str) -> None:
        device, _, rest = payload.partition(" ")
        keys = _keys.decode(rest) if rest else ()
        device_id = UUID(device)
        session = self._live.get(device_id)
        if session is not None:
            session.connection.attributes_changed(keys)
        for wake in tuple(self._watchers.get(device_id, ())):
            wake(keys)


def _opening(session: LiveSession) -> Opening:
    device = session.device
    return Opening(device.device_id, session.id, device.id_digest, device.issued_at)
