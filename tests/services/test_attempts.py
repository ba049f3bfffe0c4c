import logging
import os
import time

import pytest

from provserver import metrics
from provserver.core.model import Peer, Transport
from provserver.errors import Outcome
from provserver.services.attempts import Attempts
from tests.conftest import Space
from tests.services.conftest import Locking, Outage

PEER = Peer(Transport.COAP, "192.0.2.7")


async def test_what_was_refused_is_recorded_in_groups(space: Space, lock: Locking) -> None:
    attempts = Attempts(space.database, os.urandom, time.time)
    async with lock("LOCK TABLE attempt IN ACCESS EXCLUSIVE MODE") as held:
        attempts.note(PEER, Outcome.FAILURE, "R", "why", name="a\u202eb" + "x" * 300)
        await held.until_waiting()
        for _ in range(50):
            attempts.note(PEER, Outcome.NOT_FOUND, "R")
    await attempts.drain()

    rows = await space.rows("SELECT *, xmin::text AS transaction FROM attempt ORDER BY id")
    assert len(rows) == 51
    assert len({row["transaction"] for row in rows}) == 2
    (first,) = [row for row in rows if row["detail"]]
    assert (first["transport"], first["address"], first["outcome"], first["reason"]) == (
        "COAP",
        "192.0.2.7",
        "failure",
        "R",
    )
    assert first["device_name"] == "a\N{REPLACEMENT CHARACTER}b" + "x" * 252


async def test_what_postgres_cannot_hold_spares_its_neighbours(
    space: Space, lock: Locking, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = Attempts(space.database, os.urandom, time.time)
    lost = metrics.ATTEMPTS_LOST.cell().value
    async with lock("LOCK TABLE attempt IN ACCESS EXCLUSIVE MODE") as held:
        attempts.note(PEER, Outcome.FAILURE, "R", "first")
        await held.until_waiting()
        for detail in ("second", "pl4nted\0", "third"):
            attempts.note(PEER, Outcome.FAILURE, "R", detail)
    await attempts.drain()

    rows = await space.rows("SELECT detail FROM attempt ORDER BY detail")
    assert [detail for (detail,) in rows] == ["first", "second", "third"]
    assert "1 attempts were not recorded" in caplog.text
    assert "pl4nted" not in caplog.text
    assert metrics.ATTEMPTS_LOST.cell().value - lost == 1


async def test_what_cannot_be_recorded_is_told_of(
    space: Space, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = Attempts(outage.database, os.urandom, time.time)
    await outage.begin()
    with caplog.at_level(logging.WARNING):
        attempts.note(PEER, Outcome.FAILURE, "R", name="pl4nted")
        await attempts.drain()

    assert "1 attempts were not recorded" in caplog.text
    assert "pl4nted" not in caplog.text
    assert await space.value("SELECT count(*) FROM attempt") == 0
    outage.end()
