"""Postgres goes away under load, and comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from provserver.store import keyfile
from tests.faults import oracle
from tests.faults.load import Load
from tests.faults.proxy import PostgresProxy
from tests.server import Server


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[PostgresProxy]:
    async with PostgresProxy(database_url) as proxy:
        yield proxy


@asynccontextmanager
async def loaded(proxy: PostgresProxy, data_dir: Path, **env: str) -> AsyncIterator[Load]:
    """A server behind the proxy, under load."""
    server = Server(data_dir, "--database-url", proxy.dsn, env=env)
    await asyncio.to_thread(server.start)  # the proxy works in this loop, so the loop must not stand still
    try:
        command = ("profile", "create", "load", "--database-url", proxy.dsn)
        profile = await asyncio.to_thread(server.cli, *command)
        async with Load(server, profile["provisionDeviceKey"], profile["provisionDeviceSecret"]) as load:
            yield load
    finally:
        await asyncio.to_thread(server.stop)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("fault", ["cut", "freeze"])
async def test_requests_wait_or_fail_clearly_and_service_resumes(
    proxy: PostgresProxy, database_url: str, tmp_path: Path, fault: str
) -> None:
    async with loaded(proxy, tmp_path / "data", PROVSERVER_REQUEST_TIMEOUT="1") as load:
        await load.until(lambda: len(load.told) >= 100)
        if fault == "cut":
            await proxy.cut()
        else:
            proxy.freeze()
        await load.until(lambda: load.outcomes["FAILURE"] >= 30)
        assert set(load.outcomes) == {"SUCCESS", "FAILURE"}, "a request got no answer, or was told NOT_FOUND"
        before = len(load.told)
        await proxy.restore()
        await load.until(lambda: len(load.told) >= before + 100)
    await oracle.check(database_url, keyfile.load_or_create(tmp_path / "data" / "keys.json"), load.told)


async def test_requests_that_wait_are_answered_when_postgres_is_back_in_time(
    proxy: PostgresProxy, database_url: str, tmp_path: Path
) -> None:
    async with loaded(proxy, tmp_path / "data") as load:
        for _ in range(5):
            before = len(load.told)
            await load.until(lambda before=before: len(load.told) >= before + 50)  # type: ignore[misc]
            await proxy.cut()
            await proxy.restore()
        before = len(load.told)
        await load.until(lambda: len(load.told) >= before + 50)
        assert set(load.outcomes) == {"SUCCESS"}, "a request was refused although Postgres came back in time"
    await oracle.check(database_url, keyfile.load_or_create(tmp_path / "data" / "keys.json"), load.told)
