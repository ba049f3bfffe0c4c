"""The server is killed while its sink is at work: what was accepted arrives all the same, in order for each device."""

import asyncio
import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from provserver.adapters import sink as adapters
from provserver.adapters.outgoing import Outgoing, networks
from provserver.services.sink import Sink
from tests.adapters.conftest import Endpoint, mosquitto, serving
from tests.conftest import Space
from tests.faults.sender import DEVICES
from tests.services.test_data import make_device
from tests.support.mosquitto import Broker

__all__ = ["mosquitto"]

KILLS = 4


class Arrivals:
    """What arrived, by device, each message once, in order of its first arrival."""

    def __init__(self) -> None:
        self.by_device: dict[str, list[int]] = defaultdict(list)
        self.ids: dict[str, int] = {}

    def add(self, message: dict[str, Any]) -> None:
        (run,) = message["data"]
        number = run["values"]["n"]
        if self.ids.setdefault(message["id"], number) == number and number not in self.by_device[message["deviceName"]]:
            self.by_device[message["deviceName"]].append(number)

    def check(self, accepted: set[int]) -> None:
        assert len(self.by_device) == DEVICES
        for numbers in self.by_device.values():
            assert numbers == sorted(numbers)
        assert accepted <= set(self.ids.values())


async def kill_again_and_again(space: Space, dsn: str, keys: Path, url: str) -> set[int]:
    """The numbers of the messages that were accepted by processes that were killed under way."""
    for number in range(DEVICES):
        await make_device(space, f"sensor-{number}")
    accepted: set[int] = set()
    for round_ in range(KILLS):
        command = [sys.executable, "-m", "tests.faults.sender", dsn, str(keys), url, str(round_ * 1_000_000)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            for _ in range(random.randint(200, 1500)):
                accepted.add(int(await process.stdout.readline()))
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            rest = await process.stdout.read()
            await process.wait()
        accepted.update(map(int, rest.split(b"\n")[:-1]))  # the last may be cut off
    return accepted


async def drain(space: Space, url: str) -> None:
    """Have a last process send what is left."""
    async with Outgoing(networks("127.0.0.1")) as outgoing:
        sink = Sink(space.database, adapters.receiver(url, outgoing))
        await sink.start()
        while await space.value("SELECT count(*) FROM sink_message"):
            pass
        await sink.stop(10)


async def test_every_accepted_message_reaches_an_endpoint_that_fails_now_and_then(
    space: Space, database_url: str, tmp_path: Path
) -> None:
    arrivals = Arrivals()

    class Flaky(Endpoint):
        async def handle(self, request: Any) -> Any:
            messages = json.loads(await request.read())
            dice = random.random()
            if dice < 0.9:  # of these some are taken although the answer says otherwise
                for message in messages:
                    arrivals.add(message)
            self.status = lambda _: 200 if dice < 0.8 else 503
            return await super().handle(request)

    async with serving(Flaky()) as endpoint:
        accepted = await kill_again_and_again(space, database_url, tmp_path / "keys.json", endpoint.url)
        await drain(space, endpoint.url)
    arrivals.check(accepted)


async def test_every_accepted_message_reaches_a_broker(
    space: Space,
    database_url: str,
    tmp_path: Path,
    mosquitto: Callable[..., Broker],
) -> None:
    arrivals = Arrivals()
    broker = mosquitto(
        "allow_anonymous true", "persistence true", f"persistence_location {tmp_path}/", "max_queued_messages 0"
    )
    await broker.start()
    url = f"mqtt://127.0.0.1:{broker.port}/up"
    listening = asyncio.Event()

    async def listen() -> None:
        async with broker.subscribed(identifier="watcher", clean_session=False) as client:
            await client.subscribe("up/#", 1)
            listening.set()
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                body = json.loads(message.payload)
                if body["data"] == "end":
                    return
                assert str(message.topic) == f"up/{body['deviceName']}/telemetry"
                arrivals.add(body)

    listener = asyncio.create_task(listen())
    await listening.wait()
    accepted = await kill_again_and_again(space, database_url, tmp_path / "keys.json", url)
    await drain(space, url)
    async with broker.subscribed() as client:
        await client.publish("up/end", b'{"data":"end"}', 1)
    await listener
    arrivals.check(accepted)
