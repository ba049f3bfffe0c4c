from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from provserver.core.authentication import Denial
from provserver.core.authorization import Role
from provserver.core.limits import Buckets
from provserver.core.model import Authenticated
from provserver.services.access import Access
from provserver.services.claiming import ClaimLimits
from tests.admin.conftest import PASSWORD, Caller, Site
from tests.admin.routes.test_session import EMAIL, invited, sign_in
from tests.services.conftest import PEER


@pytest.fixture
async def template(admin: Caller) -> str:
    """The template id of a profile."""
    made = await admin.ok("POST", "/profiles", {"name": "Lamp"})
    return str(made["templateId"])


async def test_a_session_from_its_request_to_its_end(admin: Caller, site: Site, template: str) -> None:
    made = await admin.ok("POST", "/wifi-sessions", {"template": template, "name": "Kitchen", "client": "app"})
    token = made.pop("token")
    assert (made["state"], made["deviceId"], made["deviceName"]) == ("WAITING", made["id"], "Kitchen")
    assert (made["templateId"], made["profile"], made["client"]) == (template, "Lamp", "app")
    path = f"/wifi-sessions/{made['id']}"
    assert await admin.ok("GET", path) == made
    assert await admin.ok("GET", "/wifi-sessions", state="WAITING") == {"items": [made], "nextCursor": None}
    noted = await admin.ok("POST", path + "/events", {"event": "device_says", "detail": "701", "error": "wifi_failed"})
    assert noted["lastError"] == "wifi_failed"
    assert [each["event"] for each in noted["log"]] == ["requested", "device_says"]
    assert noted["log"][1]["detail"] == "701"

    access = Access(site.space.database, site.space.keys)
    assert isinstance(await access.with_token(token, PEER), Authenticated)

    done = await admin.ok("GET", path)
    assert (done["state"], done["lastError"]) == ("SUCCESS", None)
    assert done["duration"] >= 0
    assert (await admin("POST", path + "/cancel")).code == "conflict"
    summary = await admin.ok("GET", "/wifi-sessions/summary")
    assert summary == {
        "total": 1,
        "succeeded": 1,
        "successRate": 1.0,
        "averageDuration": done["duration"],
        "commonestError": None,
        "error": None,
        "remedy": None,
    }
    since = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert (await admin.ok("GET", "/wifi-sessions/summary", since=since))["total"] == 0

    again = await admin.ok("POST", "/wifi-sessions", {"device": "Kitchen"})
    assert (again["reprovisioning"], again["deviceId"]) == (True, made["id"])
    failed = await admin.ok("POST", f"/wifi-sessions/{again['id']}/fail", {"error": "device_not_found"})
    assert (failed["state"], failed["lastError"]) == ("FAILED", "device_not_found")
    assert failed["error"] == "The phone found no access point of a device."
    assert "button" in failed["remedy"]
    told = await admin.ok("GET", "/wifi-sessions/summary")
    assert (told["commonestError"], told["error"]) == ("device_not_found", failed["error"])
    assert await access.with_token(again["token"], PEER) is Denial.CREDENTIALS
    assert isinstance(await access.with_token(token, PEER), Authenticated)


async def test_a_session_is_cancelled(admin: Caller) -> None:
    made = await admin.ok("POST", "/wifi-sessions", {})
    cancelled = await admin.ok("POST", f"/wifi-sessions/{made['id']}/cancel")
    assert cancelled["state"] == "CANCELED"
    assert [each["event"] for each in cancelled["log"]] == ["requested", "canceled"]


async def test_what_makes_no_session(admin: Caller, template: str) -> None:
    for body, code in (
        ({"template": "TMPLnowhere00"}, "not_found"),
        ({"organization": "nowhere"}, "not_found"),
        ({"device": "nothing"}, "not_found"),
        ({"device": "nothing", "template": template}, "invalid"),
        ({"client": "The app"}, "malformed"),
        ({"name": ""}, "malformed"),
        ({"nome": "x"}, "malformed"),
    ):
        assert (await admin("POST", "/wifi-sessions", body)).code == code, body
    made = await admin.ok("POST", "/wifi-sessions", {})
    for body in ({}, {"event": "Not a word"}, {"event": "x", "detail": "y" * 201}):
        assert (await admin("POST", f"/wifi-sessions/{made['id']}/events", body)).code == "malformed", body
    assert (await admin("POST", f"/wifi-sessions/{uuid4()}/cancel")).code == "not_found"


async def test_a_device_is_told_to_open_its_access_point(admin: Caller, site: Site, template: str) -> None:
    await admin.ok("POST", "/devices", {"name": "Lamp 1", "profile": template})
    assert await admin.ok("POST", "/devices/Lamp 1/reconfigure") == {"deviceIsOffline": True}
    user = await site.caller(Role.USER)
    assert (await user("POST", "/devices/Lamp 1/reconfigure")).code == "forbidden"  # it is not the user's own
    assert (await admin("POST", "/devices/nothing/reconfigure")).code == "not_found"


async def test_a_person_who_asks_too_often_is_told_when_to_come_back(admin: Caller, site: Site) -> None:
    await invited(admin)
    link = (await admin.ok("POST", f"/users/{EMAIL}/invite"))["link"]
    await site.nobody.ok("POST", "/invitations/accept", {"link": link, "password": PASSWORD})
    _, headers = await sign_in(site)
    site.api.services.wifi_sessions._limits = ClaimLimits(Buckets(1, 1e-6), what="tries")
    await site.nobody.ok("POST", "/wifi-sessions", {}, headers=headers)
    for path, body in (("/wifi-sessions", {}), ("/devices/nothing/reconfigure", None)):
        refused = await site.nobody("POST", path, body, headers=headers)
        assert (refused.status, refused.code) == (429, "too_many_requests")
        assert 0 < int(refused.headers["Retry-After"]) <= 10**6
    await admin.ok("POST", "/wifi-sessions", {})
