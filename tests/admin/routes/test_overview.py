import os
import time
from uuid import UUID

import pytest

from provserver.core import ids
from provserver.core.authorization import Role
from tests.admin.conftest import Caller, Site


async def attempt(site: Site, profile: str | None, outcome: str = "success", reason: str | None = None) -> None:
    await site.space.rows(
        "INSERT INTO attempt (id, transport, address, outcome, reason, profile_id) VALUES ($1, 'HTTP', '', $2, $3, $4)",
        ids.uuid7(time.time(), os.urandom),
        outcome,
        reason,
        None if profile is None else UUID(profile),
    )


async def test_a_new_server_has_nothing(admin: Caller) -> None:
    found = await admin.ok("GET", "/overview")
    assert not found["counting"]
    assert {name: value for name, value in found["funnel"].items() if name != "at"} == {
        "made": 0,
        "devices": 0,
        "provisioned": 0,
        "connected": 0,
        "online": 0,
        "claimed": 0,
    }
    attempts = found["attempts"]
    assert (attempts["hours"], attempts["step"], attempts["total"], attempts["outcomes"], attempts["refused"]) == (
        24,
        900,
        0,
        [],
        [],
    )
    assert len(attempts["times"]) == 96
    assert found["keys"] == []


async def test_what_is_refused_is_told_in_words(site: Site, admin: Caller) -> None:
    profile = (await admin.ok("POST", "/profiles", {"name": "sensors"}))["id"]
    for _ in range(3):
        await attempt(site, profile)
    for reason in ("SECRET_WRONG", "SECRET_WRONG", "NAME_TAKEN", "FROM_A_LATER_VERSION"):
        await attempt(site, profile, "not_found" if reason == "SECRET_WRONG" else "failure", reason)
    await attempt(site, None, "not_found", "KEY_UNKNOWN")
    found = (await admin.ok("GET", "/overview", hours=1))["attempts"]
    assert (found["total"], len(found["times"]), found["step"]) == (8, 60, 60)
    assert [(each["outcome"], each["total"]) for each in found["outcomes"]] == [
        ("not_found", 3),
        ("success", 3),
        ("failure", 2),
    ]
    for each in found["outcomes"] + found["refused"]:
        assert sum(each["counts"]) == each["total"]
        assert len(each["counts"]) == 60
    refused = {each["reason"]: each for each in found["refused"]}
    assert list(refused) == ["SECRET_WRONG", "FROM_A_LATER_VERSION", "KEY_UNKNOWN", "NAME_TAKEN"]
    assert refused["SECRET_WRONG"]["text"] == "the provision secret is wrong"
    assert "add a key" in refused["SECRET_WRONG"]["advice"]
    assert (refused["FROM_A_LATER_VERSION"]["text"], refused["FROM_A_LATER_VERSION"]["advice"]) == (None, None)


async def test_keys_are_told_with_their_budgets_and_without_secrets(admin: Caller) -> None:
    made = await admin.ok("POST", "/profiles", {"name": "sensors"})
    key, secret = made["provisionDeviceKey"], made["provisionDeviceSecret"]
    bounds = {"maxUses": 100, "perMinute": 60, "notAfter": "2100-01-01T00:00:00Z"}
    await admin.ok("PUT", f"/profiles/sensors/keys/{key}/budget", bounds)
    answer = await admin("GET", "/overview")
    (found,) = answer.json["keys"]
    assert (found["key"], found["profile"], found["profileId"]) == (key, "sensors", made["id"])
    assert (found["uses"], found["maxUses"], found["perMinute"], found["state"]) == (0, 100, 60, "valid")
    assert found["notAfter"].startswith("2100-01-01")
    assert secret.encode() not in answer.body


@pytest.mark.parametrize("hours", ["2", "0", "-1", "24.0", "", "all", "99999999999999999999"])
async def test_only_some_windows_are_there(admin: Caller, hours: str) -> None:
    assert (await admin("GET", "/overview", hours=hours)).code == "malformed"


async def test_roles_see_what_they_may(site: Site) -> None:
    staff = await (await site.caller(Role.STAFF)).ok("GET", "/overview")
    assert None not in (staff["funnel"], staff["attempts"], staff["keys"])
    user = await (await site.caller(Role.USER)).ok("GET", "/overview")
    assert user["funnel"]["made"] == 0
    assert (user["attempts"], user["keys"], user["counting"]) == (None, None, False)


async def test_a_customer_is_told_of_his_own(site: Site, admin: Caller) -> None:
    made = await admin.ok("POST", "/profiles", {"name": "sensors"})
    await admin.ok("PUT", f"/profiles/sensors/keys/{made['provisionDeviceKey']}/budget", {"maxUses": 1})
    await admin.ok("POST", "/devices", {"name": "one", "profile": "sensors"})
    await attempt(site, made["id"])
    customer = await site.api.services.organizations.create(site.operator, "customer")
    caller = await site.caller(organization=customer.id)
    for found in (
        await caller.ok("GET", "/overview"),
        await admin.ok("GET", "/overview", headers={"X-Organization": str(customer.number)}),
    ):
        assert (found["funnel"]["made"], found["attempts"]["total"], found["keys"]) == (0, 0, [])
    own = await admin.ok("GET", "/overview")
    assert (own["funnel"]["made"], own["attempts"]["total"], len(own["keys"])) == (1, 1, 1)
