import re
from uuid import UUID

from provserver.core.authorization import Role
from tests.admin.conftest import PASSWORD
from tests.admin.console.conftest import Shown, Visit, Visitor

SCRIPT = "<script>alert(1)</script>"
EMAIL = "ada@example.com"


def link(page: Shown) -> str:
    """The link on a page that shows one, once."""
    found = re.search(r"<code>(http://[^<]+#[A-Za-z0-9_-]+)</code>", page.html)
    assert found
    return found[1]


async def test_a_user_is_invited_by_a_link_that_is_shown_once(visit: Visit, visitor: Visitor) -> None:
    assert "admin" in (await visitor.get("/users/new")).text.lower()
    page = await visitor.post("/users", email=EMAIL, name=SCRIPT, role="staff", organization="")
    assert "it is not shown again" in page.text
    assert SCRIPT not in page.html
    address, _, token = link(page).partition("#")
    assert address == f"{visitor.url}/invitation"
    user = await visitor.api("GET", f"/users/{EMAIL}")
    shown = await visitor.get(f"/users/{user['id']}")
    assert "has not accepted yet" in shown.text
    assert token not in shown.html
    assert (SCRIPT in shown.text, SCRIPT in shown.html) == (True, False)

    again = await visitor.post(f"/users/{user['id']}/link")
    assert link(again).startswith(f"{visitor.url}/invitation#")
    guest = await visit(None)
    assert (await guest.post("/invitation", link=token, password=PASSWORD, name="")).status == 404
    assert (await guest.post("/invitation", link=link(again).partition("#")[2], password=PASSWORD, name="")).location
    assert "active" in (await visitor.get(f"/users/{user['id']}")).text

    reset = await visitor.post(f"/users/{user['id']}/link")
    assert link(reset).startswith(f"{visitor.url}/password-reset#")
    token = link(reset).partition("#")[2]
    assert (await guest.post("/password-reset", link=token, password="a wholly new password")).location == "/"


async def test_a_form_that_is_sent_twice_invites_once(visitor: Visitor) -> None:
    form = {"email": EMAIL, "name": "", "role": "user", "organization": "", "_once": "A" * 22}
    first, second = await visitor.post("/users", **form), await visitor.post("/users", **form)
    assert link(first) == link(second)
    refused = await visitor.post("/users", **form | {"_once": "B" * 22})
    assert (refused.status, "e-mail address already" in refused.text) == (409, True)


async def test_users_are_found_changed_and_removed(visit: Visit, visitor: Visitor) -> None:
    other = await visit(Role.STAFF)
    below = await visitor.api("POST", "/organizations", {"name": "Customer"})
    await visitor.api("POST", "/users", {"email": "c@customer.example", "role": "user", "organization": below["id"]})
    page = await visitor.get("/users")
    assert "c@customer.example" in page.text
    assert "Customer" in page.text
    assert "you" in page.text.split()
    page = await visitor.get("/users", search="CUSTOMER.example")
    assert ("c@customer.example" in page.text, "person-2@" in page.text) == (True, False)
    page = await visitor.get("/users", organization=str(below["number"]))
    assert "Users of Customer" in page.text
    assert "person-" not in page.text.partition("Invited")[2]
    assert "Nobody has “none such”" in (await visitor.get("/users", search="none such")).text

    page = await visitor.get(f"/users/{other.id}")
    revision = page.html.split('name="revision" value="')[1].split('"')[0]
    form = {"name": "Grace", "email": "grace@example.com", "role": "user", "revision": revision}
    assert (await visitor.post(f"/users/{other.id}", **form)).location == f"/users/{other.id}"
    changed = await visitor.api("GET", f"/users/{other.id}")
    assert (changed["name"], changed["email"], changed["role"]) == ("Grace", "grace@example.com", "user")
    assert (await visitor.post(f"/users/{other.id}", **form)).status == 412
    assert (await other.get("/users")).status == 403  # the role holds from now on
    assert (await visitor.post(f"/users/{other.id}/delete")).location == "/users"
    assert (await other.get("/account")).status == 303
    assert (await visitor.get(f"/users/{other.id}")).status == 404
    assert "Remove the user" not in (await visitor.get(f"/users/{visitor.id}")).text


async def test_others_users_are_not_there(visit: Visit, visitor: Visitor) -> None:
    a, b = [await visitor.api("POST", "/organizations", {"name": name}) for name in ("A", "B")]
    other, victim = [await visit(Role.ADMIN, organization=UUID(each["id"])) for each in (a, b)]
    assert (await other.get(f"/users/{victim.id}")).status == 404
    for path in ("", "/link", "/delete"):
        assert (await other.post(f"/users/{victim.id}{path}", name="x", revision="")).status == 404
    assert (await other.get("/users", organization=str(b["number"]))).status == 404
    assert "person-3@" not in (await other.get("/users", search="person-3")).text
    invited = await other.post("/users", email=EMAIL, role="user", organization=b["id"], name="")
    assert invited.status == 404
    assert (await visitor.api("GET", f"/users/{victim.id}"))["name"] == "Person 3"


async def test_who_may_not_manage_sees_and_no_more(visit: Visit, visitor: Visitor) -> None:
    staff, user = await visit(Role.STAFF), await visit(Role.USER)
    page = await staff.get(f"/users/{visitor.id}")
    assert (page.status, "<form" in page.html.partition("<main")[2]) == (200, False)
    for path in ("/users", f"/users/{visitor.id}", f"/users/{visitor.id}/link", f"/users/{visitor.id}/delete"):
        assert (await staff.post(path, email="x@example.com", role="admin", name="")).status == 403
    assert (await staff.get("/users/new")).status == 403
    assert (await user.get("/users")).status == 403
    roles = await user.get("/users/roles")
    assert "A customer: claims devices" in roles.text
