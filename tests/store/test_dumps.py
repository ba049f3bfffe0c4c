import pytest

from provserver.errors import Misconfigured, Unavailable
from provserver.store import dumps
from provserver.store.database import Database


@pytest.mark.parametrize(
    ("dsn", "shown", "password"),
    [
        ("postgresql://u@/db?host=%2Ftmp%2Fx&port=5432", "postgresql://u@/db?host=%2Ftmp%2Fx&port=5432", None),
        ("postgresql://u:pl4n%40ted@h:5/db", "postgresql://u@h:5/db", "pl4n@ted"),
        (
            "postgres://h/db?user=u&password=pl4nted&sslmode=require",
            "postgres://h/db?user=u&sslmode=require",
            "pl4nted",
        ),
        ("postgresql://u:@[::1]/db", "postgresql://u@[::1]/db", ""),
    ],
)
def test_a_password_is_no_argument(dsn: str, shown: str, password: str | None) -> None:
    assert dumps._without_password(dsn) == (shown, password)


async def test_a_program_that_is_too_old_is_not_used() -> None:
    program, version = await dumps.find("pg_dump", 1)
    assert program.name == "pg_dump"
    assert version >= 15
    with pytest.raises(
        Misconfigured, match=r"pg_restore of PostgreSQL 99 or newer is needed, and here is \d+.*Install"
    ):
        await dumps.find("pg_restore", 99)


async def test_what_goes_wrong_is_said(database: Database) -> None:
    program, _ = await dumps.find("pg_dump", await dumps.server_version(database))
    with pytest.raises(Unavailable, match=r"pg_dump has failed: .*no_such_database"):
        async for _ in dumps.dump(program, database.dsn.replace("/reused?", "/no_such_database?")):
            pass
