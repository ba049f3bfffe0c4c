from uuid import UUID

import pytest

from tests.admin.conftest import Caller, Site


@pytest.fixture
async def profile(admin: Caller) -> str:
    made = await admin.ok("POST", "/profiles", {"name": "wifi-sensor"})
    return str(made["id"])


async def test_a_device_is_made_shown_changed_and_deleted(admin: Caller, profile: str) -> None:
    made = await admin.ok("POST", "/devices", {"name": "sensor 1", "profile": profile})
    assert (made["profile"], made["holder"], made["owner"]) == ("wifi-sensor", "Manufacturer", None)
    assert (await admin("POST", "/devices", {"name": "sensor 1", "profile": profile})).code == "conflict"

    change = {"shared": {"interval": 60, "text": "60"}, "server": {"note": {"a": [1, None]}}}
    changed = await admin.ok("PATCH", "/devices/sensor%201", change)
    attributes = {(each["scope"], each["key"]): each["value"] for each in changed["attributes"]}
    assert attributes["SHARED", "interval"] == 60
    assert attributes["SHARED", "text"] == "60"
    assert attributes["SERVER", "note"] == {"a": [1, None]}
    changed = await admin.ok("PATCH", f"/devices/{made['id']}", {"deleteShared": ["text"]})
    assert "text" not in {each["key"] for each in changed["attributes"]}

    (credentials,) = (await admin.ok("GET", "/devices/sensor%201"))["credentials"]
    assert "credentialsValue" not in credentials
    (credentials,) = (await admin.ok("GET", "/devices/sensor%201", credentials=True))["credentials"]
    assert len(credentials["credentialsValue"]) == 32
    assert (await admin.ok("POST", "/devices/sensor%201/erase-data"))["id"] == made["id"]
    assert (await admin.ok("POST", "/devices/sensor%201/rearm"))["rearmed"] is True
    assert (await admin.ok("POST", "/devices/sensor%201/revoke"))["credentialsType"] is None
    assert (await admin("DELETE", "/devices/sensor%201", fromNetwork=True)).code == "conflict"  # it is in none
    assert (await admin.ok("DELETE", "/devices/sensor%201"))["id"] == made["id"]
    assert (await admin("GET", "/devices/sensor%201")).code == "not_found"


async def test_a_change_is_for_the_revision_that_was_seen(admin: Caller, profile: str) -> None:
    path, change = "/devices/sensor-1", {"shared": {"interval": 60}}
    made = await admin("POST", "/devices", {"name": "sensor-1", "profile": profile})
    first = made.headers["ETag"]
    assert first == f'"{made.json["revision"]}"' == (await admin("GET", path)).headers["ETag"]
    changed = await admin("PATCH", path, change, {"If-Match": first})
    assert changed.headers["ETag"] == f'"{changed.json["revision"]}"' == (await admin("GET", path)).headers["ETag"]

    for method, target, body in (
        ("PATCH", path, change),
        ("DELETE", path, None),
        ("POST", f"{path}/revoke", None),
        ("POST", f"{path}/rearm", None),
    ):
        stale = await admin(method, target, body, {"If-Match": first})
        assert (stale.status, stale.code) == (412, "stale")
        assert (await admin(method, target, body, {"If-Match": "W/x"})).code == "malformed"
    etag = changed.headers["ETag"]
    for verb in ("rearm", "revoke"):
        etag = (await admin("POST", f"{path}/{verb}", None, {"If-Match": etag})).headers["ETag"]
    assert (await admin("DELETE", path, None, {"If-Match": etag})).status == 200


async def test_what_is_done_to_devices_is_in_the_audit(admin: Caller, profile: str) -> None:
    made = await admin.ok("POST", "/devices", {"name": "sensor-1", "profile": profile})
    await admin.ok("PATCH", "/devices/sensor-1", {"shared": {"secret": "pl4nted"}})
    await admin.ok("DELETE", "/devices/sensor-1")
    await admin.ok("POST", "/devices/import", b"name\r\na\r\nb\r\n", profile=profile)

    (key,) = (await admin.ok("GET", "/keys"))["items"]
    entries = (await admin.ok("GET", "/audit", subject=made["id"]))["items"]
    assert {each["action"] for each in entries} == {"device.deleted", "device.updated", "device.created"}
    assert {each["actor"] for each in entries} == {f"key:{key['id']}"}
    assert "pl4nted" not in str(entries)
    imported = (await admin.ok("GET", "/audit", subject=profile))["items"][0]
    assert (imported["action"], imported["detail"]["count"]) == ("device.imported", 2)


async def test_a_device_brings_credentials(admin: Caller, profile: str) -> None:
    basic = {"name": "basic", "profile": profile, "clientId": "c", "username": "u", "password": "p"}
    await admin.ok("POST", "/devices", basic)
    (credentials,) = (await admin.ok("GET", "/devices/basic", credentials=True))["credentials"]
    assert credentials["credentialsValue"] == {"clientId": "c", "userName": "u", "password": "p"}
    wrong = await admin("POST", "/devices", {"name": "x", "profile": profile, "token": "provision"})
    assert wrong.code == "invalid"
    assert wrong.json["errors"][0]["field"] == "token"


async def test_devices_are_imported(admin: Caller, profile: str) -> None:
    csv = b"name,token\r\nsensor-1,\r\nsensor-1,\r\n"
    report = await admin.ok("POST", "/devices/import", csv, profile=profile)
    assert (report["imported"], report["errorCount"]) == (0, 1)
    assert report["errors"][0]["line"] == 3
    report = await admin.ok("POST", "/devices/import", csv, profile=profile, partial=True, dryRun=True)
    assert (report["imported"], report["dryRun"]) == (1, True)
    assert (await admin.ok("GET", "/devices"))["items"] == []
    wrong = await admin("POST", "/devices/import", b"nam\r\nx\r\n", profile=profile)
    assert (wrong.code, "Did you mean 'name'?" in wrong.json["detail"]) == ("invalid", True)

    job = (await admin.ok("POST", "/devices/import", b"name\r\na\r\nb\r\n", profile=profile, asJob=True))["job"]
    while job["state"] == "running":
        job = await admin.ok("GET", f"/jobs/{job['id']}")
    assert (job["state"], job["kind"], job["result"]["imported"]) == ("done", "devices.import", 2)
    assert job["id"] in {each["id"] for each in (await admin.ok("GET", "/jobs"))["items"]}
    assert (await admin("POST", f"/jobs/{job['id']}/cancel")).code == "conflict"
    page = await admin.ok("GET", "/devices", limit=1, profile="wifi-sensor")
    rest = await admin.ok("GET", "/devices", limit=1, cursor=page["nextCursor"])
    assert [page["items"][0]["name"], rest["items"][0]["name"]] == ["a", "b"]


async def test_a_device_changes_hands_with_its_data_if_that_is_wanted(admin: Caller, profile: str) -> None:
    await admin.ok("POST", "/devices", {"name": "sensor-1", "profile": profile})
    for customer, kept in (("Customer", True), ("Other", False)):
        await admin.ok("POST", "/organizations", {"name": customer})
        await admin.ok("PATCH", "/devices/sensor-1", {"shared": {"home": "12 High St"}})
        await admin.ok("POST", "/devices/sensor-1/transfer", {"organization": customer, "keepData": kept})
        assert bool((await admin.ok("GET", "/devices/sensor-1"))["attributes"]) is kept


async def test_a_device_changes_hands(site: Site, admin: Caller, profile: str) -> None:
    customer = await admin.ok("POST", "/organizations", {"name": "Customer"})
    await admin.ok("POST", "/devices", {"name": "sensor-1", "profile": profile})
    theirs = await site.caller(organization=UUID(customer["id"]))
    assert (await theirs("GET", "/devices/sensor-1")).code == "not_found"

    target, body = "/devices/sensor-1/transfer", {"organization": "Customer"}
    assert (await admin("POST", target, body, {"If-Match": '"7"'})).code == "stale"
    etag = (await admin("GET", "/devices/sensor-1")).headers["ETag"]
    moved = await admin.ok("POST", target, body, headers={"If-Match": etag})
    assert moved["holder"] == "Customer"
    shown = await theirs.ok("GET", "/devices/sensor-1")
    assert (shown["maker"], shown["holder"]) == (None, "Customer")
    assert (await theirs("GET", "/devices/sensor-1", credentials=True)).code == "forbidden"
    assert (await theirs("POST", "/devices/sensor-1/revoke")).code == "forbidden"
    both = {"organization": "Customer", "user": "x"}
    assert (await admin("POST", "/devices/sensor-1/transfer", both)).code == "invalid"

    assert (await theirs("DELETE", "/devices/sensor-1", None, {"If-Match": '"1"'})).code == "stale"
    etag = (await theirs("GET", "/devices/sensor-1")).headers["ETag"]
    await theirs.ok("DELETE", "/devices/sensor-1", headers={"If-Match": etag})  # gives it back
    assert (await theirs("GET", "/devices/sensor-1")).code == "not_found"
    assert (await admin.ok("GET", "/devices/sensor-1"))["holder"] == "Manufacturer"


FIELDS = [
    {"name": "Serial", "unique": True},
    {"name": "Built", "type": "integer"},
    {"name": "Root Key", "type": "key128"},
]


async def test_a_device_is_made_with_metadata_and_its_token_is_shown_once(admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "nodes", "metadataFields": FIELDS})
    body = {"name": "node-1", "profile": "nodes", "metadata": {"Serial": " A-17 ", "Built": 2026, "Root Key": None}}
    made = await admin.ok("POST", "/devices", body)
    device = await admin.ok("GET", "/devices/node-1", credentials=True)
    assert made["accessToken"] == device["credentials"][0]["credentialsValue"]
    attributes = {each["key"]: each["value"] for each in device["attributes"]}
    assert attributes == {"meta.Serial": "A-17", "meta.Built": "2026"}
    assert "accessToken" not in device

    own = await admin.ok("POST", "/devices", {"name": "node-2", "profile": "nodes", "token": "of-its-own"})
    assert own["accessToken"] is None
    wrong = await admin("POST", "/devices", {"name": "node-3", "profile": "nodes", "metadata": {"Built": "x", "No": 1}})
    assert [each["field"] for each in wrong.json["errors"]] == ["metadata.Built", "metadata.No"]
    assert (wrong.code, (await admin("GET", "/devices/node-3")).code) == ("invalid", "not_found")


async def test_a_value_that_must_be_unique_is_not_taken_from_a_static_token(admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "nodes", "metadataFields": FIELDS})
    await admin.ok("POST", "/static-tokens/import", b"Serial\r\nA-17\r\n", profile="nodes")
    taken = await admin("POST", "/devices", {"name": "node-1", "profile": "nodes", "metadata": {"Serial": "A-17"}})
    assert (taken.code, "'A-17' as its Serial" in taken.json["detail"]) == ("conflict", True)


async def test_a_device_gets_another_name_and_other_metadata(site: Site, admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "nodes", "metadataFields": FIELDS})
    made = await admin.ok("POST", "/devices", {"name": "node-1", "profile": "nodes", "metadata": {"Serial": "A-17"}})
    await admin.ok("POST", "/devices", {"name": "node-2", "profile": "nodes"})
    path = f"/devices/{made['id']}"
    changed = await admin.ok("PATCH", path, {"name": " node-9 ", "metadata": {"Serial": None, "Built": "2026"}})
    assert (changed["name"], changed["revision"] > made["revision"]) == ("node-9", True)
    assert {each["key"]: each["value"] for each in changed["attributes"]} == {"meta.Built": "2026"}
    (entry, *_) = (await admin.ok("GET", "/audit", subject=made["id"]))["items"]
    detail = {
        "name": "node-1",
        "renamedTo": "node-9",
        "written": ["server:meta.Built"],
        "deleted": ["server:meta.Serial"],
    }
    assert (entry["action"], entry["detail"]) == ("device.updated", detail)

    assert (await admin("PATCH", path, {"name": "node-2"})).code == "conflict"
    wrong = await admin("PATCH", path, {"name": "<b>"})
    assert (wrong.code, wrong.json["errors"][0]["field"]) == ("invalid", "name")
    assert (await admin("PATCH", path, {"metadata": {"Built": "soon"}})).code == "invalid"
    assert (await admin("PATCH", path, {"name": "x"}, {"If-Match": '"1"'})).code == "stale"
    assert (await admin("PATCH", path, {})).code == "refused"
    assert (await admin.ok("GET", path))["name"] == "node-9"
    await admin.ok("POST", "/organizations", {"name": "Customer"})
    await admin.ok("POST", f"{path}/transfer", {"organization": "Customer", "keepData": True})
    customer = await site.caller(organization=UUID((await admin.ok("GET", "/organizations/Customer"))["id"]))
    assert (await customer("PATCH", path, {"name": "mine"})).code == "forbidden"
    await customer.ok("PATCH", path, {"metadata": {"Built": 2027}})
