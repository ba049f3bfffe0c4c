"""A profile with a key to ask with, a second process' view of the same database, and a lock in the way."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlsplit
from uuid import uuid4

import asyncpg
import pytest

from provserver.core.csvfile import DeviceRow
from provserver.core.model import (
    Authenticated,
    Credentials,
    DeviceProfile,
    Peer,
    ProvisionStrategy,
    ReprovisionPolicy,
    Transport,
)
from provserver.errors import RENDERINGS, Outcome
from provserver.services.access import Access
from provserver.services.profiles import KeyPair, ProfileChange
from provserver.services.provisioning import Provisioning
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.loop_clock import LoopClock

COUNTED = ("device", "credentials", "attribute", "attempt", "outbox")
PEER = Peer(Transport.HTTP, "192.0.2.7")
NONCE = "0123456789abcdef0123456789abcdef"


class Fleet:
    """A profile, and devices that ask with its key."""

    def __init__(self, space: Space, profile: DeviceProfile, pair: KeyPair) -> None:
        self.space = space
        self.profile = profile
        self.pair = pair

    @classmethod
    async def make(
        cls,
        space: Space,
        strategy: ProvisionStrategy = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES,
        policy: ReprovisionPolicy = ReprovisionPolicy.DENY,
        name: str = "sensors",
    ) -> Self:
        change = ProfileChange(name=name, strategy=strategy, reprovision_policy=policy, accept_unproven_repeats=True)
        return cls(space, *await space.profiles.create(change))

    async def ask(
        self, name: str | None = None, *, of: Provisioning | None = None, **members: object
    ) -> dict[str, Any]:
        """The reply to one request; of: another process than the space's own. A member that is None is left out."""
        request = {
            "provisionDeviceKey": self.pair.key,
            "provisionDeviceSecret": self.pair.secret,
            "deviceName": name,
        } | members
        body = json.dumps({key: value for key, value in request.items() if value is not None}).encode()
        answer = await (of or self.space.provisioning).answer(body, PEER, accept_protobuf=False)
        reply: dict[str, Any] = json.loads(answer.body)
        assert (reply["status"] == "SUCCESS") == ("credentialsValue" in reply) == ("errorMsg" not in reply)
        return reply

    async def import_(self, name: str, credentials: Credentials | None = None) -> None:
        """Make a device beforehand."""
        await self.space.devices.create(DeviceRow(1, name, credentials, False), self.profile.name)

    async def stored(self, name: str) -> list[Credentials]:
        """What the database has for a device, opened, newest first."""
        return list((await self.space.devices.show(name, open_=True)).opened)

    async def refused(self, name: str | None = None, *, of: Provisioning | None = None, **members: object) -> str:
        """Ask, and be refused: the reason that the operator reads."""
        reason: str = (await self.attempted(name, of=of, **members))["reason"]
        return reason

    async def attempted(
        self, name: str | None = None, *, of: Provisioning | None = None, **members: object
    ) -> dict[str, Any]:
        """Ask, and be refused: the attempt that is recorded."""
        await (of or self.space.provisioning).drain()  # earlier ones may still be on their way
        before = [row["id"] for row in await self.space.rows("SELECT id FROM attempt")]
        reply = await self.ask(name, of=of, **members)
        await (of or self.space.provisioning).drain()
        (attempt,) = await self.space.rows("SELECT * FROM attempt WHERE id <> ALL($1)", before)
        assert reply["status"] == RENDERINGS[Outcome(attempt["outcome"])].status != "SUCCESS"
        return dict(attempt)

    async def as_one_group(self, lock: "Locking", *asks: Coroutine[Any, Any, dict[str, Any]]) -> list[dict[str, Any]]:
        """The replies to requests that are settled in one group, as another one was under way meanwhile."""
        async with lock("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE") as held:
            under_way = asyncio.create_task(self.ask(f"under way {uuid4()}"))
            await held.until_waiting()
            tasks = [asyncio.create_task(ask) for ask in asks]
            await until(lambda: self.space.provisioning._tickets._waiting == len(asks))
        assert (await under_way)["status"] == "SUCCESS"
        return await asyncio.gather(*tasks)

    async def counts(self) -> dict[str, int]:
        """How many rows the tables of provisioning have."""
        return {table: len(rows) for table, rows in (await contents(self.space)).items() if table in COUNTED}


async def contents(space: Space) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, but for the events that tell of refusals (`tests/services/test_signals.py`)."""
    tables = [name for (name,) in await space.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    looks = (f"SELECT '{table}' WHERE EXISTS (SELECT FROM \"{table}\")" for table in tables)
    filled = {name for (name,) in await space.rows(" UNION ALL ".join(looks))}  # most are empty
    only = {"outbox": " WHERE type <> 'provision.failed'"}
    return {
        table: sorted(map(tuple, await space.rows(f'SELECT * FROM "{table}"{only.get(table, "")}')), key=repr)
        if table in filled
        else []
        for table in tables
    }


class Lock:
    """A transaction of the test's own that is in the way of others."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.connection = connection

    async def waiters(self) -> list[int]:
        """The Postgres processes that wait for a lock of this database."""
        await self.connection.execute("SELECT pg_stat_clear_snapshot()")  # which a transaction keeps otherwise
        rows = await self.connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND backend_type = 'client backend'"
        )
        return [row["pid"] for row in rows]

    async def until_waiting(self, number: int = 1) -> list[int]:
        """Wait until so many processes wait for a lock."""
        while len(pids := await self.waiters()) < number:
            pass
        return pids

    async def until_waiting_other_than(self, known: set[int]) -> None:
        """Wait until a process waits that is not known yet."""
        while not set(await self.until_waiting()) - known:
            pass

    async def commit(self) -> None:
        """Let what the transaction did be done."""
        await self.connection.execute("COMMIT")

    async def terminate(self, pid: int) -> None:
        """End a process of Postgres, as a failing machine does."""
        await self.connection.execute("SELECT pg_terminate_backend($1)", pid)


Locking = Callable[..., AbstractAsyncContextManager[Lock]]


class Outage:
    """A database that can be taken away: its connections break, and new ones find no socket."""

    def __init__(self, database: Database, url: str, link: Path, sockets: Path) -> None:
        self.database = database
        self._url = url
        self._link = link
        self._sockets = sockets

    @classmethod
    @asynccontextmanager
    async def prepare(cls, url: str) -> AsyncIterator[Self]:
        """A database that is there, until it is taken away."""
        sockets = parse_qs(urlsplit(url).query)["host"][0]
        with TemporaryDirectory(prefix="ps") as directory:  # not tmp_path: a socket's path must be short
            link = Path(directory) / "s"
            link.symlink_to(sockets)
            opened = Database(url.replace(quote(sockets, safe=""), quote(str(link), safe="")), size=1)
            await opened.open()
            try:
                yield cls(opened, url, link, Path(sockets))
            finally:
                await opened.close()

    async def begin(self) -> None:
        """Take it away as a stopping Postgres does."""
        self.take_away()
        killer = await asyncpg.connect(self._url)
        for connection in connections(self.database):
            await killer.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
        await killer.close()

    def take_away(self) -> None:
        """Have no further connection made."""
        self._link.unlink()

    def cut(self) -> None:
        """Break the connections at our end: Postgres does not notice, and goes on with what it was asked."""
        for connection in connections(self.database):
            connection.terminate()

    def end(self) -> None:
        """Bring it back."""
        self._link.symlink_to(self._sockets)


def connections(database: Database) -> list["asyncpg.Connection[asyncpg.Record]"]:
    """The pool's connections."""
    pool: Any = database._pool
    return [holder._con for holder in pool._holders if holder._con is not None]


async def use(access: Access, token: str) -> bool:
    """Come back with a token; whether it was let in."""
    return isinstance(await access.with_token(token, PEER), Authenticated)


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop run until something holds."""
    while not holds():  # noqa: ASYNC110 - what holds is a state, nobody tells of it
        await asyncio.sleep(0)


@pytest.fixture
async def fleet(space: Space) -> Fleet:
    """A profile that lets any device in, and denies repeats."""
    return await Fleet.make(space)


@pytest.fixture
async def other(space: Space, database_url: str) -> AsyncIterator[Provisioning]:
    """A second process on the space's database."""
    opened = Database(database_url, size=4)
    await opened.open()
    provisioning = Provisioning(opened, space.keys)
    yield provisioning
    await provisioning.drain()
    await opened.close()


@pytest.fixture
async def loop_clock(monkeypatch: pytest.MonkeyPatch) -> LoopClock:
    """That of the test's loop, until the test ends."""
    clock = LoopClock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock.time)
    return clock


@pytest.fixture
def lock(database_url: str) -> Locking:
    """Has a statement executed in a transaction that is rolled back at the end of the block."""

    @asynccontextmanager
    async def held(statement: str, *arguments: object) -> AsyncIterator[Lock]:
        connection = await asyncpg.connect(database_url)
        try:
            await connection.execute("BEGIN")
            await connection.execute(statement, *arguments)
            yield Lock(connection)
            await connection.execute("ROLLBACK")
        finally:
            await connection.close()

    return held


@pytest.fixture
async def outage(database_url: str) -> AsyncIterator[Outage]:
    """The space's database by connections of its own, which can be taken away."""
    async with Outage.prepare(database_url) as prepared:
        yield prepared
