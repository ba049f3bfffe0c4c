from uuid import UUID

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


async def test_lists_say_which_have_others_below(admin: Caller) -> None:
    await admin.ok("POST", "/organizations", {"name": "Customer A"})
    await admin.ok("POST", "/organizations", {"name": "Branch", "parent": "Customer A"})
    listed = (await admin.ok("GET", "/organizations"))["items"]
    assert {each["name"]: each["hasBelow"] for each in listed} == {
        "Manufacturer": True,
        "Customer A": True,
        "Branch": False,
    }


async def test_organizations_are_searched_by_name_and_number(site: Site, admin: Caller) -> None:
    made = [await admin.ok("POST", "/organizations", {"name": name}) for name in ("Acme Rentals", "ACME_2", "Globex")]
    below = await admin.ok("POST", "/organizations", {"name": "acme", "parent": "Globex"})
    for search, found in (
        ("acme", [made[0], made[1], below]),
        ("_", [made[1]]),
        (str(made[2]["number"]), [made[2]]),
        ("nothing of it", []),
    ):
        listed = await admin.ok("GET", "/organizations", search=search)
        assert {each["id"] for each in found} <= {each["id"] for each in listed["items"]}, search
        if not search.isdigit():
            assert [each["id"] for each in listed["items"]] == [each["id"] for each in found], search
    globex = await site.caller(organization=UUID(made[2]["id"]))
    assert [each["id"] for each in (await globex.ok("GET", "/organizations", search="acme"))["items"]] == [below["id"]]
    assert (await globex.ok("GET", "/organizations", search="acme"))["items"][0]["path"] == [
        made[2]["id"],
        below["id"],
    ]


async def test_organizations_are_listed_by_their_ids_if_they_are_to_be_seen(site: Site, admin: Caller) -> None:
    a, b = [await admin.ok("POST", "/organizations", {"name": name}) for name in ("A", "B")]
    listed = await admin.ok("GET", "/organizations", id=[b["id"], a["id"], str(UUID(int=7))])
    assert [each["name"] for each in listed["items"]] == ["A", "B"]
    customer = await site.caller(organization=UUID(a["id"]))
    assert [each["name"] for each in (await customer.ok("GET", "/organizations", id=[b["id"], a["id"]]))["items"]] == [
        "A"
    ]
    assert (await admin("GET", "/organizations", id=["no id"])).code == "malformed"


async def test_what_an_organization_has_is_counted(site: Site, admin: Caller) -> None:
    made = await admin.ok("POST", "/organizations", {"name": "Customer", "deviceQuota": 10, "tokenQuota": 5})
    path = f"/organizations/{made['id']}/contents"
    nothing = await admin.ok("GET", path)
    assert not any(nothing.values())
    assert (nothing["devicesUsed"], nothing["tokensUsed"]) == (0, 0)

    customer = await site.caller(organization=UUID(made["id"]))
    await customer.ok("POST", "/profiles", {"name": "lamp"})
    await customer.ok("POST", "/devices", {"name": "lamp 1", "profile": "lamp"})
    await customer.ok("POST", "/static-tokens", {"profile": "lamp", "count": 3})
    await customer.ok("POST", "/users", {"email": "ada@example.com", "role": "user"})
    below = await customer.ok("POST", "/organizations", {"name": "Branch"})
    branch = await site.caller(organization=UUID(below["id"]))
    await branch.ok("POST", "/profiles", {"name": "bulb"})
    await branch.ok("POST", "/devices", {"name": "bulb 1", "profile": "bulb"})

    counted = await admin.ok("GET", path)
    assert counted == {
        "organizations": 1,
        "users": 1,
        "profiles": 1,
        "staticTokens": 3,
        "devices": 1,
        "heldDevices": 0,
        "apiKeys": 1,
        "webhooks": 0,
        "requestKeys": 0,
        "devicesUsed": 2,
        "tokensUsed": 3,
    }
    unlimited = await admin.ok("GET", "/organizations/Manufacturer/contents")
    assert (unlimited["devicesUsed"], unlimited["tokensUsed"]) == (None, None)
    assert (await customer("GET", "/organizations/Manufacturer/contents")).code == "not_found"
