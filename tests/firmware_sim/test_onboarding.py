"""The ways that are not the access point, with the whole device."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from firmware_sim import ble_inject, improv
from firmware_sim.address import Address
from firmware_sim.board import Board, Generation
from firmware_sim.config_store import VolatileStore
from firmware_sim.edgent_state import State
from firmware_sim.links.cloud import Cloud
from firmware_sim.log import SerialLog
from firmware_sim.tls import Trust
from firmware_sim.transports import TransportName
from firmware_sim.wifi_device import WifiDevice
from firmware_sim.wifi_networks import home
from provserver.adapters.ble_inject import BleInject
from provserver.adapters.ble_inject import ble_inject as phone_by_ble
from provserver.adapters.improv import Improv
from provserver.adapters.improv import improv as phone_by_cable
from provserver.core.board import Report
from provserver.core.edgent import Settings

TOKEN = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
SCALE = 0.01
PATIENT = 30


@asynccontextmanager
async def living(generation: Generation, server: Address) -> AsyncIterator[WifiDevice]:
    board = Board(bytes.fromhex("FFEEDDCCBBAA"), "TMPL2feLBENZh", "Meter", generation)
    cloud = Cloud(TransportName.MQTT, server, Trust(), 10.0, 0.1)
    device = WifiDevice(board, VolatileStore(), home(), cloud, SerialLog(None), SCALE)
    life = asyncio.create_task(device.run())
    try:
        await device.wait(State.WAIT_CONFIG)
        yield device
    finally:
        life.cancel()
        await asyncio.wait([life])


@pytest.fixture
def nobody(free_port: int) -> Address:
    """Where no server is."""
    return Address("127.0.0.1", free_port)


@pytest.mark.parametrize("way", ["ble", "improv"])
@pytest.mark.parametrize(
    ("generation", "ssid", "password", "last_error"),
    [
        (Generation.EDGENT, "Home", "wrong", 722),
        (Generation.CLASSIC, "Home", "correct horse", 702),
    ],
)
async def test_why_it_could_not_connect_is_told_at_once(
    nobody: Address, way: str, generation: Generation, ssid: str, password: str, last_error: int
) -> None:
    async with AsyncExitStack() as stack:
        device = await stack.enter_async_context(living(generation, nobody))
        phone = await _phone(stack, way, device)
        board = await phone.board()
        networks = await phone.networks()
        await phone.configure(Settings(TOKEN, "iot.example.com", None, ssid, password))

        assert await phone.outcome() == Report(online=False, last_error=last_error)

    assert (board.template_id, board.name) == ("TMPL2feLBENZh", device.hardware.name)
    assert [each.ssid for each in networks] == ["Home"]


async def _phone(stack: AsyncExitStack, way: str, device: WifiDevice) -> BleInject | Improv:
    log = SerialLog(None)
    if way == "ble":
        where = await stack.enter_async_context(ble_inject.served(Address("127.0.0.1", 0), device, log))
        return await stack.enter_async_context(phone_by_ble(where.host, where.port, PATIENT))
    path: Path = await stack.enter_async_context(improv.served(device, log))
    return await stack.enter_async_context(phone_by_cable(path, patience=PATIENT))
