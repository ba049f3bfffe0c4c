"""Listeners that end with their test."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.transports.mqtt.sockets import Listen


@pytest.fixture
async def nothing_hangs() -> AsyncIterator[None]:
    """Nor does the loop's last resort see anything: no test leaves an exception that nobody took."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    yield
    loop.set_exception_handler(None)
    assert not complaints


@pytest.fixture
async def listen(nothing_hangs: None) -> AsyncIterator[Listen]:  # noqa: ARG001
    listen = Listen()
    async with listen.stack, asyncio.timeout(60):
        yield listen
