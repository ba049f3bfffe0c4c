"""The console against other sites and other customers: framed, forged, sent elsewhere, asked for what is not theirs."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, expect

from provserver.admin.console.pages import PAGES
from tests.browser.conftest import Seat, chromium, seat  # noqa: F401 - fixtures
from tests.browser.person import PATIENCE
from tests.browser.places import ALL, NOBODY
from tests.browser.seed import CUSTOMER, MAKER, RIVAL, World, begun
from tests.test_story import PASSWORD


@pytest.fixture(scope="module")
async def world(
    tool: Callable[..., str], postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """A world of these tests' own, as some of them try to change it."""
    directory = tmp_path_factory.mktemp("attacked")
    name = f"attacked_{secrets.token_hex(4)}"  # who steals work comes to a module twice
    async with begun(postgres, tool("mosquitto", "/usr/sbin/mosquitto"), directory, name) as made:
        yield made


@asynccontextmanager
async def site(pages: Mapping[str, str]) -> AsyncIterator[str]:
    """Somebody else's site; its URL. pages: HTML by path."""

    async def show(request: web.Request) -> web.Response:
        return web.Response(text=pages[request.path], content_type="text/html")

    application = web.Application()
    application.router.add_get("/{path:.*}", show)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def signed_in(world: World, chromium: Browser) -> BrowserContext:  # noqa: F811
    """A browser that the maker's session is in."""
    context = await chromium.new_context()
    context.set_default_timeout(PATIENCE)
    await context.add_cookies(world.cookies(MAKER))
    return context


async def test_no_other_site_frames_a_page(world: World, chromium: Browser) -> None:  # noqa: F811
    """Of the same host even, to which the browser sends the session."""
    framing = "".join(f'<iframe src="{world.url}{path}" width=900 height=600></iframe>' for path in ("/", "/sign-in"))
    async with site({"/": framing}) as elsewhere:
        context = await signed_in(world, chromium)
        page = await context.new_page()
        refused: list[str] = []
        heard = asyncio.Event()

        def hear(message: ConsoleMessage) -> None:
            if "frame-ancestors" in message.text:
                refused.append(message.text)
            if len(refused) == 2:
                heard.set()

        page.on("console", hear)
        await page.goto(elsewhere)
        for frame in page.frames[1:]:
            await expect(frame.locator("#main")).to_have_count(0)
            assert "provserver" not in await frame.content()
        async with asyncio.timeout(PATIENCE / 1000):  # the browser tells of it when it comes to that
            await heard.wait()
        assert len(refused) == 2
        await context.close()


@pytest.mark.parametrize("path", ["/users/{user}/delete", "/organizations", "/sign-out"])
async def test_no_other_site_sends_a_form(world: World, chromium: Browser, path: str) -> None:  # noqa: F811
    target = world.url + path.format_map(world.ids)
    form = f'<form method=post action="{target}"><input name=name value=Forged><button>Win a prize</button></form>'
    async with site({"/": form}) as elsewhere:
        context = await signed_in(world, chromium)
        page = await context.new_page()
        await page.goto(elsewhere)
        async with page.expect_response(target) as coming:
            await page.get_by_role("button").click()
        assert (await coming.value).status in (401, 403)
        await page.goto(world.url + "/account")
        await expect(page.get_by_role("heading", level=1)).to_be_visible()
        await context.close()
    assert (await world.maker.get("GET", f"/users/{world.ids['user']}"))["email"]
    names = [each["name"] for each in (await world.maker.get("GET", "/organizations"))["items"]]
    assert "Forged" not in names


async def _csrf(session: aiohttp.ClientSession, url: str) -> dict[str, str]:
    async with session.get(f"{url}/api/admin/session") as response:
        return {"X-CSRF-Token": (await response.json())["csrfToken"]}


async def test_a_form_without_its_token_is_refused(world: World) -> None:
    """Of every page that changes something, and with the token of somebody else, too."""
    others = await _csrf(world.members[CUSTOMER].session, world.url)
    for page in PAGES:
        if page.method == "GET" or page.access == "public":
            continue
        path = re.sub(r"\{[a-z_]+\}", world.ids["device"], page.path)
        for headers in ({}, others, {"X-CSRF-Token": "x"}):
            async with world.maker.session.request(page.method, world.url + path, headers=headers) as response:
                assert response.status == 403, (page.path, headers)


async def test_nobody_asks_for_what_is_others(world: World) -> None:
    """Each page of a thing, asked for by another customer's admin, by its path and through an organization's."""
    session = world.members[RIVAL].session
    others = [MAKER, "Blue Farm", "Northwind's"]
    places = [place for place in ALL if place.who != NOBODY and "{" in place.path.partition("?")[0]]
    assert places
    for place in places:
        path = place.path.format_map(world.ids)
        for base in ("", "/o/1", f"/o/{world.organizations['Blue Farm']['number']}"):
            async with session.get(world.url + base + path, allow_redirects=False) as response:
                text = await response.text()
                assert response.status in (403, 404), (base, place.path, response.status)
                assert not [each for each in others if each in text], (base, place.path)


async def test_no_list_tells_of_others(world: World) -> None:
    """Pages without a thing in their path: what they show to another customer's admin is his own."""
    session = world.members[RIVAL].session
    names = [MAKER, CUSTOMER, "Blue Farm", "sensor-boiler", "production line 1", "WiFi sensor", "Door lock"]
    ids = [id_ for name, id_ in world.ids.items() if name not in (RIVAL, "rival's")]
    for place in ALL:
        if place.who == NOBODY or "{" in place.path.partition("?")[0]:
            continue
        path = place.path.format_map(world.ids)
        given = [id_ for id_ in world.ids.values() if id_ in path]
        async with session.get(world.url + path) as response:
            text = await response.text()
            assert response.status in (200, 403, 404), (path, response.status)
            assert not [each for each in (*names, *ids) if each in text and each not in given], path
        for number in ("1", str(world.organizations["Blue Farm"]["number"])):
            async with session.get(f"{world.url}/o/{number}{path}") as response:
                assert response.status in (403, 404), (number, path)


async def test_nobody_changes_what_is_others(world: World) -> None:
    """Each page that changes a thing, with all that another customer's admin has: it stays as it was."""
    session = world.members[RIVAL].session
    headers = await _csrf(session, world.url)
    before = await _things(world)
    for page in PAGES:
        if page.method == "GET" or page.access == "public" or "{" not in page.path:
            continue
        path = page.path
        for parameter in re.findall(r"\{([a-z_]+)\}", page.path):
            path = path.replace("{" + parameter + "}", _id(world, page.path, parameter))
        for form in ({}, {"name": "taken", "confirm": "yes"}):
            async with session.request(page.method, world.url + path, data=form, headers=headers) as response:
                assert response.status in (400, 403, 404, 409, 415, 422), (page.path, response.status)
    assert await _things(world) == before


def _id(world: World, path: str, parameter: str) -> str:
    """Of a thing that is the maker's, of the kind that a page is about."""
    first = path.split("/")[1]
    kinds = {
        "devices": "device",
        "static-tokens": "token",
        "profiles": "profile",
        "webhooks": "webhook",
        "integrations": "integration",
        "jobs": "job",
        "attempts": "attempt",
        "users": "user",
        "organizations": "organization",
        "keys": "key",
        "wifi-sessions": "wifi",
        "inbox": "approval",
        "particle": "product",
    }
    if parameter in world.ids:
        return world.ids[parameter]
    return world.ids[kinds[first]]


async def _things(world: World) -> dict[str, Any]:
    """What the maker has, as the API tells it."""
    maker = world.maker
    shown = {}
    for noun in ("users", "organizations", "keys", "profiles", "webhooks", "integrations", "approvals"):
        shown[noun] = (await maker.get("GET", f"/{noun}"))["items"]
    for noun in ("profile", "user", "organization"):
        shown[noun] = await maker.get("GET", f"/{noun}s/{world.ids[noun]}")
    shown["device"] = await maker.get("GET", f"/devices/{world.ids['device']}")
    shown["token"] = await maker.get("GET", f"/static-tokens/{world.ids['token']}")
    for each in shown["keys"]:
        each.pop("lastUsedAt", None)
    return shown


async def test_a_session_is_never_one_that_was_there_before(world: World, seat: Seat) -> None:  # noqa: F811
    """Somebody has put a session of his into the victim's browser: signing in makes another."""
    planted = world.cookies(RIVAL)
    person = await seat(world.url)
    await person.context.add_cookies(planted)
    await person.visit("/account")
    await person.page.get_by_role("banner").get_by_role("button", name="Sign out").click()
    await person.is_at("/sign-in")
    await person.context.add_cookies([{"name": planted[0]["name"], "value": "A" * 43, "url": world.url}])
    await person.signs_in(CUSTOMER)
    values = {each["value"] for each in await person.context.cookies() if each["name"] == planted[0]["name"]}
    assert len(values) == 1
    assert not values & {planted[0]["value"], "A" * 43}
    (cookie,) = (each for each in await person.context.cookies() if each["name"] == planted[0]["name"])
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"


@pytest.mark.parametrize(
    "after",
    ["https://evil.example/", "//evil.example/", "/\\evil.example", "\t//evil.example", "javascript:xss()", "@evil"],
)
async def test_signing_in_leads_nowhere_else(world: World, seat: Seat, after: str) -> None:  # noqa: F811
    person = await seat(world.url)
    await person.page.goto(f"{world.url}/sign-in?next={quote(after)}")
    await person.fill("E-mail", CUSTOMER)
    await person.fill("Password", PASSWORD)
    await person.press("Sign in")
    await expect(person.page.locator("body")).not_to_contain_text("Password")
    assert urlsplit(person.page.url).netloc == world.server.admin
