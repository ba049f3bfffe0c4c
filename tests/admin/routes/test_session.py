from uuid import UUID

from provserver.core.authorization import Role
from tests.admin.conftest import PASSWORD, Caller, Site

EMAIL = "ada@example.com"


async def invited(admin: Caller, role: str = "staff") -> dict[str, str]:
    user: dict[str, str] = await admin.ok("POST", "/users", {"email": EMAIL, "role": role, "name": "Ada"})
    return user


async def sign_in(site: Site, password: str = PASSWORD) -> tuple[str, dict[str, str]]:
    answer = await site.nobody("POST", "/session", {"email": EMAIL, "password": password})
    assert answer.status == 201, answer.body
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    return answer.json["actor"], {"Cookie": cookie, "X-CSRF-Token": answer.json["csrfToken"]}


async def test_who_is_invited_comes_to_a_session(site: Site, admin: Caller) -> None:
    user = await invited(admin)
    again = await admin.ok("POST", f"/users/{EMAIL}/invite")
    refused = await site.nobody("POST", "/invitations/accept", {"link": user["link"], "password": PASSWORD})
    assert refused.code == "not_found"
    accepted = await site.nobody.ok("POST", "/invitations/accept", {"link": again["link"], "password": PASSWORD})
    assert accepted["accepted"]

    actor, headers = await sign_in(site)
    assert actor == f"user:{user['id']}"
    session = await site.nobody.ok("GET", "/session", headers=headers)
    assert session["user"]["email"] == EMAIL
    assert session["organization"]["name"] == "Manufacturer"
    assert "devices:view" in session["permissions"]
    assert "users:manage" not in session["permissions"]
    assert session["csrfToken"] == headers["X-CSRF-Token"]


async def test_a_program_knows_who_it_is(admin: Caller) -> None:
    session = await admin.ok("GET", "/session")
    assert (session["user"], session["csrfToken"]) == (None, None)
    assert session["actor"].startswith("key:")
    assert (await admin("DELETE", "/session")).status == 204


async def test_passwords_are_changed_and_reset(site: Site, admin: Caller) -> None:
    user = await invited(admin)
    await site.nobody.ok("POST", "/invitations/accept", {"link": user["link"], "password": PASSWORD})
    _, headers = await sign_in(site)
    _, other = await sign_in(site)
    change = {"current": PASSWORD, "password": "another good password"}
    assert (await site.nobody("POST", "/password", change, headers)).status == 204
    assert (await site.nobody("GET", "/session", headers=headers)).status == 200
    assert (await site.nobody("GET", "/session", headers=other)).code == "unauthenticated"
    assert (await site.nobody("POST", "/session", {"email": EMAIL, "password": PASSWORD})).code == "unauthenticated"

    link = (await admin.ok("POST", f"/users/{user['id']}/reset-password"))["link"]
    await site.nobody.ok("POST", "/password/reset", {"link": link, "password": "a third good password"})
    await sign_in(site, "a third good password")
    assert (await admin("POST", "/password", change)).code == "conflict"


async def test_whoever_likes_signs_up_where_that_is_allowed(site: Site, admin: Caller) -> None:
    number = (await admin.ok("GET", "/organizations/Manufacturer"))["number"]
    body = {"organizationNumber": number, "email": EMAIL, "password": PASSWORD}
    assert (await site.nobody("POST", "/sign-up", body)).code == "not_found"
    await admin.ok("PATCH", "/organizations/Manufacturer", {"signUp": True})
    user = await site.nobody.ok("POST", "/sign-up", body)
    assert user["role"] == "user"
    _, headers = await sign_in(site)
    assert (await site.nobody.ok("GET", "/session", headers=headers))["organization"] is None


async def test_users_are_listed_changed_and_deleted(site: Site, admin: Caller) -> None:
    user = await invited(admin)
    assert "link" not in (await admin.ok("GET", f"/users/{user['id']}"))
    listed = await admin.ok("GET", "/users", organization="Manufacturer")
    assert [each["email"] for each in listed["items"]] == [EMAIL]
    changed = await admin("PATCH", f"/users/{EMAIL}", {"role": "user"}, {"If-Match": '"1"'})
    assert (changed.json["role"], changed.headers["ETag"]) == ("user", '"2"')
    assert (await admin("DELETE", f"/users/{EMAIL}", None, {"If-Match": '"1"'})).code == "stale"
    assert (await admin.ok("DELETE", f"/users/{EMAIL}"))["id"] == user["id"]
    assert (await admin("GET", f"/users/{EMAIL}")).code == "not_found"
    assert (
        await site.nobody("POST", "/invitations/accept", {"link": user["link"], "password": PASSWORD})
    ).status == 404


async def test_keys_are_shown_once(admin: Caller) -> None:
    made = await admin.ok(
        "POST", "/keys", {"name": "factory", "permissions": ["tokens:manage"], "expiresAt": "2099-01-01T00:00:00Z"}
    )
    assert made["secret"].startswith(made["hint"])
    shown = await admin.ok("GET", "/keys/factory")
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    assert shown in (await admin.ok("GET", "/keys"))["items"]
    assert (await admin.ok("DELETE", f"/keys/{made['id']}"))["name"] == "factory"
    assert (await admin("GET", "/keys/factory")).code == "not_found"


async def test_whether_the_server_is_set_up_is_told_to_whoever_asks(site: Site, admin: Caller) -> None:
    assert await site.nobody.ok("GET", "/setup") == {"needed": True}
    await invited(admin)
    assert await site.nobody.ok("GET", "/setup") == {"needed": False}


async def test_whoever_likes_hears_where_he_may_sign_up(site: Site, admin: Caller) -> None:
    number = (await admin.ok("GET", "/organizations/Manufacturer"))["number"]
    assert (await site.nobody("GET", "/sign-up", organizationNumber=number)).code == "not_found"
    await admin.ok("PATCH", "/organizations/Manufacturer", {"signUp": True})
    told = await site.nobody.ok("GET", "/sign-up", organizationNumber=number)
    assert told == {"organizationNumber": number, "name": "Manufacturer"}
    for odd in ("0", "-1", "2147483648", "x", ""):
        assert (await site.nobody("GET", "/sign-up", organizationNumber=odd)).code == "malformed"
    assert (await site.nobody("GET", "/sign-up")).code == "malformed"


async def test_a_user_has_another_address_by_the_password(site: Site, admin: Caller) -> None:
    user = await invited(admin)
    await site.nobody.ok("POST", "/invitations/accept", {"link": user["link"], "password": PASSWORD})
    _, headers = await sign_in(site)
    change = {"current": "a wrong password", "email": "New@Example.com"}
    assert (await site.nobody("POST", "/email", change, headers)).code == "invalid"
    changed = await site.nobody.ok("POST", "/email", change | {"current": PASSWORD}, headers=headers)
    assert (changed["email"], changed["id"]) == ("new@example.com", user["id"])
    assert (await site.nobody("GET", "/session", headers=headers)).status == 200
    assert (await site.nobody("POST", "/session", {"email": EMAIL, "password": PASSWORD})).code == "unauthenticated"
    assert (await site.nobody("POST", "/session", {"email": "new@example.com", "password": PASSWORD})).status == 201
    assert (await admin("POST", "/email", change)).code == "conflict"


async def test_the_session_says_whether_there_are_organizations_below(site: Site, admin: Caller) -> None:
    assert not (await admin.ok("GET", "/session"))["organizationsBelow"]
    below = await admin.ok("POST", "/organizations", {"name": "Customer"})
    assert (await admin.ok("GET", "/session"))["organizationsBelow"]
    customer = await site.caller(organization=UUID(below["id"]))
    assert not (await customer.ok("GET", "/session"))["organizationsBelow"]
    user = await site.caller(Role.USER)
    session = await user.ok("GET", "/session")
    assert (session["organization"], session["organizationsBelow"]) == (None, False)


async def test_users_and_keys_are_searched(admin: Caller) -> None:
    await invited(admin)
    await admin.ok("POST", "/users", {"email": "grace@navy.example", "role": "user", "name": "Grace 100%_Hopper"})
    for search, found in (
        ("ADA@", [EMAIL]),
        ("navy", ["grace@navy.example"]),
        ("hopper", ["grace@navy.example"]),
        ("0%_h", ["grace@navy.example"]),
        ("%", ["grace@navy.example"]),
        ("nobody", []),
    ):
        listed = await admin.ok("GET", "/users", search=search)
        assert [each["email"] for each in listed["items"]] == found, search
    made = await admin.ok("POST", "/keys", {"name": "Line 2", "permissions": ["devices:view"]})
    assert [each["id"] for each in (await admin.ok("GET", "/keys", search="line"))["items"]] == [made["id"]]
    assert [each["id"] for each in (await admin.ok("GET", "/keys", search=made["hint"]))["items"]] == [made["id"]]
    assert (await admin.ok("GET", "/keys", search="line 3"))["items"] == []
