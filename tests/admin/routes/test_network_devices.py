from typing import Any
from uuid import UUID

import pytest

from tests.admin.conftest import Caller, Site
from tests.admin.routes.test_integrations import onboarding

DEVICE_EUI, OTHER_EUI, JOIN_EUI = "0018B20000000101", "0018B20000000102", "70B3D57ED0000010"
KEY = "2B7E151628AED2A6ABF7158809CF4F3C"
PATH = "/devices/sensor-1/network"


@pytest.fixture(autouse=True)
async def integration(admin: Caller, site: Site) -> Any:
    await admin.ok("POST", "/profiles", {"name": "lora"})
    made = await onboarding(admin, site)
    await admin.ok("POST", "/devices", {"name": "sensor-1", "profile": "lora"})
    return made


async def fill(admin: Caller) -> None:
    """Give the device its EUIs and its key."""
    values = {"meta.Device EUI": DEVICE_EUI, "meta.Join EUI": JOIN_EUI, "meta.Application Key": KEY}
    await admin.ok("PATCH", "/devices/sensor-1", {"server": values})


async def test_a_device_in_its_network(admin: Caller, integration: Any) -> None:
    refused = await admin("POST", PATH, {"adopt": False})
    assert (refused.status, "Application Key" in str(refused.json)) == (409, True)
    await fill(admin)
    shown = await admin.ok("GET", PATH)
    assert (shown["integrationId"], shown["state"]) == (integration["id"], "waiting")
    assert (shown["deviceEui"], shown["joinEui"]) == (DEVICE_EUI, JOIN_EUI)
    assert shown["networkDeviceId"] == "eui-0018b20000000101"
    assert (await admin.ok("GET", f"/jobs/{shown['jobId']}"))["subjectId"] == shown["deviceId"]
    again = await admin("POST", PATH, {"adopt": False})
    assert (again.status, again.json["state"]) == (202, "waiting")
    assert KEY not in str(again.json)


async def test_a_device_is_other_hardware(admin: Caller) -> None:
    await fill(admin)
    answer = await admin("POST", PATH + "/replace", {"deviceEui": OTHER_EUI.lower(), "applicationKey": KEY})
    assert answer.status == 202
    assert (answer.json["deviceEui"], answer.json["joinEui"]) == (OTHER_EUI, JOIN_EUI)
    for body, code in (
        ({"deviceEui": "1", "applicationKey": KEY}, "invalid"),
        ({"deviceEui": OTHER_EUI, "applicationKey": "Z" + KEY[1:]}, "invalid"),
        ({"deviceEui": OTHER_EUI, "applicationKey": KEY, "networkDeviceId": "My Device"}, "invalid"),
        ({"deviceEui": OTHER_EUI}, "malformed"),
    ):
        refused = await admin("POST", PATH + "/replace", body)
        assert refused.code == code
        assert KEY[1:].encode() not in refused.body


async def test_a_device_leaves_its_network(admin: Caller, site: Site) -> None:
    await fill(admin)
    made = (await admin.ok("GET", PATH))["deviceId"]
    await site.space.rows(
        "UPDATE network_device SET state = 'onboarded', made = $2 WHERE device_id = $1", UUID(made), ["is", "js"]
    )
    answer = await admin("DELETE", PATH)
    assert (answer.status, answer.json["state"]) == (202, "removing")
    assert (await admin.ok("GET", f"/jobs/{answer.json['jobId']}"))["kind"] == "network.remove"
    assert (await admin.ok("GET", "/devices/sensor-1"))["id"] == made
