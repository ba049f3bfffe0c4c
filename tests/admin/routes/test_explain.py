from tests.admin.conftest import Caller, Site


async def test_attempts_and_requests_are_explained(site: Site, admin: Caller) -> None:
    profile = await admin.ok("POST", "/profiles", {"name": "wifi-sensor"})
    body = {"profile": "wifi-sensor", "request": '{"deviceName": "d", "provisionDeviceSecret": "wrong"}'}
    found = await admin.ok("POST", "/explain", body)
    assert (found["attempt"], found["reason"], found["told"]["http"]) == (None, "SECRET_WRONG", 200)
    assert found["commands"] == ["provserver profile key add wifi-sensor"]

    id_ = "0190a1b2-0000-7000-8000-000000000001"
    await site.space.rows(
        "INSERT INTO attempt (id, transport, address, outcome, reason, profile_id, device_name)"
        f" VALUES ('{id_}', 'MQTT', '192.0.2.7', 'failure', 'ALREADY_PROVISIONED', '{profile['id']}', 'd')"
    )
    found = await admin.ok("GET", f"/attempts/{id_}/explanation")
    assert (found["attempt"], found["address"], found["device"]) == (id_, "192.0.2.7", "d")
    assert found["present"][1] == "There is no device 'd'."

    refused = await admin("POST", "/explain", body | {"address": "nowhere"})
    assert (refused.status, refused.code) == (422, "invalid")
    refused = await admin("POST", "/explain", body | {"profile": "nothing"})
    assert (refused.status, refused.code) == (404, "not_found")
