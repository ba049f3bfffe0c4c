"""The device whole: on loopback, with a server that is played, and with the power failing everywhere."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import pytest

from firmware_sim import power
from firmware_sim.address import Address
from firmware_sim.board import Board, Generation
from firmware_sim.board_view import BoardView, LastLines
from firmware_sim.config_store import VolatileStore
from firmware_sim.control import served
from firmware_sim.edgent_state import State
from firmware_sim.errors import NoAnswer, Unauthorized
from firmware_sim.links.cloud import Cloud
from firmware_sim.log import SerialLog
from firmware_sim.onboarding import Settings
from firmware_sim.wifi_device import WifiDevice
from firmware_sim.wifi_networks import home

TOKEN, OTHER = "a" * 32, "b" * 32
GOOD = {"if": "wifi", "ssid": "Home", "pass": "correct horse", "blynk": TOKEN, "host": "h"}
SCALE = 0.0005


@dataclass
class PlayedServer:
    """Knows some tokens; what devices told it."""

    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    told: list[tuple[str, object]] = field(default_factory=list)
    commands: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)

    def open(self, token: str, *_: object) -> Any:
        return PlayedLink(self, token)


class PlayedLink:
    def __init__(self, server: PlayedServer, token: str) -> None:
        self.server, self.token = server, token

    async def __aenter__(self) -> Self:
        if self.token not in self.server.tokens:
            raise Unauthorized("unknown")
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def info(self, values: Mapping[str, str]) -> None:
        self.server.told.append(("info", values["tmpl"]))

    async def meta(self, name: str, value: str) -> None:
        self.server.told.append((name, value))

    async def downlinks(self) -> AsyncGenerator[tuple[str, bytes], None]:
        while (command := await self.server.commands.get()) != "cut":
            yield command, b""
        raise NoAnswer("cut")


def made(
    server: PlayedServer,
    store: VolatileStore,
    generation: Generation,
    access_point: Address | None = None,
    scale: float = SCALE,
) -> WifiDevice:
    board = Board(bytes.fromhex("FFEEDDCCBBAA"), "TMPL1", "Garage", generation)
    cloud: Any = server
    return WifiDevice(board, store, home(), cloud, SerialLog(None), scale, access_point)


@asynccontextmanager
async def living(device: WifiDevice) -> AsyncIterator[WifiDevice]:
    life = asyncio.create_task(device.run())
    try:
        yield device
    finally:
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


async def opened(device: WifiDevice) -> None:
    """Until phones can join, which is later than that it waits for them."""
    there = asyncio.Event()
    end = device.watch(lambda *_: there.set() if device.access_point_open else None)
    if not device.access_point_open:
        await there.wait()
    end()


async def ask(address: Address, target: str) -> bytes:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\n\r\n".encode())
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("generation", Generation)
async def test_it_is_provisioned_by_its_access_point(generation: Generation) -> None:
    server, store = PlayedServer(), VolatileStore()
    device = made(server, store, generation, Address("127.0.0.1", 0))
    opened = asyncio.Event()
    device.changed = lambda changed: opened.set() if changed.access_point_open else None
    async with living(device):
        await opened.wait()
        assert device.access_point
        assert b'"last_error":0' in await ask(device.access_point, "/board_info.json")
        assert device.phone
        query = f"/config?if=wifi&ssid=Home&pass=correct%20horse&blynk={TOKEN}&host=h"
        assert b"Trying to connect..." in await ask(device.access_point, query)
        await device.wait(State.RUNNING)
        assert device.token == TOKEN
        assert ("info", "TMPL1") in server.told
        if generation is Generation.CLASSIC:
            with pytest.raises(ConnectionRefusedError):
                await ask(device.access_point, "/")
        else:
            assert b"200 OK" in await ask(device.access_point, "/")
    assert device.state is State.OFF
    async with living(made(server, store, generation)) as again:
        await again.wait(State.RUNNING)


@pytest.mark.parametrize("generation", Generation)
async def test_what_the_server_wants(generation: Generation) -> None:
    server = PlayedServer()
    async with living(made(server, VolatileStore(), generation)) as device:
        await device.wait(State.WAIT_CONFIG)
        assert device.submit(GOOD | {"blynk": "short"}) == 500
        assert device.submit(GOOD) == 200
        await device.wait(State.RUNNING)
        server.commands.put_nowait("cut")
        await device.wait(State.CONNECTING_CLOUD)
        await device.wait(State.RUNNING)
        server.commands.put_nowait("reconfigure")
        await device.wait(State.WAIT_CONFIG)
        server.tokens = {OTHER}
        device.submit(GOOD | {"blynk": OTHER})
        await device.wait(State.RUNNING)
        server.tokens.clear()  # the device is deleted
        server.commands.put_nowait("cut")
        await device.wait(State.WAIT_CONFIG)


@pytest.mark.parametrize("generation", Generation)
async def test_the_button_resets_and_a_hand_can_be_lent(generation: Generation) -> None:
    server, store = PlayedServer(), VolatileStore()
    device = made(server, store, generation)
    async with living(device), served("127.0.0.1:0", device) as where:
        host, _, port = where.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))

        async def told(line: str) -> bytes:
            writer.write(line.encode() + b"\n")
            return await reader.readline()

        assert b'"WAIT_CONFIG"' in await told("wait WAIT_CONFIG")
        device.submit(GOOD)
        assert b'"state": "RUNNING"' in await told("wait RUNNING,ERROR")
        assert b'"state": "RUNNING"' in await told("press 5")
        await told("press 12")
        await told("wait WAIT_CONFIG")
        assert device.token == ""
        assert b'"state": "OFF"' in await told("off")
        await told("on")
        assert b'"boots": 2' in await told("wait WAIT_CONFIG")
        for line in ("down", "up", "join", "leave", "state", "reboot"):
            assert b"error" not in await told(line)
        for line in ("wait NOWHERE", "press hard", "sing"):
            assert b'"error"' in await told(line)
        writer.write(b"watch\n")
        assert b'"state"' in await reader.readline()
        writer.close()


@pytest.mark.parametrize("generation", Generation)
async def test_a_machine_that_pauses_holds_the_button_no_longer(generation: Generation) -> None:
    async with living(made(PlayedServer(), VolatileStore(), generation)) as device:
        await device.wait(State.WAIT_CONFIG)
        device.submit(GOOD)
        await device.wait(State.RUNNING)
        for seconds, state in ((5, State.RUNNING), (12, State.WAIT_CONFIG)):
            held = asyncio.create_task(device.hold(seconds))
            while not (device.button.pressed or held.done()):  # noqa: ASYNC110 - a finger without an event
                await asyncio.sleep(0)
            time.sleep(30 * SCALE)  # noqa: ASYNC251 - nothing goes on meanwhile, but the device's clock
            await held
            assert (seconds, device.state) == (seconds, state)


class Dark(Exception):  # noqa: N818 - reads as what it says
    pass


FLOWS = 60
"""More steps than any flow has."""


@pytest.mark.parametrize("generation", Generation)
async def test_the_power_fails_after_every_step_and_the_device_can_be_provisioned_again(generation: Generation) -> None:
    for cut in range(FLOWS):
        server, store = PlayedServer(tokens={TOKEN, OTHER}), VolatileStore()
        steps = 0

        def step(_: str, cut: int = cut) -> None:
            nonlocal steps
            steps += 1
            if steps > cut:
                raise Dark

        async def story(server: PlayedServer = server, store: VolatileStore = store) -> None:
            """Provision, reconfigure with another token, reset by the button."""
            device = made(server, store, generation)
            life = asyncio.create_task(device.run())
            acts = asyncio.create_task(_acts(device, server))
            try:
                await asyncio.wait({life, acts}, return_when=asyncio.FIRST_COMPLETED)
                if life.done():
                    life.result()
            finally:
                for task in (life, acts):
                    task.cancel()
                await asyncio.gather(life, acts, return_exceptions=True)

        async def cut_short() -> bool:
            power.watch(step)
            try:
                await story()
            except Dark:
                return True
            return False

        failed = await asyncio.create_task(cut_short())
        async with living(made(server, store, generation)) as device:
            await device.wait(State.WAIT_CONFIG, State.RUNNING, State.IDLE)
            if device.state is not State.WAIT_CONFIG:
                device.reset()
                await device.wait(State.WAIT_CONFIG)
            assert device.submit(GOOD) == 200
            await device.wait(State.RUNNING)
        if not failed:
            assert cut > 10
            return
    pytest.fail("the story never came to its end")


async def _acts(device: WifiDevice, server: PlayedServer) -> None:
    await device.wait(State.WAIT_CONFIG)
    device.submit(GOOD)
    await device.wait(State.RUNNING)
    server.commands.put_nowait("reconfigure")
    await device.wait(State.WAIT_CONFIG)
    device.submit(GOOD | {"blynk": OTHER})
    await device.wait(State.RUNNING)
    device.reset()
    await device.wait(State.WAIT_CONFIG)


async def test_it_is_shown_on_a_terminal() -> None:
    from rich.console import Console

    lines = LastLines()
    async with living(made(PlayedServer(), VolatileStore(), Generation.CLASSIC)) as device:
        view = BoardView(device, lines)
        await device.wait(State.WAIT_CONFIG)
        lines.write("I (1) boot: here\n")
        console = Console(width=120, record=True, file=LastLines())
        console.print(view.draw())
        drawn = console.export_text()
        assert "WAIT_CONFIG" in drawn
        assert "blue 50/500" in drawn
        assert "I (1) boot: here" in drawn
        for key in "bbjlrx":
            view.key(key)
        view.key("p")
        await device.wait(State.OFF)
        view.key("p")
        await device.wait(State.WAIT_CONFIG)
        view.key("q")
        assert view.quitting.is_set()


def test_a_cloud_says_what_it_does_not_speak() -> None:
    from firmware_sim.errors import WrongUsage
    from firmware_sim.transports import TransportName

    with pytest.raises(WrongUsage, match="does not speak"):
        Cloud(TransportName.OSCORE, Address("h", 1)).open(TOKEN, "h", 1)


@pytest.mark.parametrize("generation", Generation)
async def test_halves_of_characters_do_it_no_harm(generation: Generation) -> None:
    store = VolatileStore()
    async with living(made(PlayedServer(), store, generation)) as device:
        await device.wait(State.WAIT_CONFIG)
        device.configure(Settings("\ud800x", token=TOKEN, host="\udfff", save=True))
        async with asyncio.timeout(10):
            while b"?x" not in store.content:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
