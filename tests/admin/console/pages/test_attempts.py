import html
import os
import re
import time
from uuid import UUID, uuid4

import pytest

from provserver.admin.console.pages import attempts
from provserver.core import ids
from provserver.core.authorization import Role
from provserver.core.decision import Reason
from provserver.errors import Outcome
from tests.admin.conftest import Site
from tests.admin.console.conftest import Visit, Visitor

MARKUP = "<script>alert(1)</script>"


async def refusal(site: Site, profile: object, reason: str = "SECRET_WRONG", at: float = 0, **columns: object) -> str:
    row = {"transport": "HTTP", "address": "192.0.2.7", "outcome": "not_found", "reason": reason} | columns
    row["profile_id"] = None if profile is None else UUID(str(profile))
    id_ = ids.uuid7(at or time.time(), os.urandom)
    places = ", ".join(f"${number}" for number in range(2, len(row) + 2))
    await site.space.rows(f"INSERT INTO attempt (id, {', '.join(row)}) VALUES ($1, {places})", id_, *row.values())
    return str(id_)


async def test_nobody_has_asked_yet(visitor: Visitor) -> None:
    page = await visitor.get("/attempts")
    assert page.status == 200
    assert "No device has asked yet" in page.text
    assert 'href="/profiles"' in page.html


async def test_the_list_says_why_and_is_filtered(visitor: Visitor, site: Site) -> None:
    profile = await visitor.api("POST", "/profiles", {"name": MARKUP})
    now = time.time()
    wrong = await refusal(site, profile["id"], device_name=MARKUP, at=now)
    busy = await refusal(
        site, None, "ADDRESS_BUSY", outcome="limited", transport="COAP", address="2001:db8::1", at=now + 1
    )
    page = await visitor.get("/attempts")
    assert page.html.index(busy) < page.html.index(wrong)
    assert MARKUP not in page.html
    assert page.html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
    assert Reason.SECRET_WRONG.text in page.text
    assert "slowed down" in page.text
    for query in (
        {"reason": "ADDRESS_BUSY"},
        {"transport": "COAP"},
        {"outcome": "limited"},
        {"address": "2001:db8::1"},
        {"since": "2020-01-01T00:00", "transport": "COAP"},
    ):
        page = await visitor.get("/attempts", part=True, headers=None, **query)
        assert busy in page.html, query
        assert wrong not in page.html, query
        assert "<!doctype" not in page.html
    page = await visitor.get("/attempts", profile=profile["id"], refused="true", live="1")
    assert wrong in page.html
    assert 'hx-trigger="every 5s"' in page.html
    page = await visitor.get("/attempts", until="2020-01-01T00:00")
    assert "No attempt fits" in page.text
    page = await visitor.get("/attempts", since="2020-13-01T00:00")
    assert page.status == 400


async def test_one_is_explained_with_the_fix_and_those_that_failed_the_same(visitor: Visitor, site: Site) -> None:
    profile = await visitor.api("POST", "/profiles", {"name": "wifi-sensor"})
    other = await refusal(site, profile["id"], device_name="other-lamp")
    elsewhere = await refusal(site, profile["id"], "KEY_EXPIRED", device_name="third-lamp")
    id_ = await refusal(site, profile["id"], device_name=MARKUP)
    page = await visitor.get(f"/attempts/{id_}")
    assert page.status == 200
    assert MARKUP not in page.html
    assert "How to mend it" in page.text
    assert f'href="/profiles/{profile["id"]}/keys"' in page.html
    assert "provserver profile key add wifi-sensor" in page.text
    assert "Who else failed the same" in page.text
    assert f"/attempts/{other}" in page.html
    assert f"/attempts/{elsewhere}" not in page.html
    assert f"/attempts/rehearse?profile={profile['id']}&amp;transport=http" in page.html
    assert (await visitor.get(f"/attempts/{uuid4()}")).status == 404


async def test_what_can_be_mended_at_the_device_leads_there(visitor: Visitor, site: Site) -> None:
    profile = await visitor.api("POST", "/profiles", {"name": "wifi-sensor"})
    device = await visitor.api("POST", "/devices", {"name": "lamp", "profile": "wifi-sensor"})
    repeated = await refusal(
        site, profile["id"], "ALREADY_PROVISIONED", outcome="failure", device_id=UUID(device["id"]), device_name="lamp"
    )
    page = await visitor.get(f"/attempts/{repeated}")
    assert f'href="/devices/{device["id"]}"' in page.html
    assert "re-arm it there" in page.text
    unknown = await refusal(site, profile["id"], "NOT_PRE_PROVISIONED", outcome="failure", device_name="new")
    assert f"/devices/new?profile={profile['id']}" in (await visitor.get(f"/attempts/{unknown}")).html
    waits = await refusal(site, profile["id"], "APPROVAL_PENDING", outcome="pending", device_name="new")
    assert 'href="/inbox/approvals"' in (await visitor.get(f"/attempts/{waits}")).html
    like_a_route = await refusal(site, profile["id"], "NOT_PRE_PROVISIONED", outcome="failure", device_name="import")
    assert (await visitor.get(f"/attempts/{like_a_route}")).status == 200
    newer = await refusal(site, profile["id"], "OF_ANOTHER_VERSION", device_name="new")
    page = await visitor.get(f"/attempts/{newer}")
    assert page.status == 200
    assert "recorded by another version" in page.text


async def test_every_reason_has_its_page(visitor: Visitor, site: Site) -> None:
    profile = await visitor.api("POST", "/profiles", {"name": "wifi-sensor"})
    looked: set[str] = set()
    for reason in Reason:
        outcome = reason.outcome.value
        id_ = await refusal(site, profile["id"], reason.name, outcome=outcome, device_name="lamp", detail=MARKUP)
        page = await visitor.get(f"/attempts/{id_}")
        assert page.status == 200, reason
        assert reason.text in page.text, reason
        assert MARKUP not in page.html
        for link in set(re.findall(r'href="(/(?:profiles|devices|inbox|attempts)[^"#]*)"', page.html)):
            path = html.unescape(link)
            if path not in looked:
                looked.add(path)
                assert (await visitor.get(path)).status == 200, path


def test_every_outcome_has_its_words() -> None:
    assert set(attempts.OUTCOMES) == set(Outcome)


async def test_a_request_is_tried_and_what_was_pasted_is_not_shown(visitor: Visitor, site: Site) -> None:
    profile = await visitor.api("POST", "/profiles", {"name": "wifi-sensor"})
    page = await visitor.get("/attempts/rehearse", profile="wifi-sensor", transport="coap")
    assert 'value="coap" selected' in page.html
    given = {"profile": profile["id"], "transport": "coap", "address": "192.0.2.9"}
    tried = await visitor.post("/attempts/rehearse", request='{"deviceName": "lamp"}', **given)
    assert tried.status == 200
    assert "would be provisioned" in tried.text
    assert "192.0.2.9" in tried.text
    secret = "pl4nted-secret-of-a-fleet"
    body = f'{{"deviceName": "lamp", "provisionDeviceKey": "{secret}", "provisionDeviceSecret": "{secret}"}}'
    tried = await visitor.post("/attempts/rehearse", request=body, **given)
    assert "would be refused" in tried.text
    for wrong in (body, body[:-1], secret, body.replace('"lamp"', "7")):
        tried = await visitor.post("/attempts/rehearse", request=wrong, **given)
        assert secret not in tried.html, wrong
    assert await site.space.value("SELECT count(*) FROM attempt") == 0
    assert await site.space.value("SELECT count(*) FROM device") == 0
    refused = await visitor.post(
        "/attempts/rehearse", request=body, profile=profile["id"], transport="http", address="x"
    )
    assert refused.status == 422
    assert "IP address" in refused.text
    assert secret not in refused.html


async def test_who_may_see_and_try(visit: Visit) -> None:
    staff, user = await visit(Role.STAFF), await visit(Role.USER)
    assert (await staff.get("/attempts")).status == 200
    assert (await staff.get("/attempts/rehearse")).status == 403
    assert "Try a request" not in (await staff.get("/attempts")).text
    for path in ("/attempts", "/attempts/rehearse", f"/attempts/{uuid4()}"):
        assert (await user.get(path)).status == 403
    nobody = await visit(None)
    assert (await nobody.get("/attempts")).location.startswith("/sign-in")


async def test_a_search_that_stopped_early_says_so(
    visitor: Visitor, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = await visitor.api("POST", "/profiles", {"name": "wifi-sensor"})
    rare = await refusal(site, profile["id"], "KEY_EXPIRED", at=time.time() - 100)
    for number in range(3):
        await refusal(site, profile["id"], at=time.time() - number)
    monkeypatch.setattr("provserver.store.events.LOOKED", 2)
    page = await visitor.get("/attempts", reason="KEY_EXPIRED")
    assert "Searched back to" in page.text
    assert rare not in page.html
    cursor = page.html.partition("cursor=")[2].partition('"')[0]
    page = await visitor.get("/attempts", reason="KEY_EXPIRED", cursor=cursor)
    assert rare in page.html
