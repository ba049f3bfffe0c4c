from tests.admin.conftest import Caller, Site


async def test_organizations_come_and_go(site: Site, admin: Caller) -> None:
    made = await admin("POST", "/organizations", {"name": "Customer A", "deviceQuota": 5})
    assert (made.status, made.headers["ETag"]) == (201, '"1"')
    organization = made.json
    assert organization["path"] == [str(site.space.organization_id), organization["id"]]
    assert (organization["deviceQuota"], organization["tokenQuota"]) == (5, None)
    below = await admin.ok("POST", "/organizations", {"name": "Branch", "parent": "Customer A"})

    for reference in (organization["id"], str(organization["number"]), "Customer%20A"):
        assert (await admin("GET", f"/organizations/{reference}")).status == 200
    path = f"/organizations/{organization['id']}"
    changed = await admin.ok("PATCH", path, {"deviceQuota": None, "signUp": True})
    assert (changed["deviceQuota"], changed["signUp"], changed["name"]) == (None, True, "Customer A")

    assert (await admin("DELETE", path)).code == "conflict"
    assert (await admin.ok("DELETE", f"/organizations/{below['id']}"))["name"] == "Branch"
    assert (await admin.ok("DELETE", path))["id"] == organization["id"]
    assert (await admin("GET", path)).code == "not_found"


async def test_lists_come_in_pages(admin: Caller) -> None:
    for number in range(4):
        await admin.ok("POST", "/organizations", {"name": f"Customer {number}"})
    names: list[list[str]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await admin.ok("GET", "/organizations", limit=2, **cursor)
        names.append([each["name"] for each in page["items"]])
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert names == [["Manufacturer", "Customer 0"], ["Customer 1", "Customer 2"], ["Customer 3"]]
    assert len((await admin.ok("GET", "/organizations", parent="Manufacturer"))["items"]) == 4
