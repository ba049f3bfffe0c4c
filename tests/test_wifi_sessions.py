"""Devices that somebody has put onto WiFi come by MQTT and HTTP, say what they are, and go on by the connection."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import aiomqtt
import pytest

from tests.admin.conftest import Answer, Caller
from tests.server import Server

NOT_AUTHORIZED = 0x87
"""As paho has CONNACK's 5 of MQTT 3.1.1."""


@dataclass
class House:
    """A server, who may do everything on it, and the template of a product."""

    server: Server
    admin: Caller
    template: str

    async def request(self, **wanted: str) -> Any:
        return await self.admin.ok("POST", "/wifi-sessions", wanted)

    async def session(self, id_: str) -> Any:
        return await self.admin.ok("GET", f"/wifi-sessions/{id_}")

    async def external(self, call: str, token: str, **query: str) -> Answer:
        """Blynk's API."""
        url = f"http://{self.server.http}/external/api/{call}"
        async with self.admin.session.get(url, params={"token": token} | query) as response:
            return Answer(response.status, response.headers, await response.read())

    def mqtt(self, token: str, version: aiomqtt.ProtocolVersion = aiomqtt.ProtocolVersion.V311) -> aiomqtt.Client:
        """A client as Blynk's firmware is."""
        host, port = self.server.mqtt.rsplit(":", 1)
        return aiomqtt.Client(host, int(port), username="device", password=token, protocol=version, timeout=60)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str, str]]:
    """A server for all that is here, a key to it, and the template of a profile."""
    with Server(tmp_path_factory.mktemp("wifi") / "data") as server:
        key = server.cli("key", "create", "house")["secret"]
        template = server.cli("profile", "create", "Lamp", "--strategy", "disabled")["templateId"]
        yield server, key, template


@pytest.fixture
async def house(running: tuple[Server, str, str]) -> AsyncIterator[House]:
    server, key, template = running
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield House(server, Caller(session, f"http://{server.admin}", key), template)


async def heard(client: aiomqtt.Client) -> tuple[str, bytes]:
    """The next message."""
    message = await anext(aiter(client.messages))
    assert isinstance(message.payload, bytes)
    return str(message.topic), message.payload


async def refused(client: aiomqtt.Client) -> int:
    """The code that a CONNECT is refused with."""
    with pytest.raises(aiomqtt.MqttCodeError) as fault:
        async with client:
            pass
    code = fault.value.rc
    return code if isinstance(code, int) else int(getattr(code, "value", 0))


async def test_a_device_says_what_it_is_and_goes_on(house: House) -> None:
    made = await house.request(name="Kitchen")
    async with house.mqtt(made["token"]) as client:
        await client.subscribe("downlink/#")
        assert (await house.session(made["id"]))["state"] == "CONNECTED"
        await client.publish("ds/nothing", "1", qos=1)  # too early, and no reason to leave
        assert await heard(client) == ("downlink/diag", b"The device has to say of which template it is first.")
        await client.publish("info/mcu", json.dumps({"ver": "1.0"}), qos=1)
        assert (await heard(client))[0] == "downlink/diag"
        await client.publish("info/mcu", json.dumps({"tmpl": house.template, "ver": "1.0", "rxbuff": 1024}), qos=1)
        await client.publish("v1/devices/me/telemetry", '{"light": 1}', qos=1)

        session = await house.session(made["id"])
        assert (session["state"], session["deviceName"], session["templateId"]) == (
            "SUCCESS",
            "Kitchen",
            house.template,
        )
        device = await house.admin.ok("GET", f"/devices/{made['deviceId']}")
        assert [(each["key"], each["value"]) for each in device["telemetry"]] == [("light", 1)]

        assert await house.admin.ok("POST", f"/devices/{made['deviceId']}/reconfigure") == {"deviceIsOffline": False}
        assert await heard(client) == ("downlink/reconfigure", b"")


async def test_what_it_says_with_its_first_breath_is_done_in_turn(house: House) -> None:
    made = await house.request()
    async with house.mqtt(made["token"]) as client:
        await asyncio.gather(
            client.publish("info/mcu", json.dumps({"tmpl": house.template}), qos=1),
            client.publish("v1/devices/me/telemetry", '{"light": 2}', qos=1),
        )
    device = await house.admin.ok("GET", f"/devices/{made['deviceId']}")
    assert [(each["key"], each["value"]) for each in device["telemetry"]] == [("light", 2)]


async def test_a_device_of_no_template_has_to_leave(house: House) -> None:
    made = await house.request()
    with contextlib.suppress(aiomqtt.MqttError):  # of the end, which it does not expect
        async with house.mqtt(made["token"]) as client:
            await client.publish("info/mcu", '{"tmpl": "TMPLnowhere00"}')
            assert await heard(client) == ("downlink/diag", b"The device is of another template.")
            with pytest.raises(aiomqtt.MqttError):
                await heard(client)
    session = await house.session(made["id"])
    assert (session["state"], session["lastError"]) == ("FAILED", "hw_info_tmpl_not_found")
    assert await refused(house.mqtt(made["token"])) == NOT_AUTHORIZED
    assert await refused(house.mqtt(made["token"], aiomqtt.ProtocolVersion.V5)) == 0x86


async def test_a_device_without_mqtt_calls_provision(house: House) -> None:
    made = await house.request()
    early = await house.external("isHardwareConnected", made["token"])
    assert (early.status, early.json["error"]["message"]) == (400, "The device has to call provision first.")
    assert (await house.external("provision", made["token"], templateId=house.template, ver="2.0")).status == 200
    assert (await house.session(made["id"]))["state"] == "SUCCESS"
    assert (await house.external("provision", made["token"], templateId=house.template, ver="2.0")).status == 200
    assert (await house.external("isHardwareConnected", made["token"])).status == 200
    failed = await house.request()
    wrong = await house.external("provision", failed["token"], templateId="TMPLnowhere00")
    assert (wrong.status, wrong.json["error"]["message"]) == (400, "The device is of another template.")
    over = await house.external("provision", failed["token"], templateId=house.template)
    assert (over.status, over.json["error"]["message"]) == (400, "Invalid token.")


async def test_thingsboard_s_api_is_for_devices_that_are_there(house: House) -> None:
    unbound, bound = await house.request(), await house.request(template=house.template)
    for made, status in ((unbound, 401), (bound, 200)):
        url = f"http://{house.server.http}/api/v1/{made['token']}/telemetry"
        async with house.admin.session.post(url, json={"light": 3}) as response:
            assert response.status == status
    assert (await house.session(bound["id"]))["state"] == "SUCCESS"
    assert (await house.session(unbound["id"]))["state"] == "CONNECTED"


async def test_another_wifi_keeps_the_device_and_its_data(house: House) -> None:
    made = await house.request(template=house.template, name="Hall")
    async with house.mqtt(made["token"]) as client:
        await client.publish("v1/devices/me/telemetry", '{"light": 4}', qos=1)
        again = await house.request(device="Hall")
        async with house.mqtt(made["token"]) as still:  # the present token is good until the new one connects
            await still.publish("v1/devices/me/telemetry", '{"light": 5}', qos=1)
        async with house.mqtt(again["token"]) as other:
            await other.publish("info/mcu", json.dumps({"tmpl": house.template}), qos=1)
            assert await refused(house.mqtt(made["token"])) == NOT_AUTHORIZED
    assert (await house.session(again["id"]))["state"] == "SUCCESS"
    device = await house.admin.ok("GET", f"/devices/{made['deviceId']}")
    assert [(each["key"], each["value"]) for each in device["telemetry"]] == [("light", 5)]


async def test_a_deleted_device_is_told_that_its_token_is_bad(house: House) -> None:
    made = await house.request(template=house.template)
    async with house.mqtt(made["token"]):
        pass
    await house.admin.ok("DELETE", f"/devices/{made['deviceId']}")
    assert await refused(house.mqtt(made["token"])) == NOT_AUTHORIZED
    assert (await house.external("isHardwareConnected", made["token"])).json["error"]["message"] == "Invalid token."


async def test_nothing_secret_is_logged(house: House) -> None:
    made = await house.request()
    await house.external("provision", made["token"], templateId=house.template)
    assert made["token"] not in house.server.log
    assert "Traceback" not in house.server.log
