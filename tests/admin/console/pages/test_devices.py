"""The pages of devices: listed, made, shown, by whoever may."""

import pytest

from provserver.core.authorization import Role
from tests.admin.console.conftest import Visit, Visitor
from tests.admin.console.pages.devices import make, make_profile, tokens


@pytest.fixture
async def profile(visitor: Visitor) -> str:
    return await make_profile(visitor)


async def test_an_empty_list_says_what_to_do_next(visitor: Visitor, visit: Visit) -> None:
    shown = await visitor.get("/devices")
    assert "There are no devices yet" in shown.text
    assert 'href="/profiles/new"' in shown.html
    customer = await visit(Role.USER)
    shown = await customer.get("/devices")
    assert ("You have no device yet" in shown.text, 'href="/claim"' in shown.html) == (True, True)
    assert "/devices/new" not in shown.html


async def test_a_device_is_made_and_its_token_shown_once(visitor: Visitor, profile: str) -> None:
    asked = await visitor.get("/devices/new", profile=profile)
    assert all(name in asked.html for name in ('name="metadata.Serial"', 'name="metadata.Built"'))
    assert '<option value="small">' in asked.html
    part = await visitor.get("/devices/new", part=True, headers={"HX-Target": "fields"}, profile=profile)
    assert part.html.strip().startswith("<fieldset")

    form = {"name": "sensor-1", "profile": profile, "metadata.Serial": "A-17", "metadata.Size": "large"}
    made = await visitor.post("/devices", **form)
    (token,) = set(tokens(made))
    assert ("not shown again" in made.text, made.status) == (True, 200)
    assert "Location" not in made.headers
    device = await visitor.api("GET", "/devices/sensor-1", credentials="true")
    assert device["credentials"][0]["credentialsValue"] == token
    metadata = {each["key"]: each["value"] for each in device["attributes"] if each["key"].startswith("meta.")}
    assert metadata == {"meta.Serial": "A-17", "meta.Size": "large"}
    for path in ("/devices", f"/devices/{device['id']}", f"/devices/{device['id']}/credentials"):
        assert token not in (await visitor.get(path)).html

    wrong = await visitor.post("/devices", **form | {"name": "sensor-2", "metadata.Built": "last year"})
    assert wrong.status == 422
    assert 'data-field="metadata.Built"' in wrong.html
    assert (await visitor.post("/devices", **form | {"name": "sensor-1"})).status == 409


async def test_credentials_may_be_brought(visitor: Visitor, profile: str) -> None:
    form = {"name": "basic", "profile": profile, "credentials": "basic", "clientId": "c", "username": "u"}
    made = await visitor.post("/devices", **form, password="pass word")
    assert "It has the credentials that you gave it" in made.text
    device = await visitor.api("GET", "/devices/basic", credentials="true")
    assert device["credentials"][0]["credentialsValue"] == {
        "clientId": "c",
        "userName": "u",
        "password": "pass word",
    }
    shown = await visitor.post(f"/devices/{device['id']}/reveal")
    assert "pass word" in shown.text


async def test_the_list_is_searched_and_filtered(visitor: Visitor, profile: str) -> None:
    for name in ("sensor-1", "sensor-2", "pump-1"):
        await make(visitor, profile, name, metadata={"Serial": f"of {name}"})
    shown = await visitor.get("/devices", search="SENSOR")
    assert ("sensor-1" in shown.text, "sensor-2" in shown.text, "pump-1" in shown.text) == (True, True, False)
    assert "No device fits" in (await visitor.get("/devices", search="zzz")).text
    assert "pump-1" in (await visitor.get("/devices", state="online:no", profile=profile)).text
    assert "No device fits" in (await visitor.get("/devices", state="online")).text
    assert "No device fits" in (await visitor.get("/devices", quarantined="true")).text


async def test_the_timeline_says_what_happened(visitor: Visitor, visit: Visit, profile: str) -> None:
    at = f"/devices/{(await make(visitor, profile))['id']}"
    await visitor.post(f"{at}/rearm")
    shown = await visitor.get(f"{at}/timeline")
    assert "The device was rearmed" in shown.text
    assert "By person-1@example.com" in shown.text
    staff = await visit(Role.STAFF)
    shown = await staff.get(f"{at}/timeline")
    assert ("rearmed" in shown.text, "for those who may read the audit" in shown.text) == (False, True)
