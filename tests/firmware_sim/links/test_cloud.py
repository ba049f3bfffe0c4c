"""A WiFi device goes online with a token of a session's, by each protocol, and opens its access point when deleted."""

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from firmware_sim.address import Address
from firmware_sim.board import Board
from firmware_sim.config_store import VolatileStore
from firmware_sim.edgent_state import State
from firmware_sim.links.cloud import Cloud
from firmware_sim.log import SerialLog
from firmware_sim.transports import TransportName
from firmware_sim.wifi_device import WifiDevice
from firmware_sim.wifi_networks import home
from tests.server import Server


class House:
    """A server, and a product on it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._key = server.cli("key", "create", "house")["secret"]
        self.template = server.cli("profile", "create", "Lamp")["templateId"]

    def ask(self, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            f"http://{self.server.admin}/api/admin{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with Server(tmp_path_factory.mktemp("cloud") / "data", "--blynk", "127.0.0.1:0") as server:
        yield House(server)


@pytest.mark.parametrize("transport", ["mqtt", "http", "coap", "blynk"])
async def test_it_goes_online_and_notices_that_it_was_deleted(house: House, transport: str) -> None:
    name = f"{transport} lamp"
    known = {"template": house.template} if transport == "coap" else {}
    session = await asyncio.to_thread(house.ask, "/wifi-sessions", {"name": name, "client": "test"} | known)
    server = Address.parse(house.server.addresses[transport], 1)
    device = WifiDevice(
        Board(bytes.fromhex("FFEEDDCCBBAA"), house.template, "Lamp"),
        VolatileStore(),
        home(),
        Cloud(TransportName(transport), server, timeout=60.0, poll=0.05),
        SerialLog(None),
        0.001,
    )
    life = asyncio.create_task(device.run())
    try:
        await device.wait(State.WAIT_CONFIG)
        given = {"ssid": "Home", "pass": "correct horse", "blynk": session["token"]}
        assert device.submit(given) == 200
        await device.wait(State.RUNNING)
        done = {"state": "CONNECTED"}
        while done["state"] == "CONNECTED":  # what was published may be taken before it is acted on
            done = await asyncio.to_thread(house.ask, f"/wifi-sessions/{session['id']}")
        assert (done["state"], done["deviceName"]) == ("SUCCESS", name)
        if transport != "coap":  # which is not told: it looks once a minute
            await asyncio.to_thread(house.server.run, "device", "delete", name)
            await device.wait(State.WAIT_CONFIG)
    finally:
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life
