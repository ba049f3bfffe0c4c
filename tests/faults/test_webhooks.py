"""The delivering process is killed at work: every event arrives all the same, in order for each device."""

import asyncio
import itertools
import sys
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from uuid import UUID

from tests.conftest import Space
from tests.services.webhooks import Subscriber, tell

KILLS = 3
DEVICES = 7
EVENTS = 30
"""Of each device."""


async def end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def test_a_deliverer_that_is_killed_loses_nothing(space: Space, database_url: str, tmp_path: Path) -> None:
    keys, since = tmp_path / "keys.json", time.time()
    arrived = asyncio.Event()

    def answer(status: int) -> int:
        arrived.set()
        return status

    async def until(number: int, *subscribers: Subscriber) -> None:
        while min(len(each.receiver.times) for each in subscribers) < number:
            arrived.clear()
            await arrived.wait()

    async with AsyncExitStack() as stack:

        async def begin() -> asyncio.subprocess.Process:
            command = [sys.executable, "-m", "tests.faults.deliverer", database_url, str(keys), str(since)]
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            stack.push_async_callback(end, process)
            return process

        first, second = [await stack.enter_async_context(Subscriber.listening(space)) for _ in range(2)]
        tries = itertools.count(1)
        first.receiver.answers = lambda _: answer(200)
        second.receiver.answers = lambda _: answer(503 if next(tries) % 100 == 0 else 200)  # this one is not well
        for n in range(EVENTS):
            for device in range(DEVICES):
                await tell(space, device, n)
        total = DEVICES * EVENTS
        processes = [await begin() for _ in range(2)]
        for round_ in range(KILLS):
            await until((round_ + 1) * total // (KILLS + 2), first)
            leader = processes.pop(0)  # whoever began first; the other takes over
            leader.kill()
            await leader.wait()
            processes.append(await begin())
        await until(total, first, second)
        for each in (first, second):
            while await each.states() != {"delivered": total}:
                pass

    expected = {str(UUID(int=device)): list(range(EVENTS)) for device in range(DEVICES)}
    assert first.receiver.first == second.receiver.first == expected
    assert await space.value("SELECT count(*) FROM outbox") == 0
    assert await space.value("SELECT count(*) FROM event") == total
