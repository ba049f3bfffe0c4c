"""Devices that lose power, or their answer, at every step: in the end each has working credentials, and is there once.

The simulator tells its steps itself (`firmware_sim/power.py`): it is cut after the first, after the second, and so on,
until a boot comes to its end uncut.
"""

import asyncio
import itertools
import json
import secrets
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from firmware_sim import power
from firmware_sim.address import Address
from firmware_sim.credentials import Kind
from firmware_sim.device import Device, Firmware, Provisioned
from firmware_sim.flash import Credentials, FileFlash, VolatileFlash
from firmware_sim.log import SerialLog
from firmware_sim.proxy import before
from firmware_sim.retry import Retry
from firmware_sim.tls import Trust
from firmware_sim.transports import DEFAULT_PORTS, MqttVersion, TransportName, connect, provision_security
from tests.faults.losses import Losses
from tests.server import Server

LOSSES = 3
TIMEOUT = 30.0

AROUND = {"flash written", "flash replaced", "read-flash", "save-request", "ask", "verify", "save-credentials"}
STEPS = {
    TransportName.HTTP: {"connected", "head sent", "body sent", "answer begun", "answer read"},
    TransportName.HTTPS: {"connected", "head sent", "body sent", "answer begun", "answer read"},
    TransportName.MQTT: {"connected", "subscribed", "published", "answer read"},
    TransportName.MQTTS: {"connected", "subscribed", "published", "answer read"},
    TransportName.COAP: {"opened", "answer read"},
    TransportName.COAPS: {"opened", "answer read"},
    TransportName.OSCORE: {"opened", "answer read"},
}
"""What is told of each transport's flow, beside what all have in common. CoAP's request is one datagram, which aiocoap
sends by itself: that it was sent and the answer was not read is shown below, where answers are lost.
"""

WAYS = [*((name, MqttVersion.V311) for name in STEPS), (TransportName.MQTT, MqttVersion.V5)]


class PowerCut(BaseException):
    """Nobody's to handle."""


@dataclass
class Bench:
    """A server with a profile, and devices that are cut."""

    server: Server
    key: str
    secret: str

    def address(self, name: TransportName) -> str:
        return self.server.addresses[name.removesuffix("+oscore")]

    async def boot(
        self,
        name: TransportName,
        device: str,
        flash: Path,
        version: MqttVersion = MqttVersion.V311,
        *,
        at: str | None = None,
        kind: Kind = Kind.GENERATED,
        cut_after: int | None = None,
        timeout: float = TIMEOUT,
    ) -> tuple[Provisioned | None, list[str]]:
        """From power-on: what the device has, None if it was cut; and the steps that it did."""
        server = Address.parse(at or self.address(name), DEFAULT_PORTS[name])
        security = provision_security(name, self.key, self.secret, Trust(self.server.ca), by_key=True)
        done: list[str] = []

        def step(what: str) -> None:
            done.append(what)
            if len(done) != cut_after:
                return
            if aside():  # what it does beside the boot ends with it
                booting.cancel()
            else:
                raise PowerCut

        def aside() -> bool:
            try:
                return asyncio.current_task() is not booting
            except RuntimeError:  # in the thread that the boot waits for
                return False

        async def run() -> Provisioned | None:
            power.watch(step)
            try:
                async with connect(name, server, mqtt_version=version, security=security) as transport:
                    retry = Retry(attempts=20, base=0.01, cap=0.01)
                    firmware = Firmware(self.key, self.secret, device, kind)
                    booted = Device(firmware, FileFlash(flash), transport, SerialLog(None), retry, timeout)
                    booted.reached = step
                    return await booted.boot()
            except PowerCut:
                return None

        booting = asyncio.create_task(run())
        try:
            return await booting, done
        except asyncio.CancelledError:
            if cut_after is None or len(done) < cut_after:
                raise
            return None, done

    async def works(self, credentials: Credentials) -> bool:
        """Whether the server lets the device in."""
        url = f"http://{self.server.http}/api/v1/{credentials.credentials_value}/telemetry"
        async with aiohttp.request("POST", url, json={"booted": True}) as response:
            return response.status == 200

    def devices(self) -> Counter[str]:
        """How many devices there are of each name."""
        return Counter(each["name"] for each in self.server.cli("device", "list", "--profile", "lost"))


@pytest.fixture(scope="session")  # as the server: who steals work comes to a module twice
def bench(server: Server) -> Bench:
    made = server.cli("profile", "create", "lost", "--strategy", "allow-create")
    return Bench(server, made["provisionDeviceKey"], made["provisionDeviceSecret"])


@pytest.mark.parametrize(("name", "version"), WAYS, ids=[f"{name}-{version}" for name, version in WAYS])
async def test_cut_after_every_step(bench: Bench, tmp_path: Path, name: TransportName, version: MqttVersion) -> None:
    run = f"{name}-{version}-{secrets.token_hex(3)}"
    told: set[str] = set()
    names = []
    for place in itertools.count(1):
        device, flash = f"{run}-{place:03}", tmp_path / f"{place}.json"
        cut, steps = await bench.boot(name, device, flash, version, cut_after=place)
        told.update(steps)
        again, _ = await bench.boot(name, device, flash, version, cut_after=place)  # and once more at the same place
        last, _ = await bench.boot(name, device, flash, version)
        assert last is not None
        assert again is None or again.credentials == last.credentials, steps
        assert await bench.works(last.credentials), steps
        assert (await FileFlash(flash).read()).credentials == last.credentials
        names.append(device)
        if cut is not None:
            break
    assert told == AROUND | STEPS[name]
    there = await asyncio.to_thread(bench.devices)
    assert {each: there[each] for each in there if each.startswith(run)} == dict.fromkeys(names, 1)


@pytest.mark.parametrize("kind", [Kind.TOKEN, Kind.BASIC, Kind.X509])
async def test_cut_after_every_step_with_credentials_of_its_own(bench: Bench, tmp_path: Path, kind: Kind) -> None:
    run = f"{kind}-{secrets.token_hex(3)}"
    names = []
    for place in itertools.count(1):
        device, flash = f"{run}-{place:03}", tmp_path / f"{place}.json"
        cut, _ = await bench.boot(TransportName.HTTP, device, flash, kind=kind, cut_after=place)
        last, _ = await bench.boot(TransportName.HTTP, device, flash, kind=kind)
        again, _ = await bench.boot(TransportName.HTTP, device, flash, kind=kind)
        assert last is not None
        assert again is not None
        assert again.credentials == last.credentials
        names.append(device)
        if cut is not None:
            break
    there = await asyncio.to_thread(bench.devices)
    assert {each: there[each] for each in there if each.startswith(run)} == dict.fromkeys(names, 1)


@pytest.mark.parametrize("name", [TransportName.HTTP, TransportName.MQTT, TransportName.COAP])
async def test_answers_that_are_lost_after_the_commit(bench: Bench, tmp_path: Path, name: TransportName) -> None:
    """The device asks until it hears: each time the same is granted."""
    device, flash = f"{name}-lost-{secrets.token_hex(3)}", tmp_path / "flash.json"
    losses = Losses(LOSSES)
    async with before(name, Address.parse(bench.address(name), DEFAULT_PORTS[name]), losses) as proxy:
        # A datagram that is lost is missed when the time is up, a broken connection at once.
        timeout = 1.0 if name is TransportName.COAP else TIMEOUT
        outcome, _ = await bench.boot(name, device, flash, at=str(proxy.address), timeout=timeout)

    assert losses.lost == LOSSES
    assert outcome is not None
    assert await bench.works(outcome.credentials)
    assert (await asyncio.to_thread(bench.devices))[device] == 1


@pytest.mark.parametrize("name", [TransportName.HTTP, TransportName.MQTT, TransportName.COAP])
async def test_without_a_nonce_the_device_is_there_once_as_well(bench: Bench, name: TransportName) -> None:
    """Who keeps nothing in flash is refused when he asks again: an operator re-arms him."""
    device = f"{name}-plain-{secrets.token_hex(3)}"
    body = {"provisionDeviceKey": bench.key, "provisionDeviceSecret": bench.secret, "deviceName": device}
    server = Address.parse(bench.address(name), DEFAULT_PORTS[name])
    async with connect(name, server) as transport:
        replies: list[dict[str, Any]] = [
            json.loads(await transport.provision(json.dumps(body).encode(), TIMEOUT)) for _ in range(2)
        ]

    assert [reply["status"] for reply in replies] == ["SUCCESS", "FAILURE"]
    assert (await asyncio.to_thread(bench.devices))[device] == 1


@pytest.mark.parametrize("name", [TransportName.HTTP, TransportName.MQTT, TransportName.COAP])
async def test_a_device_asks_until_its_operator_has_decided(server: Server, name: TransportName) -> None:
    profile, device = f"approved-{name}", f"{name}-{secrets.token_hex(3)}"
    made = await asyncio.to_thread(server.cli, "profile", "create", profile, "--approval")
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            await asyncio.to_thread(server.cli, "approval", "accept", device)

    there = Address.parse(server.addresses[name], DEFAULT_PORTS[name])
    async with connect(name, there) as transport:
        firmware = Firmware(made["provisionDeviceKey"], made["provisionDeviceSecret"], device)
        retry = Retry(attempts=1, sleep=sleep)
        outcome = await Device(firmware, VolatileFlash(), transport, SerialLog(None), retry, TIMEOUT).boot()

    assert (outcome.attempts, outcome.credentials.device_name) == (3, device)
    assert all(seconds >= 5 for seconds in waited)
