"""Postgres fails in its own ways under load: restarted, paused, read-only, without connections, its disk full.

Devices ask until they have their answer, with their nonces, and each has it in the end.
"""

import asyncio
import itertools
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from provserver.core import ids
from provserver.core.model import Peer, ProvisionStrategy, Transport
from provserver.core.secrets import ServerKeys
from provserver.errors import Outcome
from provserver.services.profiles import KeyPair, ProfileChange, Profiles
from provserver.services.provisioning import Provisioning
from provserver.store import keyfile, profiles, schema
from provserver.store.database import Database
from provserver.store.embedded import EmbeddedPostgres
from tests.faults import oracle
from tests.server import children

WORKERS = 8
LIMIT = 120.0
PEER = Peer(Transport.MQTT, "192.0.2.9")
DISK = 256


@dataclass
class World:
    """A Postgres of its own, a server on it without listeners, and devices that do not give up."""

    postgres: EmbeddedPostgres
    disk: Path
    keys: ServerKeys
    provisioning: Provisioning
    pair: KeyPair
    told: dict[str, str] = field(default_factory=dict)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self._changed = asyncio.Condition()
        self._ending = False

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Devices ask meanwhile; at the end those that had begun have their answers."""
        self._ending = False
        tasks = [asyncio.create_task(self._work()) for _ in range(WORKERS)]
        try:
            yield
            self._ending = True
            async with asyncio.timeout(LIMIT):
                await asyncio.gather(*tasks)
        finally:  # who failed shall not wait for answers that may never come
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def until(self, holds: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(LIMIT), self._changed:
                await self._changed.wait_for(holds)
        except TimeoutError as fault:
            raise TimeoutError(f"not after {LIMIT:.0f} s; heard were {dict(self.outcomes)}") from fault

    async def served(self, number: int = 40) -> None:
        """Wait until so many more devices have their credentials."""
        enough = len(self.told) + number
        await self.until(lambda: len(self.told) >= enough)

    async def refused(self, number: int = 2 * WORKERS) -> None:
        """Wait until so many more requests were told to come back."""
        enough = self.outcomes[Outcome.UNAVAILABLE] + number
        await self.until(lambda: self.outcomes[Outcome.UNAVAILABLE] >= enough)

    async def accepting(self) -> None:
        """Wait until Postgres lets somebody in."""
        async with asyncio.timeout(LIMIT):
            while True:
                with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    await (await asyncpg.connect(self.postgres.dsn)).close()
                    return
                await asyncio.sleep(0.02)

    async def run(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.postgres.dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    @property
    def pid(self) -> int:
        assert self.postgres._process is not None
        return self.postgres._process.pid

    async def _work(self) -> None:
        while not self._ending:
            name = f"device-{next(self.numbers)}"
            request = {
                "provisionDeviceKey": self.pair.key,
                "provisionDeviceSecret": self.pair.secret,
                "deviceName": name,
                "requestNonce": os.urandom(16).hex(),
            }
            outcome = None
            while outcome is not Outcome.SUCCESS:
                answer = await self.provisioning.answer(json.dumps(request).encode(), PEER)
                outcome = answer.outcome
                async with self._changed:
                    self.outcomes[outcome] += 1
                    if outcome is Outcome.SUCCESS:
                        self.told[name] = json.loads(answer.body)["credentialsValue"]
                    self._changed.notify_all()
                if outcome is not Outcome.SUCCESS:
                    await asyncio.sleep(0.02)  # not to spin


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small disk, if this process may have one."""
    path = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m,mode=0700", "tmpfs", str(path)]
    mounted = os.geteuid() == 0 and not subprocess.run(command, capture_output=True, check=False).returncode
    yield path, mounted
    if mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(scope="module")
async def world(disk: tuple[Path, bool]) -> AsyncIterator[World]:
    keys = keyfile.load_or_create(disk[0] / "keys.json")
    async with EmbeddedPostgres(disk[0] / "data") as postgres:
        database = Database(postgres.dsn, size=4, serving=True)
        await database.open()
        await schema.upgrade(database)
        await keyfile.prove(database, keys)
        async with database.connection() as connection:
            root = await profiles.root_organization(connection, ids.uuid7(0, os.urandom), "Manufacturer")
        change = ProfileChange(name="load", strategy=ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES)
        _, pair = await Profiles(database, keys, root).create(change)
        provisioning = Provisioning(database, keys, wait_limit=0.5)
        yield World(postgres, disk[0], keys, provisioning, pair)
        await provisioning.drain()
        await database.close()


@asynccontextmanager
async def restarted(world: World) -> AsyncIterator[None]:
    """As an operator does it; who supervises it starts it again."""
    process = world.postgres._process
    assert process is not None
    os.kill(process.pid, signal.SIGINT)
    async with asyncio.timeout(LIMIT):
        await process.wait()  # else enough may be served before it goes down, and it is down when that is checked
    yield


@asynccontextmanager
async def killed(world: World) -> AsyncIterator[None]:
    """A backend dies, so that Postgres ends all others and recovers."""
    victim, other = [await asyncpg.connect(world.postgres.dsn) for _ in range(2)]
    try:
        os.kill(victim.get_server_pid(), signal.SIGKILL)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await other.execute(f"SELECT pg_sleep({LIMIT})")  # until it is ended: see `restarted`
    finally:
        victim.terminate()
        other.terminate()
    await world.accepting()
    yield


def _state(pid: int) -> str:
    """Of a process, as the kernel calls it: T is stopped, Z has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@asynccontextmanager
async def paused(world: World) -> AsyncIterator[None]:
    stopped: list[int] = []

    async def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)
        async with asyncio.timeout(LIMIT):
            while _state(pid) not in "TZ":  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0.001)

    try:
        await stop(world.pid)  # from now on it forks nobody, and who ends stays as a zombie
        for pid in children(world.pid):
            await stop(pid)
        await world.refused()
        yield
    finally:
        for pid in reversed(stopped):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def read_only(world: World) -> AsyncIterator[None]:
    """As a standby is, after a failover that went to the wrong one."""
    off = "default_transaction_read_only = off"
    try:
        await world.run("ALTER ROLE CURRENT_USER SET default_transaction_read_only = on", _END_ALL)
        await world.refused()
        yield
    finally:
        await world.run(f"SET {off}", f"ALTER ROLE CURRENT_USER SET {off}", _END_ALL)


@asynccontextmanager
async def out_of_connections(world: World) -> AsyncIterator[None]:
    held = [await asyncpg.connect(world.postgres.dsn)]
    try:
        before = world.outcomes[Outcome.UNAVAILABLE]
        async with asyncio.timeout(LIMIT):
            while world.outcomes[Outcome.UNAVAILABLE] == before:
                with suppress(asyncpg.TooManyConnectionsError):
                    while True:
                        held.append(await asyncpg.connect(world.postgres.dsn))
                await held[0].execute(_END_ALL)
        yield
    finally:
        for connection in held:
            await connection.close()


@asynccontextmanager
async def disk_full(world: World) -> AsyncIterator[None]:
    ballast = world.disk / "ballast"
    try:
        # Unbuffered: what a buffer could not write it would try again, and fail, at close.
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        await world.refused()
        yield
    finally:
        ballast.unlink()


_END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'provserver'"

Fault = Callable[[World], AbstractAsyncContextManager[None]]


@pytest.mark.parametrize("fault", [restarted, killed, paused, read_only, out_of_connections, disk_full])
async def test_every_device_has_its_answer_in_the_end(world: World, disk: tuple[Path, bool], fault: Fault) -> None:
    if fault is disk_full and not disk[1]:
        pytest.skip("needs root, to mount a small disk")
    async with world.load():
        await world.served()
        async with fault(world):
            pass
        await world.served()
    await world.provisioning.drain()
    assert set(world.outcomes) <= {Outcome.SUCCESS, Outcome.UNAVAILABLE}, world.outcomes
    assert await oracle.check(world.postgres.dsn, world.keys, world.told) == len(world.told)
