"""Blynk's clients, packet by packet as their samples and libraries send them, against a server process."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiomqtt
import pytest

from tests.server import Server

STREAMS = (
    "Power:V0:int:0:1",
    "Set Temperature:V1:int:10:30",
    "Current Temperature:V2:double:0:50",
    "Status:V3:enum",
    "Terminal:V4:string",
    "Published at:V6:string",
    "Millis:V14:int",
    "Voltage:V15:double",
    "LED:V16:int:0:1",
    "Button:V17:int:0:1",
)
"""Of the paho sample, and of the Particle firmware of seed 002."""

LIMIT = 90.0
"""Seconds for what must come: a thread that waits for it is ended by nothing else."""


@dataclass
class Heater:
    """A device of the sample's template."""

    server: Server
    template_id: str
    token: str = field(repr=False)

    async def ask(self, call: str) -> tuple[int, str]:
        """A call of the HTTP API with the device's token; the status and the body."""
        name, _, query = call.partition("?")
        return await asyncio.to_thread(
            _get, f"http://{self.server.http}/external/api/{name}?token={self.token}&{query}"
        )

    @asynccontextmanager
    async def connect(
        self, version: aiomqtt.ProtocolVersion = aiomqtt.ProtocolVersion.V311, token: str | None = None
    ) -> AsyncIterator[aiomqtt.Client]:
        host, port = self.server.mqtt.split(":")
        clean = None if version is aiomqtt.ProtocolVersion.V5 else True
        async with aiomqtt.Client(
            host,
            int(port),
            username="device",
            password=token or self.token,
            protocol=version,
            clean_session=clean,
            keepalive=45,
        ) as client:
            yield client


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=LIMIT) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def provision(server: Server, profile: dict[str, str], name: str) -> Heater:
    members = {key: profile[key] for key in ("provisionDeviceKey", "provisionDeviceSecret")}
    body = json.dumps(members | {"deviceName": name}).encode()
    with urllib.request.urlopen(f"http://{server.http}/api/v1/provision", body, LIMIT) as response:
        return Heater(server, profile["templateId"], json.load(response)["credentialsValue"])


@pytest.fixture(scope="session")
def profile(server: Server) -> dict[str, str]:
    options = [option for stream in STREAMS for option in ("--datastream", stream)]
    made: dict[str, str] = server.cli("profile", "create", "blynk", *options, "--metadata-field", "Serial Number")
    return made


@pytest.fixture(scope="session")
def heater(server: Server, profile: dict[str, str]) -> Heater:
    return provision(server, profile, "heater-1")


async def told(client: aiomqtt.Client, count: int) -> dict[str, str]:
    """The next messages by topic."""
    found: dict[str, str] = {}
    async for message in client.messages:
        assert isinstance(message.payload, bytes)
        found[str(message.topic)] = message.payload.decode()
        if len(found) == count:
            break
    return found


async def test_the_paho_sample(heater: Heater) -> None:
    for call in ("update?v0=1", "update?v1=25"):
        assert await heater.ask(call) == (200, "")
    async with heater.connect() as client:
        await client.subscribe("downlink/#", qos=0)
        await client.publish("get/ds", "Power,Set Temperature")
        await client.publish("ds/Terminal", "\n   ___  __\n  / _ )/ /_ _____\n")
        await client.publish("ds/Terminal", 'Type "help" for the list of available commands\n')
        assert await told(client, 2) == {"downlink/ds/Power": "1", "downlink/ds/Set Temperature": "25"}
        await client.publish("ds/Set Temperature/prop/isDisabled", 0)
        await client.publish("ds/Current Temperature", 15.123456789)
        await client.publish("ds/Status", 3)
        await client.publish("ds/Status/prop/color", "F7EAE4")
        await client.publish("ds/Power", 0, qos=1)  # acknowledged: the others are done too
        assert await heater.ask("isHardwareConnected") == (200, "true")
    status, body = await heater.ask("getAll")
    assert status == 200
    assert {name: value for name, value in json.loads(body).items() if name in ("v0", "v1", "v2", "v3", "v4")} == {
        "v0": 0,
        "v1": 25,
        "v2": 15.123456789,
        "v3": 3,
        "v4": 'Type "help" for the list of available commands\n',
    }


async def test_blynk_provisioning_checks_in(heater: Heater) -> None:
    info = {"tmpl": heater.template_id, "ver": "unknown", "build": "Nov 22 2026 05:30:52", "rxbuff": 1024}
    async with heater.connect(aiomqtt.ProtocolVersion.V5) as client:
        await client.publish("info/mcu", json.dumps(info | {"type": heater.template_id}), qos=1, retain=True)
        await client.subscribe("downlink/#")
        await client.publish("get/utc/all/json", "")
        await client.publish("meta/Serial Number", "SN-1")
        await client.publish("get/meta", "Serial Number,Device Name")
        answers = await told(client, 3)
        assert json.loads(answers.pop("downlink/utc/all/json"))["tz_name"] == "UTC"
        assert answers == {"downlink/meta/Serial Number": "SN-1", "downlink/meta/Device Name": "heater-1"}
    assert await heater.ask(f"provision?templateId={heater.template_id}") == (200, "")


async def test_what_is_wrong_is_told_and_ends_nothing(heater: Heater) -> None:
    async with heater.connect() as client:  # Blynk's clients read this topic whether they have subscribed or not
        await client.publish("ds/Voltage", "much")
        assert await told(client, 1) == {"downlink/diag": "Value doesn't match the Datastream data type."}
        await client.publish("event/hot", "It burns")
        assert await told(client, 1) == {"downlink/diag": "Can't find Event with this code in Product template"}
        await client.publish("ds/Voltage", "3.3", qos=1)
    assert await heater.ask("get?v15") == (200, "3.3")


@pytest.mark.parametrize("version", [aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5])
async def test_a_wrong_token_is_said_to_be_one(heater: Heater, version: aiomqtt.ProtocolVersion) -> None:
    with pytest.raises(aiomqtt.MqttCodeError) as refused:
        async with heater.connect(version, token="x" * 32):
            pass
    assert str(refused.value.rc) in ("Not authorized", "Bad user name or password")


async def test_the_particle_webhook_of_seed_002(server: Server, profile: dict[str, str]) -> None:
    boron = provision(server, profile, "boron-1")
    query = "V6=2026-11-22T05%3A01%3A07.250Z&V14=123456789&V15=3.700000&V16=1&V17=0"
    assert await boron.ask("isHardwareConnected") == (200, "false")
    assert await boron.ask(f"batch/update?{query}") == (200, "")
    assert await boron.ask("isHardwareConnected") == (200, "true")
    status, body = await boron.ask("get?v6&v14&v15&v16&v17")
    assert (status, json.loads(body)) == (
        200,
        {"v6": "2026-11-22T05:01:07.250Z", "v14": 123456789, "v15": 3.7, "v16": 1, "v17": 0},
    )
    unsynced = Heater(server, boron.template_id, "")
    assert await unsynced.ask(f"batch/update?{query}") == (400, '{"error":{"message":"Invalid token."}}')
    assert boron.token not in server.log
