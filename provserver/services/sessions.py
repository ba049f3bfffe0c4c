"""Live sessions: one a device, whatever process holds it; cut when the device's credentials go.

Who opens sessions tells every process (`store/notifications.py`), a group of them at once. What they hear comes in the
order of the commits, so a session whose group has heard of itself yields to any other that is heard of later, and no
clock decides.
"""

import asyncio
import logging
import os
from binascii import a2b_base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec
from asyncpg import PostgresError
from asyncpg.pgproto import pgproto

from provserver.core import ids
from provserver.core.model import Authenticated
from provserver.errors import Unavailable
from provserver.services.clones import Clones
from provserver.services.grouping import Grouper
from provserver.store import access as store
from provserver.store.access import MAX_OPENED, Opening, Standing
from provserver.store.database import Database
from provserver.store.notifications import Notifications, notify

log = logging.getLogger("provserver.sessions")

ONLINE = timedelta(seconds=150)
"""How long a session counts as online that its process does not speak for any more."""

_REFRESH = 60.0

_CLOSE_DELAY = 0.05
"""Seconds for which ended sessions are gathered: that a device is offline is not urgent."""

_SWEEP = 1.0

_REVIEWED_AT_ONCE = 50

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Wake = Callable[[tuple[str, ...] | None], None]
"""Called with the keys that have changed, () when any may have; None: none have, but authenticate again."""

Keeper = Callable[[UUID], tuple[str, ...] | None]
"""Gives up what it has kept to tell a device: keys as `Wake` has them; None: nothing."""

_MAX_NAMED = 1_500
"""Characters of keys in a notification, which may be 8000 bytes (UTF-8, some escaped): more are not named."""

_keys = msgspec.json.Decoder(tuple[str, ...])


class Cause(Enum):
    """Why a session is ended."""

    TAKEN_OVER = "the device has a newer session"
    REVOKED = "the credentials are good no more"


class LiveConnection(Protocol):
    """What a transport keeps open for a device."""

    @property
    def address(self) -> str:
        """The peer's, without the port."""

    def end(self, cause: Cause) -> None:
        """Close it. May come before `Sessions.open` has returned."""

    def attributes_changed(self, keys: tuple[str, ...]) -> None:
        """Shared attributes have changed: these; all of them may have when there are none."""

    def reconfigure(self) -> None:
        """Have the device open its access point, if it is one that does."""

    async def still_welcome(self) -> bool:
        """Whether the certificate it came with would be let in again; true if there is none, or nobody can say."""


class Presented(NamedTuple):
    """What a session is to rest on: credentials, by the digest of their id.

    issued_at: of those that `Access` has judged. None for those that are yet to be looked up, and let in when they have
    been used before: an access token, if there are no MQTT basic credentials of the id `before`; or a certificate, if
    its profile has no revocation list.
    """

    id_digest: bytes
    before: bytes | None = None
    issued_at: datetime | None = None
    certificate: bool = False


Entered = Callable[[bool | Exception], None]
"""Hears whether the credentials are good, or that nobody can say; not at all when the connection left before."""


class _Group:
    """Sessions that are opened by one statement, and what is heard before its result is.

    told: it has heard of itself, so what it hears of others is newer. unheard: it may have missed that.
    """

    __slots__ = ("revoked", "taken", "told", "unheard")

    def __init__(self, told: bool = False) -> None:
        self.told = told
        self.unheard = False
        self.revoked: set[tuple[bytes, datetime]] = set()
        self.taken: set[bytes] = set()


_TOLD = _Group(told=True)


class LiveSession:
    """A device's session of this process. device: who it is, once it is open."""

    __slots__ = ("_entered", "_sessions", "connection", "device", "group", "id", "presented", "until")

    device: Authenticated

    def __init__(
        self,
        sessions: "Sessions",
        id_: UUID,
        presented: Presented,
        connection: LiveConnection,
        entered: Entered,
        until: float,
    ) -> None:
        self._sessions: Sessions | None = sessions
        self._entered: Entered | None = entered
        self.group: _Group | None = None
        self.id = id_
        self.presented = presented
        self.connection = connection
        self.until = until

    @property
    def closed(self) -> bool:
        """Whether it has ended, from either side, or never began."""
        return self._sessions is None

    def close(self) -> None:
        """The connection is gone; again is harmless."""
        self._entered = None
        if self._sessions is not None:
            sessions, self._sessions = self._sessions, None
            if self.group is not None:
                sessions._closed(self)  # noqa: SLF001 - the two are one thing

    def end(self, cause: Cause) -> None:
        """End it from this side."""
        if self._sessions is not None:
            entered = self._entered
            self.close()
            self._entered = entered
            self.connection.end(cause)

    def decide(self, verdict: bool | Exception) -> None:
        """Tell how it began, once."""
        entered, self._entered = self._entered, None
        if entered is not None:
            if verdict is not True:
                self.close()
            entered(verdict)


class Sessions:
    """The live sessions of this process. wait_limit: seconds that a device may wait for its session to be open.

    told: who else hears what other processes tell, by channel.
    """

    def __init__(
        self,
        database: Database,
        *,
        wait_limit: float = 10.0,
        random: ids.Randomness = os.urandom,
        told: Mapping[str, Callable[[str], None]] = MappingProxyType({}),
    ) -> None:
        self._database = database
        self._wait_limit = wait_limit
        self._process = random(10)
        self._sender = self._process.hex()
        self._opened = 0
        self._groups = 0
        self._live: dict[bytes, LiveSession] = {}  # by device id
        self._watchers: dict[UUID, list[Wake]] = {}
        self._keepers: list[Keeper] = []
        self._telling: Grouper[tuple[str, str], None] = Grouper("tell", self._tell)
        self._to_review: dict[LiveSession, None] = {}
        self._reviewing: asyncio.Task[None] | None = None
        self._entering: dict[LiveSession, None] = {}  # the first came first
        self._sweeping: asyncio.TimerHandle | None = None
        self._opening: Grouper[LiveSession, bool] = Grouper("session-open", self._open, max_group=MAX_OPENED)
        self._under_way: _Group | None = None
        self._untold: dict[str, _Group] = {}  # by number: those that have not heard of themselves
        self._ended: list[tuple[UUID, UUID]] = []  # device, session
        self._gathering: asyncio.TimerHandle | None = None
        self._closing: Grouper[list[tuple[UUID, UUID]], None] = Grouper("session-close", self._close)
        self._refreshing: asyncio.Task[None] | None = None
        self._clones = Clones(database, random)
        self._notifications = Notifications(
            database,
            {
                "session": self._heard,
                "revoked": self._revoked,
                "profile": self._authorities_changed,
                "attributes": self._attributes_changed,
                "polled": self._polled,
                "reconfigure": self._reconfigure,
                **told,
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
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._record_ends()
        await self._closing.drain()
        await self._telling.drain()
        await self._clones.drain()

    def enter(self, presented: Presented, connection: LiveConnection, entered: Entered) -> LiveSession:
        """Open the session of the device that has these credentials, and end its older one.

        Costs no task and no timer. entered: called once, maybe at once. After True the session is open, unless it was
        ended meanwhile, as it was revoked or a newer one came.
        """
        loop = asyncio.get_running_loop()
        self._opened += 1
        id_ = pgproto.UUID(self._process + self._opened.to_bytes(6))
        session = LiveSession(self, id_, presented, connection, entered, loop.time() + self._wait_limit)
        self._entering[session] = None
        if self._sweeping is None:
            self._sweeping = loop.call_later(_SWEEP, self._sweep)
        self._opening.submit_to(session, partial(self._decide, session))
        return session

    async def open(self, device: Authenticated, connection: LiveConnection) -> LiveSession:
        """`enter` for a device that `Access` has judged. Raises Unavailable.

        The session comes back closed, and its connection ended, when the credentials were revoked meanwhile or a
        newer session came.
        """
        session, good = await self._enter(device, device.id_digest, connection)
        if not good and (digest := await self._digest_now(device)) not in (None, device.id_digest):
            session, good = await self._enter(device, digest, connection)
        if not good:
            connection.end(Cause.REVOKED)
        return session

    async def _digest_now(self, device: Authenticated) -> bytes | None:
        """Under what its credentials are now: a rotation of the server's keys may have come in between."""
        async with self._database.connection() as connection:
            return await store.digest_of(connection, device.device_id, device.issued_at)

    async def _enter(
        self, device: Authenticated, digest: bytes, connection: LiveConnection
    ) -> tuple[LiveSession, bool]:
        """`enter`, and wait for whether the credentials are good."""
        verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def entered(outcome: bool | Exception) -> None:
            if verdict.done():  # who asked was cancelled
                return
            if isinstance(outcome, Exception):
                verdict.set_exception(outcome)
            else:
                verdict.set_result(outcome)

        session = self.enter(Presented(digest, issued_at=device.issued_at), connection, entered)
        try:
            return session, await verdict
        except BaseException:
            session.close()
            raise

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

    def keep(self, keeper: Keeper) -> Callable[[], None]:
        """Have `keeper` asked when another process takes a device over, until the returned function is called."""
        self._keepers.append(keeper)
        return partial(self._keepers.remove, keeper)

    def take_over(self, device_id: UUID) -> None:
        """Have `wake` called with what other processes have kept to tell a device. It must be watched here already."""
        self._telling.post(("polled", f"{self._sender} {device_id}"))

    def _decide(self, session: LiveSession, verdict: bool | Exception) -> None:
        self._entering.pop(session, None)
        session.decide(verdict)

    def _sweep(self) -> None:
        """Tell those who have waited too long: one timer for all of them."""
        self._sweeping = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for session in tuple(self._entering):
            if session.until > now:
                break
            self._decide(session, Unavailable("Postgres did not answer in time."))
        if self._entering:
            self._sweeping = loop.call_later(_SWEEP, self._sweep)

    async def _open(self, sessions: Sequence[LiveSession]) -> list[bool | Exception]:
        """Open those that have not left; of several with the same credentials the last, to which the others yield."""
        last = {session.presented.id_digest: session for session in sessions if not session.closed}
        if not last:
            return [False] * len(sessions)
        try:
            opened = await self._write(list(last.values()))
        except PostgresError as fault:
            if len(last) > 1:  # maybe one cannot be written, or a device has come with two tokens
                return [(await self._open([session]))[0] for session in sessions]
            log.warning("a session could not be opened: %s", type(fault).__name__)
            return [Unavailable("The session could not be opened.")] * len(sessions)
        verdicts: list[bool | Exception] = []
        for session in sessions:
            newest = last.get(session.presented.id_digest)
            verdicts.append(newest in opened)
            if newest is not session and newest in opened:
                session.end(Cause.TAKEN_OVER)
                if newest.group is not None:  # it is there still, so whose both are is known
                    address = session.connection.address
                    self._clones.taken_over(newest.device.device_id, address, newest.connection.address)
        return verdicts

    async def _write(self, sessions: list[LiveSession]) -> set[LiveSession]:
        """Make those live whose credentials are good; returns them."""
        live: set[LiveSession] = set()
        before: dict[LiveSession, Authenticated] = {}
        while sessions:
            openings = [Opening(session.id, *session.presented) for session in sessions]
            self._groups += 1
            number = str(self._groups)
            group = self._under_way = self._untold[number] = _Group()
            try:
                async with self._database.connection() as connection:
                    rows = await store.open_sessions(connection, openings, f"{self._sender} {number}", ONLINE)
            except BaseException:
                self._untold.pop(number, None)
                self._note_ends(before)
                raise
            finally:
                self._under_way = None
            if not rows:
                self._untold.pop(number, None)
            certain = not group.unheard and (
                not group.revoked or group.revoked.isdisjoint(map(_credentials, (device for _, device in rows)))
            )
            for index, device in rows:
                session = sessions[index]
                # One that was taken over already must not be written again, or it would be the newer one.
                if certain or device.device_id.bytes in group.taken:
                    before.pop(session, None)
                    self._begin(session, device, group)
                    live.add(session)
                else:  # what was missed, or went meanwhile, shows when it is done again
                    before[session] = device
            if certain:
                break
            sessions = [session for session in sessions if session not in live]
        self._note_ends(before)
        return live

    def _note_ends(self, written: Mapping[LiveSession, Authenticated]) -> None:
        for session, device in written.items():
            self._note_end(device.device_id, session.id)

    def _begin(self, session: LiveSession, device: Authenticated, group: _Group) -> None:
        """It is written, and the newest of its device in this process."""
        if session.closed:  # it has left meanwhile
            self._note_end(device.device_id, session.id)
            return
        session.device, session.group = device, group
        device_id = device.device_id.bytes
        older = self._live.get(device_id)
        self._live[device_id] = session
        if older is not None:
            self._give_way(older, session.connection.address)
        if device_id in group.taken:
            session.end(Cause.TAKEN_OVER)

    def _give_way(self, session: LiveSession, by: str | None = None) -> None:
        """A session ends by a newer one of its device; by: from this address; None: it is another process'."""
        session.end(Cause.TAKEN_OVER)
        self._clones.taken_over(session.device.device_id, session.connection.address, by)

    def _closed(self, session: LiveSession) -> None:
        device = session.device
        device_id = device.device_id.bytes
        if self._live.get(device_id) is session:
            del self._live[device_id]
        self._note_end(device.device_id, session.id)

    def _note_end(self, device_id: UUID, session_id: UUID) -> None:
        """Have it recorded with others that end about now."""
        self._ended.append((device_id, session_id))
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(_CLOSE_DELAY, self._record_ends)

    def _record_ends(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        ended, self._ended = self._ended, []
        # Where there is a newer session here, the row is that one's by now.
        if gone := [each for each in ended if each[0].bytes not in self._live]:
            self._closing.post(gone)

    async def _close(self, parts: Sequence[list[tuple[UUID, UUID]]]) -> list[None]:
        closed = [each for part in parts for each in part]
        try:
            for start in range(0, len(closed), 1000):
                async with self._database.connection() as connection:
                    await store.close_sessions(connection, closed[start : start + 1000])
        except (Unavailable, PostgresError) as fault:  # it is offline anyway when its time is over
            log.warning("%d ended sessions were not recorded: %s", len(closed), type(fault).__name__)
        return [None] * len(parts)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH)
            sessions = [(session.device.device_id, session.id) for session in self._live.values()]
            try:
                for start in range(0, len(sessions), 1000):
                    async with self._database.connection() as connection:
                        await store.keep_online(connection, sessions[start : start + 1000], ONLINE)
            except (Unavailable, PostgresError) as fault:
                log.warning("live sessions were not recorded as online: %s", type(fault).__name__)

    async def _catch_up(self) -> None:
        """End what was taken over or revoked while nothing was heard."""
        if self._under_way is not None:
            self._under_way.unheard = True
        self._untold.clear()
        sessions = list(self._live.values())
        for start in range(0, len(sessions), 1000):
            part = sessions[start : start + 1000]
            async with self._database.connection() as connection:
                newest, good = await store.standing(connection, [_standing(session) for session in part])
            for session in part:
                if session.id not in good:
                    session.end(Cause.REVOKED)
                elif session.id not in newest:
                    session.end(Cause.TAKEN_OVER)
                session.group = _TOLD
        for session in tuple(self._live.values()):
            session.connection.attributes_changed(())
        for wake in [wake for watchers in self._watchers.values() for wake in watchers]:
            wake(())
        self._review(self._live.values())

    def _heard(self, payload: str) -> None:
        sender, _, rest = payload.partition(" ")
        number, _, told = rest.partition(" ")
        if sender == self._sender:
            if (group := self._untold.pop(number, None)) is not None:
                group.told = True
            return
        device_ids = a2b_base64(told)
        under_way = self._under_way
        for start in range(0, len(device_ids), 16):
            device_id = device_ids[start : start + 16]
            session = self._live.get(device_id)
            if session is not None and session.group is not None and session.group.told:
                self._give_way(session)
            if under_way is not None and under_way.told:
                under_way.taken.add(device_id)

    def _revoked(self, payload: str) -> None:
        device, microseconds = payload.split(" ")
        device_id = UUID(device)
        gone = (device_id.bytes, _EPOCH + timedelta(microseconds=int(microseconds)))
        if self._under_way is not None:
            self._under_way.revoked.add(gone)
        session = self._live.get(device_id.bytes)
        if session is not None and _credentials(session.device) == gone:
            session.end(Cause.REVOKED)
        for wake in tuple(self._watchers.get(device_id, ())):
            wake(None)

    def _authorities_changed(self, payload: str) -> None:
        profile_id = UUID(payload)
        if self._under_way is not None:
            self._under_way.unheard = True  # it may rest on how they were
        judged = [each for each in self._entering if each.presented.issued_at is not None]
        live = [each for each in self._live.values() if each.device.profile_id == profile_id]
        self._review([*live, *judged])
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

    def _polled(self, payload: str) -> None:
        """Tell again what was kept for a device that polls another process now."""
        sender, _, device = payload.partition(" ")
        for keeper in self._keepers if sender != self._sender else ():
            if (keys := keeper(UUID(device))) is not None:
                named = msgspec.json.encode(keys).decode() if keys else ""
                self._telling.post(("attributes", f"{device} {named if len(named) < _MAX_NAMED else ''}"))

    def _reconfigure(self, payload: str) -> None:
        session = self._live.get(UUID(payload).bytes)
        if session is not None:
            session.connection.reconfigure()

    async def _tell(self, told: Sequence[tuple[str, str]]) -> list[None]:
        try:
            async with self._database.connection() as connection:
                await notify(connection, told)
        except (Unavailable, PostgresError) as fault:
            log.warning("other processes were not told of polls: %s", type(fault).__name__)
        return [None] * len(told)

    def _attributes_changed(self, payload: str) -> None:
        device, _, rest = payload.partition(" ")
        keys = _keys.decode(rest) if rest else ()
        device_id = UUID(device)
        session = self._live.get(device_id.bytes)
        if session is not None:
            session.connection.attributes_changed(keys)
        for wake in tuple(self._watchers.get(device_id, ())):
            wake(keys)


def _credentials(device: Authenticated) -> tuple[bytes, datetime]:
    """What tells a device's credentials from its others; their digest changes with the server's keys."""
    return device.device_id.bytes, device.issued_at


def _standing(session: LiveSession) -> Standing:
    device = session.device
    return Standing(device.device_id, session.id, device.issued_at)
