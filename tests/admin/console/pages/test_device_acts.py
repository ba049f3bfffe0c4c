"""What is done to devices on pages: to one, to many, by whoever may."""

import re

import pytest

from provserver.core.authorization import Role
from tests.admin.conftest import Site
from tests.admin.console.conftest import Visit, Visitor
from tests.admin.console.pages.devices import SCRIPT, make, make_profile, tokens


@pytest.fixture
async def profile(visitor: Visitor) -> str:
    return await make_profile(visitor)


async def test_a_device_is_shown_and_edited(visitor: Visitor, profile: str) -> None:
    device = await make(visitor, profile, metadata={"Serial": "A-17", "Root Key": "2B7E151628AED2A6ABF7158809CF4F3C"})
    at = f"/devices/{device['id']}"
    shown = await visitor.get(at)
    assert "A-17" in shown.text
    assert "2B7E1516" not in shown.html
    asked = await visitor.get(f"{at}/edit")
    assert "2B7E1516" not in asked.html
    revision = re.search(r'name="revision" value="(\d+)"', asked.html)
    assert revision
    form = [("name", "sensor-9"), ("metadata.Serial", "B-18"), ("metadata.Root Key", ""), ("keep", "Root Key")]
    saved = await visitor.post(f"{at}/edit", [*form, ("revision", revision[1])])
    assert saved.location == at
    assert "sensor-9 was changed" in (await visitor.get(at)).text
    changed = await visitor.api("GET", at)
    metadata = {each["key"]: each["value"] for each in changed["attributes"]}
    assert (changed["name"], metadata["meta.Serial"]) == ("sensor-9", "B-18")
    assert metadata["meta.Root Key"] == "2B7E151628AED2A6ABF7158809CF4F3C"
    again = await visitor.post(f"{at}/edit", [*form, ("revision", revision[1])])
    assert (again.location, again.status) == (at, saved.status)
    assert "sensor-9 was changed" not in (await visitor.get(at)).text
    stale = await visitor.post(f"{at}/edit", [("name", "sensor-10"), ("revision", revision[1])])
    assert stale.status == 412


async def test_saving_changes_only_what_was_touched(visitor: Visitor, profile: str) -> None:
    device = await make(visitor, profile, metadata={"Serial": "A-17", "Built": 7, "Size": "large"})
    at = f"/devices/{device['id']}"
    options = [{"name": "Serial", "unique": True}, {"name": "Built", "type": "integer"}]
    options.append({"name": "Size", "type": "list", "options": ["small", "medium"]})
    await visitor.api("PATCH", f"/profiles/{profile}", {"metadataFields": options})

    asked = await visitor.get(f"{at}/edit")
    assert '<option value="large" selected>large (no option any more)</option>' in asked.html
    revision = re.search(r'name="revision" value="(\d+)"', asked.html)
    assert revision
    form = {"name": "sensor-1", "metadata.Serial": "A-17", "metadata.Built": "8", "metadata.Size": "large"}
    saved = await visitor.post(f"{at}/edit", **form, revision=revision[1])

    assert saved.location == at
    metadata = {each["key"]: each["value"] for each in (await visitor.api("GET", at))["attributes"]}
    assert (metadata["meta.Size"], metadata["meta.Built"]) == ("large", "8")
    told = (await visitor.get(f"{at}/timeline")).text
    assert "server:meta.Built" in told
    assert "server:meta.Serial" not in told
    assert "renamedTo" not in told


async def test_attributes_are_written_and_removed(visitor: Visitor, profile: str) -> None:
    at = f"/devices/{(await make(visitor, profile))['id']}"
    await visitor.post(f"{at}/attributes", scope="shared", key="interval", value="60")
    await visitor.post(f"{at}/attributes", scope="server", key="note", value=SCRIPT)
    shown = await visitor.get(f"{at}/data")
    assert SCRIPT not in shown.html
    assert "interval" in shown.text
    found = {each["key"]: each["value"] for each in (await visitor.api("GET", at))["attributes"]}
    assert (found["interval"], found["note"]) == (60, SCRIPT)
    await visitor.post(f"{at}/attributes", scope="server", key="note", remove="yes")
    assert "note" not in {each["key"] for each in (await visitor.api("GET", at))["attributes"]}
    assert (await visitor.post(f"{at}/attributes", scope="client", key="x", value="1")).status == 400


async def test_credentials_are_rotated_revoked_and_rearmed(visitor: Visitor, profile: str) -> None:
    device = await make(visitor, profile)
    at = f"/devices/{device['id']}"
    asked = await visitor.get(f"{at}/credentials")
    assert "The present credentials are lost now, without an overlap" in asked.text  # without one it asks first
    assert '<option value="0"' not in asked.html
    rotated = await visitor.post(f"{at}/rotate", overlap="3600")
    (following,) = set(tokens(rotated))
    assert following != device["accessToken"]
    assert "Those before stay good" in rotated.text
    revealed = await visitor.post(f"{at}/reveal")
    assert set(tokens(revealed)) == {following, device["accessToken"]}
    actions = {each["action"] for each in (await visitor.api("GET", "/audit", subject=device["id"]))["items"]}
    assert {"device.shown", "device.rotated"} <= actions
    assert (await visitor.post(f"{at}/revoke")).location == f"{at}/credentials"
    assert "It has no credentials" in (await visitor.get(f"{at}/credentials")).text
    await visitor.post(f"{at}/rearm")
    assert (await visitor.api("GET", at))["rearmed"] is True


async def test_a_device_goes_into_quarantine_and_out(visitor: Visitor, profile: str) -> None:
    at = f"/devices/{(await make(visitor, profile))['id']}"
    assert (await visitor.post(f"{at}/quarantine", reason="")).status == 400
    await visitor.post(f"{at}/quarantine", reason=f"seen twice {SCRIPT}")
    shown = await visitor.get(at)
    assert "In quarantine" in shown.text
    assert SCRIPT not in shown.html
    assert "sensor-1" in (await visitor.get("/devices", state="quarantined")).text
    released = await visitor.post(f"{at}/release", rotate="on")
    assert len(set(tokens(released))) == 1
    assert (await visitor.api("GET", at))["quarantined"] is False


async def test_many_are_acted_upon_once_that_is_confirmed(visitor: Visitor, profile: str) -> None:
    devices = [await make(visitor, profile, f"sensor-{n}") for n in range(3)]
    chosen = [("device", f"{each['id']} {each['name']}") for each in devices]
    assert "tick them" in (await visitor.post("/devices/many", act="revoke")).text
    asked = await visitor.post("/devices/many", [*chosen, ("act", "quarantine")])
    assert "Quarantine: 3 devices?" in asked.text
    assert "sensor-2" in asked.text
    assert (await visitor.api("GET", "/devices", quarantined="true"))["items"] == []
    await visitor.post(f"/devices/{devices[0]['id']}/quarantine", reason="by hand")
    came = await visitor.post("/devices/many/do", [*chosen, ("act", "quarantine"), ("reason", "recalled")])
    assert "2 of 3 were put into quarantine" in came.text
    assert "is in quarantine already" in came.text
    rotated = await visitor.post("/devices/many/do", [*chosen, ("act", "release"), ("rotate", "on")])
    assert len(set(tokens(rotated))) == 3
    asked = await visitor.post("/devices/many", [*chosen, ("act", "delete")])
    assert "remove from their networks what this server made there" in asked.text
    gone = await visitor.post("/devices/many/do", [*chosen, ("act", "delete"), ("network", "on")])
    assert "3 of 3 were deleted" in gone.text
    assert (await visitor.api("GET", "/devices"))["items"] == []
    assert (await visitor.post("/devices/many", [*chosen, ("act", "burn")])).status == 400


async def test_a_device_is_transferred_and_deleted(visitor: Visitor, profile: str) -> None:
    customer = await visitor.api("POST", "/organizations", {"name": "Blue Farm"})
    at = f"/devices/{(await make(visitor, profile))['id']}"
    assert "Blue Farm" in (await visitor.get(f"{at}/transfer")).text
    await visitor.post(f"{at}/transfer", organization=customer["id"])
    assert (await visitor.api("GET", at))["holder"] == "Blue Farm"
    assert "will be lost" not in (await visitor.get(at)).text
    assert (await visitor.post(f"{at}/delete")).location == "/devices"
    assert (await visitor.get(at)).status == 404


async def test_a_customer_sees_his_own_and_gives_it_back(
    site: Site, visitor: Visitor, visit: Visit, profile: str
) -> None:
    farm = await site.api.services.organizations.create(site.operator, "Blue Farm")
    customer = await visit(Role.USER, farm.id)
    device = await make(visitor, profile)
    other = await make(visitor, profile, "sensor-2")
    at = f"/devices/{device['id']}"
    await visitor.post(f"{at}/transfer", user=str(customer.id))
    listed = await customer.get("/devices")
    assert ("sensor-1" in listed.text, "sensor-2" in listed.text) == (True, False)
    shown = await customer.get(at)
    assert "Give it back" in shown.text
    for hidden in ("/edit", "/quarantine", "/transfer", "/credentials"):
        assert f"{at}{hidden}" not in shown.html
        assert (await customer.post(f"{at}{hidden}")).status in (403, 404, 405)
    assert (await customer.get(f"/devices/{other['id']}")).status == 404
    assert (await customer.get("/devices/new")).status == 403
    gone = await customer.post(f"{at}/delete", back="yes")
    assert gone.location == "/devices"
    assert (await visitor.api("GET", at))["owner"] is None
