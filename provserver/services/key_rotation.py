"""Rotating the server's keys while it serves, and taking old versions away (docs/keys.md).

In steps, each of which leaves a whole state behind it; who is killed between them is gone on from where he was:

1. The new version is put among the keys and made known; every process takes it up and says so. None writes with it.
2. It becomes the current one, in one transaction that waits for all writers and lets none go on with the old version.
3. Every process says that it writes with it. Look-ups try both.
4. What is sealed is sealed anew, batch by batch, and digests are made anew from what was sealed.
5. Nothing is left: look-ups try the new version alone, but for what has no sealed copy (API keys and the like).
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from asyncpg import InterfaceError, PostgresError

from provserver.core import ids
from provserver.core.secrets import KEY_LENGTH, ServerKeys, Unsealable
from provserver.errors import Conflict, Misconfigured, NotFound, Unavailable
from provserver.services.audit_chain import AuditChain, Broken
from provserver.services.key_watch import INTERVAL
from provserver.services.sealed_columns import COLUMNS, SealedColumn
from provserver.store import audit, keyfile, organizations, server_keys
from provserver.store.database import Connection, Database
from provserver.store.headfile import HeadFile
from provserver.store.keyfile import KeySource
from provserver.store.server_keys import Process, Remains, Version

BATCH = 200

_POLL = 0.05
_SWITCH_LIMIT = timedelta(seconds=60)

Progress = Callable[[int, int | None], None]
"""Told how many rows are done, of how many."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did. converted: rows; old: versions that may be retired now."""

    version: int
    converted: int
    old: list[int]


class KeyRotation:
    """Brings versions of the keys, and takes them away.

    patience: seconds that processes have to take one up. grace: seconds in which those that look dead may say that they
    are not, as they all look so when Postgres was away. file: where the newest head of the audit is kept, if anywhere.
    """

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        source: KeySource,
        *,
        patience: float = 30.0,
        grace: float = 2 * INTERVAL,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
        file: HeadFile | None = None,
    ) -> None:
        self._database = database
        self._keys = keys
        self._source = source
        self._chain = AuditChain(database, keys, random, clock, file=file)
        self._patience = patience
        self._grace = grace
        self._random = random
        self._clock = clock
        self._columns = [column.where for column in COLUMNS]

    async def list_(self) -> tuple[list[Version], list[Process]]:
        """All versions there ever were, and the processes that work with them."""
        async with self._database.connection() as connection:
            return await server_keys.versions(connection), await server_keys.processes(connection)

    async def rotate(self, told: Progress, write: Path | None = None) -> Rotated:
        """Bring a new version, or go on with one that was begun. Raises Misconfigured, Refused, Unavailable.

        write: where to put the keys with a new version in them, when they do not come from a file that we may write.
        """
        async with self._alone():
            versions = await self._versions()
            states = {each.state: each.number for each in versions}
            if "new" not in states and "old" not in states:
                states["new"] = await self._bring(max(each.number for each in versions) + 1, write)
            if "new" in states:
                version = states["new"]
                await self._until(
                    lambda process: version in process.known,
                    f"do not know version {version} of the keys. Put it where they have theirs from, and restart those "
                    "that have them from the environment",
                )
                await self._activate(version)
            version = next(each.number for each in await self._versions() if each.state == "current")
            await self._take_up()
            await self._until(lambda process: process.writes == version, f"do not write with version {version} yet")
            converted = await self._convert(version, told)
            async with self._database.transaction() as connection:
                for each in await server_keys.versions(connection):
                    if each.state == "old":
                        await server_keys.become(connection, each.number, "settled")
                await self._record(connection, "keys.rotated", version)
            await self._take_up()
            await self._until(lambda process: process.settled, f"do not know yet that version {version} is complete")
            return Rotated(
                version, converted, [each.number for each in await self._versions() if each.state == "settled"]
            )

    async def remains(self, version: int) -> Remains:
        """What would be lost with an old version. Raises Refused."""
        async with self._database.connection() as connection:
            states = {each.number: each.state for each in await server_keys.versions(connection)}
            match states.get(version):
                case None:
                    raise NotFound(f"There is no version {version} of the keys. `provserver keys list` names them.")
                case "retired" if version in self._source.load().digest_keys and not self._source.text:
                    return Remains([], 0, 0, 0, 0)  # but for the file that still has it
                case "retired":
                    raise Conflict(f"Version {version} is retired already.")
                case "settled":
                    return await server_keys.remains(connection, version)
                case _:
                    raise Conflict(f"Version {version} is in use. Run `provserver keys rotate` first, to its end.")

    async def retire(self, version: int) -> bool:
        """Take an old version away, with what is under it; False: the keys are not ours to change.

        Raises Refused while API keys are under it, Misconfigured, Unavailable.
        """
        async with self._alone():
            states = {each.number: each.state for each in await self._versions()}
            if states.get(version) == "retired" and version in self._source.load().digest_keys:
                return self._drop()  # the last time it did not come to that
            if names := (await self.remains(version)).api_keys:
                raise Conflict(
                    f"These API keys were not used since version {version} was current: {', '.join(names)}. "
                    "Use each once, or delete it (provserver key delete)."
                )
            for column in self._columns:
                async with self._database.connection() as connection:
                    if await server_keys.under(connection, column, version + 1):
                        raise Conflict(f"There are rows of {column.name} under version {version}: that is a fault.")
            await self._take_up()
            await self._sign_anew()
            async with self._database.transaction() as connection:
                await server_keys.become(connection, version, "retired")
                await server_keys.forget(connection, version)
                await self._record(connection, "keys.retired", version)
            await self._take_up()
            await self._until(lambda process: version not in process.known, f"have not dropped version {version} yet")
            return self._drop()

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """While nobody else changes versions."""
        connection = await self._database.dedicated()
        try:
            if not await server_keys.lock(connection, wait=False):
                raise Conflict("Another `provserver keys` is at work. Wait for it, or end it.")
            try:
                yield
            finally:
                with suppress(OSError, InterfaceError, PostgresError):  # it is gone, and the lock with it
                    await server_keys.unlock(connection)  # who ends a connection does not hear when it has ended
        finally:
            connection.terminate()

    async def _versions(self) -> list[Version]:
        async with self._database.connection() as connection:
            return await server_keys.versions(connection)

    async def _bring(self, version: int, write: Path | None) -> int:
        """Put a new version among the keys, and make it known."""
        if version > 255:
            raise Conflict("There were 255 versions of the keys; there cannot be more.")
        loaded = self._source.load()
        if version not in loaded.digest_keys:
            loaded = ServerKeys(
                {**loaded.digest_keys, version: self._random(KEY_LENGTH)},
                {**loaded.sealing_keys, version: self._random(KEY_LENGTH)},
            )
            if self._source.text:
                if write is None:
                    raise Misconfigured(
                        "The keys come from PROVSERVER_KEYS, which only you can change. Run this again with "
                        "--write FILE: it puts them there with a new version, for you to set PROVSERVER_KEYS to."
                    )
                keyfile.write_new(write, loaded)
                raise Conflict(
                    f"The keys with version {version} are in {write}. Set PROVSERVER_KEYS to what it holds for each "
                    "process and for commands, restart them one after the other, remove the file, and run "
                    "`provserver keys rotate` again."
                )
            keyfile.replace(self._source.path, loaded)
        async with self._database.transaction() as connection:
            for purpose, held in (("digest", loaded.digest_keys), ("sealing", loaded.sealing_keys)):
                await server_keys.add(connection, purpose, version, server_keys.proof(purpose, held[version]), "new")
            await server_keys.tell(connection)
        await self._take_up()
        return version

    async def _take_up(self) -> None:
        """Have our own keys be what every process' are."""
        async with self._database.connection() as connection:
            proofs, versions = await server_keys.proofs(connection), await server_keys.versions(connection)
        loaded = self._source.load()
        keyfile.recheck(proofs, _without_unknown(loaded, proofs))
        keyfile.adopt(self._keys, loaded, versions)

    async def _until(self, holds: Callable[[Process], bool], lacking: str) -> None:
        """Wait for every process that lives; one that is not seen all the while does not."""
        began = asyncio.get_running_loop().time()
        while True:
            async with self._database.connection() as connection:
                processes = await server_keys.processes(connection)
            waiting = [each for each in processes if not holds(each)]
            waited = asyncio.get_running_loop().time() - began
            if not waiting or (all(each.stale for each in waiting) and waited > self._grace):
                return
            if waited > self._patience:
                names = ", ".join(f"{each.host} (pid {each.pid})" for each in waiting if not each.stale)
                raise Conflict(f"These processes {lacking}: {names}. Then run this again.")
            await asyncio.sleep(_POLL)

    async def _activate(self, version: int) -> None:
        until = asyncio.get_running_loop().time() + _SWITCH_LIMIT.total_seconds()
        while True:
            async with self._database.connection() as connection:
                if await server_keys.activate(connection, version, self._columns):
                    return
            self._check_patience(until)
            await asyncio.sleep(_POLL)

    @staticmethod
    def _check_patience(until: float) -> None:
        if asyncio.get_running_loop().time() > until:
            raise Unavailable("Others write to the tables all the time, an import maybe. Run this again later.")

    async def _convert(self, version: int, told: Progress) -> int:
        done = 0
        total = 0
        for where in self._columns:
            async with self._database.connection() as connection:
                total += await server_keys.under(connection, where, version)
        told(0, total)
        for column in COLUMNS:
            left = None
            while left != 0:
                count, before = 0, done
                async for part in self._pass(column, version):
                    count += part
                    done += part
                    told(done, max(total, done))
                await self._let_writers_end()
                async with self._database.connection() as connection:
                    left = await server_keys.under(connection, column.where, version)
                if left and done == before:
                    await asyncio.sleep(_POLL)  # others hold these rows
        return done

    async def _pass(self, column: SealedColumn, version: int) -> AsyncIterator[int]:
        """Once over the table; how many rows each batch has made anew."""
        after = None
        while True:
            async with self._database.transaction() as connection:
                rows, after = await server_keys.batch(connection, column.where, version, after, BATCH)
                if rows:
                    try:
                        anew = [column.anew(self._keys, row, self._random(12)) for row in rows]
                    except Unsealable as fault:
                        raise Conflict(f"A row of {column.where.name} cannot be opened: {fault}.") from None
                    converted = await server_keys.convert(connection, column.where, anew)
                    if converted < len(rows):
                        raise Conflict(f"Rows of {column.where.name} are there twice, under two versions: a fault.")
            if rows:
                yield len(rows)
            if after is None:
                return

    async def _let_writers_end(self) -> None:
        """What was begun before may yet write a row under the old version (a device that is made of its token)."""
        until = asyncio.get_running_loop().time() + _SWITCH_LIMIT.total_seconds()
        while True:
            async with self._database.connection() as connection:
                if await server_keys.settled_writers(connection, self._columns):
                    return
            self._check_patience(until)
            await asyncio.sleep(_POLL)

    async def _sign_anew(self) -> None:
        """Have the audit's head be under the current version: one under a version that is retired is refused."""
        with suppress(Broken, Misconfigured):  # the server says so; a version that has leaked must go all the same
            await self._chain.advance(wait=True)
            await self._chain.keep(now=True)

    def _drop(self) -> bool:
        """Take what was retired out of the file; False: there is none that we may write."""
        if self._source.text:
            return False
        keyfile.replace(self._source.path, self._keys)
        return True

    async def _record(self, connection: Connection, action: str, version: int) -> None:
        root = await organizations.root(connection)
        id_ = ids.uuid7(self._clock(), self._random)
        await audit.record(connection, id_, root.id, "operator", action, f"keys:{version}", version=version)


def _without_unknown(loaded: ServerKeys, proofs: dict[tuple[str, int], bytes]) -> ServerKeys:
    known = {version for _, version in proofs}
    return ServerKeys(
        {version: key for version, key in loaded.digest_keys.items() if version in known},
        {version: key for version, key in loaded.sealing_keys.items() if version in known},
    )
