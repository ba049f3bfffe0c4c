"""Pages of LoRaWAN networks, with The Things Stack beside them."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from provserver.core.authorization import Role
from provserver.core.integration import NetworkState
from provserver.services.network_check import outgoing
from provserver.store import network_devices
from provserver.store.network_devices import NetworkDevice
from tests.admin.conftest import Site
from tests.admin.console.conftest import Visit, Visitor
from tests.support.things_stack import ThingsStack

KEY = "2B7E151628AED2A6ABF7158809CF4F3C"
EVIL = "meters <script>alert(1)</script>"


@pytest.fixture
async def stack(site: Site) -> AsyncIterator[ThingsStack]:
    site.api.services.integrations._networks._make = lambda: outgoing("127.0.0.1")
    async with ThingsStack() as made:
        made.application("meters")
        yield made


@pytest.fixture
async def profile(visitor: Visitor) -> str:
    made = await visitor.api("POST", "/profiles", {"name": EVIL, "keyless": True})
    return str(made["id"])


def fields(stack: ThingsStack, profile: str, **more: str) -> dict[str, str]:
    """What is typed into the form."""
    return {
        "profile": profile,
        "network": "things-stack",
        "applicationId": "meters",
        "apiKey": stack.api_key("meters"),
        "address": "",
        "lorawanVersion": "MAC_V1_0_3",
        "frequencyPlan": "EU_863_870_TTN",
        "lorawanProfileId": "",
        "claimProof": "none",
        **stack.addresses,
    } | more


async def connected(visitor: Visitor, stack: ThingsStack, profile: str, **more: str) -> str:
    """The path of an integration that was made by the form."""
    made = await visitor.post("/integrations", **fields(stack, profile, **more))
    assert made.status == 200, made.text
    return made.location


async def test_an_integration_is_made_by_the_form_and_its_key_never_shown(
    visitor: Visitor, stack: ThingsStack, profile: str
) -> None:
    assert "No network is connected" in (await visitor.get("/integrations")).text
    assert "Connect ChirpStack" in (await visitor.get("/integrations/new")).text
    form = await visitor.get("/integrations/new", network="things-stack", profile=profile)
    assert f'<option value="{profile}" selected>' in form.html

    given = fields(stack, profile)
    made = await visitor.post("/integrations", **given)

    page, edit = await visitor.get(made.location), await visitor.get(made.location + "/edit")
    for shown in (made, page, edit, await visitor.get("/integrations")):
        assert given["apiKey"] not in shown.html
        assert EVIL not in shown.html
    assert "Not tested" in page.text
    assert "set, shown to nobody" in page.text
    assert "Onboarding is off" in page.text


async def test_what_is_wrong_is_told_at_its_field(visitor: Visitor, stack: ThingsStack, profile: str) -> None:
    shown = await visitor.post("/integrations", **fields(stack, profile, applicationId="My App"))

    assert shown.status == 422
    assert 'data-field="applicationId"' in shown.html
    assert (await visitor.api("GET", "/integrations"))["items"] == []


async def test_a_test_says_which_rights_are_missing(visitor: Visitor, stack: ThingsStack, profile: str) -> None:
    key = stack.api_key("meters", ["RIGHT_APPLICATION_DEVICES_WRITE"])
    path = await connected(visitor, stack, profile, apiKey=key)

    shown = await visitor.post(path + "/test")

    assert shown.status == 200
    assert shown.text.count("Answers") == 4
    assert "View device keys in application" in shown.text
    assert "Create devices in application" not in shown.text
    assert "<html" not in shown.html


async def test_a_test_says_who_does_not_answer_and_what_to_do(
    visitor: Visitor, stack: ThingsStack, profile: str
) -> None:
    path = await connected(visitor, stack, profile)
    await stack.stop()

    shown = await visitor.post(path + "/test")

    assert shown.text.count("No answer") == 4
    assert "test again" in shown.text
    assert "Does not work" in (await visitor.get("/integrations")).text
    assert "Networks that do not work (1)" in (await visitor.get("/inbox")).text
    await stack.start()


async def test_it_is_changed_with_the_key_left_as_it_is(visitor: Visitor, stack: ThingsStack, profile: str) -> None:
    path = await connected(visitor, stack, profile)
    given = fields(stack, profile, apiKey="", onboarding="on", classC="on", revision="1", lorawanProfileId="000af8be")

    changed = await visitor.post(path, **given)

    assert changed.location == path, changed.text
    found = await visitor.api("GET", path)
    assert (found["onboarding"], found["verified"], found["lorawanProfileId"]) == (True, True, "000AF8BE")
    assert (found["settings"]["classC"], found["settings"]["mqttUser"]) == (True, "meters")
    assert (await visitor.post(path, **given)).status == 412
    elsewhere = await visitor.post(path, **given | {"revision": "2", "joinServer": "http://127.0.0.1:1"})
    assert 'data-field="apiKey"' in elsewhere.html


async def test_regional_parameters_go_with_the_version(visitor: Visitor) -> None:
    many = await visitor.get("/integrations/new/regions", part=True, lorawanVersion="MAC_V1_1")
    one = await visitor.get("/integrations/new/regions", part=True, lorawanVersion="MAC_V1_0_3")

    assert "RP002-1.0.3" in many.text
    assert "<select" not in one.html
    assert "1.0.3 revision A" in one.text


async def test_the_webhooks_secret_is_shown_once(visitor: Visitor, stack: ThingsStack, profile: str) -> None:
    path = await connected(visitor, stack, profile)

    shown = await visitor.post(path + "/webhook")

    assert "X-Provserver-Secret" in shown.text
    assert f"/external/lorawan/{path.rpartition('/')[2]}" in shown.text
    assert "it is not shown again" in shown.text
    assert "A webhook is set up" in (await visitor.get(path)).text


async def test_a_device_is_onboarded_adopted_and_removed(visitor: Visitor, stack: ThingsStack, profile: str) -> None:
    path = await connected(visitor, stack, profile)
    device = await visitor.api("POST", "/devices", {"name": "meter-1", "profile": profile})
    own = f"/devices/{device['id']}/network"
    assert "Onboarding is off for its profile" in (await visitor.get(own, part=True)).text
    given = fields(stack, profile, apiKey="", onboarding="on", revision="1")
    await visitor.post(path, **given)
    assert "once it has a Device EUI" in (await visitor.get(own, part=True)).text
    values = {"Device EUI": "0018B20000000101", "Join EUI": "70B3D57ED0000010", "Application Key": KEY}
    await visitor.api(
        "PATCH", f"/devices/{device['id']}", {"server": {f"meta.{name}": each for name, each in values.items()}}
    )

    shown = await visitor.get(own, part=True)

    assert "Waiting" in shown.text
    assert 'hx-trigger="every 2s"' in shown.html
    assert "0018B20000000101" in shown.text
    assert KEY not in shown.html
    assert (await visitor.post(own, adopt="on")).status == 200
    listed = await visitor.get(path + "/devices", state="waiting")
    assert "meter-1" in listed.text
    assert "No device is in this state" in (await visitor.get(path + "/devices", state="failed")).text
    left = await visitor.post(own + "/leave")
    assert left.location == f"/devices/{device['id']}"


async def test_other_hardware(visitor: Visitor, site: Site, stack: ThingsStack, profile: str) -> None:
    path = await connected(visitor, stack, profile, onboarding="on")
    device = await visitor.api("POST", "/devices", {"name": "meter-1", "profile": profile})
    there = NetworkDevice(
        UUID(device["id"]), UUID(path.rpartition("/")[2]), "eui-1", "0018B20000000101", "70B3D57ED0000010",
        NetworkState.ONBOARDED, ("is",),
    )  # fmt: skip
    async with site.space.database.connection() as connection:
        await network_devices.put(connection, there)
    own = f"/devices/{device['id']}/network"
    assert "Other hardware" in (await visitor.get(own, part=True)).text

    wrong = await visitor.post(own + "/replace", deviceEui="XYZ", applicationKey="1")
    right = await visitor.post(
        own + "/replace",
        deviceEui="0018B20000000109",
        applicationKey=KEY,
        joinEui="70B3D57ED0000010",
    )

    assert wrong.status == 422
    assert right.location == f"/devices/{device['id']}"
    (job,) = (await visitor.api("GET", "/jobs", subject=device["id"]))["items"]
    assert (job["kind"], job["state"]) == ("network.onboard", "waiting")


async def test_unknown_devices_are_imported_and_merged(
    visitor: Visitor, site: Site, stack: ThingsStack, profile: str
) -> None:
    path = await connected(visitor, stack, profile, onboarding="on")
    assert "No unknown device was heard" in (await visitor.get(path + "/sightings")).text
    for number in (1, 2):
        await site.space.rows(
            "INSERT INTO network_sighting (id, integration_id, network_device_id, dev_eui, join_eui)"
            " VALUES (uuidv7(), $1, $2, $3, '70B3D57ED0000010')",
            UUID(path.rpartition("/")[2]),
            f"eui-{number}",
            f"{number:016X}",
        )
    shown = await visitor.get(path + "/sightings")
    assert "eui-1" in shown.text
    assert "eui-2" in shown.text

    imported = await visitor.post(path + "/import", networkDeviceId="eui-1")
    await visitor.api("POST", "/devices", {"name": "meter / 9", "profile": profile})
    merged = await visitor.post(path + "/merge", networkDeviceId="eui-2", device="meter / 9")

    assert imported.location.startswith("/devices/"), imported.text
    assert merged.location.startswith("/devices/"), merged.text
    assert "No unknown device was heard" in (await visitor.get(path + "/sightings")).text
    assert (await visitor.post(path + "/merge", networkDeviceId="eui-2", device="")).status == 400


async def test_all_are_onboarded_by_a_job(visitor: Visitor, stack: ThingsStack, profile: str) -> None:
    path = await connected(visitor, stack, profile, onboarding="on")

    begun = await visitor.post(path + "/onboard")

    assert begun.location.startswith("/jobs/")
    job: dict[str, Any] = await visitor.api("GET", begun.location)
    assert job["kind"] == "network.onboard_all"
    while job["state"] == "running":
        job = await visitor.api("GET", begun.location)


async def test_to_delete_names_what_is_lost_and_forgets_it(
    visitor: Visitor, site: Site, stack: ThingsStack, profile: str
) -> None:
    path = await connected(visitor, stack, profile)
    device = await visitor.api("POST", "/devices", {"name": "meter-1", "profile": profile})
    there = NetworkDevice(
        UUID(device["id"]), UUID(path.rpartition("/")[2]), "eui-1", "0018B20000000101", "70B3D57ED0000010",
        NetworkState.ONBOARDED, ("is",),
    )  # fmt: skip
    async with site.space.database.connection() as connection:
        await network_devices.put(connection, there)
    page = await visitor.get(path)
    assert f"1 device of {EVIL} stays in the network" in page.text
    assert (await visitor.post(path + "/delete", forget="false")).status == 409

    gone = await visitor.post(path + "/delete", forget="true")

    assert gone.location == "/integrations"
    assert (await visitor.get(path)).status == 404
    assert "has no network" in (await visitor.get(f"/devices/{device['id']}/network", part=True)).text


async def test_who_may_only_look(visit: Visit, visitor: Visitor, stack: ThingsStack, profile: str) -> None:
    path = await connected(visitor, stack, profile)
    staff = await visit(Role.STAFF)

    page = await staff.get(path)

    assert "Test the connection</button>" not in page.html
    assert "Delete" not in page.text
    assert (await staff.get(path + "/edit")).status == 403
    assert (await staff.post(path + "/test")).status == 403
    user = await visit(Role.USER)
    assert (await user.get("/integrations")).status == 403
