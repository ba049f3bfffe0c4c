import json
import os
import re
import time
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from provserver.core import ids
from provserver.core.authorization import Role
from tests.admin.conftest import Site
from tests.admin.console.conftest import Visit, Visitor
from tests.admin.routes.test_activity import event

SCRIPT = "<script>alert(1)</script>"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


async def attempt(site: Site, profile: str, outcome: str = "success", reason: str | None = None) -> None:
    await site.space.rows(
        "INSERT INTO attempt (id, transport, address, outcome, reason, profile_id) VALUES ($1, 'HTTP', '', $2, $3, $4)",
        ids.uuid7(time.time(), os.urandom),
        outcome,
        reason,
        UUID(profile),
    )


async def device(visitor: Visitor, name: str = "one", profile: str = "sensors") -> Any:
    """A profile with a device: then the server is no new one any more."""
    made = await visitor.api("POST", "/profiles", {"name": profile})
    await visitor.api("POST", "/devices", {"name": name, "profile": profile})
    return made


def drawn(page: str) -> Any:
    """The data of the chart."""
    (found,) = re.findall(r'<script type="application/json" id="attempts-data"[^>]*>(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


async def test_a_new_server_says_what_comes_first(site: Site, visitor: Visitor) -> None:
    page = await visitor.get("/")
    assert page.status == 200
    assert "There is no device yet" in page.text
    assert "Make the profile and its key" in page.text
    site.listener._console._addresses = {
        "http": ("0.0.0.0", 18080),
        "mqtt": ("::", 11883),
        "coap": ("127.0.0.1", 15683),
    }
    made = await visitor.post("/overview/first", name="first-devices")
    assert made.status == 200
    profile = await visitor.api("GET", "/profiles/first-devices")
    (key,) = profile["provisionDeviceKeys"]
    assert profile["strategy"] == "ALLOW_CREATE_NEW_DEVICES"
    (secret,) = re.findall(r'"provisionDeviceSecret":"([A-Za-z0-9]+)', made.text)[:1]
    for word in ("curl", "mosquitto", "coap-client", "18080", "11883", "15683", key, "it is not shown again"):
        assert word in made.text, word

    again = await visitor.get("/")
    assert secret not in again.html
    assert "PROVISION_SECRET" in again.text
    assert key in again.text
    taken = await visitor.post("/overview/first", name="first-devices")
    assert (taken.status, "Choose another" in taken.text) == (409, True)


async def test_who_may_make_no_profiles_is_told_whom_to_ask(visit: Visit) -> None:
    staff = await visit(Role.STAFF)
    page = await staff.get("/")
    assert "Ask an admin" in page.text
    assert "Make the profile and its key" not in page.text
    assert (await staff.post("/overview/first", name="first-devices")).status == 403


async def test_figures_are_there_in_words_and_numbers(site: Site, visitor: Visitor) -> None:
    made = await device(visitor)
    bounds = {"maxUses": 10, "notAfter": "2100-01-01T00:00:00Z"}
    await visitor.api("PUT", f"/profiles/sensors/keys/{made['provisionDeviceKey']}/budget", bounds)
    await site.space.rows("UPDATE provision_key SET uses = 9")
    for _ in range(3):
        await attempt(site, made["id"])
    await attempt(site, made["id"], "not_found", "SECRET_WRONG")
    await attempt(site, made["id"], "pending", "APPROVAL_PENDING")
    page = await visitor.get("/", hours="1")
    assert page.status == 200
    for word in (
        "Made 1",
        "Provisioned 0",
        "3 granted",
        "1 told to come back",
        "1 refused",
        "The provision secret is wrong 1",
        "9 of 10 uses",
        "ends soon",
        made["provisionDeviceKey"],
    ):
        assert word in page.text, word
    assert 'href="/attempts?reason=SECRET_WRONG' in page.html
    now_online = re.search(r'<a[^>]* href="/devices\?state=online"[^>]*>([^<]*)</a>', page.html)
    assert now_online is not None  # the list has those that are online now, and not all that ever were
    assert now_online[1] == "0 are online now"
    data = drawn(page.html)
    assert {name: sum(data[name]) for name in ("granted", "refused", "later")} == {
        "granted": 3,
        "refused": 1,
        "later": 1,
    }
    assert len(data["times"]) == len(data["granted"]) == 60
    table = await visitor.get("/", hours="1", table="1")
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", table.text)
    assert 'data-chart="' not in table.html
    assert (await visitor.get("/", hours="13")).status == 200  # a window that is not there is the usual one
    assert made["provisionDeviceSecret"] not in page.html


async def test_figures_come_anew_by_themselves(site: Site, visitor: Visitor) -> None:
    made = await device(visitor)
    page = await visitor.get("/", hours="168")
    (path,) = re.findall(r'hx-get="(/overview/figures[^"]*)"', page.html)
    assert path == "/overview/figures?hours=168"
    await attempt(site, made["id"])
    for each in site.api.services.overview._series.values():
        each._entries.clear()
    part = await visitor.get(path, part=True)
    assert part.status == 200
    assert "<html" not in part.html
    assert sum(drawn(part.html)["granted"]) == 1
    for name in ("attempts-totals", "attempts-data", "reasons", "keys"):
        assert re.search(f'id="{name}"[^>]*hx-swap-oob="true"', part.html), name


async def test_what_waits_is_counted(visitor: Visitor) -> None:
    await device(visitor)
    assert "Nothing." in (await visitor.get("/")).text
    await visitor.api("POST", "/devices/one/quarantine", {"reason": "seen twice"})
    page = await visitor.get("/")
    assert "1 device in quarantine" in page.text


async def test_figures_that_are_being_counted_are_said_to_be(site: Site, visitor: Visitor) -> None:
    overview = site.api.services.overview
    async with overview._funnels._turns:  # somebody else's are counted
        overview._funnels._first = 0.0
        for each in overview._series.values():
            each._first = 0.0
        page = await visitor.get("/", hours="24")
        assert (page.status, "Being counted" in page.text) == (200, True)
        assert "every 1s" in page.html
        assert drawn(page.html) is None
        part = await visitor.get("/overview/figures", part=True, hours="24")
        assert "every 1s" in part.html
    found: Any = {"counting": True}
    while found["counting"]:
        found = await visitor.api("GET", "/overview")
    assert found["funnel"]["made"] == 0


async def test_a_customer_sees_his_devices(site: Site, visit: Visit, visitor: Visitor) -> None:
    customer = await site.api.services.organizations.create(site.operator, "customer")
    user = await visit(Role.USER, customer.id)
    page = await user.get("/")
    assert (page.status, "You have no device yet" in page.text) == (200, True)
    assert 'href="/claim"' in page.html
    await device(visitor, "lamp")
    await visitor.api("POST", "/devices/lamp/transfer", {"organization": str(customer.id)})
    page = await user.get("/")
    assert "lamp" in page.text
    for word in ("Provisioning requests", "Provision keys", "Waits for you"):
        assert word not in page.text
    assert (await user.get("/overview/figures")).status == 403


async def test_an_organization_below_is_looked_at(site: Site, visitor: Visitor) -> None:
    await device(visitor)
    below = await site.api.services.organizations.create(site.operator, "below")
    page = await visitor.get(f"/o/{below.number}/")
    assert (page.status, "There is no device yet" in page.text) == (200, True)
    assert f'data-feed="/o/{below.number}/feed"' in page.html
    made = await visitor.post(f"/o/{below.number}/overview/first", name="theirs")
    assert made.status == 200
    (row,) = await site.space.rows("SELECT organization_id FROM device_profile WHERE name = 'theirs'")
    assert row[0] == below.id
    assert (await visitor.get("/o/999999/")).status == 404


async def test_names_are_texts(site: Site, visitor: Visitor, visit: Visit) -> None:
    """Whatever people and devices call things."""
    made = await visitor.api("POST", "/profiles", {"name": SCRIPT})
    await visitor.api(
        "PUT", f"/profiles/{made['id']}/keys/{made['provisionDeviceKey']}/budget", {"maxUses": 3, "perMinute": 1}
    )
    start = await visitor.get("/")
    assert (SCRIPT in start.html, ESCAPED in start.html) == (False, True)
    await attempt(site, made["id"], "failure", SCRIPT)
    await site.space.rows(
        "INSERT INTO device (id, organization_id, profile_id, name) VALUES ($1, $2, $3, $4)",
        uuid4(),
        site.space.organization_id,
        UUID(made["id"]),
        SCRIPT,
    )
    site.api.services.overview._funnels._entries.clear()
    for visitor_ in (visitor, await visit(Role.USER)):
        page = await visitor_.get("/")
        assert (page.status, SCRIPT in page.html) == (200, False)
        assert ESCAPED in page.html
    shown = await visitor.post("/overview/first", name=f"{SCRIPT}2")
    assert (shown.status, SCRIPT in shown.html) == (200, False)


async def test_the_feed_is_passed_on(site: Site, visitor: Visitor, visit: Visit) -> None:
    await visitor.api("POST", "/profiles", {"name": "before"})
    timeout = aiohttp.ClientTimeout(total=60)
    told: dict[str, Any] = {}
    async with visitor.session.get(f"{site.url}/feed", timeout=timeout) as feed:
        assert (feed.status, feed.headers["Content-Type"]) == (200, "text/event-stream")
        while told.get("data", {}).get("action") != "profile.created":
            told = await event(feed)
        assert told["data"]["detail"]["name"] == "before"  # what has just happened comes first
        assert told["data"]["actorName"] == "person-1@example.com"
        await visitor.api("POST", "/profiles", {"name": "after"})
        while told["data"].get("detail", {}).get("name") != "after":
            told = await event(feed)
    last = told["id"]
    await visitor.api("POST", "/profiles", {"name": "missed"})
    for headers, query in (({"Last-Event-ID": last}, ""), ({}, f"?after={last}")):
        async with visitor.session.get(f"{site.url}/feed{query}", headers=headers, timeout=timeout) as feed:
            names = []
            while "missed" not in names:
                names.append((await event(feed))["data"].get("detail", {}).get("name"))
            assert "before" not in names
    nobody = await visit(None)
    assert (await nobody.get("/feed")).status == 303


async def test_the_feed_of_an_organization_below_is_its_own(site: Site, visitor: Visitor) -> None:
    below = await site.api.services.organizations.create(site.operator, "below")
    timeout = aiohttp.ClientTimeout(total=60)
    async with visitor.session.get(f"{site.url}/o/{below.number}/feed", timeout=timeout) as feed:
        await visitor.api("POST", "/profiles", {"name": "above"})
        await visitor.post(f"/o/{below.number}/overview/first", name="there")
        told: dict[str, Any] = {}
        while told.get("action") != "profile.created":
            told = (await event(feed))["data"]
        assert told["detail"]["name"] == "there"


@pytest.mark.parametrize("after", ["1", "x' OR 1", "../..", "a" * 5000, "\u0661"])
async def test_what_is_no_event_is_left_out(site: Site, visitor: Visitor, after: str) -> None:
    async with visitor.session.get(f"{site.url}/feed", params={"after": after}) as feed:
        assert feed.status == 200
