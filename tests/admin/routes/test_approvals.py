from typing import Any

import pytest

from tests.admin.conftest import Caller, Site


async def ask(site: Site, pair: dict[str, Any], name: str) -> None:
    """A device's request, as it is left behind."""
    await site.space.rows(
        "INSERT INTO provision_approval (id, profile_id, digest, device_name, transport, address, expires_at)"
        " SELECT gen_random_uuid(), $1::uuid, convert_to($2, 'UTF8'), $2, 'MQTT', '192.0.2.7', now() + '1 day'",
        pair["id"],
        name,
    )


@pytest.fixture
async def profile(admin: Caller) -> dict[str, Any]:
    made: dict[str, Any] = await admin.ok("POST", "/profiles", {"name": "sensors", "approval": True})
    return made


async def test_requests_are_listed_and_decided_on(admin: Caller, site: Site, profile: dict[str, Any]) -> None:
    for name in ("sensor-1", "sensor 2", "sensor-3", "sensor-4"):
        await ask(site, profile, name)
    listed = (await admin.ok("GET", "/approvals", profile="sensors"))["items"]
    assert {each["deviceName"] for each in listed} == {"sensor-1", "sensor 2", "sensor-3", "sensor-4"}
    assert {(each["state"], each["profile"], each["transport"]) for each in listed} == {("pending", "sensors", "MQTT")}

    first = await admin.ok("POST", "/approvals/sensor-1/accept")
    assert (first["state"], first["decidedBy"]) == ("accepted", f"key:{first['decidedBy'].partition(':')[2]}")
    assert (await admin.ok("POST", "/approvals/sensor%202/reject"))["state"] == "rejected"
    assert [each["deviceName"] for each in (await admin.ok("GET", "/approvals", state="rejected"))["items"]] == [
        "sensor 2"
    ]
    assert await admin.ok("POST", "/approvals/accept", {"profile": "sensors"}) == {"count": 2}
    assert await admin.ok("POST", "/approvals/reject", {}) == {"count": 0}
    assert (await admin("POST", "/approvals/sensor-9/accept")).code == "not_found"
    assert (await admin("GET", "/approvals", profile="unknown")).code == "not_found"


async def test_pages(admin: Caller, site: Site, profile: dict[str, Any]) -> None:
    for n in range(5):
        await ask(site, profile, f"sensor-{n}")
    first = await admin.ok("GET", "/approvals", limit=3)
    rest = await admin.ok("GET", "/approvals", limit=3, cursor=first["nextCursor"])

    assert (len(first["items"]), len(rest["items"]), rest["nextCursor"]) == (3, 2, None)


@pytest.mark.usefixtures("profile")
async def test_a_device_is_put_into_quarantine_and_released(admin: Caller) -> None:
    await admin.ok("POST", "/devices", {"name": "sensor-1", "profile": "sensors"})
    before = await admin.ok("GET", "/devices/sensor-1", credentials=True)
    assert (before["quarantine"], before["cloneSigns"]) == (None, [])

    await admin.ok("POST", "/devices/sensor-1/quarantine", {"reason": "seen twice"})

    held = (await admin.ok("GET", "/devices/sensor-1"))["quarantine"]
    assert held["reason"] == "seen twice"
    assert held["actor"].startswith("key:")
    assert (await admin("POST", "/devices/sensor-1/quarantine", {"reason": "again"})).code == "conflict"
    assert (await admin("POST", "/devices/sensor-1/quarantine", {"reason": "\n"})).code == "invalid"
    released = await admin.ok("POST", "/devices/sensor-1/release", {"rotate": True})
    after = await admin.ok("GET", "/devices/sensor-1", credentials=True)
    assert [each["credentialsValue"] for each in after["credentials"]] == [released["accessToken"]]
    assert released["accessToken"] != before["credentials"][0]["credentialsValue"]
    assert after["quarantine"] is None
