"""The seed's LoRaWAN story: from a CSV over a scanned code into The Things Stack, into the air, and to our device."""

import asyncio
import io
import json
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.firmware_sim.test_cli import Result, simulate
from tests.qrcodes import read_png
from tests.server import LIMIT, Server
from tests.support.gateway import GatewayServer
from tests.support.mosquitto import Broker
from tests.support.things_stack import Component, ThingsStack
from tests.test_story import PASSWORD, Person, browser, latest

CSV = """\
Device EUI,Join EUI,Application Key
0018B20000000101,70B3D57ED0000010,2B7E151628AED2A6ABF7158809CF4F3C
0018B20000000102,70B3D57ED0000011,3B7E151628AED2A6ABF7158809CF4F3D
0018B20000000103,70B3D57ED0000012,4B7E151628AED2A6ABF7158809CF4F3E
"""
EUIS = [tuple(line.split(",")) for line in CSV.splitlines()[1:]]
CODE = "LW:D0:70B3D57ED0000010:0018B20000000101:000AF8BE"
DEVICE = ("meters", "eui-0018b20000000101")


def decoder(f_port: int, payload: bytes) -> Mapping[str, Any] | None:
    """The application's: tenths of a degree."""
    return {"Temperature": int.from_bytes(payload, signed=True) / 10} if f_port == 2 else None


@pytest.fixture
async def broker(tool: Callable[..., str], tmp_path: Path) -> AsyncIterator[Broker]:
    directory = tmp_path / "mosquitto"
    directory.mkdir()
    made = Broker.guarded(tool("mosquitto", "/usr/sbin/mosquitto"), directory)
    await made.start()
    yield made
    made.kill()


@pytest.fixture
async def stack(broker: Broker) -> AsyncIterator[ThingsStack]:
    async with ThingsStack(mosquitto=broker) as made:
        made.application("meters", decoder=decoder)
        yield made


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    running = Server(tmp_path / "data", env={"PROVSERVER_OUTGOING_PRIVATE": "127.0.0.1"})
    await asyncio.to_thread(running.start)
    yield running
    await asyncio.to_thread(running.stop)


async def test_from_the_csv_to_the_uplink(server: Server, broker: Broker, stack: ThingsStack, tmp_path: Path) -> None:
    key = stack.api_key("meters")
    await stack.settle()
    async with browser() as one, browser() as two, GatewayServer(stack) as network:
        maker, customer = (Person(each, f"http://{server.admin}") for each in (one, two))
        await set_up(maker, server)

        # The profile, and the application that its devices are to be onboarded into.
        streams = [{"name": "Temperature", "pin": "V1"}]
        await maker.get("POST", "/profiles", {"name": "meters", "datastreams": streams, "keyless": True})
        settings = {
            "lorawanVersion": "MAC_V1_0_3",
            "frequencyPlan": "EU_863_870_TTN",
            "mqttAddress": f"mqtt://{stack.mqtt_address}",
            "mqttUser": "meters@ttn",
        }
        integration = await maker.get(
            "POST",
            "/integrations",
            {
                "profile": "meters",
                "network": "things-stack",
                "applicationId": "meters",
                "apiKey": key,
                "settings": settings | stack.addresses,
                "onboarding": True,
                "lorawanProfileId": "000AF8BE",
            },
        )
        path = f"/integrations/{integration['id']}"
        await becomes(lambda: maker.get("GET", path), lambda shown: shown["status"] == "connected")
        await maker.get("POST", f"{path}/test")
        await broker.subscribed_to("v3/meters@ttn/devices/+/join")

        # The CSV of the seed makes static tokens, and codes to print on the cases.
        assert (await maker.get("POST", "/static-tokens/import", CSV, profile="meters"))["imported"] == 3
        archive = zipfile.ZipFile(io.BytesIO(await maker.get("GET", "/static-tokens/export.zip")))
        codes = [read_png(archive.read(each))[0] for each in archive.namelist() if each.endswith(".png")]
        (code,) = (each for each in codes if "0018B20000000101" in each)
        assert code == f"{CODE}:C8525"

        # A customer scans one: the device is his, and by itself in all four components.
        await invite(maker, customer)
        claimed = (await customer.get("POST", "/static-tokens/claim", {"qr": code}))["device"]
        network_path = f"/devices/{claimed['id']}/network"
        shown = await becomes(
            lambda: maker.get("GET", network_path), lambda shown: shown["state"] not in ("waiting", "onboarding")
        )
        assert (shown["state"], shown["networkDeviceId"]) == ("onboarded", DEVICE[1]), shown
        assert [set(stack.devices[component]) for component in Component] == [{DEVICE}] * 4
        assert stack.devices[Component.JS][DEVICE]["root_keys"] == {"app_key": {"key": EUIS[0][2]}}
        jobs = await becomes(lambda: maker.get("GET", "/jobs"), lambda found: found["items"][0]["state"] != "running")
        assert [(job["kind"], job["state"]) for job in jobs["items"]] == [("network.onboard", "done")]

        # A device with another key does not get in, nor one whose code nobody has scanned.
        assert (
            await joining(network, tmp_path, *EUIS[0][:2], EUIS[1][2], "--attempts", "1", "--window", "0.1")
        ).code == 3
        await network.seen(refused=1)
        assert (await joining(network, tmp_path, *EUIS[1], "--attempts", "1", "--window", "0.1")).code == 3
        await network.seen(refused=2)
        assert [(each.dev_eui, each.reason) for each in network.refused] == [
            (EUIS[0][0], "MIC"),
            (EUIS[1][0], "unknown to ns"),
        ]

        # The one that has its key joins, and what it sends is our device's.
        done = await joining(network, tmp_path, *EUIS[0], "--payload", "00D7", "--port", "2", "--rssi", "-97")
        assert done.code == 0, done.stderr
        assert done.json["deviceAddress"] == network.joins[0].address
        values = await becomes(lambda: latest(customer, claimed["id"]), lambda found: "Temperature" in found)
        assert {name: values.get(name) for name in ("Temperature", "RSSI", "SNR")} == {
            "Temperature": 21.5,
            "RSSI": -97,
            "SNR": 9.5,
        }
        shown = await becomes(lambda: maker.get("GET", network_path), lambda shown: shown["lastUplinkAt"] is not None)
        assert shown["lastJoinAt"] is not None

        # None of the secrets is in the log, the audit or a job.
        told = server.log + json.dumps([await maker.get("GET", "/audit"), jobs, integration, shown])
        for secret in (key, EUIS[0][2]):
            assert secret not in told


async def set_up(maker: Person, server: Server) -> None:
    link = (server.data_dir / "setup-link").read_text().strip()
    person = {"link": link.partition("#")[2], "email": "maker@example.com", "password": PASSWORD, "name": "Maker"}
    await maker.get("POST", "/setup", person)
    await maker.sign_in("maker@example.com")


async def invite(maker: Person, customer: Person) -> None:
    """Into an organization below the maker's."""
    organization = await maker.get("POST", "/organizations", {"name": "customer"})
    invitation = {"email": "customer@example.com", "role": "user", "organization": organization["id"]}
    invited = await maker.get("POST", "/users", invitation)
    accepted = {"link": invited["link"].rpartition("#")[2], "password": PASSWORD}
    await customer.get("POST", "/invitations/accept", accepted)
    await customer.sign_in("customer@example.com")


async def joining(network: GatewayServer, directory: Path, dev_eui: str, join_eui: str, key: str, *more: str) -> Result:
    """A simulated end device: asks to join, sends an uplink."""
    file = directory / "key"
    file.write_text(key)
    given = ("--device-eui", dev_eui, "--join-eui", join_eui, "--key-file", file, "--json")
    return await asyncio.to_thread(simulate, "lorawan", "--gateway", network.address, *given, *more)


async def becomes(look: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool]) -> Any:
    """What is seen once it is as it will be."""
    end = time.monotonic() + LIMIT
    while not holds(seen := await look()):
        assert time.monotonic() < end, seen
        await asyncio.sleep(0.05)
    return seen
