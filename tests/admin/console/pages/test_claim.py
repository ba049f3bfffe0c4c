from typing import Any

import pytest

from provserver.core.authorization import Role
from tests.admin.conftest import Site
from tests.admin.console.conftest import Visit, Visitor


@pytest.fixture
async def customer(site: Site, visit: Visit) -> Visitor:
    made = await site.api.services.organizations.create(site.operator, "Customer")
    return await visit(Role.USER, made.id)


async def token(visitor: Visitor, **profile: Any) -> Any:
    """A static token of a new profile, with its secrets."""
    made = await visitor.api("POST", "/profiles", {"name": "lamp", **profile})
    (token,) = (await visitor.api("POST", "/static-tokens", {"profile": made["id"]}))["items"]
    return await visitor.api("GET", f"/static-tokens/{token['id']}", open="true")


async def test_anybody_may_scan_and_signs_in_then(visit: Visit) -> None:
    nobody = await visit(None)
    page = await nobody.get("/claim")
    assert page.status == 200
    assert 'data-signed-in="no"' in page.html
    assert 'href="/sign-in?next=/claim"' in page.html
    assert "camera=(self)" in page.headers["Permissions-Policy"]
    assert (await nobody.post("/claim", code="sqr_" + "x" * 32)).status == 401


async def test_a_customer_claims_and_hears_what_to_do_next(site: Site, visitor: Visitor, customer: Visitor) -> None:
    made = await token(visitor)
    assert 'data-signed-in="yes"' in (await customer.get("/claim")).html
    page = await customer.post("/claim", code=f" {made['qrPayload']} ")
    assert "lamp 1 is yours" in page.text
    assert "Turn the device on" in page.text
    path = f"/claim/device/{made['id']}"
    assert path in page.html
    waits = await customer.get(path, part=True)
    assert (waits.status, waits.html) == (204, "")
    await site.space.rows(
        "INSERT INTO presence (device_id, online_until, last_seen_at)"
        " VALUES ($1::uuid, now() + interval '1 hour', now())",
        made["id"],
    )
    online = await customer.get(path, part=True)
    assert "It is connected and works" in online.text
    assert "hx-trigger" not in online.html
    assert made["authToken"] not in page.html + online.html


async def test_a_code_without_the_number_and_one_of_a_form_are_as_good(visitor: Visitor, customer: Visitor) -> None:
    made = await token(visitor)
    page = await customer.post("/claim", code=made["qrPayload"].replace("+", " "))
    assert "is yours" in page.text


async def test_a_code_is_typed_in_groups(visitor: Visitor, customer: Visitor) -> None:
    payload = (await token(visitor))["qrPayload"]
    groups = " ".join(payload[at : at + 8] for at in range(0, len(payload), 8))
    assert "is yours" in (await customer.post("/claim", code=groups)).text
    second = (await visitor.api("POST", "/static-tokens", {"profile": "lamp"}))["items"][0]
    opened = await visitor.api("GET", f"/static-tokens/{second['id']}", open="true")
    code, _, number = opened["qrPayload"].partition("+")
    assert "is yours" in (await customer.post("/claim", code=f"{code[:20]} {code[20:]} {number}")).text


async def test_what_came_of_a_claim_is_there_after_a_reload(visitor: Visitor, customer: Visitor) -> None:
    made = await token(visitor, twoSidedClaim=True)
    page = await customer.post("/claim", code=made["qrPayload"])
    assert page.headers["HX-Replace-Url"] == f"/claim/outcome/{made['id']}"
    assert "Press the button" in (await customer.get(page.headers["HX-Replace-Url"])).text
    plain = await visitor.api("POST", "/profiles", {"name": "plain"})
    (other,) = (await visitor.api("POST", "/static-tokens", {"profile": plain["id"]}))["items"]
    opened = await visitor.api("GET", f"/static-tokens/{other['id']}", open="true")
    page = await customer.post("/claim", code=opened["qrPayload"])
    assert page.headers["HX-Replace-Url"] == f"/claim/device/{other['id']}"
    assert "is yours" in (await customer.get(page.headers["HX-Replace-Url"])).text


async def test_codes_that_cannot_be_claimed_get_one_answer(visitor: Visitor, customer: Visitor) -> None:
    made = await token(visitor)
    unknown = await customer.post("/claim", code="sqr_" + "x" * 32)
    assert unknown.status == 200  # the browser shows it as what came of it
    assert "This code cannot be claimed" in unknown.text
    assert "Otherwise ask whoever sold it to you" in unknown.text
    await visitor.post("/claim", code=made["qrPayload"])
    claimed = await customer.post("/claim", code=made["qrPayload"])
    assert claimed.text == unknown.text
    await visitor.post(f"/static-tokens/{made['id']}/delete", confirm="DELETE")
    assert (await customer.post("/claim", code=made["qrPayload"])).text == unknown.text
    assert (await customer.post("/claim", code="<script>alert(1)</script>")).text == unknown.text


async def test_whoever_tries_too_often_hears_when_to_try_again(customer: Visitor) -> None:
    page = await customer.post("/claim", code="sqr_" + "x" * 32)
    while "This code cannot be claimed" in page.text:
        page = await customer.post("/claim", code="sqr_" + "x" * 32)
    assert "Too many tries" in page.text
    assert "Try again in" in page.text


async def test_a_claim_waits_for_the_button(site: Site, visitor: Visitor, customer: Visitor) -> None:
    made = await token(visitor, twoSidedClaim=True)
    page = await customer.post("/claim", code=made["qrPayload"])
    assert "Press the button on the device" in page.text
    path = f"/claim/outcome/{made['id']}"
    assert path in page.html
    assert (await customer.get(path, part=True)).status == 204
    assert "Press the button" in (await customer.get(path)).text  # loaded again
    assert "<html" in (await customer.get(path)).html
    other = await visitor.post("/claim", code=made["qrPayload"])
    assert "Somebody else claims this device just now" in other.text
    assert "The claim is over" in (await customer.get(path, part=True)).text
    await site.space.rows("DELETE FROM pending_claim")
    await customer.post("/claim", code=made["qrPayload"])
    await site.space.rows("UPDATE device_profile SET two_sided_claim = false")
    await site.space.rows("DELETE FROM pending_claim")
    await customer.post("/claim", code=made["qrPayload"])
    assert "lamp 1 is yours" in (await customer.get(path, part=True)).text


async def test_a_device_is_claimed_by_its_name_and_secret(visitor: Visitor, customer: Visitor) -> None:
    profile = await visitor.api("POST", "/profiles", {"name": "lamp"})
    device = await visitor.api("POST", "/devices", {"name": "lamp-1", "profile": profile["id"]})
    wrong = await customer.post("/claim/by-secret", device="lamp-1", secret="guess")
    assert "This device cannot be claimed" in wrong.text
    data = '{"secretKey": "said", "expirationTime": 32503680000000}'
    await visitor.api("PATCH", f"/devices/{device['id']}", {"server": {"claimingData": data}})
    page = await customer.post("/claim/by-secret", device="lamp-1", secret="said")
    assert "lamp-1 is yours" in page.text


async def test_somebody_else_s_claim_is_not_to_be_looked_at(visit: Visit, visitor: Visitor, customer: Visitor) -> None:
    made = await token(visitor)
    await customer.post("/claim", code=made["qrPayload"])
    stranger = await visit(Role.USER)
    page = await stranger.get(f"/claim/outcome/{made['id']}")
    assert page.status == 200
    assert (await customer.get(f"/claim/outcome/{made['id']}")).status == 200
