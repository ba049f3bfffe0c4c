"""Whatever people and devices may write is shown as they wrote it, on every page, and runs nowhere."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from playwright.async_api import Browser

from tests.browser import looks
from tests.browser.conftest import Seat, chromium, seat  # noqa: F401 - fixtures
from tests.browser.person import Person
from tests.browser.places import ALL, Place
from tests.browser.seed import CUSTOMER, MAKER, World, begun

EVIL = """<script>xss()</script>"><img src=x onerror=xss()>'{{7*7}}${7*7}javascript:xss()"""
"""Opens tags, ends attributes, and would be computed by a template."""

NAMED = """" autofocus onfocus=xss() x='${7*7}javascript:xss()"""
"""The same for devices' names, in which there may be neither tags nor double braces."""

_WATCH = """
window.xss = () => { window.ran = true; };
"""

_LOOK = """
() => {
  const found = [];
  if (window.ran) found.push("a script ran");
  for (const each of document.querySelectorAll("*")) {
    for (const {name, value} of each.attributes) {
      if (name.startsWith("on")) found.push(`<${each.localName} ${name}>`);
      if (/^\\s*javascript:/i.test(value) && /^(href|src|action|formaction|data|hx-.*)$/.test(name)) {
        found.push(`<${each.localName} ${name}="${value}">`);
      }
    }
  }
  const inline = 'script:not([src]):not([type="application/json"])';
  if (document.querySelector(`img[src="x"], ${inline}`)) found.push("what was written became an element");
  const written = document.documentElement.innerHTML;
  if (written.includes("&gt;'49") || written.includes("&gt;&#39;49")) found.push("a template computed it");
  return found;
}
"""

TABS = 3
"""At once: while one waits for its page to be drawn, another looks."""

_SHOWN = "texts => texts.some(text => document.body.innerText.includes(text))"


@pytest.fixture(scope="module")
async def hostile(
    tool: Callable[..., str], postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """A world in which everybody writes EVIL wherever it is taken."""
    directory = tmp_path_factory.mktemp("hostile")
    name = f"hostile_{secrets.token_hex(4)}"  # who steals work comes to a module twice
    async with begun(postgres, tool("mosquitto", "/usr/sbin/mosquitto"), directory, name) as world:
        await _people(world)
        await _things(world)
        yield world


async def _people(world: World) -> None:
    maker = world.maker
    for number, name in enumerate(("Northwind Sensors", "Blue Farm", "City of Sunfield")):
        id_ = world.organizations[name]["id"]
        await maker.get("PATCH", f"/organizations/{id_}", {"name": f"{EVIL} {number}"})
    me = (await maker.get("GET", "/session"))["user"]["id"]
    await maker.get("PATCH", f"/users/{me}", {"name": EVIL})
    await maker.get("PATCH", f"/users/{world.ids[CUSTOMER]}", {"name": EVIL + "!"})
    world.ids["key"] = (await maker.get("POST", "/keys", {"name": EVIL, "permissions": ["devices:view"]}))["id"]


async def _things(world: World) -> None:
    maker = world.maker
    await maker.get("PATCH", f"/profiles/{world.ids['locks']}", {"name": EVIL + " lock"})
    field: dict[str, Any] = {"name": EVIL, "type": "list", "options": [EVIL, "other"], "default": EVIL}
    stream = {"name": EVIL, "pin": "V1"}
    profile = await maker.get(
        "POST",
        "/profiles",
        {"name": EVIL, "metadataFields": [{"name": "Serial"}, field], "datastreams": [stream]},
    )
    world.ids["profile"] = profile["id"]
    key = {"provisionDeviceKey": profile["provisionDeviceKey"]}
    secret = key | {"provisionDeviceSecret": profile["provisionDeviceSecret"]}
    async with aiohttp.ClientSession(f"http://{world.server.http}") as devices:

        async def ask(members: dict[str, Any]) -> Any:
            async with devices.post("/api/v1/provision", json=members) as response:
                return await response.json()

        assert (await ask(secret | {"deviceName": EVIL}))["status"] == "FAILURE"
        made = await ask(secret | {"deviceName": NAMED})
        assert made["status"] == "SUCCESS"
        world.ids["device"] = made["deviceId"]
        sent: dict[str, Any] = {EVIL: EVIL, "V1": EVIL, "nested": {EVIL: [EVIL]}}
        for kind in ("telemetry", "attributes"):
            async with devices.post(f"/api/v1/{made['credentialsValue']}/{kind}", json=sent) as response:
                assert response.status == 200
        await ask(key | {"deviceName": EVIL, "provisionDeviceSecret": EVIL})
        await ask({"deviceName": EVIL, "provisionDeviceKey": EVIL, "provisionDeviceSecret": EVIL})
        lock = {"provisionDeviceKey": world.ids["lock key"], "provisionDeviceSecret": world.ids["lock secret"]}
        await ask(lock | {"deviceName": NAMED + " waits"})
        twin = await ask(secret | {"deviceName": NAMED + " twin"})
        await maker.get("POST", f"/devices/{twin['deviceId']}/quarantine", {"reason": EVIL})
    await maker.get("PATCH", f"/devices/{world.ids['device']}", {"shared": {EVIL: EVIL}, "server": {"note": EVIL}})
    quoted = '"' + EVIL.replace('"', '""') + '"'
    named = '"' + NAMED.replace('"', '""') + ' token"'
    rows = f"Device Name,Serial,{quoted}\n{named},{quoted},{quoted}\nplain,{quoted},other\n"
    report = await maker.get("POST", "/static-tokens/import", rows, profile=world.ids["profile"])
    assert report["imported"] == 2, report
    token = (await maker.get("GET", "/static-tokens", profile=world.ids["profile"]))["items"][0]
    world.ids["token"] = token["id"]
    await maker.get("POST", "/static-tokens/units/reserve", {"profile": world.ids["profile"], "unit": EVIL})
    world.ids["wifi"] = (await maker.get("POST", "/wifi-sessions", {"name": EVIL, "client": "app"}))["id"]
    await maker.get("POST", "/webhooks", {"url": "http://127.0.0.1:9/?a=<script>xss()</script>"})
    attempts = (await maker.get("GET", "/attempts", limit="20"))["items"]
    world.ids["attempt"] = next(each["id"] for each in attempts if each["reason"] == "SECRET_WRONG")


async def _look(person: Person, path: str) -> list[str]:
    """What is wrong at a path."""
    await person.visit(path)
    await looks.settle(person.page)
    found: list[str] = await person.page.evaluate(_LOOK)
    found += person.faults
    person.faults.clear()
    return found


async def test_what_others_wrote_is_shown_and_never_run(hostile: World, chromium: Browser) -> None:  # noqa: F811
    wrong: dict[str, list[str]] = {}
    shown = set()

    async def look_at(places: Iterator[Place], who: str) -> None:
        person = await Person.sit_down(chromium, hostile.url)
        await person.context.add_init_script(_WATCH)
        await person.context.add_cookies(hostile.cookies(who))
        for place in places:
            path = place.path.format_map(hostile.ids)
            if found := await _look(person, path):
                wrong[path] = found
            if await person.page.evaluate(_SHOWN, [EVIL, NAMED]):
                shown.add(place.picture)
        await person.leave()

    for who in (MAKER, CUSTOMER):
        places = iter([each for each in ALL if each.who == who])
        await asyncio.gather(*(look_at(places, who) for _ in range(TABS)))
    assert wrong == {}
    assert shown >= {"devices", "profiles", "attempts", "audit", "organizations", "users", "keys", "wifi-sessions"}


@pytest.mark.parametrize(
    "path",
    [
        "/devices?search={}",
        "/devices?profile={}",
        "/devices?cursor={}",
        "/static-tokens?search={}",
        "/attempts?reason={}",
        "/audit?actor={}",
        "/nowhere/{}",
        "/devices/{}",
        "/sign-in?next={}&email={}",
    ],
)
async def test_what_an_address_says_is_shown_and_never_run(
    hostile: World,
    seat: Seat,  # noqa: F811
    path: str,
) -> None:
    person = await seat(hostile.url)
    await person.context.add_init_script(_WATCH)
    if not path.startswith("/sign-in"):
        await person.context.add_cookies(hostile.cookies(MAKER))
    asked = path.replace("{}", quote(EVIL, safe=""))
    person.expected.add(asked)
    assert [each for each in await _look(person, asked) if " 4" not in each] == []
