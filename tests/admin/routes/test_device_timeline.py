from provserver.core.authorization import Role
from tests.admin.conftest import Caller, Site


async def test_what_happened_is_listed_newest_first_for_whoever_may_know(site: Site, admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "sensors"})
    made = await admin.ok("POST", "/devices", {"name": "sensor-1", "profile": "sensors"})
    await admin.ok("POST", "/devices/sensor-1/rearm")
    page = await admin.ok("GET", "/devices/sensor-1/timeline", limit=1)
    (first,) = page["items"]
    assert (first["kind"], first["state"], first["text"][:23]) == ("audit", "device.rearmed", "The device was rearmed:")
    (key,) = (await admin.ok("GET", "/keys"))["items"]
    assert (first["actor"], first["actorName"]) == (f"key:{key['id']}", key["name"])
    rest = await admin.ok("GET", f"/devices/{made['id']}/timeline", cursor=page["nextCursor"])
    assert [each["kind"] for each in rest["items"]].count("audit") == 1
    assert rest["nextCursor"] is None

    staff = await site.caller(Role.STAFF)
    told = (await staff.ok("GET", "/devices/sensor-1/timeline"))["items"]
    assert {each["kind"] for each in told} == {"device", "credentials"}
    assert (await admin("GET", "/devices/nothing/timeline")).code == "not_found"
