"""The header X-Organization: it takes away, and gives nothing; whoever sends it stays who he is."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from provserver.admin import openapi
from provserver.admin.messages import Request
from provserver.admin.route import PREFIX, Access, Route
from provserver.admin.routes import ROUTES
from provserver.core.authorization import Role
from provserver.core.limits import Buckets
from provserver.services.claiming import ClaimLimits
from tests.admin.conftest import PASSWORD, Answer, Caller, Site
from tests.admin.routes.test_activity import event
from tests.admin.test_isolation import ENDLESS, TABLE, Victim, World, key, may, state
from tests.conftest import Space

GARBAGE = [
    "",
    " ",
    "0",
    "-1",
    "1.0",
    "01",
    "1e3",
    "\u0661",
    "none",
    "*",
    "1,2",
    "1 2",
    "9" * 10,
    "{}",
    "../1",
    "a" * 300,
]


@pytest.fixture
async def world(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("provserver.services.webhooks.MAX_WEBHOOKS", 1000)
    async with Site.open(space, tmp_path) as site:
        world = World(site)
        await world.grow()
        yield world


async def ask(world: World, caller: str, route: Route, victim: Victim, organization: str) -> Answer:
    """A request of the table, within an organization."""
    wanted = TABLE[key(route)](victim)
    path = route.path.removeprefix(PREFIX)
    for name, value in wanted.path.items():
        path = path.replace("{" + name + "}", value)
    header = {"X-Organization": organization}
    return await world.callers[caller](route.method, path, wanted.body, headers=header, **wanted.query)


async def number(world: World, name: str) -> str:
    return str(
        await world.site.space.value("SELECT number FROM organization WHERE id = $1", UUID(world.organizations[name]))
    )


async def signed_in(site: Site, role: Role = Role.ADMIN) -> tuple[str, dict[str, str]]:
    """A person of the manufacturer: id, and the headers of a session."""
    email = f"{uuid4()}@example.com"
    user, link = await site.api.services.users.invite(site.operator, email, role)
    await site.api.services.users.accept_invitation(link, PASSWORD, "Ada")
    answer = await site.nobody("POST", "/session", {"email": email, "password": PASSWORD})
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    return str(user.id), {"Cookie": cookie, "X-CSRF-Token": answer.json["csrfToken"]}


@pytest.mark.parametrize("where", ["manufacturer", "b", "foreign", "nothing"])
async def test_what_is_not_ones_own_nor_below_is_not_there(world: World, where: str) -> None:
    """Above, beside, elsewhere, nowhere: whatever is asked, with a permission or without."""
    victim = await world.victim("a")
    before = await state(world)
    names = (
        [str(uuid4()), "999999999"] if where == "nothing" else [world.organizations[where], await number(world, where)]
    )
    for route, role, name in itertools.product(ROUTES, Role, names):
        if route.access is Access.PUBLIC:
            continue
        answer = await ask(world, f"a {role}", route, victim, name)
        wanted = (404, "not_found") if may(route, role) else (403, "forbidden")
        assert (answer.status, answer.code) == wanted, (key(route), role, name)
        assert world.organizations.get(where, "-") not in answer.body.decode() or name in answer.body.decode()
    assert await state(world) == before


async def test_garbage_is_refused(world: World) -> None:
    victim = await world.victim("a")
    before = await state(world)
    for route in ROUTES:
        if route.access is Access.PUBLIC or not may(route, Role.ADMIN):
            continue
        answer = await ask(world, "a admin", route, victim, "none")
        assert (answer.status, answer.code) == (400, "malformed"), key(route)
    assert await state(world) == before
    for text in GARBAGE:
        answer = await world.callers["a admin"]("GET", "/devices", headers={"X-Organization": text})
        assert (answer.status, answer.code) == (400, "malformed"), text
        assert answer.json["errors"][0]["field"] == "X-Organization"
    answer = await world.callers["nobody"]("GET", "/devices", headers={"X-Organization": "none"})
    assert answer.code == "unauthenticated"


@pytest.mark.parametrize("owner", ["manufacturer", "b", "foreign"])
async def test_nothing_outside_of_what_was_chosen_is_seen_or_changed(world: World, owner: str) -> None:
    """Who is above both cannot tell what is outside from what is not there."""
    victim, ghost = await world.victim(owner), Victim()
    before = await state(world)
    for route, role in itertools.product(ROUTES, Role):
        wanted = TABLE[key(route)](victim)
        if wanted.own or route.access is Access.PUBLIC or not may(route, role):
            continue
        if key(route) == "POST /static-tokens/claim" and owner == "manufacturer":
            continue  # which is what customers are for
        answer = await ask(world, f"manufacturer {role}", route, victim, world.organizations["a"])
        of_nothing = await ask(world, f"manufacturer {role}", route, ghost, world.organizations["a"])
        told = (role, key(route), answer.status, answer.body)
        assert answer.status == of_nothing.status, (told, of_nothing.body)
        if answer.status >= 400:
            assert answer.status in (403, 404), told
            assert answer.code == of_nothing.code, told
        given = repr(wanted)
        assert not [mark for mark in victim.marks if mark not in given and mark.encode() in answer.body], told
    assert await state(world) == before


async def test_what_was_chosen_is_seen_as_from_there(world: World) -> None:
    """Looks from above are answered as to who is there."""
    victim = await world.victim("a")
    for route in ROUTES:
        if route.method != "GET" or route.access is Access.PUBLIC or key(route) in ENDLESS:
            continue
        if TABLE[key(route)](victim).own or key(route) in ("GET /jobs", "GET /audit", "GET /audit/export"):
            continue  # which grow by looking, or say when
        own = await world.ask("a admin", route, victim)
        for name in (world.organizations["a"], await number(world, "a")):
            answer = await ask(world, "manufacturer admin", route, victim, name)
            assert answer.status == own.status, (key(route), answer.body)
            if answer.headers["Content-Type"] not in ("application/zip", "application/pdf"):
                assert answer.body == own.body, key(route)


async def test_ones_own_organization_may_be_chosen(world: World) -> None:
    for name in (world.organizations["a"], world.organizations["a"].upper(), await number(world, "a")):
        caller = world.callers["a admin"]
        made = await caller.ok("POST", "/profiles", {"name": f"of {name}"}, headers={"X-Organization": name})
        assert made["organizationId"] == world.organizations["a"]


async def test_what_is_made_is_made_there_and_the_audit_says_by_whom(world: World) -> None:
    site, a = world.site, world.organizations["a"]
    user, headers = await signed_in(site)
    within = headers | {"X-Organization": await number(world, "a")}
    await site.nobody.ok("POST", "/profiles", {"name": "there"}, headers=within)
    device = await site.nobody.ok("POST", "/devices", {"name": "one", "profile": "there"}, headers=within)
    assert device["holderId"] == a
    for action in ("profile.created", "device.created"):
        (row,) = await site.space.rows("SELECT organization_id, actor FROM audit WHERE action = $1", action)
        assert (str(row[0]), row[1]) == (a, f"user:{user}")
    without = await site.nobody("GET", "/profiles/there", headers=headers)
    assert without.code == "not_found"
    seen = await world.callers["a admin"].ok("GET", "/audit")
    assert "device.created" in {each["action"] for each in seen["items"]}


async def test_a_session_stays_whose_it_is(world: World) -> None:
    site = world.site
    user, headers = await signed_in(site)
    within = headers | {"X-Organization": await number(world, "a")}
    session = await site.nobody.ok("GET", "/session", headers=within)
    assert (session["user"]["id"], session["actor"]) == (user, f"user:{user}")
    assert session["organizationId"] == session["organization"]["id"] == world.organizations["manufacturer"]
    assert session["chosen"]["id"] == world.organizations["a"]
    assert (await site.nobody.ok("GET", "/session", headers=headers))["chosen"] is None

    renamed = await site.nobody.ok("PATCH", f"/users/{user}", {"name": "Grace"}, headers=within)
    assert renamed["name"] == "Grace"
    assert (await site.nobody.ok("GET", f"/users/{user}", headers=within))["name"] == "Grace"
    change = {"current": PASSWORD, "password": PASSWORD + "!"}
    assert (await site.nobody("POST", "/password", change, headers=within)).status == 204
    without_token = {"Cookie": within["Cookie"], "X-Organization": within["X-Organization"]}
    assert (await site.nobody("POST", "/profiles", {"name": "x"}, headers=without_token)).code == "csrf_token_wrong"
    assert (await site.nobody("DELETE", "/session", headers=within)).status == 204


async def test_who_sees_no_others_sees_himself_alone(world: World) -> None:
    """A person without users:view, and another one of his own organization, from below."""
    site = world.site
    user, headers = await signed_in(site, Role.USER)
    other, _ = await signed_in(site)
    within = headers | {"X-Organization": await number(world, "a")}
    assert (await site.nobody.ok("GET", "/session", headers=within))["chosen"] is None
    assert (await site.nobody("GET", f"/users/{user}", headers=within)).status == 200
    assert (await site.nobody("GET", f"/users/{other}", headers=within)).code == "forbidden"
    admin = (await signed_in(site))[1]
    assert (await site.nobody("GET", f"/users/{other}", headers=admin)).status == 200
    below = admin | {"X-Organization": await number(world, "a")}
    assert (await site.nobody("GET", f"/users/{other}", headers=below)).code == "not_found"


async def test_what_is_claimed_elsewhere_has_no_owner(world: World) -> None:
    """A person owns devices in his own organization; for another one he claims, and does not own."""
    site, maker = world.site, world.callers["manufacturer admin"]
    user, headers = await signed_in(site)
    within = headers | {"X-Organization": await number(world, "a")}
    await maker.ok("POST", "/profiles", {"name": "tags"})
    tokens = (await maker.ok("POST", "/static-tokens", {"profile": "tags", "count": 2}))["items"]
    codes = [(await maker.ok("GET", f"/static-tokens/{each['id']}", open=True))["qrPayload"] for each in tokens]
    refused = await site.nobody("POST", "/static-tokens/claim", {"qr": codes[0], "user": user}, headers=within)
    assert refused.code == "not_found"
    claimed = await site.nobody.ok("POST", "/static-tokens/claim", {"qr": codes[0]}, headers=within)
    assert (claimed["device"]["holderId"], claimed["device"]["ownerId"]) == (world.organizations["a"], None)
    own = await site.nobody.ok("POST", "/static-tokens/claim", {"qr": codes[1]}, headers=headers)
    assert (own["device"]["holderId"], own["device"]["ownerId"]) == (world.organizations["manufacturer"], user)

    begun = await site.nobody.ok("POST", "/wifi-sessions", {"name": "lamp"}, headers=within)
    (row,) = await site.space.rows(
        "SELECT organization_id, owner_id, requester FROM wifi_session WHERE id = $1", UUID(begun["id"])
    )
    assert (str(row[0]), row[1], row[2]) == (world.organizations["a"], None, f"user:{user}")


async def test_limits_are_not_multiplied(world: World) -> None:
    site = world.site
    _, headers = await signed_in(site)
    site.api.services.claiming._limits = ClaimLimits(Buckets(2, 1e-9), Buckets(100, 1), Buckets(100, 1))
    site.api.services.wifi_sessions._limits = ClaimLimits(Buckets(2, 1e-9), Buckets(100, 1), Buckets(100, 1))
    for path, body, refusal in (
        ("/static-tokens/claim", {"qr": "sqr_unknown"}, "not_found"),
        ("/wifi-sessions", {}, None),
    ):
        codes = []
        for name in ("manufacturer", "a", "b", "below-a"):
            header = headers | {"X-Organization": await number(world, name)}
            answer = await site.nobody("POST", path, body, headers=header)
            codes.append(answer.code if answer.status >= 400 else None)
        assert codes == [refusal, refusal, "too_many_requests", "too_many_requests"], path


async def test_an_idempotency_key_is_good_in_one_organization(world: World) -> None:
    caller = world.callers["manufacturer admin"]
    once = {"Idempotency-Key": str(uuid4())}
    there = once | {"X-Organization": world.organizations["a"]}
    body = {"name": "once", "permissions": ["devices:view"]}
    first = await caller("POST", "/keys", body, headers=there)
    assert (first.status, first.json["organizationId"]) == (201, world.organizations["a"])
    before = await world.site.space.value("SELECT count(*) FROM api_key")
    again = await caller("POST", "/keys", body, headers=once | {"X-Organization": await number(world, "a")})
    assert (again.json, again.headers["Idempotent-Replayed"]) == (first.json, "true")
    for other in (once, once | {"X-Organization": world.organizations["b"]}):
        refused = await caller("POST", "/keys", body, headers=other)
        assert (refused.status, refused.code) == (422, "idempotency_key_reused")
        assert first.json["secret"].encode() not in refused.body
    assert await world.site.space.value("SELECT count(*) FROM api_key") == before
    # One's own, named or not, is the same.
    own = {"Idempotency-Key": str(uuid4())}
    made = await caller("POST", "/keys", {**body, "name": "own"}, headers=own)
    named = await caller(
        "POST", "/keys", {**body, "name": "own"}, headers=own | {"X-Organization": world.organizations["manufacturer"]}
    )
    assert (named.json, named.headers["Idempotent-Replayed"]) == (made.json, "true")


async def test_a_feed_hears_what_is_there(world: World) -> None:
    site, maker = world.site, world.callers["manufacturer admin"]
    headers = {"Authorization": f"Bearer {maker.key}", "X-Organization": await number(world, "a")}
    timeout = aiohttp.ClientTimeout(total=60)
    async with site.session.get(f"{site.url}/api/admin/events", headers=headers, timeout=timeout) as feed:
        await maker.ok("POST", "/profiles", {"name": "above"})
        await world.callers["b admin"].ok("POST", "/profiles", {"name": "beside"})
        await world.callers["below-a admin"].ok("POST", "/profiles", {"name": "below"})
        told: dict[str, Any] = {}
        while told.get("action") != "profile.created":
            told = (await event(feed))["data"]
        assert told["detail"]["name"] == "below"


async def test_an_organization_that_goes_is_not_there_any_more(world: World) -> None:
    caller = world.callers["manufacturer admin"]
    gone = await caller.ok("POST", "/organizations", {"name": "short-lived"})
    header = {"X-Organization": str(gone["number"])}
    assert (await caller("GET", "/devices", headers=header)).status == 200
    assert (await caller("DELETE", f"/organizations/{gone['id']}", headers=header)).code == "conflict"  # as its own
    await caller.ok("DELETE", f"/organizations/{gone['id']}")
    assert (await caller("GET", "/devices", headers=header)).code == "not_found"


async def test_it_is_described() -> None:
    document = openapi.document(ROUTES)
    for route in ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        headers = {each["name"] for each in operation.get("parameters", []) if each["in"] == "header"}
        assert ("X-Organization" in headers) == (route.access is not Access.PUBLIC), key(route)


async def test_who_has_the_database_may_choose_as_well(site: Site) -> None:
    """A command's request, in this process."""
    made = await site.api.services.organizations.create(site.operator, "below")
    request = Request(
        "GET", f"{PREFIX}/organizations", headers={"x-organization": str(made.number)}, principal=site.operator
    )
    response = await site.api.call(request)
    assert isinstance(response.body, bytes)
    assert str(made.id).encode() in response.body
    assert str(site.space.organization_id).encode() not in response.body


async def test_a_caller_is_a_caller(admin: Caller) -> None:
    """Without the header nothing is different."""
    session = await admin.ok("GET", "/session")
    assert (session["chosen"], session["organizationId"]) == (None, session["organization"]["id"])
