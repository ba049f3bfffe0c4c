"""The connection to Postgres: one pool, and one boundary where its faults become ours."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg
import msgspec
from asyncpg import exceptions as pg
from asyncpg.pool import PoolConnectionProxy

from provserver import metrics
from provserver.errors import Misconfigured, Unavailable

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

_AWAY = (
    OSError,
    TimeoutError,
    pg.PostgresConnectionError,
    pg.InterfaceError,
    pg.OperatorInterventionError,
    pg.InsufficientResourcesError,
    pg.ReadOnlySQLTransactionError,
    pg.InternalClientError,
)
"""What says that Postgres is away, full, read-only or going down: asking again later is right."""

_AWAY_COUNTED = metrics.DATABASE_AWAY.cell()

_SERVING = {
    # A plan is kept for the life of a connection: one made while tables were small must serve when they are large.
    # Making one costs more than most groups do, and arrays as parameters would have it made every time.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # Who waits for a row that an operator's transaction holds makes all wait that are grouped with him.
    "lock_timeout": "300ms",
}

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 8.0


class Database:
    """A pool of connections. Every fault of Postgres leaves as `Unavailable` but those of a statement itself."""

    def __init__(self, dsn: str, *, size: int = 8, serving: bool = False) -> None:
        """serving: for many short statements by key: see `_SERVING`."""
        self._dsn = dsn
        self._size = size
        self._settings = {"application_name": "provserver", "jit": "off"} | (_SERVING if serving else {})
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    @property
    def dsn(self) -> str:
        """Where it is; may hold a password."""
        return self._dsn

    async def open(self) -> None:
        """Connect once, to know that the URL is right. Raises Misconfigured, Unavailable."""
        pool = asyncpg.create_pool(
            self._dsn,
            min_size=1,
            max_size=self._size,
            timeout=CONNECT_TIMEOUT,
            command_timeout=COMMAND_TIMEOUT,
            max_inactive_connection_lifetime=0,
            init=_prepare,
            reset=_keep,
            server_settings=self._settings,
        )
        try:
            await pool
        except (ValueError, OverflowError, pg.InterfaceError) as fault:
            raise Misconfigured(f"The database URL is not valid: {type(fault).__name__}.") from None
        except TimeoutError:
            raise Unavailable(
                f"Postgres does not answer within {CONNECT_TIMEOUT:.0f} s. Check --database-url."
            ) from None
        except OSError as fault:
            raise Unavailable(f"Postgres cannot be reached: {fault}. Start it, or check --database-url.") from None
        except pg.TooManyConnectionsError:
            raise Unavailable(
                "Postgres has no connection left for us. Raise its max_connections, or lower database_connections or"
                " workers."
            ) from None
        except pg.PostgresError as fault:
            raise (Unavailable if self.is_away(fault) else Misconfigured)(
                f"Postgres cannot be reached: {fault}. Check --database-url."
            ) from None
        self._pool = pool

    async def close(self) -> None:
        """Return every connection; those that do not come back in time are cut."""
        if self._pool is None:
            return
        pool, self._pool = self._pool, None
        try:
            await asyncio.wait_for(pool.close(), CONNECT_TIMEOUT)
        except _AWAY:
            pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection, each statement its own transaction. Raises Unavailable."""
        if self._pool is None:
            raise Unavailable("The database is closed.")
        acquired = False  # until then a fault is not a statement's, whatever it is
        try:
            async with self._pool.acquire(timeout=CONNECT_TIMEOUT) as connection:
                acquired = True
                yield connection
        except (*_AWAY, pg.PostgresError) as fault:
            if acquired and not self.is_away(fault):
                raise
            _AWAY_COUNTED.value += 1
            if type(fault) is pg.OperatorInterventionError:  # as triggers of a rotation raise it: migration 0013
                raise Unavailable("The server's keys were rotated meanwhile. Do it again.") from fault
            raise Unavailable(f"Postgres is not available: {type(fault).__name__}.") from fault

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside one transaction. Raises Unavailable."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    async def dedicated(self) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection outside the pool, the caller's to end. Raises as asyncpg does."""
        return await asyncpg.connect(
            self._dsn, timeout=CONNECT_TIMEOUT, command_timeout=COMMAND_TIMEOUT, server_settings=self._settings
        )

    @staticmethod
    def is_away(fault: Exception) -> bool:
        """Whether the fault says that Postgres is away, not that the statement is wrong."""
        return isinstance(fault, _AWAY)

    @staticmethod
    def is_lock_timeout(fault: Exception) -> bool:
        """Whether the fault says that another transaction held a row for longer than we wait."""
        return isinstance(fault, pg.LockNotAvailableError)

    @staticmethod
    def is_race(fault: Exception) -> bool:
        """Whether the fault says that another transaction was faster: looking again is right."""
        return isinstance(fault, pg.IntegrityConstraintViolationError | pg.TransactionRollbackError)

    async def writable(self) -> bool:
        """Whether Postgres takes writes: a standby does not. Raises Unavailable."""
        async with self.connection() as connection:
            found: str = await connection.fetchval("SELECT current_setting('transaction_read_only')", timeout=2)
        return found == "off"

    async def ping(self) -> None:
        """Ask Postgres for nothing. Raises Unavailable."""
        async with self.connection() as connection:
            await connection.fetchval("SELECT 1", timeout=2)


async def _keep(_connection: Connection) -> None:
    """Nothing to reset between uses, as no session state is ever set: saves a round trip."""


async def _prepare(connection: Connection) -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: b"\x01" + msgspec.json.encode(value),
        decoder=lambda data: msgspec.json.decode(data[1:]),
        format="binary",
    )
