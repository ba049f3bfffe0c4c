"""Firmware with its provision key is on the internet: the operator finds it, understands it, and changes the key."""

import asyncio
import re
from typing import Any

import aiohttp
from playwright.async_api import expect

from tests.browser.conftest import Seat
from tests.browser.person import Person
from tests.browser.test_story import set_up
from tests.server import Server


async def makes_profile(operator: Person, name: str) -> tuple[str, str]:
    """A profile with a key; its key and its secret, which are shown this once."""
    await operator.visit("/profiles/new")
    await operator.field("Name").first.fill(name)
    await operator.press("Create the profile")
    await operator.sees_heading(f"{name} is created")
    return await _pair(operator)


async def _pair(operator: Person) -> tuple[str, str]:
    key = await operator.page.locator(".card .copy code").first.inner_text()
    secret = await operator.page.get_by_role("group", name="Provision secret").locator("code").inner_text()
    return key, secret


async def ask(server: Server, key: str, secret: str, name: str) -> Any:
    """What a device is told that wants to be provisioned."""
    request = {"deviceName": name, "provisionDeviceKey": key, "provisionDeviceSecret": secret}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{server.http}/api/v1/provision", json=request) as response,
    ):
        return (await response.json())["status"]


async def test_a_leaked_key_is_found_explained_and_changed(server: Server, seat: Seat) -> None:
    operator = await seat(f"http://{server.admin}")
    await operator.holds_the_clock()
    await set_up(operator, server)
    key, secret = await makes_profile(operator, "Wi-Fi sensor")
    for number in range(3):
        assert await ask(server, key, secret, f"sensor-{number}") == "SUCCESS"

    # Somebody has the key: names are tried that are taken, secrets are guessed, and devices come that nobody made.
    for number in range(3):
        assert await ask(server, key, secret, f"sensor-{number}") == "FAILURE"
    for guess in ("12345678", "password", "sensor"):
        assert await ask(server, key, guess, "sensor-9") == "NOT_FOUND"
    assert await ask(server, key, secret, "bought-on-the-market") == "SUCCESS"

    # The overview says that requests are refused and why; one click leads to them, another explains one.
    await operator.visit("/")
    reasons = operator.page.get_by_role("region", name="Why requests were not granted")
    while not await reasons.get_by_text(re.compile("provision secret is wrong", re.IGNORECASE)).count():
        async with operator.page.expect_response(lambda response: "/overview/figures" in response.url):
            await operator.later(15)  # when it asks again
    await expect(reasons).to_contain_text("provision secret is wrong", ignore_case=True)
    await reasons.get_by_role("link", name=re.compile("provisioned already")).click()
    await operator.sees_heading("Attempts")
    rows = operator.page.get_by_role("row").filter(has_text="sensor-")
    await expect(rows).to_have_count(3)
    await rows.filter(has_text="sensor-1").get_by_role("link", name="sensor-1").click()
    await operator.sees_heading("Attempt of sensor-1")
    await operator.sees_heading("How to mend it")
    await expect(operator.page.get_by_label("What happened")).to_contain_text("provisioned already")

    # The key is replaced: the new one is good at once, and the old one still is.
    await operator.page.get_by_role("main").get_by_role("link", name="Wi-Fi sensor").first.click()
    await operator.sees_heading("Wi-Fi sensor")
    await operator.follow("Provision keys")
    await operator.press("Replace")
    await operator.press("Add the new key")
    await operator.sees_heading("The new key is added")
    new_key, new_secret = await _pair(operator)
    assert new_key != key
    assert await ask(server, new_key, new_secret, "sensor-10") == "SUCCESS"
    assert await ask(server, key, secret, "sensor-11") == "SUCCESS"

    # Once the last unit with the old firmware is out, the old key goes, by a question that names it.
    await operator.follow("To the keys of Wi-Fi sensor")
    card = operator.page.get_by_role("region", name=key)
    await expect(card).to_contain_text("1 device while counted")
    await expect(operator.page.get_by_role("region", name=new_key)).to_contain_text("1 device while counted")
    await card.get_by_role("button", name="Remove").click()
    dialog = operator.page.get_by_role("dialog")
    await expect(dialog).to_contain_text(key)
    await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await dialog.get_by_role("button", name="Remove the key").click()
    await expect(operator.page.get_by_role("region", name=key)).to_have_count(0)
    assert await ask(server, key, secret, "bought-later") == "NOT_FOUND"
    assert await ask(server, new_key, new_secret, "sensor-12") == "SUCCESS"

    # What the thief made is found by its name, and gone.
    await operator.visit("/devices")
    await operator.fill("Search", "bought")
    await expect(operator.page.get_by_role("row").filter(has_text="bought-on-the-market")).to_be_visible()
    await expect(operator.page.get_by_role("row").filter(has_text="sensor-1")).to_have_count(0)
    await operator.follow("bought-on-the-market")
    await operator.sees_heading("bought-on-the-market")

    # No page shows a secret again, and it is in no log.
    for path in ("/profiles", "/attempts", "/audit", "/"):
        await operator.visit(path)
        content = await operator.page.content()
        assert secret not in content
        assert new_secret not in content
    log = await asyncio.to_thread(lambda: server.log)
    assert secret not in log
    assert new_secret not in log
