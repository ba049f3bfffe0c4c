import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from provserver import metrics
from provserver.core import ids
from provserver.services import retention as retention_module
from provserver.services.audit_chain import AuditChain
from provserver.services.retention import Retention
from provserver.services.upkeep import Upkeep
from provserver.store import audit
from provserver.store.database import Database
from provserver.store.headfile import HeadFile
from tests.conftest import Space
from tests.services.conftest import Outage

Make = Callable[[datetime], Awaitable[None]]

DAY = 86_400.0
NOW = time.time()


async def record(space: Space) -> None:
    id_ = ids.uuid7(time.time(), os.urandom)
    async with space.database.connection() as connection:
        await audit.record(connection, id_, space.organization_id, "operator", "device.revoked", id_)


def upkeep(space: Space, database: Database | None = None, *, attempts: float = 0) -> Upkeep:
    used = database or space.database
    return Upkeep(used, AuditChain(used, space.keys), Retention(attempts), interval=0.001)


async def until_chained(space: Space) -> None:
    while await space.value("SELECT count(*) FROM audit WHERE seq IS NULL"):
        pass


def shown() -> set[str]:
    """What the metrics say keeps the audit from being chained."""
    return {kind for (kind,), cell in metrics.AUDIT_FAULT.cells.items() if cell.value}


async def until_shown(kind: str) -> None:
    while shown() != {kind}:  # noqa: ASYNC110 - what it is set by tells nobody
        await asyncio.sleep(0)


async def test_the_audit_is_chained_as_it_grows(space: Space, outage: Outage) -> None:
    working = upkeep(space, outage.database)
    await working.start()
    await record(space)
    await until_chained(space)
    await outage.begin()
    await record(space)
    outage.end()
    await until_chained(space)
    await working.stop(5)


async def test_what_is_left_is_chained_at_the_end(space: Space) -> None:
    idle = Upkeep(space.database, AuditChain(space.database, space.keys), Retention(0), interval=3600)
    await record(space)  # which is there when it first looks
    await idle.start()
    await until_chained(space)
    await record(space)
    await idle.stop(60)
    await until_chained(space)


async def test_the_newest_head_is_kept_at_the_end(space: Space, tmp_path: Path) -> None:
    file = HeadFile(tmp_path / "audit-head.json")
    working = Upkeep(space.database, AuditChain(space.database, space.keys, file=file), Retention(0), interval=0.001)
    await working.start()
    for _ in range(3):
        await record(space)
        await until_chained(space)
    await working.stop(5)
    kept = file.read()
    assert kept is not None
    assert kept.seq == 3


async def test_a_file_that_cannot_be_written_is_told_of_once_and_the_rest_goes_on(
    space: Space, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chain = AuditChain(space.database, space.keys, file=HeadFile(tmp_path / "none" / "audit-head.json"))
    working = Upkeep(space.database, chain, Retention(0), interval=0.001)
    with caplog.at_level(logging.ERROR, "provserver.audit"):
        await working.start()
        for _ in range(3):
            await record(space)
            await until_chained(space)
        await until_shown("head_file")
        await working.stop(5)
    assert shown() == set()
    assert [("cannot be written" in message) for message in caplog.messages] == [True]


async def test_a_broken_chain_is_told_of_once_and_the_rest_goes_on(
    space: Space, caplog: pytest.LogCaptureFixture
) -> None:
    await record(space)
    await AuditChain(space.database, space.keys).advance()
    await space.rows("DELETE FROM audit_head")
    await space.rows("INSERT INTO attempt (id, transport, address, outcome) VALUES ($1, 'HTTP', '', '')", UUID(int=1))
    working = upkeep(space, attempts=DAY)
    with caplog.at_level(logging.ERROR, "provserver.audit"):
        await working.start()
        while await space.value("SELECT count(*) FROM attempt"):
            pass
        for _ in range(20):
            await record(space)
        await until_shown("broken")
        await working.stop(5)
    assert shown() == set()  # of this process: another one goes on
    assert [("audit verify" in message) for message in caplog.messages] == [True]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_module, "BATCH", 3)


async def sweep(space: Space, retention: Retention) -> int:
    """All of it; the batches that it took."""
    count = 1
    async with space.database.connection() as connection:
        while await retention.sweep(connection):
            count += 1
    return count


async def attempts(space: Space, *ages: float) -> list[UUID]:
    made = [ids.uuid7(NOW - age, os.urandom) for age in ages]
    for id_ in made:
        await space.rows("INSERT INTO attempt (id, transport, address, outcome) VALUES ($1, 'HTTP', '', '')", id_)
    return made


@pytest.mark.usefixtures("small")
async def test_attempts_are_kept_for_the_configured_time(space: Space) -> None:
    made = await attempts(space, *(n * DAY / 2 for n in range(20)))

    assert await sweep(space, Retention(0, lambda: NOW)) == 1
    assert await space.value("SELECT count(*) FROM attempt") == 20

    retention = Retention(2 * DAY, lambda: NOW)
    assert await sweep(space, retention) == 6
    left = {row["id"] for row in await space.rows("SELECT id FROM attempt")}
    assert left == set(made[:5])

    late = await attempts(space, 9 * DAY)  # by a server whose clock is behind
    await sweep(space, retention)
    assert not left & set(late)
    assert await space.value("SELECT count(*) FROM attempt") == 5


def ago(**period: float) -> datetime:
    return datetime.fromtimestamp(NOW, UTC) - timedelta(**period)


@pytest.mark.usefixtures("small")
async def test_what_is_over_goes_and_what_is_not_stays(space: Space) -> None:
    async def job(state: str, finished_at: datetime | None) -> None:
        await space.rows(
            "INSERT INTO job (id, organization_id, kind, actor, state, finished_at) VALUES ($1, $2, 'k', 'a', $3, $4)",
            uuid4(),
            space.organization_id,
            state,
            finished_at,
        )

    async def key(created_at: datetime) -> None:
        await space.rows(
            "INSERT INTO idempotency_key (actor, key, request_digest, created_at) VALUES ('a', $1, '', $2)",
            str(uuid4()),
            created_at,
        )

    async def claim(expires_at: datetime) -> None:
        await space.rows(
            "INSERT INTO pending_claim (device_id, organization_id, actor, expires_at) VALUES ($1, $2, 'a', $3)",
            uuid4(),
            space.organization_id,
            expires_at,
        )

    user = uuid4()
    await space.rows(
        "INSERT INTO \"user\" (id, organization_id, email, role) VALUES ($1, $2, 'a@example.com', 'admin')",
        user,
        space.organization_id,
    )

    def of_user(table: str, columns: str, values: str) -> Make:
        async def insert(expires_at: datetime) -> None:
            await space.rows(
                f"INSERT INTO {table} (digest, user_id, expires_at{columns}) VALUES ($1, $2, $3{values})",
                os.urandom(32),
                user,
                expires_at,
            )

        return insert

    session: Make = of_user("user_session", "", "")
    link: Make = of_user("one_time_link", ", purpose", ", 'password'")
    for _ in range(4):
        await job("done", ago(days=31))
        await key(ago(hours=25))
        for make in (session, link, claim):
            await make(ago(seconds=1))
    await job("failed", ago(days=29))
    await job("running", None)
    await key(ago(hours=23))
    for make in (session, link, claim):
        await make(ago(hours=-1))

    assert await sweep(space, Retention(DAY, lambda: NOW)) == 2

    counts = {
        table: await space.value(f"SELECT count(*) FROM {table}")
        for table in ("job", "idempotency_key", "user_session", "one_time_link", "pending_claim")
    }
    assert counts == {"job": 2, "idempotency_key": 1, "user_session": 1, "one_time_link": 1, "pending_claim": 1}
