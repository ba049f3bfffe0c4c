from tests.admin.conftest import Caller


async def test_devices_are_searched_filtered_and_paged(admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "sensors"})
    await admin.ok("POST", "/profiles", {"name": "pumps"})
    for name, profile in (("sensor-1", "sensors"), ("sensor-2", "sensors"), ("pump-1", "pumps")):
        await admin.ok("POST", "/devices", {"name": name, "profile": profile})
    await admin.ok("POST", "/devices/sensor-2/quarantine", {"reason": "seen twice"})

    async def names(**query: object) -> list[str]:
        return [each["name"] for each in (await admin.ok("GET", "/devices", **query))["items"]]

    assert await names() == ["sensor-1", "sensor-2", "pump-1"]
    assert await names(newest=True) == ["pump-1", "sensor-2", "sensor-1"]
    assert await names(search="SENSOR") == ["sensor-1", "sensor-2"]
    assert await names(search="") == ["sensor-1", "sensor-2", "pump-1"]
    assert await names(profile="pumps", claimed=False) == ["pump-1"]
    assert await names(quarantined=True) == ["sensor-2"]
    assert await names(quarantined=False, provisioned=False) == ["sensor-1", "pump-1"]
    assert await names(online=True) == await names(suspected=True) == []
    page = await admin.ok("GET", "/devices", search="s", limit=1)
    assert (page["items"][0]["name"], page["searchedTo"]) == ("sensor-1", None)
    page = await admin.ok("GET", "/devices", search="s", limit=1, cursor=page["nextCursor"])
    assert (page["items"][0]["name"], page["items"][0]["quarantined"], page["nextCursor"]) == ("sensor-2", True, None)
    assert (await admin("GET", "/devices", organization="nobody")).code == "not_found"
    assert (await admin("GET", "/devices", online="maybe")).code == "malformed"


async def test_an_organization_below_is_looked_at_alone(admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "sensors"})
    customer = await admin.ok("POST", "/organizations", {"name": "Customer"})
    for name in ("ours", "theirs"):
        await admin.ok("POST", "/devices", {"name": name, "profile": "sensors"})
    await admin.ok("POST", "/devices/theirs/transfer", {"organization": "Customer"})
    (found,) = (await admin.ok("GET", "/devices", organization=customer["id"]))["items"]
    assert (found["name"], found["online"], found["lastSeenAt"]) == ("theirs", False, None)
    (found,) = (await admin.ok("GET", "/devices", claimed=True))["items"]
    assert found["holder"] == "Customer"
