"""The inbox: what waits is shown, and what is done about it is done."""

from typing import Any
from uuid import UUID

import pytest

from provserver.core.authorization import Role
from tests.admin.conftest import Site
from tests.admin.console.conftest import Visit, Visitor

EVIL = "<script>alert(1)</script>"


@pytest.fixture
async def profile(visitor: Visitor) -> Any:
    return await visitor.api("POST", "/profiles", {"name": f"guarded {EVIL}", "approval": True})


async def ask(site: Site, profile: dict[str, Any], *names: str) -> None:
    """Requests of devices, as they are left behind."""
    for name in names:
        await site.space.rows(
            "INSERT INTO provision_approval (id, profile_id, digest, device_name, transport, address, expires_at)"
            " SELECT uuidv7(), $1::uuid, convert_to($2, 'UTF8'), $2, 'MQTT', '192.0.2.7', now() + '1 day'",
            profile["id"],
            name,
        )


async def sign(site: Site, device: dict[str, Any]) -> None:
    await site.space.rows(
        "INSERT INTO clone_sign (device_id, organization_id, kind, count)"
        " SELECT id, organization_id, 'name', 3 FROM device WHERE id = $1",
        UUID(device["id"]),
    )


async def waiting(visitor: Visitor) -> str:
    """What the badge says."""
    return (await visitor.get("/inbox/count", part=True)).text


async def test_nothing_waits(visitor: Visitor) -> None:
    shown = await visitor.get("/inbox")

    assert shown.status == 200
    assert "Nothing waits for you" in shown.text
    assert await waiting(visitor) == ""


async def test_devices_are_accepted_and_rejected(visitor: Visitor, site: Site, profile: dict[str, Any]) -> None:
    await ask(site, profile, *(f"sensor-{n}" for n in range(7)))
    shown = await visitor.get("/inbox")
    assert "Devices that ask to be let in (7)" in shown.text
    assert "sensor-4" in shown.text
    assert "sensor-5" not in shown.text
    assert EVIL not in shown.html
    assert "guarded <script>alert(1)</script>" in shown.text
    assert await waiting(visitor) == "7 waiting"
    first, second, *_ = (await visitor.api("GET", "/approvals"))["items"]

    accepted = await visitor.post("/inbox/approvals", approval=first["id"], decision="accept", back="/inbox/approvals")
    assert accepted.location == "/inbox/approvals"
    assert "sensor-0 was accepted" in (await visitor.get(accepted.location)).text
    await visitor.post("/inbox/approvals", approval=second["id"], decision="reject", back="/inbox")

    assert {each["deviceName"] for each in (await visitor.api("GET", "/approvals"))["items"]} == {
        f"sensor-{n}" for n in range(2, 7)
    }
    rejected = await visitor.get("/inbox/approvals", state="rejected")
    assert "sensor-1" in rejected.text
    assert "Reject</button>" not in rejected.html
    await visitor.post("/inbox/approvals", profile=profile["id"], decision="accept", back="/inbox")
    assert await waiting(visitor) == ""


async def test_where_a_form_returns_to_is_a_page_of_the_inbox(
    visitor: Visitor, site: Site, profile: dict[str, Any]
) -> None:
    await ask(site, profile, "sensor-1")
    (one,) = (await visitor.api("GET", "/approvals"))["items"]

    shown = await visitor.post("/inbox/approvals", approval=one["id"], decision="accept", back="//evil.example/")

    assert shown.location == "/inbox"


async def test_a_device_is_released_with_a_new_token(visitor: Visitor, profile: dict[str, Any]) -> None:
    device = await visitor.api("POST", "/devices", {"name": "sensor-1", "profile": profile["id"]})
    await visitor.api("POST", "/devices/sensor-1/quarantine", {"reason": EVIL})
    listed = await visitor.get("/inbox/quarantine")
    assert EVIL not in listed.html
    assert EVIL in listed.text
    assert "put there by an operator" in listed.text

    shown = await visitor.post("/inbox/quarantine/release", device=device["id"], rotate="true", back="/inbox")

    opened = await visitor.api("GET", "/devices/sensor-1", credentials="true")
    assert opened["credentials"][0]["credentialsValue"] in shown.text
    assert "it is not shown again" in shown.text
    assert opened["quarantine"] is None
    assert "No device is in quarantine" in (await visitor.get("/inbox/quarantine")).text


async def test_a_device_of_a_static_token_is_released_as_it_is(visitor: Visitor, profile: dict[str, Any]) -> None:
    made = await visitor.api("POST", "/static-tokens", {"profile": profile["id"], "count": 1})
    token = made["items"][0]["id"]
    opened = await visitor.api("GET", f"/static-tokens/{token}", open="true")
    await visitor.api("POST", "/static-tokens/claim", {"qr": opened["qrPayload"]})
    await visitor.api("POST", f"/devices/{token}/quarantine", {"reason": "seen twice"})
    listed = await visitor.get("/inbox/quarantine")
    assert "Release as it is" in listed.text
    assert "Release with a new token" not in listed.text

    shown = await visitor.post("/inbox/quarantine/release", device=token, rotate="false", back="/inbox/quarantine")

    assert shown.location == "/inbox/quarantine"
    assert (await visitor.api("GET", f"/devices/{token}"))["quarantine"] is None


async def test_a_device_in_quarantine_is_deleted(visitor: Visitor, profile: dict[str, Any]) -> None:
    device = await visitor.api("POST", "/devices", {"name": "sensor-1", "profile": profile["id"]})
    await visitor.api("POST", "/devices/sensor-1/quarantine", {"reason": "seen twice"})

    shown = await visitor.post("/inbox/quarantine/delete", device=device["id"], back="/inbox")

    assert shown.location == "/inbox"
    assert (await visitor.get("/devices/" + device["id"] + "/network", part=True)).status == 404


async def test_signs_of_clones_are_dismissed_or_acted_on(visitor: Visitor, site: Site, profile: dict[str, Any]) -> None:
    one, two = [
        await visitor.api("POST", "/devices", {"name": f"sensor-{n}", "profile": profile["id"]}) for n in (1, 2)
    ]
    await sign(site, one)
    await sign(site, two)
    shown = await visitor.get("/inbox")
    assert "Signs of clones (2)" in shown.text
    assert "asked for its name: 3 times" in shown.text

    await visitor.post("/inbox/clone-signs/dismiss", device=one["id"], back="/inbox")
    await visitor.post("/inbox/quarantine", device=two["id"], reason="two of them", back="/inbox")

    after = await visitor.get("/inbox")
    assert "Signs of clones" not in after.text.replace("Nothing waits", "")
    assert "Devices in quarantine (1)" in after.text
    assert "two of them" in after.text
    assert (await visitor.api("GET", "/devices/sensor-1"))["cloneSigns"] == []


async def test_a_failed_job_says_what_to_do(visitor: Visitor, site: Site) -> None:
    (row,) = await site.space.rows(
        "INSERT INTO job (id, organization_id, kind, actor, state, durable, subject_id, error, remedy, finished_at)"
        " VALUES (uuidv7(), $1, 'network.onboard', 'operator', 'failed', true, uuidv7(), 'It is there.', $2, now())"
        " RETURNING id",
        site.space.organization_id,
        f"Adopt {EVIL}.",
    )
    for path in ("/inbox", "/inbox/jobs"):
        shown = await visitor.get(path)
        assert "Onboarding a device" in shown.text
        assert f"Adopt {EVIL}." in shown.text
        assert EVIL not in shown.html

    tried = await visitor.post("/inbox/jobs/retry", job=str(row["id"]))

    assert tried.location == f"/jobs/{row['id']}"
    assert (await visitor.api("GET", f"/jobs/{row['id']}"))["state"] == "waiting"
    assert "No failed job waits" in (await visitor.get("/inbox/jobs")).text


async def test_keys_near_their_end(visitor: Visitor, site: Site, profile: dict[str, Any]) -> None:
    await visitor.api("POST", f"/profiles/{profile['id']}/keys", {"maxUses": 10})
    await site.space.rows(
        "UPDATE provision_key SET not_after = now() - interval '1 day', uses = 9 WHERE max_uses = 10 RETURNING key"
    )

    shown = await visitor.get("/inbox")

    assert "Keys near their end (1)" in shown.text
    assert "9 of 10 uses are gone" in shown.text
    assert "Ended" in shown.text


async def test_who_may_not_act_sees_no_way_to(visit: Visit, site: Site, profile: dict[str, Any]) -> None:
    await ask(site, profile, "sensor-1")
    user = await visit(Role.USER)

    assert "Nothing waits for you" in (await user.get("/inbox")).text
    assert await waiting(user) == ""
    assert "Accept</button>" not in (await user.get("/inbox/approvals")).html
    assert (await user.post("/inbox/approvals", decision="accept")).status == 403
    assert (await user.get("/inbox/jobs")).status == 403
    nobody = await visit(None)
    assert (await nobody.get("/inbox")).status == 303


@pytest.mark.parametrize("form", [{}, {"decision": "reject"}, {"decision": "burn", "profile": "lock"}])
async def test_what_does_not_say_what_to_do_rejects_nobody(visitor: Visitor, form: dict[str, str]) -> None:
    refused = await visitor.post("/inbox/approvals", **form)
    assert (refused.status, "press the button" in refused.text) == (400, True)
