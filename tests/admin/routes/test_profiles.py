import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from provserver.errors import Outcome
from tests.admin.conftest import Caller, Site
from tests.services.conftest import PEER


async def provision(site: Site, pair: dict[str, Any], name: str) -> None:
    """A device provisions itself."""
    asked = {member: pair[member] for member in ("provisionDeviceKey", "provisionDeviceSecret")}
    answer = await site.space.provisioning.answer(json.dumps(asked | {"deviceName": name}).encode(), PEER)
    assert answer.outcome is Outcome.SUCCESS


FIELDS = [{"name": "Serial Number", "unique": True}, {"name": "MAC address", "type": "mac"}]


async def test_a_profile_comes_with_a_key_and_is_changed(admin: Caller) -> None:
    made = await admin("POST", "/profiles", {"name": "wifi-sensor", "metadataFields": FIELDS})
    assert made.status == 201
    profile = made.json
    assert len(profile["provisionDeviceSecret"]) == 32
    assert profile["metadataFields"][1] == {
        "name": "MAC address",
        "type": "mac",
        "unique": False,
        "options": [],
        "default": "",
    }
    assert profile["strategy"] == "ALLOW_CREATE_NEW_DEVICES"

    for reference in (profile["id"], profile["templateId"], "wifi-sensor"):
        shown = await admin("GET", f"/profiles/{reference}")
        assert shown.headers["ETag"] == made.headers["ETag"]
    assert shown.json["provisionDeviceKeys"] == [profile["provisionDeviceKey"]]
    assert "provisionDeviceSecret" not in shown.json

    changed = await admin("PATCH", "/profiles/wifi-sensor", {"twoSidedClaim": True}, {"If-Match": made.headers["ETag"]})
    assert changed.json["twoSidedClaim"]
    stale = await admin("PATCH", "/profiles/wifi-sensor", {"name": "x"}, {"If-Match": made.headers["ETag"]})
    assert stale.code == "stale"
    wrong = await admin("PATCH", "/profiles/wifi-sensor", {"metadataFields": [{"name": "x", "type": "nonsense"}]})
    assert wrong.code == "invalid"


async def test_provision_keys_have_budgets(admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "wifi-sensor"})
    budget = {"networks": ["192.0.2.0/24"], "notAfter": "2099-01-01T00:00:00Z"}
    pair = await admin.ok("POST", "/profiles/wifi-sensor/keys", {"provisionDeviceKey": "second", **budget})
    shown = await admin.ok("GET", "/profiles/wifi-sensor")
    free = {"notBefore": None, "maxUses": None, "perMinute": None, "uses": None}
    assert shown["keyBudgets"] == [{"provisionDeviceKey": "second", **free, **budget}]
    bounds = {"maxUses": 10, "perMinute": 3}
    counted: dict[str, object] = {"notAfter": None, "networks": [], "uses": 0}  # from when there is a bound to them
    bound = await admin.ok("PUT", "/profiles/wifi-sensor/keys/second/budget", bounds)
    assert bound["keyBudgets"] == [{"provisionDeviceKey": "second", **free, **bounds, **counted}]
    assert (await admin("PUT", "/profiles/wifi-sensor/keys/third/budget", bounds)).code == "not_found"
    assert (await admin("PUT", "/profiles/wifi-sensor/keys/second/budget", {"maxUses": 0})).code == "malformed"
    assert (await admin.ok("PUT", "/profiles/wifi-sensor/keys/second/budget", {}))["keyBudgets"] == []
    assert pair["provisionDeviceSecret"] not in str(shown)
    removed = await admin.ok("DELETE", "/profiles/wifi-sensor/keys/second")
    assert removed == {"provisionDeviceKey": "second"}
    assert (await admin("DELETE", "/profiles/wifi-sensor/keys/second")).code == "not_found"
    assert (await admin("POST", "/profiles/wifi-sensor/keys", {"networks": ["here"]})).code == "invalid"


async def test_keys_tell_how_and_when_they_were_used(admin: Caller, site: Site) -> None:
    made = await admin.ok("POST", "/profiles", {"name": "wifi-sensor"})
    (key,) = (await admin.ok("GET", "/profiles/wifi-sensor"))["keys"]
    assert key["provisionDeviceKey"] == made["provisionDeviceKey"]
    assert (key["uses"], key["usedAt"], key["networks"]) == (None, None, [])
    assert key["createdAt"] >= made["createdAt"]
    second = await admin.ok("POST", "/profiles/wifi-sensor/keys", {"maxUses": 10})

    for number, pair in enumerate((made, second, second)):
        await provision(site, pair, f"device {number}")

    first, counted = (await admin.ok("GET", "/profiles/wifi-sensor"))["keys"]
    assert (first["uses"], first["usedAt"]) == (None, None)
    assert (counted["uses"], counted["maxUses"]) == (2, 10)
    assert counted["usedAt"] > counted["createdAt"]


async def test_a_list_is_searched_and_tells_how_much_there_is(admin: Caller, site: Site) -> None:
    names = ("Wi-Fi sensor", "meter", "Meter 2")
    made = {name: await admin.ok("POST", "/profiles", {"name": name}) for name in names}
    await admin.ok("POST", "/profiles/meter/keys", {})
    for number in range(3):
        await provision(site, made["meter"], f"device {number}")

    found = (await admin.ok("GET", "/profiles", search="METER"))["items"]
    assert {each["name"]: (each["deviceCount"], each["provisionKeyCount"]) for each in found} == {
        "meter": (3, 2),
        "Meter 2": (0, 1),
    }
    (one,) = (await admin.ok("GET", "/profiles", search=made["meter"]["templateId"][4:].lower()))["items"]
    assert one["name"] == "meter"
    assert (await admin.ok("GET", "/profiles", search="%"))["items"] == []
    shown = await admin.ok("GET", "/profiles/meter")
    assert (shown["deviceCount"], shown["staticTokenCount"]) == (3, 0)


async def test_profiles_are_copied_as_files_and_as_they_are(admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "wifi-sensor", "metadataFields": FIELDS})
    file = await admin("GET", "/profiles/wifi-sensor/export.toml")
    assert file.headers["Content-Type"] == "application/toml; charset=utf-8"
    body = {"toml": file.body.decode(), "name": "imported"}
    assert (await admin("POST", "/profiles/import", body | {"dryRun": True})).status == 200
    assert (await admin("POST", "/profiles/import", body)).status == 201
    assert (await admin("POST", "/profiles/import", {"toml": "name ="})).code == "invalid"
    await admin.ok("POST", "/profiles/wifi-sensor/clone", {"name": "cloned"})
    page = await admin.ok("GET", "/profiles", limit=2)
    assert [each["name"] for each in page["items"]] == ["cloned", "imported"]
    assert {str(each["metadataFields"]) for each in page["items"]} == {str(page["items"][0]["metadataFields"])}
    rest = await admin.ok("GET", "/profiles", cursor=page["nextCursor"])
    assert [each["name"] for each in rest["items"]] == ["wifi-sensor"]
    assert (await admin.ok("DELETE", "/profiles/cloned"))["name"] == "cloned"


FILES = {file.stem: file.read_text() for file in Path("config/profiles").glob("*.toml")}


@pytest.mark.parametrize("name", FILES)
async def test_the_profiles_that_come_along_are_imported(admin: Caller, name: str) -> None:
    await admin.ok("POST", "/profiles/import", {"toml": FILES[name]})


async def test_profiles_of_organizations_below_are_named_by_them(admin: Caller) -> None:
    await admin.ok("POST", "/organizations", {"name": "Customer"})
    made = await admin.ok("POST", "/profiles", {"name": "theirs"}, organization="Customer")
    assert (await admin("GET", "/profiles/theirs")).code == "not_found"
    assert (await admin.ok("GET", "/profiles/theirs", organization="Customer"))["id"] == made["id"]


async def test_a_profile_below_is_found_by_its_ids_and_by_name_only_there(site: Site, admin: Caller) -> None:
    customer = await admin.ok("POST", "/organizations", {"name": "Customer"})
    other = await admin.ok("POST", "/organizations", {"name": "Other"})
    made = await admin.ok("POST", "/profiles", {"name": "theirs"}, organization="Customer")
    own = await admin.ok("POST", "/profiles", {"name": "own"})
    for reference in (made["id"], made["templateId"]):
        path = f"/profiles/{reference}"
        assert (await admin.ok("GET", path))["id"] == made["id"]
        changed = await admin.ok("PATCH", path, {"twoSidedClaim": True})
        assert changed["twoSidedClaim"]
        await admin.ok("POST", f"{path}/keys", {"provisionDeviceKey": f"key of {reference}"})
        await admin.ok("POST", f"{path}/ca", {"replace": True})
        copy = await admin.ok("POST", f"{path}/clone", {"name": f"like {reference}"})
        assert copy["organizationId"] == customer["id"]
    audited = await admin.ok("GET", "/audit", subject=made["id"])
    assert {each["organizationId"] for each in audited["items"]} == {customer["id"]}
    assert "issuing_ca.made" in {each["action"] for each in audited["items"]}

    aside = await site.caller(organization=UUID(other["id"]))
    below = await site.caller(organization=UUID(customer["id"]))
    assert (await aside("GET", f"/profiles/{made['id']}")).code == "not_found"
    assert (await aside("PATCH", f"/profiles/{made['id']}", {"name": "x"})).code == "not_found"
    assert (await below("GET", f"/profiles/{own['id']}")).code == "not_found"
    assert (await below("DELETE", f"/profiles/{own['templateId']}")).code == "not_found"
    assert (await admin("GET", f"/profiles/{made['id']}", organization="Other")).code == "not_found"
    missing = await admin("GET", "/profiles/theirs")
    assert (missing.code, "organization" in missing.json["detail"]) == ("not_found", True)
    assert (await admin.ok("DELETE", f"/profiles/{made['id']}"))["id"] == made["id"]


async def test_ones_own_name_goes_before_an_id_below(admin: Caller) -> None:
    await admin.ok("POST", "/organizations", {"name": "Customer"})
    theirs = await admin.ok("POST", "/profiles", {"name": "theirs"}, organization="Customer")
    own = await admin.ok("POST", "/profiles", {"name": theirs["templateId"]})
    assert (await admin.ok("GET", f"/profiles/{theirs['templateId']}"))["id"] == own["id"]


async def test_names_too_long_for_an_access_point_are_warned_of(admin: Caller) -> None:
    assert (await admin.ok("POST", "/profiles", {"name": "Thermostat"}))["warnings"] == []
    (warning,) = (await admin.ok("POST", "/profiles", {"name": "Thermostat with a display"}))["warnings"]
    assert "'Blynk Thermostat with a di-…'" in warning
    toml = (await admin("GET", "/profiles/Thermostat/export.toml")).body.decode()
    imported = await admin.ok(
        "POST", "/profiles/import", {"toml": toml, "name": "Thermostat of the hall", "dryRun": True}
    )
    assert imported["warnings"]
    cloned = await admin.ok("POST", "/profiles/Thermostat/clone", {"name": "Thermostat of the hall"})
    assert cloned["warnings"] == imported["warnings"]
    assert (await admin.ok("PATCH", "/profiles/Thermostat", {"name": "Thermostat upstairs"}))["warnings"]
    assert (await admin.ok("GET", "/profiles/Thermostat%20upstairs"))["warnings"]
