import asyncio

import asyncpg
import pytest

from provserver.errors import Misconfigured, Unavailable
from provserver.store.database import Database

PASSWORD = "pl4nted-password"


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """Of its own, as tables are made there."""
    return own_database_url


@pytest.fixture
async def table(database: Database) -> str:
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE numbers (n integer PRIMARY KEY)")
    return "numbers"


async def numbers(database: Database) -> list[int]:
    async with database.connection() as connection:
        return [row["n"] for row in await connection.fetch("SELECT n FROM numbers ORDER BY n")]


# --- opening


@pytest.mark.parametrize(
    "url",
    [
        f"not a URL {PASSWORD}",
        f"mysql://user:{PASSWORD}@127.0.0.1/db",
        f"postgresql://user:{PASSWORD}@127.0.0.1:port/db",
        f"postgresql://user:{PASSWORD}@127.0.0.1:99999/db",
        f"postgresql://user:{PASSWORD}@127.0.0.1:0/db",
        f"postgresql://user:{PASSWORD}@[::1/db",
        f"postgresql://user:{PASSWORD}@127.0.0.1/db?sslmode=nonsense",
        f"postgresql://user:{PASSWORD}@127.0.0.1:1/db",
        f"postgresql://user:{PASSWORD}@host.invalid/db",
        f"postgresql://user:{PASSWORD}@/db?host=/nowhere/at/all",
        f"postgresql://user:{PASSWORD}@127.0.0.1:1/db?sslmode=verify-full&sslrootcert=/nowhere",
        f"postgresql://user:{PASSWORD}@127.0.0.1:1/db?passfile=/nowhere",
    ],
)
async def test_a_url_that_leads_nowhere_says_so(url: str) -> None:
    database = Database(url)

    with pytest.raises((Misconfigured, Unavailable)) as raised:
        await database.open()

    assert PASSWORD not in str(raised.value)
    assert "database" in str(raised.value)  # the option to mend
    assert raised.value.__cause__ is None
    await database.close()


async def test_a_database_that_is_not_there_is_misconfigured(postgres: str) -> None:
    with pytest.raises(Misconfigured, match=r'"no_such_database" does not exist.*--database-url'):
        await Database(postgres.replace("/provserver?", "/no_such_database?")).open()


async def test_a_role_that_is_not_there_is_misconfigured(postgres: str) -> None:
    with pytest.raises(Misconfigured, match="--database-url"):
        await Database(postgres.replace("//provserver", f"//stranger:{PASSWORD}")).open()


async def test_something_else_that_listens_is_no_postgres() -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(Unavailable):
            await Database(f"postgresql://user:{PASSWORD}@127.0.0.1:{port}/db").open()


# --- serving


async def test_a_connection_commits_each_statement(database: Database, table: str) -> None:
    async with database.connection() as connection:
        await connection.execute(f"INSERT INTO {table} VALUES (1)")
        assert await numbers(database) == [1]


async def test_a_transaction_commits_all_or_nothing(database: Database, table: str) -> None:
    async with database.transaction() as connection:
        await connection.execute(f"INSERT INTO {table} VALUES (1)")
        assert await numbers(database) == []

    async def fail() -> None:
        async with database.transaction() as connection:
            await connection.execute(f"INSERT INTO {table} VALUES (2)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await numbers(database) == [1]


async def test_a_postgres_without_room_says_what_to_change(database_url: str) -> None:
    owner = await asyncpg.connect(database_url, user="postgres")
    await owner.execute("ALTER ROLE provserver CONNECTION LIMIT 0")
    try:
        with pytest.raises(Unavailable, match="Raise its max_connections, or lower database_connections or workers"):
            await Database(database_url).open()
    finally:
        await owner.execute("ALTER ROLE provserver CONNECTION LIMIT -1")
        await owner.close()


async def test_a_connection_given_up_in_a_transaction_is_whole_again(database_url: str) -> None:
    """There is no reset between uses, so what was begun must have ended by itself."""
    only = Database(database_url, size=1)
    await only.open()
    async with only.connection() as connection:
        await connection.execute("CREATE TABLE numbers (n integer PRIMARY KEY)")
    holder = await asyncpg.connect(database_url)
    await holder.execute("BEGIN; LOCK TABLE numbers IN ACCESS EXCLUSIVE MODE")

    async def write() -> None:
        async with only.transaction() as connection:
            await connection.execute("SELECT 1")
            await connection.execute("INSERT INTO numbers VALUES (1)")

    task = asyncio.create_task(write())
    while not await holder.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await holder.close()

    async with only.connection() as connection:
        await connection.execute("INSERT INTO numbers VALUES (2)")
    assert await numbers(only) == [2]
    other = await asyncpg.connect(database_url)
    assert await other.fetchval("SELECT array_agg(n) FROM numbers") == [2]  # committed, not in a transaction still open
    await other.close()
    await only.close()


async def test_jsonb_is_json_of_python(database: Database) -> None:
    value = {"a": [1, 2.5, None, True, "ü\u2028"], "big": 10**30}
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT $1::jsonb", value) == value
        assert await connection.fetchval("SELECT $1::jsonb ->> 'a'", value) is not None


async def test_ping_answers(database: Database) -> None:
    await database.ping()


# --- away


async def test_a_fault_of_a_statement_stays_what_it_is(database: Database, table: str) -> None:
    async with database.connection() as connection:
        await connection.execute(f"INSERT INTO {table} VALUES (1)")
    with pytest.raises(asyncpg.UniqueViolationError) as raised:
        async with database.transaction() as connection:
            await connection.execute(f"INSERT INTO {table} VALUES (1)")

    assert Database.is_race(raised.value)
    assert not Database.is_away(raised.value)
    assert await numbers(database) == [1]


async def test_a_connection_that_is_ended_is_unavailable_and_the_next_one_works(database: Database) -> None:
    with pytest.raises(Unavailable) as raised:
        async with database.connection() as connection:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    assert isinstance(raised.value.__cause__, asyncpg.PostgresError | OSError | asyncpg.InterfaceError)
    assert Database.is_away(raised.value.__cause__)
    await database.ping()


async def test_a_statement_past_its_time_is_unavailable_and_the_connection_works(database: Database) -> None:
    with pytest.raises(Unavailable, match="TimeoutError"):
        async with database.connection() as connection:
            await connection.execute("SELECT pg_sleep(600)", timeout=0.01)

    await database.ping()


async def test_no_connection_to_spare_is_unavailable(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only = Database(database_url, size=1)
    await only.open()
    async with only.connection():
        monkeypatch.setattr("provserver.store.database.CONNECT_TIMEOUT", 0.05)
        with pytest.raises(Unavailable):
            await only.ping()
        monkeypatch.undo()
    await only.ping()
    await only.close()


@pytest.mark.parametrize(
    ("refuse", "admit"),
    [
        ("ALTER DATABASE {name} ALLOW_CONNECTIONS false", "ALTER DATABASE {name} ALLOW_CONNECTIONS true"),
        ("ALTER DATABASE {name} CONNECTION LIMIT 0", "ALTER DATABASE {name} CONNECTION LIMIT -1"),
    ],
)
async def test_a_connection_that_is_refused_is_unavailable_until_it_is_not(
    postgres: str, database: Database, refuse: str, admit: str
) -> None:
    async with database.connection() as connection:
        name = await connection.fetchval("SELECT current_database()")
    operator = await asyncpg.connect(postgres)
    await operator.execute(refuse.format(name=name))
    connected = "FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'"
    await operator.execute(f"SELECT pg_terminate_backend(pid) {connected}", name)
    while await operator.fetchval(f"SELECT count(*) {connected}", name):
        pass
    try:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await database.ping()
    finally:
        await operator.execute(admit.format(name=name))
        await operator.close()

    await database.ping()


async def test_a_database_that_is_read_only_is_unavailable(database: Database, table: str) -> None:
    with pytest.raises(Unavailable):
        async with database.transaction() as connection:
            await connection.execute(f"SET TRANSACTION READ ONLY; INSERT INTO {table} VALUES (1)")

    assert await numbers(database) == []


async def test_a_closed_database_is_unavailable(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(Unavailable):
        await database.ping()
    await database.open()
    await database.close()
    with pytest.raises(Unavailable):
        await database.ping()
    await database.close()


async def test_closing_cuts_what_does_not_come_back(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(database_url)
    await database.open()
    holder = await asyncpg.connect(database_url)
    await holder.execute("CREATE TABLE numbers (n integer)")
    await holder.execute("BEGIN; LOCK TABLE numbers IN ACCESS EXCLUSIVE MODE")
    task = asyncio.create_task(numbers(database))
    while not await holder.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        pass

    monkeypatch.setattr("provserver.store.database.CONNECT_TIMEOUT", 0.05)
    await database.close()

    with pytest.raises(Unavailable):
        await task
    await holder.close()


async def test_closing_cuts_what_breaks_at_that_moment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: object) -> None:  # uvloop's transports may fail at the write of a farewell
        raise BrokenPipeError

    database = Database(database_url)
    await database.open()
    async with database.connection() as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
    monkeypatch.setattr("asyncpg.pool.Pool.close", broken)
    await database.close()

    watch = await asyncpg.connect(database_url)
    while await watch.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid):
        pass
    await watch.close()
