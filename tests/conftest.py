"""Fixtures: a Postgres for the run, a fresh database for a test, a server process, a workspace in this process."""

import asyncio
import functools
import inspect
import itertools
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg
import hypothesis
import pytest

from provserver.core import ids
from provserver.core.secrets import ServerKeys
from provserver.services.devices import Devices
from provserver.services.profiles import Profiles
from provserver.services.provisioning import Provisioning
from provserver.store import embedded, keyfile, profiles, schema
from provserver.store.database import CONNECT_TIMEOUT, Database
from provserver.store.embedded import EmbeddedPostgres
from tests.server import Server

pytest_plugins = ["tests.conformance.report"]

# A wall clock decides no test, and one that was green for a commit stays so.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=50)  # the same each time
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

# Else each run compiles every test anew, and every process that tests start all of its modules.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a run in the background, whose processes would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARE = 0.75
"""Of its time limit, after which a test that hangs fails in the line where it waits, before its process is ended."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            marker = item.get_closest_marker("timeout")
            limit = float(marker.args[0] if marker else config.getini("timeout"))
            item.obj = _limited(item.obj, SHARE * limit)


def _limited(test: Callable[..., Coroutine[Any, Any, None]], limit: float) -> Callable[..., Coroutine[Any, Any, None]]:
    @functools.wraps(test)
    async def limited(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        loop = asyncio.get_running_loop()
        end = monotonic() + limit  # the loop's own clock is moved by some tests
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            if (left := end - monotonic()) > 0:
                timer = loop.call_later(left, look)
            else:
                scope.reschedule(loop.time())

        timer = loop.call_later(limit, look)
        try:
            async with asyncio.timeout(None) as scope:
                await test(*args, **kwargs)
        finally:
            timer.cancel()

    return limited


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """The path of a program of the system; where CI demands it, one that is missing is a failure."""

    def find(*names: str) -> str:
        for name in names:
            if path := shutil.which(name):
                return path
        message = (
            f"{' or '.join(names)} is not installed"
            " (Debian: mosquitto, mosquitto-clients, libcoap3-bin, curl, openssl, chromium)"
        )
        if os.environ.get("PROVSERVER_TEST_REQUIRE_TOOLS"):
            pytest.fail(message)
        pytest.skip(message)

    return find


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The DSN of a Postgres of the run, with a migrated database `template` to copy.

    Without fsync: a database for each test is made in half the time, and none of them lives through a power cut. It has
    room for several servers at once, each of several processes.
    """
    monkeypatch = pytest.MonkeyPatch()
    changed = {"fsync": "off", "full_page_writes": "off", "max_connections": "250"}
    monkeypatch.setattr(embedded, "SETTINGS", embedded.SETTINGS | changed)
    async with EmbeddedPostgres(tmp_path_factory.mktemp("postgres")) as running:
        monkeypatch.undo()
        await _execute(running.dsn, "CREATE DATABASE template")
        template = Database(_on(running.dsn, "template"), size=1)
        await template.open()
        await schema.upgrade(template)
        await template.close()
        yield running.dsn


@pytest.fixture(scope="session")
async def reused_url(postgres: str) -> str:
    """The DSN of a database that each test finds empty: far quicker than one of its own."""
    await _execute(postgres, "CREATE DATABASE reused TEMPLATE template")
    return _on(postgres, "reused")


_EMPTY = f"""
SET session_replication_role = replica;  -- no trigger, no foreign key
DO $$
DECLARE
    name text;
BEGIN
    PERFORM pg_terminate_backend(pid, 10000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
            AND pid <> ALL('{{%s}}');
    DROP FUNCTION IF EXISTS obstacle CASCADE;
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migration' LOOP
        IF pg_relation_size(quote_ident(name)) > {1 << 20} THEN
            EXECUTE 'TRUNCATE ' || quote_ident(name) || ' CASCADE';
        ELSE
            EXECUTE 'DELETE FROM ' || quote_ident(name);
        END IF;
    END LOOP;
    PERFORM setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S';
END $$
"""
"""What few rows there are is deleted far quicker than truncated."""


@dataclass
class Sweeper:
    """Empties a database, by one connection for all tests: a new one would have to get to know all tables.

    For the same reason a test's pool goes on to the next one, as long as nothing is left in its connections.
    """

    dsn: str
    connection: "asyncpg.Connection[asyncpg.Record] | None" = None
    _pool: "asyncpg.Pool[asyncpg.Record] | None" = None

    async def sweep(self) -> None:
        if self.connection is None or self.connection.is_closed():  # some tests end whatever there is
            self.connection = await asyncpg.connect(self.dsn, user="postgres")
        kept = _connections(self._pool) if self._pool is not None else []
        await self.connection.execute(_EMPTY % ",".join(str(each.get_server_pid()) for each in kept))

    async def open(self) -> Database:
        """A database with the last test's connections, or with new ones."""
        opened = Database(self.dsn, size=4)
        opened._pool, self._pool = self._pool, None
        if opened._pool is not None and any(each.is_closed() for each in _connections(opened._pool)):
            await opened.close()
        if opened._pool is None:
            await opened.open()
        return opened

    async def close(self, database: Database) -> None:
        """Keep the connections for the next test, with no setting and no lock left, if all are back and whole."""
        pool: Any = database._pool
        if pool is None or any(holder._in_use for holder in pool._holders):
            await database.close()
            return
        try:
            for each in _connections(pool):
                await each.reset(timeout=CONNECT_TIMEOUT)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):  # the test broke it
            pool.terminate()
        else:
            self._pool = pool
        database._pool = None

    def end(self) -> None:
        for each in (self.connection, self._pool):
            if each is not None:
                each.terminate()


def _connections(pool: Any) -> "list[asyncpg.Connection[asyncpg.Record]]":
    return [holder._con for holder in pool._holders if holder._con is not None]


@pytest.fixture(scope="session")
async def sweeper(reused_url: str) -> AsyncIterator[Sweeper]:
    made = Sweeper(reused_url)
    yield made
    made.end()


@pytest.fixture
async def database_url(reused_url: str, sweeper: Sweeper) -> AsyncIterator[str]:
    """The DSN of an empty database with the current schema, for one test. Its obstacles are functions of that name."""
    yield reused_url
    await sweeper.sweep()


_numbers = itertools.count(1)


@pytest.fixture
async def own_database_url(postgres: str) -> AsyncIterator[str]:
    """The same of one that nobody else uses: for tests that change more than rows."""
    name = f"test_{next(_numbers)}"
    await _execute(postgres, f"CREATE DATABASE {name} TEMPLATE template STRATEGY file_copy")
    yield _on(postgres, name)
    # Not WITH (FORCE): that would end an autovacuum worker too, which is no right of ours. A plain DROP sends it away.
    await _execute(postgres, _END_OTHERS.format(f"'{name}'"))
    await _execute(postgres, f"DROP DATABASE {name}")


@pytest.fixture
async def database(database_url: str, sweeper: Sweeper) -> AsyncIterator[Database]:
    """An open `Database` on an empty database."""
    if database_url == sweeper.dsn:
        opened = await sweeper.open()
        yield opened
        await sweeper.close(opened)
    else:
        opened = Database(database_url, size=4)
        await opened.open()
        yield opened
        await opened.close()


@dataclass
class Space:
    """The services on a test's own database."""

    database: Database
    keys: ServerKeys
    organization_id: UUID
    profiles: Profiles
    devices: Devices
    provisioning: Provisioning

    async def rows(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        async with self.database.connection() as connection:
            return await connection.fetch(statement, *arguments)

    async def value(self, statement: str, *arguments: object) -> Any:
        async with self.database.connection() as connection:
            return await connection.fetchval(statement, *arguments)


@pytest.fixture
async def space(database: Database, tmp_path: Path) -> AsyncIterator[Space]:
    """The services, in this process, on a database of the test's own."""
    keys = keyfile.load_or_create(tmp_path / "keys.json")
    await keyfile.prove(database, keys)
    async with database.connection() as connection:
        root = await profiles.root_organization(connection, ids.uuid7(0, os.urandom), "Manufacturer")
    provisioning = Provisioning(database, keys)
    yield Space(database, keys, root, Profiles(database, keys, root), Devices(database, keys, root), provisioning)
    await provisioning.drain()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server process of the run, on its embedded Postgres, with all its listeners."""
    with Server(tmp_path_factory.mktemp("server") / "data", tls=True, fresh=True) as running:
        yield running


_END_OTHERS = (
    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"  # until they are gone: DROP waits for 5 s alone
    " WHERE datname = {} AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


def _on(dsn: str, name: str) -> str:
    return dsn.replace("/provserver?", f"/{name}?")


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
