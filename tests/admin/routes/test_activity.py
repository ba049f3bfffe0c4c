import json
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from provserver.admin.routes import activity
from provserver.core import ids
from provserver.core.authorization import Role
from provserver.services.events import Happening, Reader
from tests.admin.conftest import Caller, Site


async def event(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The next event, by its fields; what is no event is left out."""
    fields: dict[str, Any] = {}
    while True:
        line = (await response.content.readline()).decode()
        assert line, "the feed has ended"
        name, _, value = line.rstrip("\n").partition(": ")
        if line == "\n" and "data" in fields:
            fields["data"] = json.loads(fields["data"])
            return fields
        if line == "\n" or not name:
            fields.clear()
        else:
            fields[name] = value


def follow(site: Site, caller: Caller, **headers: str) -> Any:
    url = f"{site.url}/api/admin/events"
    return site.session.get(url, headers={"Authorization": f"Bearer {caller.key}", **headers})


async def test_what_happens_is_told_as_it_happens(site: Site, admin: Caller) -> None:
    async with follow(site, admin) as feed:
        assert (feed.status, feed.headers["Content-Type"]) == (200, "text/event-stream")
        made = await admin.ok("POST", "/profiles", {"name": "wifi-sensor"})
        told = await event(feed)
    assert told["event"] == told["data"]["type"] == "audit"
    assert told["data"]["id"] == told["id"]
    assert (told["data"]["action"], told["data"]["subjectId"]) == ("profile.created", made["id"])

    missed = await admin.ok("POST", "/profiles", {"name": "another"})
    async with follow(site, admin, **{"Last-Event-ID": told["id"]}) as feed:
        subjects = [(await event(feed))["data"]["subjectId"] for _ in range(2)]
    assert subjects == [made["id"], missed["id"]]  # a profile comes with a key: an entry of its own


@pytest.mark.parametrize("alone", [True, False])
async def test_who_comes_back_just_then_hears_all_once_and_in_order(
    site: Site, admin: Caller, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    """What happens before and after the look at what was missed; alone: nobody else has the feed open."""
    feed = site.api.services.feed
    feed._interval = 0.01
    look = feed._missed

    def named(happenings: Sequence[Happening] | None) -> list[object]:
        assert happenings is not None
        made = [each for each in happenings if each.facts.get("action") == "profile.created"]
        return [each.facts["detail"]["name"] for each in made]  # type: ignore[index]

    async def until(reader: Reader, name: str) -> list[object]:
        heard: list[object] = []
        while name not in heard:
            heard += named(await reader.next(60))
        return heard

    async with AsyncExitStack() as stack:

        async def slowly(organization: UUID, since: UUID) -> list[Happening]:
            await admin.ok("POST", "/profiles", {"name": "second"})
            found = await look(organization, since)
            await admin.ok("POST", "/profiles", {"name": "third"})
            if not alone:
                await until(other, "third")
            return found

        monkeypatch.setattr(feed, "_missed", slowly)
        await admin.ok("POST", "/profiles", {"name": "first"})
        if not alone:
            other = await stack.enter_async_context(feed.read(site.operator))
        reader = await stack.enter_async_context(feed.read(site.operator, ids.floor(0)))
        await admin.ok("POST", "/profiles", {"name": "fourth"})
        assert await until(reader, "fourth") == ["first", "second", "third", "fourth"]


async def test_a_silent_feed_says_that_it_lives_and_ends_in_time(site: Site, admin: Caller, monkeypatch: Any) -> None:
    monkeypatch.setattr(activity, "HEARTBEAT", 0.01)
    async with follow(site, admin) as feed:
        assert await feed.content.readline() == b": what happens from now on\n"
        assert await feed.content.readline() == b"retry: 3000\n"
        assert [await feed.content.readline() for _ in range(3)] == [b"\n", b":\n", b"\n"]
        monkeypatch.setattr(activity, "MAX_LIFE", 0)
        while await feed.content.readline():
            pass


async def test_who_may_not_read_the_audit_hears_none(site: Site, admin: Caller) -> None:
    user = await site.caller(Role.USER)
    since = str(uuid4())
    await admin.ok("POST", "/profiles", {"name": "wifi-sensor"})
    assert (await user("GET", "/audit")).code == "forbidden"
    async with site.api.services.feed.read(await site.api.services.api_keys.authenticate(user.key or "")) as reader:
        assert reader._kinds == {"presence"}
    assert (await site.nobody("GET", "/events", headers={"Last-Event-ID": since})).code == "unauthenticated"
    assert (await admin("GET", "/events", headers={"Last-Event-ID": "yesterday"})).code == "malformed"


async def test_the_audit_and_attempts_are_listed_in_pages(admin: Caller) -> None:
    for name in "abc":
        await admin.ok("POST", "/profiles", {"name": name})
    page = await admin.ok("GET", "/audit", limit=2)
    assert {entry["action"] for entry in page["items"]} == {"provision_key.added", "profile.created"}
    rest = await admin.ok("GET", "/audit", limit=500, cursor=page["nextCursor"])
    assert rest["nextCursor"] is None
    assert page["items"][-1]["id"] > rest["items"][0]["id"]
    subject = page["items"][0]["subjectId"]
    found = await admin.ok("GET", "/audit", subject=subject)
    assert {entry["subjectId"] for entry in found["items"]} == {subject}
    assert await admin.ok("GET", "/attempts", refused=True, device="x") == {
        "items": [],
        "nextCursor": None,
        "searchedTo": None,
    }


async def refusal(site: Site, at: float, **columns: object) -> str:
    row = {"transport": "HTTP", "address": "192.0.2.7", "outcome": "not_found", "reason": "SECRET_WRONG"} | columns
    id_ = ids.uuid7(at, os.urandom)
    places = ", ".join(f"${number}" for number in range(2, len(row) + 2))
    await site.space.rows(f"INSERT INTO attempt (id, {', '.join(row)}) VALUES ($1, {places})", id_, *row.values())
    return str(id_)


async def test_attempts_are_filtered(admin: Caller, site: Site) -> None:
    now = time.time()
    first = await refusal(site, now, device_name="lamp")
    second = await refusal(site, now + 1, transport="COAP", address="2001:db8::1", outcome="limited", reason="KEY_BUSY")
    shown = await admin.ok("GET", f"/attempts/{first}")
    assert (shown["device"], shown["reason"], shown["detail"]) == ("lamp", "SECRET_WRONG", None)
    everything = await admin.ok("GET", "/attempts")
    assert everything["items"][1] == shown
    assert everything["searchedTo"] is None
    for query in (
        {"reason": "KEY_BUSY"},
        {"outcome": "limited"},
        {"transport": "COAP"},
        {"address": "2001:db8::1"},
        {"since": shown["time"], "outcome": "limited"},
    ):
        assert [each["id"] for each in (await admin.ok("GET", "/attempts", **query))["items"]] == [second], query
    assert (await admin.ok("GET", "/attempts", until="2020-01-01T00:00:00Z"))["items"] == []
    for name, value in (("outcome", "no"), ("reason", "x y"), ("transport", "TCP"), ("address", "?"), ("since", "x")):
        assert (await admin("GET", "/attempts", None, None, **{name: value})).status == 400, name
    assert (await admin("GET", "/attempts", since="0001-01-01T00:00:00Z")).code == "invalid"
    assert (await admin("GET", f"/attempts/{uuid4()}")).code == "not_found"
