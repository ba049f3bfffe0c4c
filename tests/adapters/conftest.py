"""The sink's real peers: a strict HTTP endpoint that can fail on demand, and mosquitto."""

import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from provserver.adapters.outgoing import Outgoing, networks
from provserver.core.sink import QueuedMessage
from tests.support.mosquitto import Broker

_numbers = itertools.count(1)


def message(data: object, device: int = 1, name: str = "", kind: str = "telemetry") -> QueuedMessage:
    """A message that waits; data: what its body holds."""
    body = json.dumps({"deviceId": str(UUID(int=device)), "data": data}).encode()
    return QueuedMessage(next(_numbers), UUID(int=device), name or f"sensor-{device}", kind, body)


class Endpoint:
    """Takes arrays of messages; `status` says what to answer them."""

    def __init__(self) -> None:
        self.requests: list[list[Any]] = []
        self.taken: list[Any] = []
        self.headers: dict[str, str] = {}
        self.status: Callable[[list[Any]], int] = lambda _: 200
        self.answer_headers: dict[str, str] = {}
        self.body = b""
        self.url = ""
        self.path = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.headers = dict(request.headers)
        self.path = request.path_qs
        if request.method == "POST":
            assert request.content_type == "application/json"
            messages = json.loads(await request.read())
            assert isinstance(messages, list)
            assert messages
            data = [each["data"] for each in messages]
            self.requests.append(data)
        else:
            data = []
        status = self.status(data)
        if 200 <= status < 300:
            self.taken += data
        return web.Response(status=status, headers=self.answer_headers, body=self.body)


@asynccontextmanager
async def serving(endpoint: Endpoint, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Endpoint]:
    application = web.Application(client_max_size=1 << 24)
    application.router.add_route("*", "/{path:.*}", endpoint.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        shown = f"[{host}]" if ":" in host else host
        endpoint.url = f"http://{shown}:{runner.addresses[0][1]}/in"
        yield endpoint
    finally:
        await runner.cleanup()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with serving(Endpoint()) as made:
        yield made


@pytest.fixture
async def outgoing() -> AsyncIterator[Outgoing]:
    """A client that may go to this machine."""
    async with Outgoing(networks("127.0.0.1, ::1")) as made:
        yield made


@pytest.fixture
def mosquitto(tool: Callable[..., str], tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Makes brokers, which end with the test."""
    brokers: list[Broker] = []

    def make(*options: str) -> Broker:
        directory = tmp_path / f"broker-{len(brokers)}"
        directory.mkdir()
        program = tool("mosquitto", "/usr/sbin/mosquitto")
        brokers.append(Broker(program, directory, *(options or ("allow_anonymous true",))))
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.kill()
