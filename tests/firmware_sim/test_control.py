"""A hand for a simulated device: lines in, lines out."""

import asyncio
import contextlib
import gc
import json
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from firmware_sim.board import Generation
from firmware_sim.config_store import VolatileStore
from firmware_sim.control import obey, served
from firmware_sim.edgent_state import State
from firmware_sim.wifi_device import WifiDevice
from tests.firmware_sim.test_wifi_device import GOOD, PlayedServer, living, made, opened

TCP = "127.0.0.1:0"
SEEN = {"state", "lastError", "accessPoint", "phone", "led", "connections", "boots"}


@pytest.fixture
async def device() -> AsyncIterator[WifiDevice]:
    """One that waits to be configured."""
    async with living(made(PlayedServer(), VolatileStore(), Generation.CLASSIC, scale=0.01)) as living_device:
        await opened(living_device)
        yield living_device


class Hand:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, line: str | bytes) -> dict[str, Any]:
        self.writer.write((line.encode() if isinstance(line, str) else line) + b"\n")
        return await self.hears()

    async def hears(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self.reader.readline())
        return answer


@contextlib.asynccontextmanager
async def hand(where: str) -> AsyncIterator[Hand]:
    if "/" in where:
        reader, writer = await asyncio.open_unix_connection(where)
    else:
        host, _, port = where.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Hand(reader, writer)
    finally:
        writer.close()


async def test_each_command(device: WifiDevice) -> None:
    async with served(TCP, device) as where, hand(where) as own:
        seen = await own.says("state")
        assert seen == {
            "state": "WAIT_CONFIG",
            "lastError": 0,
            "accessPoint": True,
            "phone": False,
            "led": "blue 50/500",
            "connections": 0,
            "boots": 1,
        }
        assert (await own.says("join"))["phone"] is True
        assert (await own.says(" leave \r"))["phone"] is False
        assert device.submit(GOOD) == 200
        assert (await own.says("wait RUNNING,OTA_UPGRADE"))["connections"] == 1
        await own.says("press 12")
        assert (await own.says("wait WAIT_CONFIG"))["boots"] == 1
        assert device.token == ""
        assert (await own.says("off"))["led"] == "off"
        assert (await own.says("off"))["state"] == "OFF"
        await own.says("on")
        assert (await own.says("wait WAIT_CONFIG"))["boots"] == 2
        rebooted = asyncio.create_task(device.wait(State.OFF))
        await asyncio.sleep(0)
        await own.says("reboot")
        await rebooted
        assert (await own.says("wait WAIT_CONFIG"))["boots"] == 3
        await own.says("down")
        assert device.button.pressed
        await own.says("up")
        assert not device.button.pressed


async def test_what_is_already_so_is_answered_at_once(device: WifiDevice) -> None:
    answering = obey(device, "wait RUNNING,WAIT_CONFIG")
    with pytest.raises(StopIteration) as answered:
        answering.send(None)
    assert answered.value.value["state"] == "WAIT_CONFIG"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "press SECONDS"),
        ("sing", "watch"),
        ("STATE", "state, wait"),
        (b"\xff\0", "state, wait"),
        ("wait", "OFF, IDLE, WAIT_CONFIG"),
        ("wait NOWHERE", "OFF, IDLE, WAIT_CONFIG"),
        ("wait OFF,", "OFF, IDLE, WAIT_CONFIG"),
        ("press", "press SECONDS"),
        ("press hard", "press SECONDS"),
        ("press inf", "press SECONDS"),
        ("press nan", "press SECONDS"),
        ("press -1", "press SECONDS"),
    ],
)
async def test_bad_lines(device: WifiDevice, line: str | bytes, said: str) -> None:
    async with served(TCP, device) as where, hand(where) as own:
        answer = await own.says(line)
        assert answer.keys() == {"error"}
        assert said in answer["error"]
        assert not device.button.pressed
        assert (await own.says("state")).keys() == SEEN


async def test_a_line_that_is_too_long(device: WifiDevice) -> None:
    async with served(TCP, device) as where, hand(where) as own:
        heard = await own.says(b"x" * 200_000 + b"\nstate")
        assert heard == {"error": "a line is shorter"}
        while "error" in heard:
            heard = await own.hears()
        assert heard["state"] == "WAIT_CONFIG"


async def test_at_a_path(device: WifiDevice, tmp_path: Path) -> None:
    path = str(tmp_path / "hand")
    async with served(path, device) as where:
        assert where == path
        async with hand(where) as own, hand(where) as other:
            assert (await own.says("join"))["phone"] is True
            assert (await other.says("state"))["phone"] is True
    with pytest.raises(OSError, match="efused"):
        await asyncio.open_unix_connection(path)
    with pytest.raises(FileNotFoundError):
        await served(str(tmp_path / "nowhere" / "hand"), device).__aenter__()


async def test_a_taken_port(device: WifiDevice) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = "{}:{}".format(*taken.getsockname())
        with pytest.raises(OSError, match="address already in use"):
            await served(where, device).__aenter__()


async def test_changes_are_told_until_they_hang_up(device: WifiDevice) -> None:
    async with served(TCP, device) as where, hand(where) as own:
        assert (await own.says("watch"))["state"] == "WAIT_CONFIG"
        device.submit(GOOD)
        states = []
        while "RUNNING" not in states:
            states.append((await own.hears())["state"])
        assert "CONNECTING_NET" in states
        own.writer.write_eof()
        while await own.reader.readline():
            pass
        assert device._watchers == []


async def test_who_hangs_up_or_is_hung_up_on_leaves_nothing_behind(device: WifiDevice) -> None:
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    gc.collect()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    try:
        async with contextlib.AsyncExitStack() as stack, served(TCP, device) as where:
            gone, stays, waits = [await stack.enter_async_context(hand(where)) for _ in range(3)]
            for own in (gone, stays):
                await own.says("watch")
            waits.writer.write(b"wait ERROR\n")
            while not device._waiting:  # noqa: ASYNC110 - a state without an event
                await asyncio.sleep(0)
            own_socket = gone.writer.get_extra_info("socket")
            own_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.writer.transport.abort()
            while len(device._watchers) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0)
        assert asyncio.all_tasks() - before == set()
        assert (device._watchers, device._waiting) == ([], [])
        gc.collect()
        assert complaints == []
    finally:
        loop.set_exception_handler(None)
