"""The power fails after every step of every way to provision: in the flash, with the phone, with the server."""

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from firmware_sim import ble_inject, esp_prov, improv, power
from firmware_sim.address import Address
from firmware_sim.board import Board, Generation
from firmware_sim.config_store import VolatileStore
from firmware_sim.edgent_state import State
from firmware_sim.log import SerialLog
from firmware_sim.wifi_device import WifiDevice
from firmware_sim.wifi_networks import home
from provserver.adapters import access_point
from provserver.adapters.ble_inject import ble_inject as by_ble
from provserver.adapters.esp_provisioning import esp_provisioning
from provserver.adapters.improv import improv as by_improv
from provserver.core.edgent import Settings
from provserver.core.espprov import possession
from provserver.errors import Refused
from tests.firmware_sim.test_wifi_device import OTHER, TOKEN, PlayedServer, ask

SCALE = 0.0005
MOST = 300
"""More steps than any story has."""

HUNG = 60.0
"""Seconds after which a device is taken to hang."""


class Dark(Exception):  # noqa: N818 - reads as what it says
    pass


LABEL = '{"ver":"v1","name":"PROV_8DCF","pop":"abcd1234","transport":"softap"}'
"""Security 1: as many steps as 2, in a tenth of the time."""

WAYS = ("softap", "ble", "improv", "esp")
RIGHT, WRONG = "correct horse", "wrong horse"


class Flash(VolatileStore):
    """A write takes a moment, in which the power may fail for what comes after it."""

    async def write(self, content: bytes) -> None:
        await super().write(content)
        await asyncio.sleep(0)


class Site:
    """A device's place, over all its power cuts: what it has in flash, and what the server knows."""

    def __init__(self, generation: Generation, way: str, label: Path) -> None:
        self.server = PlayedServer(tokens={TOKEN, OTHER})
        self.store = Flash()
        self._generation = generation
        self._way = way
        self._label = label

    @asynccontextmanager
    async def device(self) -> AsyncIterator[WifiDevice]:
        """The device's program, from its start to its end."""
        board = Board(bytes.fromhex("FFEEDDCCBBAA"), "TMPL1", "Garage", self._generation)
        cloud: Any = self.server
        anywhere = Address("127.0.0.1", 0)
        device = WifiDevice(board, self.store, home(), cloud, SerialLog(None), SCALE, anywhere)
        async with AsyncExitStack() as stack:
            match self._way:
                case "ble":
                    self._where = str(
                        await stack.enter_async_context(ble_inject.served(anywhere, device, SerialLog(None)))
                    )
                case "improv":
                    self._where = str(await stack.enter_async_context(improv.served(device, SerialLog(None))))
                case "esp":
                    proof = esp_prov.Possession.read(self._label)
                    served = esp_prov.served(anywhere, device, SerialLog(None), proof)
                    self._where = str(await stack.enter_async_context(served))
                case _:
                    self._where = str(device.access_point)
            life = asyncio.create_task(device.run())
            try:
                yield device
            finally:
                life.cancel()
                await asyncio.gather(life, return_exceptions=True)

    @asynccontextmanager
    async def _reached(self) -> AsyncIterator[Any]:
        host, _, port = self._where.rpartition(":")
        match self._way:
            case "ble":
                async with by_ble(host, int(port)) as way:
                    yield way
            case "improv":
                async with by_improv(Path(self._where)) as way:
                    yield way
            case "esp":
                async with esp_provisioning(self._where, possession(LABEL.encode()), poll=0.01) as way:
                    yield way
            case _:
                async with access_point.access_point(self._where) as way:
                    yield way

    async def provision(self, device: WifiDevice, token: str, password: str = RIGHT) -> None:
        """What a phone does; it tries until it is let in, as its owner would."""
        await device.wait(State.WAIT_CONFIG, State.CONFIGURING)
        while self._way == "softap" and not device.access_point_open:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        async with self._reached() as way:
            await way.board()
            await way.networks()
            seen: list[State] = []  # a try may be over before its phone hears that it begins
            forget = device.watch(lambda state, _: seen.append(State(state)))
            await way.configure(Settings(token, "prov.example.com", 1883, "Home", password))
            if password == RIGHT:
                await device.wait(State.RUNNING)
            else:
                if State.CONNECTING_NET not in seen:
                    await device.wait(State.CONNECTING_NET)
                await device.wait(State.WAIT_CONFIG)
            forget()

    async def story(self, device: WifiDevice) -> None:
        """A wrong password, the right one, another token, the button, and a device that is deleted."""
        await self.provision(device, TOKEN, WRONG)
        await self.provision(device, TOKEN)
        self.server.commands.put_nowait("reconfigure")
        await self.provision(device, OTHER)
        device.reset()
        await device.wait(State.WAIT_CONFIG)
        await self.provision(device, TOKEN)
        self.server.tokens = set()
        self.server.commands.put_nowait("cut")
        await device.wait(State.WAIT_CONFIG)

    async def again(self, device: WifiDevice) -> None:
        """Whatever has become of it, its owner can set it up; a button is all that it may take."""
        self.server.tokens = {OTHER}
        await device.wait(State.WAIT_CONFIG, State.RUNNING, State.IDLE)
        device.reset()
        await device.wait(State.WAIT_CONFIG)
        while True:
            with suppress(Refused):  # of a device that has not noticed yet that another phone is gone
                await self.provision(device, OTHER)
                break
            await asyncio.sleep(0.01)
        assert device.token == OTHER


class KeepingSite(Site):
    """Where phones have everything kept at once, with `save`, whether it is of use or not."""

    def __init__(self, label: Path) -> None:
        super().__init__(Generation.CLASSIC, "softap", label)
        self._kept: str | None = None

    async def save(self, device: WifiDevice, password: str) -> None:
        """What a phone does; it tries until it is let in, and takes the answer for a promise."""
        await device.wait(State.WAIT_CONFIG)
        assert device.access_point
        query = f"ssid=Home&pass={quote(password)}&blynk={TOKEN}&host=h&save=1"
        said = b""
        while not said:
            with suppress(OSError):
                said = await ask(device.access_point, f"/config?{query}")
            await asyncio.sleep(0.001)
        assert b"Configuration saved" in said
        self._kept = password

    async def story(self, device: WifiDevice) -> None:
        """A password that is wrong, and yet not given up, the button, the right one, and a device that is deleted."""
        await self.save(device, WRONG)
        if device.boots == 1:
            await device.wait(State.ERROR)
        await device.wait(State.CONNECTING_NET)
        self._kept = None
        device.reset()
        await self.save(device, RIGHT)
        await device.wait(State.RUNNING)
        self.server.tokens = set()
        self.server.commands.put_nowait("cut")
        await device.wait(State.WAIT_CONFIG)

    async def again(self, device: WifiDevice) -> None:
        """What was promised holds; and be it of no use, the button helps."""
        self.server.tokens = {TOKEN}
        if self._kept == RIGHT:
            await device.wait(State.RUNNING)
            assert device.token == TOKEN
        elif self._kept == WRONG:
            await device.wait(State.CONNECTING_NET)
            assert device.token == TOKEN
        await device.wait(State.WAIT_CONFIG, State.CONNECTING_NET, State.RUNNING)
        device.reset()
        await self.save(device, RIGHT)
        await device.wait(State.RUNNING)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("generation", "whole"),
    [(Generation.CLASSIC, True), (Generation.EDGENT, True), (Generation.CLASSIC, False)],
    ids=["classic", "edgent", "power-switch"],
)
@pytest.mark.parametrize("way", WAYS)
async def test_the_power_fails_after_every_step(way: str, generation: Generation, whole: bool, tmp_path: Path) -> None:
    """whole: the device's program ends with its power; else its ports and its program stay, as `off` and `on` do it."""
    label = tmp_path / "label"
    label.write_text(LABEL)
    label.chmod(0o600)
    assert await _cut_everywhere(lambda: Site(generation, way, label), whole=whole) > 40


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("whole", [True, False], ids=["classic", "power-switch"])
async def test_what_a_phone_had_kept_at_once_outlives_the_power(whole: bool, tmp_path: Path) -> None:
    assert await _cut_everywhere(lambda: KeepingSite(tmp_path), whole=whole) > 20


async def _cut_everywhere(made: Callable[[], Site], *, whole: bool) -> int:
    """Play the story with one cut, after each step; how many there are."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda *_: None)  # a handler that was cut in its step
    try:
        for cut in itertools.count():
            assert cut < MOST
            site = made()
            steps: list[str] = []
            try:
                async with asyncio.timeout(HUNG):
                    done = await asyncio.create_task(_cut(site, cut, steps, whole=whole))
            except TimeoutError:
                pytest.fail(f"cut {cut}, after {steps[-1:]}: it cannot be provisioned any more")
            if done:
                break
    finally:
        gc.collect()  # what was cut complains here, where that is expected, and in no other test
        loop.set_exception_handler(before)
    return cut


async def _cut(site: Site, cut: int, steps: list[str], *, whole: bool) -> bool:
    """Whether the story came to its end before there were so many steps."""
    dark = asyncio.Event()

    def step(name: str) -> None:
        if dark.is_set() and whole:
            raise Dark
        steps.append(name)
        if len(steps) == cut + 1:
            dark.set()
            if not whole:
                asyncio.get_running_loop().call_soon(device.power_off)
                return
            device.power_off()
            raise Dark

    power.watch(step)
    async with site.device() as device:
        acts = asyncio.create_task(site.story(device))
        fails = asyncio.create_task(dark.wait())
        await asyncio.wait({acts, fails}, return_when=asyncio.FIRST_COMPLETED)
        over = acts.done() and not dark.is_set()
        for task in (acts, fails):
            task.cancel()
        with suppress(asyncio.CancelledError, Refused):
            await acts
        if over:
            return True
        if not whole:
            await device.wait(State.OFF)
            device.power_on()
            await site.again(device)
            return False
    power.watch(lambda _: None)
    async with site.device() as device:
        await site.again(device)
    return False
