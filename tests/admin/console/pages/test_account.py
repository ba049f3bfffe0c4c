import re
from pathlib import Path

from provserver.core.authorization import Role
from provserver.core.passwords import MIN_LENGTH
from tests.admin.conftest import PASSWORD, Caller
from tests.admin.console.conftest import Visit, Visitor

EMAIL = "ada@example.com"
SCRIPT = "<script>alert(1)</script>"


def link(tmp_path: Path) -> str:
    return (tmp_path / "setup-link").read_text().strip().partition("#")[2]


async def test_the_first_user_is_made_and_signed_in(visit: Visit, tmp_path: Path) -> None:
    nobody = await visit(None)
    asked = await nobody.get("/")
    page = await nobody.get(asked.location)
    assert "not set up yet" in page.text
    assert link(tmp_path) not in page.html

    page = await nobody.get("/set-up")
    assert f"{MIN_LENGTH} characters or more" in page.text
    assert re.search(r'<input[^>]*name="link"[^>]*value=""[^>]*data-link', page.html)
    assert 'autocomplete="new-password"' in page.html
    token = link(tmp_path)
    refused = await nobody.post("/set-up", link=token, email=EMAIL, password="short", name="Ada")
    assert (refused.status, "too short" in refused.text) == (422, True)
    done = await nobody.post("/set-up", link=token, email=EMAIL, password=PASSWORD, name=SCRIPT)
    assert done.location == "/"
    page = await nobody.get("/account")
    assert (page.status, SCRIPT in page.text, SCRIPT in page.html) == (200, True, False)
    assert "admin" in page.text

    stranger = await visit(None)
    assert "is set up already" in (await stranger.get("/set-up")).text
    again = await stranger.post("/set-up", link=token, email="eve@example.com", password=PASSWORD)
    assert (again.status, "used, or has expired" in again.text) == (404, True)
    assert "not set up yet" not in (await stranger.get("/sign-in")).text


async def test_an_invitation_is_accepted_once(visit: Visit, visitor: Visitor) -> None:
    made = await visitor.api("POST", "/users", {"email": EMAIL, "role": "staff"})
    guest = await visit(None)
    assert "good once, for a week" in (await guest.get("/invitation")).text
    without = await guest.post("/invitation", link="", password=PASSWORD, name="")
    assert (without.status, "Open the whole link" in without.text) == (400, True)
    done = await guest.post("/invitation", link=made["link"], password=PASSWORD, name="Ada")
    assert done.location == "/"
    assert "You are signed in as ada@example.com" in (await guest.get("/invitation")).text
    page = await guest.get("/account")
    assert "Ada" in page.text
    assert "users:view" in page.text
    assert "users:manage" not in page.text
    again = await (await visit(None)).post("/invitation", link=made["link"], password=PASSWORD, name="")
    assert (again.status, "used, or has expired" in again.text) == (404, True)


async def test_another_password_is_chosen_by_a_link(visit: Visit, visitor: Visitor) -> None:
    other = await visit(Role.STAFF)
    made = await visitor.api("POST", f"/users/{other.id}/reset-password")
    guest = await visit(None)
    assert "for a day" in (await guest.get("/password-reset")).text
    done = await guest.post("/password-reset", link=made["link"], password="a wholly new password")
    assert done.location == "/"
    assert "person-" in (await guest.get("/account")).text
    assert (await other.get("/account")).status == 303
    assert (await guest.post("/password-reset", link=made["link"], password="a wholly new password")).status == 404


async def test_customers_sign_up_where_that_is_allowed(visit: Visit, visitor: Visitor) -> None:
    number = str((await visitor.api("GET", "/session"))["organization"]["number"])
    guest = await visit(None)
    assert "Number of the manufacturer" in (await guest.get("/sign-up")).text
    for odd in (number, "999", "x", "-1", SCRIPT):
        page = await guest.get("/sign-up", organization=odd)
        assert "Nobody can sign up below number" in page.text
        assert SCRIPT not in page.html
        assert "Password" not in page.text
    form = {"email": EMAIL, "password": PASSWORD, "name": "Ada"}
    assert (await guest.post("/sign-up", organization=number, **form)).status == 404

    await visitor.api("PATCH", f"/organizations/{number}", {"signUp": True})
    page = await guest.get("/sign-up", organization=number)
    assert "customer of Manufacturer" in page.text
    assert (await guest.post("/sign-up", organization=number, **form)).location == "/"
    account = await guest.get("/account")
    assert "Claim a device by its code" in account.text
    assert "See the organizations below" not in account.text
    taken = await (await visit(None)).post("/sign-up", organization=number, **form)
    assert (taken.status, "this e-mail address already" in taken.text) == (409, True)


async def test_an_account_is_changed_by_its_owner(visit: Visit, admin: Caller) -> None:
    user = await visit(Role.USER)
    assert (await user.post("/account/name", name=SCRIPT)).location == "/account"
    page = await user.get("/account")
    assert SCRIPT in page.text
    assert SCRIPT not in page.html
    assert "Your name is changed." in page.text
    assert "Your name is changed." not in (await user.get("/account")).text

    refused = await user.post("/account/email", email="new@example.com", current="a wrong password")
    assert (refused.status, "current password is wrong" in refused.text) == (422, True)
    assert (await user.post("/account/email", email="new@example.com", current=PASSWORD)).location == "/account"
    assert "From now on you sign in as new@example.com." in (await user.get("/account")).text
    assert (await admin.ok("GET", f"/users/{user.id}"))["email"] == "new@example.com"

    elsewhere = await visit(None)
    await elsewhere.sign_in("new@example.com")
    refused = await user.post("/account/password", current="a wrong password", password="a wholly new password")
    assert refused.status == 422
    assert (
        await user.post("/account/password", current=PASSWORD, password="a wholly new password")
    ).location == "/account"
    assert (await user.get("/account")).status == 200
    assert (await elsewhere.get("/account")).status == 303
    await elsewhere.sign_in("new@example.com", "a wholly new password")


async def test_the_account_is_ones_own_wherever_one_looks(visitor: Visitor) -> None:
    made = await visitor.api("POST", "/organizations", {"name": "Customer"})
    base = f"/o/{made['number']}"
    page = await visitor.get(f"{base}/account")
    assert (page.status, "person-1@example.com" in page.text) == (200, True)
    assert (await visitor.post(f"{base}/account/name", name="Grace")).location == f"{base}/account"
    assert (await visitor.api("GET", "/session"))["user"]["name"] == "Grace"
