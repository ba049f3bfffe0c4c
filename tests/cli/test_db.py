import json
import re

import asyncpg
import pytest

from provserver.store import schema
from tests.cli.conftest import Cli

MIGRATIONS = [{"number": m.number, "name": m.name} for m in schema.known()]


@pytest.fixture
async def bare(postgres: str, name: str) -> str:
    """The DSN of a database that nothing was done to."""
    connection = await asyncpg.connect(postgres)
    await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    await connection.close()
    return postgres.replace("/provserver?", f"/{name}?")


def test_a_database_is_upgraded_once(bare: str) -> None:
    cli = Cli("--database-url", bare)
    done = cli.run("db", "status", "--json")
    assert (done.code, done.err) == (1, "")
    assert [migration["applied"] for migration in json.loads(done.out)] == [False] * len(MIGRATIONS)
    text = cli.run("db", "status")
    assert text.code == 1
    assert re.search(r"^0001_core +missing *$", text.out, re.MULTILINE)
    assert "Apply them with: provserver db upgrade" in text.err

    assert cli.json("db", "upgrade") == MIGRATIONS

    assert cli.json("db", "upgrade") == []
    assert cli.run("db", "upgrade").err == "The database is up to date.\n"
    status = cli.json("db", "status")
    assert [{"number": m["number"], "name": m["name"]} for m in status] == MIGRATIONS
    assert all(migration["applied"] and len(migration["checksum"]) == 64 for migration in status)
    assert re.search(r"^0001_core +applied *$", cli.run("db", "status").out, re.MULTILINE)


async def test_a_history_that_is_not_ours_ends_with_3(bare: str) -> None:
    cli = Cli("--database-url", bare)
    assert "applied 0001_core" in cli.run("db", "upgrade").err
    connection = await asyncpg.connect(bare)
    await connection.execute("UPDATE schema_migration SET checksum = 'other'")
    await connection.close()

    for command in ("upgrade", "status"):
        assert "was changed after it was applied" in cli.refused("db", command, code=3)
