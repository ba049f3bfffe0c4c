import json
from uuid import uuid4

from tests.admin.conftest import Caller, Site

URL = "https://webhook.example/in?token=pl4nted"


async def test_a_webhook_from_its_making_to_its_end(admin: Caller) -> None:
    made = await admin.ok("POST", "/webhooks", {"url": URL, "types": ["device.claimed"]})
    assert made.pop("secret").startswith("whsec_")
    assert await admin.ok("GET", "/webhooks") == {"items": [made], "nextCursor": None}
    path = f"/webhooks/{made['id']}"
    assert await admin.ok("GET", path) == made | {"waiting": 0, "dead": 0}
    changed = await admin.ok("PATCH", path, {"enabled": False, "types": []})
    assert changed == made | {"enabled": False, "types": [], "revision": 2}
    assert await admin.ok("GET", path + "/deliveries", state="dead") == {"items": [], "nextCursor": None}
    assert await admin.ok("POST", path + "/replay", {"dead": True}) == {"replayed": 0}
    assert await admin.ok("DELETE", path) == changed
    assert (await admin("GET", path)).status == 404


async def test_a_webhook_is_changed_as_it_was_seen(admin: Caller, site: Site) -> None:
    made = await admin("POST", "/webhooks", {"url": URL})
    assert made.headers["ETag"] == '"1"'
    path = f"/webhooks/{made.json['id']}"
    changed = await admin("PATCH", path, {"enabled": False}, {"If-Match": '"1"'})
    assert (changed.status, changed.headers["ETag"]) == (200, '"2"')
    for method, body in (("PATCH", {"enabled": True}), ("DELETE", None)):
        stale = await admin(method, path, body, {"If-Match": '"1"'})
        assert (stale.status, stale.code) == (412, "stale")
    await site.space.rows("UPDATE webhook SET failing_since = now(), error = 'x'")
    shown = await admin("GET", path)
    assert (shown.headers["ETag"], shown.json["enabled"]) == ('"2"', False)
    assert (await admin("DELETE", path, None, {"If-Match": '"2"'})).status == 200


async def test_what_makes_no_webhook(admin: Caller) -> None:
    for body, code in (
        ({"url": "https://u:pl4nted@example.com/"}, "invalid"),
        ({"url": "http://127.0.0.1/"}, "invalid"),
        ({"url": "http://0x7f000001/"}, "invalid"),
        ({"url": URL, "types": ["no.such"]}, "malformed"),
        ({}, "malformed"),
    ):
        answer = await admin("POST", "/webhooks", body)
        assert answer.code == code, body
        assert b"pl4nted" not in answer.body


async def test_what_cannot_be_sent_again(admin: Caller) -> None:
    made = await admin.ok("POST", "/webhooks", {"url": URL})
    for body in ({}, {"dead": True, "event": str(uuid4())}, {"until": "2027-01-01T00:00:00Z"}):
        assert (await admin("POST", f"/webhooks/{made['id']}/replay", body)).code == "invalid"


async def test_a_test_says_what_came_of_it(admin: Caller, site: Site) -> None:
    made = await admin.ok("POST", "/webhooks", {"url": URL})
    await site.space.rows("UPDATE webhook SET url = 'http://127.0.0.1/'")  # as outgoing_private had it once
    tried = await admin.ok("POST", f"/webhooks/{made['id']}/test")
    assert (tried["delivered"], tried["status"]) == (False, None)
    assert "outgoing_private" in tried["error"]
    assert tried["seconds"] >= 0


async def test_what_was_sent_is_shown_and_what_would_be_sent_again_is_counted(admin: Caller, site: Site) -> None:
    made = await admin.ok("POST", "/webhooks", {"url": URL})
    path, event = f"/webhooks/{made['id']}", uuid4()
    await site.space.rows(
        "INSERT INTO event (id, type, organization_id, payload, created_at)"
        " SELECT $1, 'device.claimed', id, '{\"name\":\"<b>\"}', '2026-11-23T01:02:03Z' FROM organization LIMIT 1",
        event,
    )
    assert (await admin("GET", f"{path}/deliveries/{event}")).code == "not_found"
    assert await admin.ok("POST", path + "/replay", {"event": str(event), "dryRun": True}) == {"replayed": 1}
    assert (await admin.ok("GET", path + "/deliveries"))["items"] == []
    span = {"since": "2026-11-23T00:00:00Z", "dryRun": True}
    assert await admin.ok("POST", path + "/replay", span) == {"replayed": 1}
    assert await admin.ok("POST", path + "/replay", span | {"until": "2026-11-23T01:00:00Z"}) == {"replayed": 0}
    assert await admin.ok("POST", path + "/replay", {"dead": True, "dryRun": True}) == {"replayed": 0}
    audited = (await admin.ok("GET", "/audit", action="webhook.replayed"))["items"]
    assert audited == []

    assert await admin.ok("POST", path + "/replay", {"event": str(event)}) == {"replayed": 1}
    shown = await admin.ok("GET", f"{path}/deliveries/{event}")
    (listed,) = (await admin.ok("GET", path + "/deliveries"))["items"]
    assert shown == listed | {"body": shown["body"]}
    assert json.loads(shown["body"]) == {
        "id": str(event),
        "type": "device.claimed",
        "timestamp": "2026-11-23T01:02:03Z",
        "data": {"name": "<b>"},
    }
    assert await admin.ok("POST", path + "/replay", span) == {"replayed": 0}  # it waits already
    await site.space.rows("UPDATE webhook_delivery SET state = 'dead'")
    assert await admin.ok("POST", path + "/replay", {"dead": True, "dryRun": True}) == {"replayed": 1}
    assert [each["id"] for each in (await admin.ok("GET", path + "/deliveries", state="dead"))["items"]] == [str(event)]
    assert (await admin("GET", path + "/deliveries/x")).code == "not_found"
