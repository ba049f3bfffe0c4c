import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from provserver.core.authorization import Role
from tests.admin.conftest import Caller, Site
from tests.admin.console.conftest import Visit, Visitor

SCRIPT = "<script>alert(1)</script>"


async def test_a_key_is_made_and_shown_once(site: Site, visitor: Visitor) -> None:
    assert "There is no API key yet" in (await visitor.get("/keys")).text
    page = await visitor.get("/keys/new")
    assert page.html.count('name="permissions"') == 14
    made = await visitor.post(
        "/keys", [("permissions", "devices:view"), ("permissions", "tokens:manage")], name=SCRIPT, days="90"
    )
    assert "it is not shown again" in made.text
    assert SCRIPT not in made.html
    found = re.search(r"psk_[A-Za-z0-9]{40}", made.html)
    assert found
    assert f"curl -H 'Authorization: Bearer {found[0]}' {site.url}/api/admin/session" in made.text
    session = await Caller(site.session, site.url, found[0]).ok("GET", "/session")
    assert session["permissions"] == ["devices:view", "tokens:manage"]

    listed = await visitor.get("/keys")
    assert (SCRIPT in listed.text, SCRIPT in listed.html) == (True, False)
    assert found[0] not in listed.html
    assert found[0][:8] in listed.text
    key = (await visitor.api("GET", "/keys"))["items"][0]
    away = datetime.fromisoformat(key["expiresAt"]) - datetime.now(UTC)
    assert timedelta(days=89) < away <= timedelta(days=90)
    shown = await visitor.get(f"/keys/{key['id']}")
    assert found[0] not in shown.html
    assert "Person 1" in shown.text
    assert "It was last used" in shown.text
    assert SCRIPT not in shown.html

    assert (await visitor.post(f"/keys/{key['id']}/delete")).location == "/keys"
    assert (await Caller(site.session, site.url, found[0])("GET", "/session")).code == "unauthenticated"
    assert (await visitor.get(f"/keys/{key['id']}")).status == 404


async def test_a_key_may_last_for_ever_and_needs_something_to_do(visitor: Visitor) -> None:
    refused = await visitor.post("/keys", name="nothing", days="")
    assert (refused.status, "permissions" in refused.text) == (400, True)
    odd = await visitor.post("/keys", [("permissions", "everything")], name="odd", days="")
    assert odd.status == 400
    await visitor.post("/keys", [("permissions", "devices:view")], name="line", days="")
    key = await visitor.api("GET", "/keys/line")
    assert key["expiresAt"] is None
    assert "It was never used." in (await visitor.get(f"/keys/{key['id']}")).text
    assert "No API key has “none such”" in (await visitor.get("/keys", search="none such")).text
    assert "line" in (await visitor.get("/keys", search="LIN")).text


async def test_a_key_is_of_the_organization_that_is_looked_at(visitor: Visitor) -> None:
    below = await visitor.api("POST", "/organizations", {"name": "Customer"})
    base = f"/o/{below['number']}"
    assert "It acts in Customer and below" in (await visitor.get(f"{base}/keys/new")).text
    await visitor.post(f"{base}/keys", [("permissions", "devices:view")], name="line", days="30")
    assert (await visitor.api("GET", "/keys/line"))["organizationId"] == below["id"]


async def test_keys_are_for_who_may_manage_them(visit: Visit, visitor: Visitor) -> None:
    a, b = [await visitor.api("POST", "/organizations", {"name": name}) for name in ("A", "B")]
    other, victim = [await visit(Role.ADMIN, organization=UUID(each["id"])) for each in (a, b)]
    key = await victim.api("POST", "/keys", {"name": "line", "permissions": ["devices:view"]})
    assert (await other.get(f"/keys/{key['id']}")).status == 404
    assert (await other.post(f"/keys/{key['id']}/delete")).status == 404
    assert "line" not in (await other.get("/keys")).text.partition("Begins with")[2]
    assert (await victim.api("GET", "/keys/line"))["id"] == key["id"]
    staff = await visit(Role.STAFF)
    for path in ("/keys", "/keys/new", f"/keys/{key['id']}"):
        assert (await staff.get(path)).status == 403
    assert (await staff.post("/keys", [("permissions", "devices:view")], name="mine", days="")).status == 403


async def test_who_made_a_key_is_said_as_far_as_it_is_known(site: Site, visit: Visit, visitor: Visitor) -> None:
    other = await visit(Role.ADMIN)
    key = await other.api("POST", "/keys", {"name": "line", "permissions": ["devices:view", "keys:manage"]})
    by_key = await Caller(site.session, site.url, key["secret"]).ok(
        "POST", "/keys", {"name": "second", "permissions": ["devices:view"]}
    )
    assert "the API key line" in (await visitor.get(f"/keys/{by_key['id']}")).text
    await visitor.api("DELETE", f"/users/{other.id}")
    assert "somebody who is not there any more" in (await visitor.get(f"/keys/{key['id']}")).text
    await visitor.api("DELETE", f"/keys/{key['id']}")
    assert "an API key that is not there any more" in (await visitor.get(f"/keys/{by_key['id']}")).text
    mine, _ = await site.api.services.api_keys.create(site.operator, "operator's", [*site.operator.permissions][:1])
    assert "the command line" in (await visitor.get(f"/keys/{mine.id}")).text
