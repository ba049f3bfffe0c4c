import time
from typing import Any
from uuid import UUID, uuid4

import pytest

from provserver.admin.console.pages import webhooks
from provserver.core import webhook
from provserver.core.authorization import Role
from provserver.core.events import EventType
from provserver.core.webhook import DeliveryState
from tests.admin.conftest import Site
from tests.admin.console.conftest import Visit, Visitor

URL = "https://hooks.example/in/pl4nted-path?token=pl4nted"
MARKUP = "<script>alert(1)</script>"


async def delivery(site: Site, webhook_id: str, state: str = "delivered", **columns: Any) -> str:
    """An event on its way, as the deliverer leaves it."""
    event = uuid4()
    await site.space.rows(
        "INSERT INTO event (id, type, organization_id, payload, created_at)"
        " VALUES ($1, 'device.claimed', $2, $3, '2026-11-23T01:02:03Z')",
        event,
        site.space.organization_id,
        {"deviceName": MARKUP},
    )
    row = {"event_id": event, "webhook_id": UUID(webhook_id), "state": state} | columns
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await site.space.rows(
        f"INSERT INTO webhook_delivery ({', '.join(row)}, queued_at, tried_at)"
        f" VALUES ({places}, '2026-11-23T01:02:04Z', '2026-11-23T01:02:06Z')",
        *row.values(),
    )
    return str(event)


async def test_the_first_one_is_made_and_its_secret_shown_once(visitor: Visitor) -> None:
    assert "No program is told of events yet" in (await visitor.get("/webhooks")).text
    form = await visitor.get("/webhooks/new")
    for each in EventType:
        assert each.value in form.text
        assert webhooks.EVENTS[each] in form.text
    made = await visitor.post("/webhooks", [("types", "device.claimed")], url=URL, which="some")
    assert made.status == 200
    (listed,) = (await visitor.api("GET", "/webhooks"))["items"]
    assert listed["types"] == ["device.claimed"]
    assert "whsec_" in made.html
    assert "It is not shown again" in made.text or "not shown again" in made.text
    assert "pl4nted" not in made.html
    page = await visitor.get(f"/webhooks/{listed['id']}")
    assert "whsec_" not in page.html.replace("removeprefix(&#34;whsec_", "")
    assert "hooks.example" in (await visitor.get("/webhooks")).text
    assert "pl4nted" not in (await visitor.get("/webhooks")).html


async def test_what_is_wrong_is_told_at_its_field(visitor: Visitor) -> None:
    refused = await visitor.post("/webhooks", url=URL, which="some")
    assert (refused.status, "choose one event at least" in refused.text) == (400, True)
    refused = await visitor.post("/webhooks", url="http://127.0.0.1/", which="all")
    assert (refused.status, "outgoing_private" in refused.text) == (422, True)
    assert (await visitor.api("GET", "/webhooks"))["items"] == []


async def test_deliveries_are_shown_with_what_was_sent(visitor: Visitor, site: Site) -> None:
    made = await visitor.api("POST", "/webhooks", {"url": URL})
    path = f"/webhooks/{made['id']}"
    assert "Nothing was sent yet" in (await visitor.get(path)).text
    sent = await delivery(site, made["id"], tries=1, status=200)
    dead = await delivery(site, made["id"], "dead", tries=9, status=500, error="HTTP 500")
    page = await visitor.get(path)
    assert "2 seconds" in page.text
    assert "HTTP 500" in page.text
    assert sent in page.html
    page = await visitor.get(path, state="dead")
    assert dead in page.html
    assert sent not in page.html
    shown = await visitor.get(f"{path}/deliveries/{dead}")
    assert "&#34;deviceName&#34;: &#34;&lt;script&gt;" in shown.html
    assert MARKUP not in shown.html
    assert "Send it again" in shown.text
    again = await visitor.post(f"{path}/replay", event=dead)
    assert again.location == path
    page = await visitor.get(path)
    assert "1 event is sent again" in page.text
    assert (await visitor.get(f"{path}/deliveries/{uuid4()}")).status == 404


async def test_how_many_are_sent_again_is_said_before(visitor: Visitor, site: Site) -> None:
    made = await visitor.api("POST", "/webhooks", {"url": URL})
    path = f"/webhooks/{made['id']}"
    for _ in range(3):
        await delivery(site, made["id"], "dead", tries=9, status=500, error="HTTP 500")
    counted = await visitor.post(f"{path}/replay/count", which="dead")
    assert "3 events" in counted.text
    span = {"which": "span", "since": "2026-11-23T01:00", "until": "2026-11-23T02:00"}
    counted = await visitor.post(f"{path}/replay/count", **span)
    assert 'name="since" value="2026-11-23T01:00:00Z"' in counted.html
    assert "No event fits" in (await visitor.post(f"{path}/replay/count", **span | {"until": "2026-11-23T01:01"})).text
    refused = await visitor.post(f"{path}/replay/count", which="span", since="")
    assert (refused.status, "from when on" in refused.text) == (400, True)
    assert await site.space.value("SELECT count(*) FROM webhook_delivery WHERE state = 'waiting'") == 0

    assert (await visitor.post(f"{path}/replay", which="span", since="2026-11-23T01:00:00Z")).location == path
    assert await site.space.value("SELECT count(*) FROM webhook_delivery WHERE state = 'waiting'") == 3
    page = await visitor.get(path)
    assert "3 events are sent again" in page.text
    assert "3 events that wait for it" in page.text


async def test_it_is_changed_paused_and_deleted(visitor: Visitor, site: Site) -> None:
    made = await visitor.api("POST", "/webhooks", {"url": URL, "types": ["device.claimed"]})
    path = f"/webhooks/{made['id']}"
    await delivery(site, made["id"], "waiting")
    form = await visitor.get(f"{path}/edit")
    assert 'value="device.claimed" checked' in form.html
    changed = await visitor.post(path, url="https://other.example/in", which="all", revision="1")
    assert changed.location == path
    stale = await visitor.post(path, url=URL, which="all", revision="1")
    assert stale.status == 412
    page = await visitor.get(path)
    assert "Webhook to other.example" in page.text
    await visitor.post(f"{path}/enabled", enabled="false")
    page = await visitor.get(path)
    assert "The webhook is paused" in page.text
    assert "paused" in (await visitor.get("/webhooks")).text
    await visitor.post(f"{path}/enabled", enabled="true")
    page = await visitor.get(path)
    assert "Lost for good: 1 event that waits for it" in page.text
    gone = await visitor.post(f"{path}/delete", revision=str((await visitor.api("GET", path))["revision"]))
    assert gone.location == "/webhooks"
    page = await visitor.get("/webhooks")
    assert "The webhook to other.example is deleted." in page.text
    assert (await visitor.get(path)).status == 404


async def test_one_that_cannot_be_reached_says_so(visitor: Visitor, site: Site) -> None:
    made = await visitor.api("POST", "/webhooks", {"url": URL})
    await site.space.rows("UPDATE webhook SET failing_since = now(), error = $1", MARKUP)
    for path in ("/webhooks", f"/webhooks/{made['id']}"):
        page = await visitor.get(path)
        assert "cannot be reached" in page.text
        assert MARKUP not in page.html


async def test_a_test_says_what_came_back(visitor: Visitor, site: Site) -> None:
    made = await visitor.api("POST", "/webhooks", {"url": URL})
    await site.space.rows("UPDATE webhook SET url = 'http://127.0.0.1/'")  # as outgoing_private had it once
    tried = await visitor.post(f"/webhooks/{made['id']}/test")
    assert tried.status == 200
    assert "It was not taken" in tried.text
    assert "outgoing_private" in tried.text


async def test_who_may(visit: Visit, site: Site) -> None:
    admin, staff = await visit(), await visit(Role.STAFF)
    made = await admin.api("POST", "/webhooks", {"url": URL})
    customer = await site.api.services.organizations.create(site.operator, "customer")
    below = await visit(Role.ADMIN, customer.id)
    for path in ("", "/edit", f"/deliveries/{uuid4()}"):
        assert (await staff.get(f"/webhooks/{made['id']}{path}")).status == 403
        assert (await below.get(f"/webhooks/{made['id']}{path}")).status == 404
    for path in ("", "/delete", "/enabled", "/test", "/replay", "/replay/count"):
        fields = {"url": URL, "which": "dead", "enabled": "false"}
        assert (await below.post(f"/webhooks/{made['id']}{path}", **fields)).status == 404, path
    assert (await admin.api("GET", f"/webhooks/{made['id']}"))["revision"] == 1


def test_everything_has_its_words() -> None:
    assert set(webhooks.EVENTS) == set(EventType)
    assert set(webhooks.STATES) == set(DeliveryState)


def test_the_snippet_tells_genuine_requests_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    secret, body = bytes(range(32)), b'{"id": 1}'
    monkeypatch.setenv("WEBHOOK_SECRET", webhook.shown(secret))
    snippet: dict[str, Any] = {}
    exec(webhooks.VERIFY, snippet)
    now = int(time.time())
    given = {name.lower(): value for name, value in webhook.headers(secret, uuid4(), now, body).items()}
    assert snippet["is_genuine"](given, body)
    assert not snippet["is_genuine"](given, body + b" ")
    old = webhook.headers(secret, uuid4(), now - 1000, body)
    assert not snippet["is_genuine"](old, body)
    assert not snippet["is_genuine"](webhook.headers(bytes(32), uuid4(), now, body), body)
