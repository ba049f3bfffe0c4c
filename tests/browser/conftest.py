"""A browser of the system, people at it, and a server with everything that its pages can show."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest
from playwright.async_api import Browser, async_playwright

from tests.browser import axe
from tests.browser.person import Person
from tests.browser.seed import World, begun
from tests.server import Server


class Seat(Protocol):
    """Has somebody sit down at a browser that knows nothing yet."""

    def __call__(self, url: str, *, size: str = "desktop") -> Awaitable[Person]:
        """url: of the console."""


@pytest.fixture(scope="session")
async def chromium(tool: Callable[..., str]) -> AsyncIterator[Browser]:
    """The system's Chromium, one process for all tests."""
    unboxed = ["--no-sandbox"] if os.geteuid() == 0 else []  # as root it has no sandbox
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=tool("chromium"), args=unboxed)
        yield browser
        await browser.close()


@pytest.fixture
async def seat(chromium: Browser) -> AsyncIterator[Seat]:
    """People for a test; whatever their pages did wrong fails it."""
    people: list[Person] = []

    async def sit_down(url: str, *, size: str = "desktop") -> Person:
        person = await Person.sit_down(chromium, url, size=size)
        people.append(person)
        return person

    yield sit_down
    for person in people:
        await person.leave()
    assert [fault for person in people for fault in person.faults] == []


class Gallery(Protocol):
    """Who looks at pages of the world, each in a browser that stays open."""

    def __call__(self, who: str, size: str) -> Awaitable[Person]:
        """who: by e-mail; empty: nobody that is known."""


@pytest.fixture(scope="session")
async def gallery(chromium: Browser, world: World) -> AsyncIterator[Gallery]:
    """People who are signed in already."""
    people: dict[tuple[str, str], Person] = {}

    async def look(who: str, size: str) -> Person:
        if (who, size) not in people:
            person = await Person.sit_down(chromium, world.url, size=size)
            await person.context.add_init_script(axe.SOURCE)
            if who:
                await person.context.add_cookies(world.cookies(who))
            people[who, size] = person
        return people[who, size]

    yield look
    for person in people.values():
        await person.leave()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server of a test's own, as it is when it was started for the first time."""
    running = Server(tmp_path / "data")
    await asyncio.to_thread(running.start, restartable=True)
    yield running
    assert running.process is not None
    if running.process.poll() is None:
        await asyncio.to_thread(running.stop)


@pytest.fixture(scope="session")
async def world(
    tool: Callable[..., str], postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """A manufacturer with customers, devices, and whatever else there is a page for. Tests leave it as it is."""
    async with begun(
        postgres, tool("mosquitto", "/usr/sbin/mosquitto"), tmp_path_factory.mktemp("world"), "world"
    ) as made:
        yield made
