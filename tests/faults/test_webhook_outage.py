"""A day's events while the webhook is down, then up: all arrive, each device's in order, and memory stays flat."""

import asyncio
import os
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

import provserver
from provserver.core.events import Event, EventType
from provserver.core.telemetry import Value
from provserver.store import outbox
from tests.adapters.receiver import Receiver
from tests.conftest import Space
from tests.services.webhooks import Flying, Subscriber

EVENTS = int(os.environ.get("PROVSERVER_TEST_EVENTS", "500"))
"""Of the day; 100,000 take a while."""

DEVICES = max(EVENTS // 50, 10)
STEP = 600.0
DAY = 86_400.0
FLAT = 1 << 20
"""Bytes that the server may hold more than before: some windows of events, however many wait."""


OURS = tuple(f"{Path(str(module.__file__)).parent}{os.sep}" for module in (provserver, asyncpg))


def _held() -> int:
    """Bytes that the server's own code holds, and the driver of its database for it."""
    found = tracemalloc.take_snapshot().statistics("filename")
    return sum(each.size for each in found if each.traceback[0].filename.startswith(OURS))


class Counting(Receiver):
    """Keeps no more of an event than has to be checked: what it holds is traced, and looked through, as all is."""

    def _take(self, event: dict[str, Any]) -> None:
        super()._take(event)
        self.events.clear()
        self.timestamps.clear()


@pytest.fixture
def traced() -> Iterator[None]:
    """What a test begins to trace is traced no longer than it lasts: every test after it would be slow."""
    yield
    tracemalloc.stop()


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("traced")
async def test_a_day_of_outage_is_caught_up_with(space: Space) -> None:
    dice = random.Random(6)
    async with Subscriber.listening(space, receiver=Counting()) as subscriber:
        receiver = subscriber.receiver
        receiver.answers = lambda _: 503
        numbers = [0] * DEVICES
        told = 0

        async def happen(count: int) -> None:
            nonlocal told
            events = []
            for _ in range(count):
                device = dice.randrange(DEVICES)
                id_ = UUID(int=device + 1)
                payload: dict[str, Value] = {"deviceId": str(id_), "n": numbers[device]}
                events.append(Event(EventType.DEVICE_CLAIMED, payload, id_, space.organization_id))
                numbers[device] += 1
            async with space.database.connection() as connection:
                await outbox.record_all(connection, events)
            told += count

        async with Flying(space, idle=STEP).running() as deliverer:
            begun = deliverer.time

            async def meanwhile(now: float) -> None:
                if now - begun <= DAY:
                    await happen(min(round((now - begun) / DAY * EVENTS), EVENTS) - told)
                if not tracemalloc.is_tracing() and now - begun > 3600:
                    tracemalloc.start()
                if now - begun > DAY:
                    receiver.answers = lambda _: 200

            deliverer.meanwhile = meanwhile
            tries = 0
            sizes: list[int] = []
            while (arrived := len(receiver.times)) < EVENTS:
                if not arrived:
                    tries = receiver.tries
                elif arrived * 10 > EVENTS * len(sizes):
                    sizes.append(_held())
                await asyncio.sleep(0)
            while await subscriber.states() != {"delivered": EVENTS}:
                pass
        assert deliverer.time - begun < DAY + 3600
    print(f"{EVENTS} events; held while it caught up: {sizes} bytes")  # noqa: T201
    assert tries < 24 * 60 * 60 / 150 + 100  # it was asked now and then, not for each event
    assert told == EVENTS
    assert receiver.first == {
        str(UUID(int=device + 1)): list(range(number)) for device, number in enumerate(numbers) if number
    }
    assert len(receiver.times) == EVENTS
    assert max(sizes) < FLAT
