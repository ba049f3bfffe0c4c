"""Devices that come back, from the command line to the real server: every way in, with every kind of credentials."""

import asyncio
import json
import os
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.firmware_sim.test_cli import Result, simulate
from tests.processes import Process
from tests.server import Server

TLS = ("https", "mqtts", "coaps")
WAYS = {
    "http": ("http", ()),
    "https": ("https", ()),
    "mqtt": ("mqtt", ()),
    "mqtt5": ("mqtt", ("--mqtt-version", "5")),
    "mqtts": ("mqtts", ()),
    "mqtts5": ("mqtts", ("--mqtt-version", "5")),
    "coap": ("coap", ()),
    "coaps-psk": ("coaps", ()),
    "coaps-certificate": ("coaps", ("--dtls", "certificate")),
    "coap+oscore": ("coap+oscore", ()),
}
MQTT_WAYS = [way for way in WAYS if way.startswith("mqtt")]
TLS_WAYS = [way for way in WAYS if WAYS[way][0] in TLS]
CASES = [
    *((way, "generated") for way in WAYS),
    ("http", "token"),
    ("coap+oscore", "token"),
    *((way, "basic") for way in MQTT_WAYS),
    *((way, "x509") for way in TLS_WAYS),
]


@dataclass(frozen=True)
class House:
    """A server with TLS on everything, and a profile of it."""

    server: Server
    key: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        return {"FIRMWARE_SIM_KEY": self.key, "FIRMWARE_SIM_SECRET": self.secret}

    @property
    def trust(self) -> tuple[str, ...]:
        return ("--ca", str(self.server.data_dir / "tls" / "ca.pem"))

    @property
    def servers(self) -> tuple[str, ...]:
        names = ("http", "mqtt", "coap", *TLS)
        return tuple(word for name in names for word in (f"--{name}", self.server.addresses[name]))

    def arguments(self, way: str) -> tuple[str, ...]:
        transport, options = WAYS[way]
        address = self.server.addresses[transport.removesuffix("+oscore")]
        return ("device", "--transport", transport, "--server", address, *self.trust, *options)

    def device(self, way: str, *arguments: str | Path) -> Result:
        return simulate(*self.arguments(way), *arguments, **self.environment)

    def fleet(self, *arguments: str | Path) -> Result:
        return simulate("fleet", *self.servers, *self.trust, "--json", *arguments, **self.environment)

    def latest(self, name: str) -> dict[str, Any]:
        shown = self.server.cli("device", "show", name)
        return {sample["key"]: sample["value"] for sample in shown["telemetry"]}


def open_house(data_dir: Path) -> Server:
    """A server that has made itself certificates."""
    options = [word for name in TLS for word in (f"--{name}", "127.0.0.1:0")]
    server = Server(data_dir, *options)
    made = server.run("ca", "init")
    assert made.returncode == 0, made.stderr
    return server


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("life") / "data") as server:
        created = server.cli("profile", "create", "life", "--strategy", "allow-create")
        server.cli("profile", "ca", "create", "life")
        yield House(server, created["provisionDeviceKey"], created["provisionDeviceSecret"])


def unique(name: str) -> str:
    return f"{name}-{secrets.token_hex(4)}"


@pytest.mark.parametrize(("way", "kind"), CASES, ids=[f"{way}-{kind}" for way, kind in CASES])
def test_a_device_connects_with_what_it_was_given(house: House, tmp_path: Path, way: str, kind: str) -> None:
    flash, name = tmp_path / "flash.json", unique("device")
    common = ("--flash", flash, "--interval", "0.01", "--json")
    first = house.device(way, "--name", name, "--credentials", kind, "--telemetry", "2", *common)
    again = house.device(way, "--telemetry", "3", *common)
    assert (first.code, again.code) == (0, 0), first.stderr + again.stderr
    assert (first.json["source"], again.json["source"]) == ("server", "flash")
    transport = WAYS[way][0]
    expected = {"transport": transport, "connections": 1, "attempts": 1, "attributes": {}}
    assert first.json["connection"] == expected | {"messages": 2}
    assert again.json["connection"] == expected | {"messages": 3}
    assert house.latest(name)["sequence"] == 3


@pytest.mark.parametrize("way", ["http", "https", "mqtt", "mqtts5", "coap", "coaps-certificate"])
def test_a_device_connects_with_a_token_from_the_factory(house: House, way: str) -> None:
    number = house.server.cli("token", "create", "--profile", "life")["firstNumber"]
    token = house.server.cli("token", "show", str(number), "--open")
    opened = token["authToken"]
    flashed = simulate(
        *house.arguments(way), "--credentials", "static", "--telemetry", "2", "--interval", "0.01", "--json",
        FIRMWARE_SIM_TOKEN=opened,
    )  # fmt: skip
    assert flashed.code == 0, flashed.stderr
    assert (flashed.json["source"], flashed.json["connection"]["messages"]) == ("flash", 2)
    assert opened not in flashed.stderr
    assert house.latest(token["id"])["sequence"] == 2


@pytest.mark.parametrize(("way", "kind"), [*((way, "generated") for way in WAYS), *((way, "csr") for way in TLS_WAYS)])
def test_a_device_rotates_its_credentials(house: House, tmp_path: Path, way: str, kind: str) -> None:
    flash, name = tmp_path / "flash.json", unique("rotating")
    common = ("--flash", flash, "--interval", "0.01", "--json", "--show-credentials")
    first = house.device(way, "--name", name, "--credentials", kind, "--connect", *common)
    rotated = house.device(way, "--rotate", "--telemetry", "1", *common)
    again = house.device(way, "--rotate", "--telemetry", "1", *common)
    assert (first.code, rotated.code, again.code) == (0, 0, 0), first.stderr + rotated.stderr + again.stderr
    assert len({each.json["credentialsValue"] for each in (first, rotated, again)}) == 3
    assert (rotated.json["source"], rotated.json["connection"]["messages"]) == ("flash", 1)
    shown = house.server.cli("device", "show", name)
    assert [(each["origin"], each["pending"]) for each in shown["credentials"]] == [("generated", False)]


@pytest.mark.parametrize("way", ["http", "mqtt5", "coap", "coaps-psk", "coap+oscore"])
def test_a_certificate_is_had_on_every_way(house: House, way: str) -> None:
    link = ("--connect-transport", "mqtts", "--connect-server", house.server.addresses["mqtts"])
    result = house.device(way, "--name", unique("signed"), "--csr", *link, "--connect", "--json")
    assert result.code == 0, result.stderr
    assert result.json["credentialsType"] == "X509_CERTIFICATE"
    assert result.json["connection"]["connections"] == 1


def test_a_key_of_its_own_and_the_servers_certificate(house: House) -> None:
    result = house.device(
        "mqtts", "--name", unique("signed"), "--csr", "--telemetry", "2", "--interval", "0.01", "--json"
    )
    assert result.code == 0, result.stderr
    assert result.json["credentialsType"] == "X509_CERTIFICATE"
    assert house.device("mqtts", "--csr", "--credentials", "token").code == 2


def test_on_another_way_than_it_was_provisioned_on(house: House) -> None:
    link = ("--connect-transport", "mqtts", "--connect-server", house.server.addresses["mqtts"])
    for kind in ("basic", "x509"):
        result = house.device("http", "--credentials", kind, *link, "--connect", "--json")
        assert result.code == 0, result.stderr
        assert result.json["connection"]["transport"] == "mqtts"


class Running:
    """A device's process, and what it says."""

    def __init__(self, process: Process, stdout: asyncio.StreamReader) -> None:
        self.process = process
        self.stdout = stdout
        self.said = ""

    async def until(self, words: str) -> None:
        """Read on until it has said that, too."""
        while True:
            line = (await self.stdout.readline()).decode()
            assert line, f"ended before it said {words!r}: {self.said}"
            self.said += line
            if words in line:
                return

    async def end(self) -> int:
        """Its exit code, once it has ended."""
        self.said += (await self.stdout.read()).decode()
        return await asyncio.to_thread(self.process.wait)


@asynccontextmanager
async def running(house: House, way: str, *arguments: str | Path) -> AsyncIterator[Running]:
    words = [*house.arguments(way), *map(str, arguments)]
    environment = {**os.environ, **house.environment, "COLUMNS": "200"}
    reading, writing = os.pipe()
    process = processes.firmware_sim().start(words, environment, writing, writing)
    os.close(writing)
    stdout = asyncio.StreamReader()
    heard, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stdout), os.fdopen(reading, "rb")
    )
    try:
        yield Running(process, stdout)
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
        heard.close()


@pytest.mark.parametrize("way", ["http", "mqtt", "coap", "coaps-psk", "coap+oscore"])
async def test_a_device_does_as_its_attributes_say(house: House, way: str) -> None:
    name = unique("device")
    async with running(house, way, "--name", name, "--interval", "3600", "--stay") as device:
        await device.until("message 1 sent")
        await asyncio.to_thread(house.server.cli, "device", "update", name, "--shared", "telemetryInterval=0.02")
        await device.until("telemetryInterval = 0.02")
        await device.until("message 4 sent")
        await asyncio.to_thread(house.server.cli, "device", "update", name, "--delete-shared", "telemetryInterval")
        await device.until("telemetryInterval deleted")
        device.process.send_signal(signal.SIGINT)
        assert await device.end() == 0, device.said
    assert "switched off after" in device.said
    assert "Traceback" not in device.said


@pytest.mark.parametrize("way", ["http", "mqtt", "coap"])
async def test_what_was_set_before_counts_from_the_first_connection(house: House, tmp_path: Path, way: str) -> None:
    name, flash = unique("device"), tmp_path / "flash.json"
    assert (await asyncio.to_thread(house.device, way, "--name", name, "--flash", flash)).code == 0
    await asyncio.to_thread(house.server.cli, "device", "update", name, "--shared", "telemetryInterval=0.02")
    async with running(house, way, "--flash", flash, "--interval", "3600", "--telemetry", "3") as device:
        assert await device.end() == 0, device.said
    assert "message 3/3 sent" in device.said


@pytest.mark.parametrize("way", ["http", "mqtt", "coap+oscore", "coaps-psk"])
async def test_a_device_that_is_revoked_keeps_its_credentials_and_says_so(
    house: House, tmp_path: Path, way: str
) -> None:
    name, flash = unique("device"), tmp_path / "flash.json"
    options = ("--name", name, "--flash", flash, "--interval", "0.05", "--timeout", "3", "--stay")
    async with running(house, way, *options) as device:
        await device.until("message 1 sent")
        saved = json.loads(flash.read_bytes())["credentials"]
        await asyncio.to_thread(house.server.cli, "device", "revoke", name)
        assert await device.end() == 6, device.said
    assert "credentials kept, trying again" in device.said
    assert "credentials kept, giving up" in device.said
    assert json.loads(flash.read_bytes())["credentials"] == saved


async def test_a_device_outlives_its_server(tmp_path: Path) -> None:
    """Killed, gone for a while, and back at the same address."""
    server = Server(tmp_path / "data", tls=True)
    with ExitStack() as stack:
        stack.push(server)
        server.start(restartable=True)
        created = server.cli("profile", "create", "sensors")
        house = House(server, created["provisionDeviceKey"], created["provisionDeviceSecret"])
        async with running(house, "mqtts", "--interval", "0.02", "--stay") as device:
            await device.until("message 2 sent")
            server.kill()
            await device.until("connection lost")
            await device.until("no connection")
            await asyncio.to_thread(server.start)
            await device.until("connected again")
            await device.until("message")
            device.process.send_signal(signal.SIGTERM)
            assert await device.end() == 0


@pytest.mark.parametrize("transport", ["mix", "mix-tls", "coap+oscore"])
def test_a_fleet_connects_after_provisioning(house: House, transport: str) -> None:
    result = house.fleet("--count", "30", "--transport", transport, "--telemetry", "2", "--interval", "0.01")
    assert result.code == 0, result.stdout
    report = result.json
    assert report["provisioned"] == 30
    links = report["links"]
    assert {name: link["devices"] for name, link in links.items()} == {
        name: one["count"] for name, one in report["transports"].items()
    }
    assert sum(link["messages"] for link in links.values()) == 60
    assert all(link["connectionsPerDevice"] == {"1": link["devices"]} for link in links.values())
    assert all(link["latencyMs"]["p50"] <= link["latencyMs"]["max"] for link in links.values())


@pytest.fixture(scope="module")
def factory_dir(house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A factory whose root CA the server knows."""
    directory = tmp_path_factory.mktemp("pki")
    made = simulate("pki", "init", directory, "--count", "3", "--json")
    assert made.code == 0
    assert made.json == {"ca": str(directory / "root.pem"), "directory": str(directory), "devices": 3}
    house.server.cli("profile", "create", "chain", "--strategy", "x509-chain", "--ca", made.json["ca"])
    return directory


def provisioned(house: House, prefix: str) -> Counter[str]:
    devices = house.server.cli("device", "list", "--profile", "chain")
    return Counter(device["provisionState"] for device in devices if device["name"].startswith(prefix))


@pytest.mark.parametrize("way", TLS)
def test_a_factory_certificate_is_all_it_takes(house: House, factory_dir: Path, way: str) -> None:
    number = TLS.index(way) + 1
    files = (factory_dir / "devices" / f"device-{number:06}{suffix}" for suffix in (".pem", ".key"))
    options = dict(zip(("--certificate", "--private-key"), files, strict=True))
    words = ("--credentials", "chain", *(word for option in options.items() for word in option), "--json")
    result = house.device("coaps-certificate" if way == "coaps" else way, *words)
    assert result.code == 0, result.stderr
    assert result.json["connection"]["connections"] == result.json["connection"]["messages"] == 1
    assert provisioned(house, f"device-{number:06}") == {"provisioned": 1}


@pytest.mark.parametrize(("transport", "count"), [("mqtts", 500), ("https", 40), ("coaps", 40), ("mix-tls", 30)])
def test_a_fleet_with_certificates_is_provisioned_in_one_connection_each(
    house: House, factory_dir: Path, transport: str, count: int
) -> None:
    options = ("--credentials", "chain", "--pki", factory_dir, "--name-prefix", transport)
    result = house.fleet("--count", str(count), "--transport", transport, *options)
    assert result.code == 0, result.stdout
    assert result.json["provisioned"] == count
    links = result.json["links"].values()
    assert sum((Counter(link["connectionsPerDevice"]) for link in links), Counter()) == {"1": count}
    assert sum(link["messages"] for link in links) == count
    assert provisioned(house, f"{transport}-") == {"provisioned": count}


def test_a_certificate_of_another_factory_is_refused(house: House, factory_dir: Path, tmp_path: Path) -> None:
    assert factory_dir
    simulate("pki", "init", tmp_path)
    options = ("--credentials", "chain", "--pki", tmp_path, "--name-prefix", "stranger")
    result = house.fleet("--count", "3", "--transport", "mqtts", *options)
    assert result.code == 6
    assert result.json["failures"] == {"mqtts: credentials refused: MQTT 0x87 Not authorized": 3}
    assert result.json["links"]["mqtts"]["connectionsPerDevice"] == {"3": 3}
    assert not provisioned(house, "stranger")
