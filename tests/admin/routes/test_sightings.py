from uuid import UUID, uuid4

import pytest

from tests.admin.conftest import Caller, Site
from tests.admin.routes.test_integrations import INTEGRATION


@pytest.fixture
async def integration(admin: Caller, site: Site) -> str:
    """Of the profile lora, with two devices that its network has told of."""
    await admin.ok("POST", "/profiles", {"name": "lora"})
    made = await admin.ok("POST", "/integrations", INTEGRATION)
    for number in (1, 2):
        await site.space.rows(
            "INSERT INTO network_sighting (id, integration_id, network_device_id, dev_eui, times)"
            " VALUES ($1, $2, $3, $4, 2)",
            UUID(int=number),
            UUID(made["id"]),
            f"meter-{number}",
            f"{number:016X}",
        )
    return str(made["id"])


async def test_devices_that_are_none_of_ours_are_listed_and_imported(admin: Caller, integration: str) -> None:
    path = f"/integrations/{integration}"
    page = await admin.ok("GET", path + "/sightings", limit=1)
    (first,) = page["items"]
    assert (first["networkDeviceId"], first["deviceEui"], first["times"]) == ("meter-1", f"{1:016X}", 2)
    assert (await admin.ok("GET", path + "/sightings", cursor=page["nextCursor"]))["nextCursor"] is None
    made = await admin("POST", path + "/import", {"networkDeviceId": "meter-1"})
    assert (made.status, made.json["name"]) == (201, "meter-1")
    assert [each["networkDeviceId"] for each in (await admin.ok("GET", path + "/sightings"))["items"]] == ["meter-2"]
    assert (await admin.ok("GET", "/devices/meter-1/network"))["state"] == "imported"
    assert (await admin("POST", path + "/import", {"networkDeviceId": "meter-1"})).status == 404
    assert (await admin("GET", f"/integrations/{uuid4()}/sightings")).status == 404


async def test_a_device_is_merged_with_one_of_them(admin: Caller, integration: str) -> None:
    await admin.ok("POST", "/devices", {"name": "pump", "profile": "lora"})
    merged = await admin.ok("POST", "/devices/pump/network/merge", {"networkDeviceId": "meter-2"})
    assert (merged["networkDeviceId"], merged["deviceEui"], merged["state"]) == ("meter-2", f"{2:016X}", "imported")
    await admin.ok("POST", f"/integrations/{integration}/import", {"networkDeviceId": "meter-1"})
    wanted = {"networkDeviceId": "meter-1"}
    assert (await admin("POST", "/devices/pump/network/merge", wanted)).status == 409
    assert (await admin.ok("POST", "/devices/pump/network/merge", wanted | {"confirm": True}))[
        "deviceEui"
    ] == f"{1:016X}"
    assert (await admin("GET", "/devices/meter-1")).status == 404
