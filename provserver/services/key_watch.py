"""Every process that works with the server's keys takes up their versions, and says which it knows.

A version is written with only once all processes know it (`services/key_rotation.py`). Who could not say for a while
that it lives may have been left out: it then lets nobody hear that credentials are unknown (`ServerKeys.good_until`).
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable

from asyncpg import PostgresError

from provserver.core import ids
from provserver.core.secrets import ServerKeys
from provserver.errors import Misconfigured, Unavailable
from provserver.store import keyfile, server_keys
from provserver.store.database import Database
from provserver.store.keyfile import KeySource
from provserver.store.notifications import Notifications

log = logging.getLogger("provserver.keys")

INTERVAL = 4.0
"""Seconds after which a process says again that it lives."""

_TRUSTED = server_keys.STALE.total_seconds() - INTERVAL
"""Seconds after which a process that could not say so takes itself to be left out."""


class KeyWatch:
    """Keeps this process' keys what they should be.

    listens: whether it hears for itself that versions have changed; else somebody who listens calls `heard`.
    """

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        source: KeySource,
        *,
        listens: bool = False,
        random: ids.Randomness = os.urandom,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._keys = keys
        self._source = source
        self._monotonic = monotonic
        self._id = ids.uuid7(time.time(), random)
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._lacking: int | None = None
        self._notifications: Notifications | None = None
        if listens:
            self._notifications = Notifications(database, {server_keys.CHANNEL: self.heard}, self._caught_up)

    async def start(self) -> None:
        """Say that this process works with the keys. Raises Unavailable, Misconfigured."""
        await self.look()
        self._task = asyncio.create_task(self._run(), name="keys")
        if self._notifications is not None:
            await self._notifications.start()

    async def stop(self) -> None:
        """Say that it does no more."""
        if self._notifications is not None:
            await self._notifications.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with self._database.connection() as connection:
                await server_keys.leave(connection, self._id)
        except (Unavailable, PostgresError):  # it is forgotten when it was not seen for a while
            return

    def heard(self, _payload: str = "") -> None:
        """Versions have changed: look at them now."""
        self._told.set()

    async def _caught_up(self) -> None:
        self.heard()

    async def look(self) -> None:
        """Take up the versions there are, and say so. Raises Unavailable, Misconfigured."""
        while True:
            began = self._monotonic()
            keys = self._keys
            said = (sorted(keys.digest_keys), keys.current, keys.settled)
            async with self._database.connection() as connection:
                versions = await server_keys.beat(connection, self._id, socket.gethostname(), os.getpid(), *said)
                keys.good_until = began + _TRUSTED
                states = {version.number: version.state for version in versions}
                if not states:  # somebody empties the database
                    return
                loaded = ServerKeys(keys.digest_keys, keys.sealing_keys)
                wanted = {number for number, state in states.items() if state != "retired"}
                if wanted - loaded.digest_keys.keys():
                    loaded = await asyncio.to_thread(self._source.load)
                    known = {number: key for number, key in loaded.digest_keys.items() if number in states}
                    loaded.take_up(known, {number: loaded.sealing_keys[number] for number in known})
                    keyfile.recheck(await server_keys.proofs(connection), loaded)
            before = keys.epoch
            self._adopt(loaded, versions)
            if keys.epoch == before:
                return

    def _adopt(self, loaded: ServerKeys, versions: list[server_keys.Version]) -> None:
        """Change the keys if they are to be others."""
        keys = self._keys
        adopted = ServerKeys(keys.digest_keys, keys.sealing_keys, keys.current)
        keyfile.adopt(adopted, loaded, versions)
        lacking = next(
            (each.number for each in versions if each.state == "new" and each.number not in loaded.digest_keys), None
        )
        if lacking is not None and lacking != self._lacking:
            log.warning("version %d of the keys is not in %s: put it there", lacking, self._source.name)
        self._lacking = lacking
        if adopted != keys:
            keys.take_up(adopted.digest_keys, adopted.sealing_keys, adopted.current, settled=adopted.settled)
            log.info("keys: version %d is written with, of %s", keys.current, sorted(keys.digest_keys))

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(INTERVAL):
                    await self._told.wait()
            except TimeoutError:
                pass
            self._told.clear()
            try:
                await self.look()
            except (Unavailable, PostgresError) as fault:
                log.debug("the versions of the keys could not be read: %s", type(fault).__name__)
            except Misconfigured as fault:
                log.error("%s", fault)  # noqa: TRY400 - it says what is to be done
            except Exception:  # whatever it is, watching must not end
                log.exception("the versions of the keys could not be taken up")
