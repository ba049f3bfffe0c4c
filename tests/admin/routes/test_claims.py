from uuid import UUID

import pytest

from provserver.core.authorization import Role
from tests.admin.conftest import Caller, Site


@pytest.fixture
async def profile(admin: Caller) -> str:
    made = await admin.ok("POST", "/profiles", {"name": "node"})
    return str(made["id"])


async def test_a_customer_claims_by_the_code_and_nobody_else_after(site: Site, admin: Caller, profile: str) -> None:
    (token,) = (await admin.ok("POST", "/static-tokens", {"profile": profile}))["items"]
    path = f"/static-tokens/{token['id']}"
    qr = (await admin.ok("GET", path, open=True))["qrPayload"]
    customers = []
    for name in ("A", "B"):
        made = await admin.ok("POST", "/organizations", {"name": f"Customer {name}"})
        customers.append(await site.caller(Role.ADMIN, UUID(made["id"])))
    a, b = customers

    claimed = await a.ok("POST", "/static-tokens/claim", {"qr": qr.replace("+", " ")})
    assert (claimed["device"]["holder"], claimed["device"]["maker"]) == ("Customer A", None)
    refused = await b("POST", "/static-tokens/claim", {"qr": qr})
    unknown = await b("POST", "/static-tokens/claim", {"qr": "sqr_" + "x" * 32})
    assert (refused.status, refused.json) == (404, unknown.json)
    assert (await a("GET", path)).code == "not_found"
    assert (await a("GET", f"/devices/{token['id']}", credentials=True)).code == "forbidden"

    assert (await admin("DELETE", path)).code == "conflict"
    assert (await admin.ok("POST", f"{path}/disclaim"))["status"] == "UNCLAIMED"
    assert (await a("GET", f"/devices/{token['id']}")).code == "not_found"
    await b.ok("POST", "/static-tokens/claim", {"qr": qr})
    assert (await b("POST", f"/static-tokens/{token['id']}/unclaim")).status == 204
    await a.ok("POST", "/static-tokens/claim", {"qr": qr})
    assert (await admin.ok("DELETE", path, confirm=True))["id"] == token["id"]
    assert (await a("GET", f"/devices/{token['id']}")).code == "not_found"


async def test_a_claim_waits_for_its_device_where_the_profile_wants_it(admin: Caller, profile: str) -> None:
    await admin.ok("PATCH", f"/profiles/{profile}", {"twoSidedClaim": True})
    (token,) = (await admin.ok("POST", "/static-tokens", {"profile": profile}))["items"]
    qr = (await admin.ok("GET", f"/static-tokens/{token['id']}", open=True))["qrPayload"]
    answer = await admin("POST", "/static-tokens/claim", {"qr": qr})
    assert (answer.status, answer.json["device"]) == (202, None)
    assert answer.json["expiresAt"] is not None


async def test_what_comes_of_a_claim_is_told_to_who_claims(site: Site, admin: Caller, profile: str) -> None:
    await admin.ok("PATCH", f"/profiles/{profile}", {"twoSidedClaim": True})
    (token,) = (await admin.ok("POST", "/static-tokens", {"profile": profile}))["items"]
    opened = await admin.ok("GET", f"/static-tokens/{token['id']}", open=True)
    made = await admin.ok("POST", "/organizations", {"name": "Customer"})
    customer = await site.caller(Role.ADMIN, UUID(made["id"]))
    path = f"/static-tokens/claims/{token['id']}"
    over = {"state": "over", "expiresAt": None, "device": None}
    assert await customer.ok("GET", path) == over

    begun = await customer.ok("POST", "/static-tokens/claim", {"qr": opened["qrPayload"]})
    waiting = {"state": "waiting", "expiresAt": begun["expiresAt"], "device": None}
    assert await customer.ok("GET", path) == waiting
    assert await admin.ok("GET", path) == over  # it is not his
    await site.space.rows("UPDATE pending_claim SET expires_at = now()")
    assert await customer.ok("GET", path) == over

    await site.space.rows("DELETE FROM pending_claim")
    await site.space.rows("UPDATE device_profile SET two_sided_claim = false")
    await customer.ok("POST", "/static-tokens/claim", {"qr": opened["qrPayload"]})
    outcome = await customer.ok("GET", path)
    assert (outcome["state"], outcome["device"]["holder"]) == ("claimed", "Customer")
    assert (await admin.ok("GET", f"/static-tokens/{token['id']}"))["holder"] == "Customer"
