from typing import Any
from uuid import UUID, uuid4

import pytest

from provserver.core.integration import NetworkState
from provserver.store import network_devices
from provserver.store.network_devices import NetworkDevice
from tests.admin.conftest import Caller, Site

INTEGRATION = {
    "profile": "lora",
    "network": "things-stack",
    "applicationId": "my-app",
    "apiKey": "NNSXS.PL4NTED",
    "settings": {
        "lorawanVersion": "MAC_V1_0_3",
        "frequencyPlan": "EU_863_870_TTN",
        "address": "stack.invalid",
    },
}


async def onboarding(admin: Caller, site: Site, **change: object) -> Any:
    """An integration that onboards, as if its API key had been tested."""
    made = await admin.ok("POST", "/integrations", INTEGRATION | change)
    await site.space.rows("UPDATE integration SET verified = true, onboarding = true WHERE id = $1", UUID(made["id"]))
    return await admin.ok("PATCH", f"/integrations/{made['id']}", {"onboarding": True})  # which makes the fields


@pytest.fixture(autouse=True)
async def profile(admin: Caller) -> str:
    made = await admin.ok("POST", "/profiles", {"name": "lora"})
    return str(made["id"])


async def test_an_integration_from_its_making_to_its_end(admin: Caller, site: Site, profile: str) -> None:
    made = await admin.ok("POST", "/integrations", INTEGRATION)
    assert (made["profileId"], made["status"], made["revision"]) == (profile, "unchecked", 1)
    assert made["settings"] == {
        "lorawanVersion": "MAC_V1_0_3",
        "regionalParameters": "PHY_V1_0_3_REV_A",
        "frequencyPlan": "EU_863_870_TTN",
        "classB": False,
        "classC": False,
        "identityServer": "stack.invalid",
        "networkServer": "stack.invalid",
        "joinServer": "stack.invalid",
        "applicationServer": "stack.invalid",
        "mqttAddress": "stack.invalid",
        "mqttUser": "my-app",
    }
    assert await admin.ok("GET", "/integrations") == {"items": [made], "nextCursor": None}
    assert made["profile"] == "lora"
    for reference in ("lora", profile):
        assert (await admin.ok("GET", "/integrations", profile=reference))["items"] == [made]
    assert (await admin.ok("GET", "/integrations", profile="another"))["items"] == []
    path = f"/integrations/{made['id']}"
    assert await admin.ok("GET", path) == made | {"devices": {}, "webhook": False}
    assert not made["verified"]
    refused = await admin("PATCH", path, {"onboarding": True})
    assert (refused.code, "not switched on" in str(refused.json)) == ("conflict", True)
    assert (await admin("POST", path + "/onboard")).code == "conflict"
    await site.space.rows("UPDATE integration SET verified = true, onboarding = true WHERE id = $1", UUID(made["id"]))
    changed = await admin("PATCH", path, {"onboarding": True, "settings": {"classC": True}}, {"If-Match": '"1"'})
    assert (changed.status, changed.headers["ETag"], changed.json["settings"]["classC"]) == (200, '"2"', True)
    assert (made["warnings"], len(changed.json["warnings"])) == ([], 1)
    assert (await admin("PATCH", path, {"onboarding": False}, {"If-Match": '"1"'})).status == 412
    names = [each["name"] for each in (await admin.ok("GET", f"/profiles/{profile}"))["metadataFields"]]
    assert names == ["Device EUI", "Join EUI", "Application Key", "TheThingsNetwork Device ID"]
    webhook = await admin.ok("POST", path + "/webhook")
    assert webhook["path"] == f"/external/lorawan/{made['id']}"
    assert (await admin.ok("GET", path))["webhook"] is True
    assert await admin.ok("GET", path + "/devices") == {"items": [], "nextCursor": None}
    assert (await admin.ok("DELETE", path, forget=True))["id"] == made["id"]
    assert (await admin("GET", path)).status == 404


async def test_what_makes_no_integration(admin: Caller) -> None:
    for change, code, told in (
        ({"applicationId": "My App"}, "invalid", "its id, not its name"),
        ({"apiKey": "pl4nted"}, "invalid", "NNSXS."),
        ({"lorawanProfileId": "000AFBE"}, "invalid", "lorawanProfileId"),
        ({"settings": {"lorawanVersion": "1.0.3"}}, "malformed", "lorawanVersion"),
        ({"settings": INTEGRATION["settings"] | {"regionalParameters": "PHY_V1_0"}}, "invalid", "PHY_V1_0_3_REV_A"),  # type: ignore[operator]
        ({"settings": INTEGRATION["settings"] | {"address": "http://127.0.0.1"}}, "invalid", "outgoing_private"),  # type: ignore[operator]
        ({"profile": "unknown"}, "not_found", "profile"),
        ({"network": "loriot"}, "malformed", "network"),
    ):
        answer = await admin("POST", "/integrations", INTEGRATION | change)
        assert answer.code == code, answer
        assert told in str(answer.json)
        assert b"pl4nted" not in answer.body
    answer = await admin("POST", "/integrations", INTEGRATION | {"settings": {}})
    assert {error["field"] for error in answer.json["errors"]} >= {"lorawanVersion", "frequencyPlan", "networkServer"}


async def test_a_test_says_who_does_not_answer(admin: Caller) -> None:
    made = await admin.ok("POST", "/integrations", INTEGRATION)
    check = await admin.ok("POST", f"/integrations/{made['id']}/test")
    assert (check["status"], check["missingRights"]) == ("broken", [])
    assert [each["name"] for each in check["components"] if each["error"]] == [
        "identityServer",
        "networkServer",
        "joinServer",
        "applicationServer",
    ]
    assert check["error"]
    assert check["remedy"]


async def test_all_devices_are_onboarded_that_are_there(admin: Caller, site: Site) -> None:
    device = (await admin.ok("POST", "/devices", {"name": "sensor", "profile": "lora"}))["id"]
    made = await onboarding(admin, site)
    await site.space.rows(  # as it was before there was an integration
        "INSERT INTO attribute (device_id, scope, key, value) SELECT $1, 'SERVER', 'meta.' || key, value"
        " FROM jsonb_each($2::jsonb)",
        UUID(device),
        {"Device EUI": "0018B20000000101", "Join EUI": "70B3D57ED0000010", "Application Key": "0" * 32},
    )
    answer = await admin("POST", f"/integrations/{made['id']}/onboard")
    assert (answer.status, answer.json["job"]["kind"]) == (202, "network.onboard_all")
    job = answer.json["job"]
    while job["state"] == "running":
        job = await admin.ok("GET", f"/jobs/{job['id']}")
    assert (job["state"], job["result"]) == ("done", {"queued": 1, "examined": 1})
    assert (await admin.ok("GET", "/devices/sensor/network"))["state"] == "waiting"


async def test_how_devices_stand(admin: Caller, site: Site) -> None:
    made = await admin.ok("POST", "/integrations", INTEGRATION)
    for number in range(3):
        device = (await admin.ok("POST", "/devices", {"name": f"sensor-{number}", "profile": "lora"}))["id"]
        eui, job = f"{number:016X}", uuid4()
        there = NetworkDevice(
            UUID(device), UUID(made["id"]), f"eui-{number}", eui, eui, NetworkState.ONBOARDED, ("is",)
        )
        async with site.space.database.connection() as connection:
            await network_devices.put(connection, there)
            await network_devices.change(connection, UUID(device), {"job_id": job})
    path = f"/integrations/{made['id']}/devices"
    page = await admin.ok("GET", path, limit=2)
    rest = await admin.ok("GET", path, limit=2, cursor=page["nextCursor"], state="onboarded")
    assert [each["deviceEui"] for each in page["items"] + rest["items"]] == [f"{n:016X}" for n in range(3)]
    assert rest["nextCursor"] is None
    assert [each["deviceName"] for each in page["items"] + rest["items"]] == ["sensor-0", "sensor-1", "sensor-2"]
    assert await admin.ok("GET", "/devices/sensor-2/network") == rest["items"][0]
    assert (rest["items"][0]["state"], rest["items"][0]["made"], rest["items"][0]["jobId"]) == (
        "onboarded",
        ["is"],
        str(job),
    )
    await admin.ok("POST", "/devices", {"name": "alone", "profile": "lora"})
    assert (await admin("GET", "/devices/alone/network")).code == "not_found"
