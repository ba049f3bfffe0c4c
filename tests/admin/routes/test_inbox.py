"""What waits for an operator: counted, listed, and taken from the list."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from provserver.core.authorization import Permission, Role
from tests.admin.conftest import Caller, Site

NOTHING = {
    "approvals": 0,
    "quarantined": 0,
    "cloneSigns": 0,
    "failedJobs": 0,
    "brokenIntegrations": 0,
    "endingKeys": 0,
    "total": 0,
    "most": 100,
}

INTEGRATION = {
    "network": "chirpstack",
    "profile": "sensors",
    "applicationId": str(UUID(int=1)),
    "apiKey": "key",
    "settings": {"lorawanVersion": "MAC_V1_0_3", "address": "stack.invalid", "deviceProfileId": str(UUID(int=2))},
}


@pytest.fixture
async def profile(admin: Caller) -> dict[str, Any]:
    made: dict[str, Any] = await admin.ok("POST", "/profiles", {"name": "sensors", "approval": True})
    return made


async def sign(site: Site, device: dict[str, Any], kind: str = "name", count: int = 3) -> None:
    """A sign, as it is counted."""
    await site.space.rows(
        "INSERT INTO clone_sign (device_id, organization_id, kind, count)"
        " SELECT id, organization_id, $2, $3 FROM device WHERE id = $1",
        UUID(device["id"]),
        kind,
        count,
    )


async def fail(site: Site, subject: UUID, kind: str = "network.onboard", *, durable: bool = True) -> str:
    """A job that has failed."""
    (row,) = await site.space.rows(
        "INSERT INTO job (id, organization_id, kind, actor, state, durable, subject_id, error, remedy, finished_at)"
        " VALUES (uuidv7(), $1, $2, 'operator', 'failed', $3, $4, 'It is there.', 'Adopt it.', now()) RETURNING id",
        site.space.organization_id,
        kind,
        durable,
        subject,
    )
    return str(row["id"])


async def make_devices(admin: Caller, *names: str) -> list[dict[str, Any]]:
    return [await admin.ok("POST", "/devices", {"name": name, "profile": "sensors"}) for name in names]


@pytest.mark.usefixtures("profile")
async def test_of_nothing_nothing_waits(admin: Caller) -> None:
    await make_devices(admin, "sensor-1")

    assert await admin.ok("GET", "/inbox") == NOTHING
    for path in ("quarantined", "clone-signs", "failed-jobs"):
        assert await admin.ok("GET", f"/inbox/{path}") == {"items": [], "nextCursor": None}
    assert await admin.ok("GET", "/inbox/ending-keys") == {"items": []}


async def test_everything_that_waits_is_counted(admin: Caller, site: Site, profile: dict[str, Any]) -> None:
    held, suspect, _ = await make_devices(admin, "sensor-1", "sensor-2", "sensor-3")
    await admin.ok("POST", "/devices/sensor-1/quarantine", {"reason": "seen twice"})
    await sign(site, held)
    await sign(site, suspect)
    await sign(site, suspect, "sessions")
    await fail(site, UUID(suspect["id"]))
    await fail(site, UUID(suspect["id"]), "devices.import", durable=False)
    await admin.ok("POST", "/integrations", INTEGRATION)
    await site.space.rows("UPDATE integration SET status = 'broken', error = 'It does not answer.'")
    await admin.ok("POST", "/profiles/sensors/keys", {"maxUses": 10})
    await site.space.rows("UPDATE provision_key SET uses = 9 WHERE max_uses = 10")
    await site.space.rows(
        "INSERT INTO provision_approval (id, profile_id, digest, transport, address, expires_at)"
        " VALUES (gen_random_uuid(), $1::uuid, '', 'HTTP', '192.0.2.7', now() + interval '1 hour')",
        profile["id"],
    )

    found = await admin.ok("GET", "/inbox")

    assert found == dict.fromkeys(NOTHING, 1) | {"total": 6, "most": 100}


async def test_counting_ends_somewhere(admin: Caller, site: Site, profile: dict[str, Any]) -> None:
    await site.space.rows(
        "INSERT INTO provision_approval (id, profile_id, digest, transport, address, expires_at)"
        " SELECT gen_random_uuid(), $1::uuid, int4send(n), 'HTTP', '192.0.2.7', now() + interval '1 hour'"
        " FROM generate_series(1, 300) AS n",
        profile["id"],
    )
    found = await admin.ok("GET", "/inbox")

    assert (found["approvals"], found["total"]) == (100, 100)


@pytest.mark.usefixtures("profile")
async def test_devices_in_quarantine_are_listed_with_the_reason(admin: Caller, site: Site) -> None:
    devices = await make_devices(admin, *(f"sensor-{n}" for n in range(5)))
    for device in devices:
        await admin.ok("POST", f"/devices/{device['id']}/quarantine", {"reason": f"of {device['name']}"})
    await sign(site, devices[0], count=7)

    first = await admin.ok("GET", "/inbox/quarantined", limit=3)
    rest = await admin.ok("GET", "/inbox/quarantined", limit=3, cursor=first["nextCursor"])

    listed = first["items"] + rest["items"]
    assert [each["name"] for each in listed] == [each["name"] for each in devices]
    assert rest["nextCursor"] is None
    shown = listed[0]
    assert (shown["reason"], shown["profile"], shown["staticToken"]) == ("of sensor-0", "sensors", None)
    assert [(each["sign"], each["count"]) for each in shown["signs"]] == [("name", 7)]
    assert shown["actor"].startswith("key:")
    await admin.ok("POST", "/devices/sensor-0/release", {})
    assert (await admin.ok("GET", "/inbox"))["quarantined"] == 4


@pytest.mark.usefixtures("profile")
async def test_signs_are_looked_at_and_dismissed(admin: Caller, site: Site) -> None:
    one, two, three = await make_devices(admin, "sensor-1", "sensor-2", "sensor-3")
    for each in (one, two, three):
        await sign(site, each)
        await sign(site, each, "nonce", 1)
    listed = (await admin.ok("GET", "/inbox/clone-signs"))["items"]
    assert [(each["name"], len(each["signs"])) for each in listed] == [
        ("sensor-1", 2),
        ("sensor-2", 2),
        ("sensor-3", 2),
    ]

    assert await admin.ok("POST", "/inbox/clone-signs/dismiss", {"device": "sensor-1"}) == {"count": 1}
    assert await admin.ok("POST", "/inbox/clone-signs/dismiss", {"device": "sensor-1"}) == {"count": 0}
    assert (await admin.ok("GET", "/devices/sensor-1"))["cloneSigns"] == []
    assert len((await admin.ok("GET", "/devices/sensor-2"))["cloneSigns"]) == 2
    await admin.ok("POST", "/profiles", {"name": "others"})
    assert await admin.ok("POST", "/inbox/clone-signs/dismiss", {"profile": "others"}) == {"count": 0}
    assert (await admin("POST", "/inbox/clone-signs/dismiss", {"profile": "unknown"})).code == "not_found"
    assert (await admin("POST", "/inbox/clone-signs/dismiss", {"device": "unknown"})).code == "not_found"
    assert await admin.ok("POST", "/inbox/clone-signs/dismiss", {"profile": "sensors"}) == {"count": 2}
    assert (await admin.ok("GET", "/inbox"))["cloneSigns"] == 0
    audited = await site.space.rows("SELECT subject_id FROM audit WHERE action = 'device.clone_signs_dismissed'")
    assert {row["subject_id"] for row in audited} == {one["id"], two["id"], three["id"]}


async def test_a_failed_job_waits_until_it_is_asked_for_anew(admin: Caller, site: Site) -> None:
    device, other = uuid4(), uuid4()
    first = await fail(site, device)
    await fail(site, device, "devices.import", durable=False)
    third = await fail(site, other)
    listed = (await admin.ok("GET", "/inbox/failed-jobs"))["items"]
    assert [(each["id"], each["remedy"]) for each in listed] == [(third, "Adopt it."), (first, "Adopt it.")]

    await site.space.rows(
        "INSERT INTO job (id, organization_id, kind, actor, state, durable, subject_id)"
        " VALUES (uuidv7(), $1, 'network.remove', 'operator', 'waiting', true, $2)",
        site.space.organization_id,
        device,
    )

    assert [each["id"] for each in (await admin.ok("GET", "/inbox/failed-jobs"))["items"]] == [third]
    assert (await admin.ok("GET", "/inbox"))["failedJobs"] == 1


@pytest.mark.usefixtures("profile")
async def test_keys_near_their_end_are_listed_for_whoever_may_change_them(admin: Caller, site: Site) -> None:
    await admin.ok("POST", "/profiles/sensors/keys", {"notAfter": "2099-01-01T00:00:00Z", "maxUses": 10})
    await admin.ok("POST", "/profiles/sensors/keys", {"maxUses": 1000})
    await site.space.rows("UPDATE provision_key SET not_after = now() + interval '3 days' WHERE max_uses = 10")
    await site.space.rows("UPDATE provision_key SET uses = 950 WHERE max_uses = 1000")
    await admin.ok("POST", "/keys", {"name": "station", "permissions": ["devices:view"]})
    await site.space.rows("UPDATE api_key SET expires_at = now() + interval '1 day' WHERE name = 'station'")
    await admin.ok("POST", "/particle", {"profile": "sensors", "product": "buttons", "accessToken": "0123456789abcdef"})
    await site.space.rows("UPDATE particle_product SET expires_at = now() + interval '13 days'")

    listed = (await admin.ok("GET", "/inbox/ending-keys"))["items"]

    assert [(each["kind"], each["profile"], each["uses"], each["maxUses"]) for each in listed] == [
        ("api_key", None, None, None),
        ("provision_key", "sensors", 0, 10),
        ("particle", "sensors", None, None),
        ("provision_key", "sensors", 950, 1000),
    ]
    assert (await admin.ok("GET", "/inbox"))["endingKeys"] == 4
    staff = await site.caller(Role.STAFF)
    assert {each["kind"] for each in (await staff.ok("GET", "/inbox/ending-keys"))["items"]} == {
        "provision_key",
        "particle",
    }
    assert (await staff.ok("GET", "/inbox"))["endingKeys"] == 3


@pytest.mark.usefixtures("profile")
async def test_who_may_do_nothing_about_it_is_not_told_to(admin: Caller, site: Site) -> None:
    await make_devices(admin, "sensor-1")
    await admin.ok("POST", "/devices/sensor-1/quarantine", {"reason": "seen twice"})
    user = await site.caller(Role.USER)

    counts = await user.ok("GET", "/inbox")

    assert counts == dict.fromkeys(NOTHING) | {"total": 0, "most": 100}
    assert (await user("GET", "/inbox/failed-jobs")).code == "forbidden"
    assert (await user("POST", "/inbox/clone-signs/dismiss", {})).code == "forbidden"
    nobody = await site.caller(permissions=frozenset({Permission.AUDIT_READ}))
    assert (await nobody("GET", "/inbox")).code == "forbidden"


@pytest.mark.usefixtures("profile")
async def test_it_is_the_makers_inbox(admin: Caller, site: Site) -> None:
    customer = await admin.ok("POST", "/organizations", {"name": "Customer"})
    (device,) = await make_devices(admin, "sensor-1")
    await admin.ok("POST", "/devices/sensor-1/transfer", {"organization": "Customer"})
    await admin.ok("POST", f"/devices/{device['id']}/quarantine", {"reason": "seen twice"})
    await sign(site, device)
    theirs = await site.caller(organization=UUID(customer["id"]))

    assert [each["holder"] for each in (await admin.ok("GET", "/inbox/quarantined"))["items"]] == ["Customer"]
    assert (await theirs.ok("GET", "/inbox/quarantined"))["items"] == []
    assert (await theirs.ok("GET", "/inbox"))["total"] == 0
    assert (await theirs("POST", "/inbox/clone-signs/dismiss", {"device": device["id"]})).code == "forbidden"
