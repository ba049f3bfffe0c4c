"""A file becomes tokens: dropped, mended and chosen again, or under way; and a download that is cancelled."""

import asyncio
import json

import pytest
from playwright.async_api import Route, expect

from tests.browser.conftest import Seat
from tests.browser.person import Person
from tests.browser.test_story import set_up
from tests.server import Server

FILE = b"Device Name\nNode 1\nNode 2\n"


@pytest.fixture
async def maker(server: Server, seat: Seat) -> Person:
    """The manufacturer, with a profile."""
    person = await seat(f"http://{server.admin}")
    await set_up(person, server)
    headers = json.loads(await person.page.locator("body").get_attribute("hx-headers") or "{}")
    made = await person.context.request.post(
        "/api/admin/profiles", data={"name": "node", "keyless": True}, headers=headers
    )
    assert made.ok, await made.text()
    return person


async def test_a_dropped_file_is_named_and_may_be_chosen_again(maker: Person) -> None:
    await maker.visit("/static-tokens/import")
    field = maker.page.get_by_label("CSV file")
    await maker.drops(maker.page.locator("[data-drop]"), "nodes.csv", FILE)
    await maker.sees("2 rows are right.")
    assert await field.evaluate("field => field.files[0].name") == "nodes.csv"
    async with maker.page.expect_file_chooser():
        await field.click()
    assert await field.evaluate("field => field.files.length") == 0  # the same file is a change again
    await field.dispatch_event("cancel")
    assert await field.evaluate("field => field.files[0].name") == "nodes.csv"


async def test_nothing_begins_another_import_while_one_is_under_way(maker: Person) -> None:
    let_go = asyncio.Event()

    async def hold(route: Route) -> None:
        await let_go.wait()
        await route.continue_()

    await maker.page.route("**/static-tokens/import?*", hold)
    await maker.visit("/static-tokens/import")
    drop = maker.page.locator("[data-drop]")
    await maker.drops(drop, "nodes.csv", FILE)
    await maker.sees("2 rows are right.")
    await maker.press("Make 2 tokens")
    await expect(maker.field("Device profile").first).to_be_disabled()
    await expect(maker.page.locator("select[data-column]")).to_be_disabled()
    await maker.drops(drop, "others.csv", b"Device Name\nOther\n")
    let_go.set()
    await maker.sees("2 tokens were made from the file.")


async def test_a_download_is_cancelled(maker: Person) -> None:
    headers = json.loads(await maker.page.locator("body").get_attribute("hx-headers") or "{}")
    made = await maker.context.request.post(
        "/api/admin/static-tokens", data={"profile": "node", "count": 2}, headers=headers
    )
    assert made.ok, await made.text()
    let_go = asyncio.Event()

    async def hold(route: Route) -> None:
        await let_go.wait()
        await route.abort()

    await maker.page.route("**/static-tokens/export.zip*", hold)
    await maker.visit("/static-tokens/export")
    maker.away = True  # the browser tells that a request was given up
    await maker.press("Download the zip")
    await maker.press("Cancel")
    await maker.sees("Cancelled: nothing was saved.")
    await expect(maker.button("Download the zip")).to_be_focused()
    let_go.set()
    await maker.page.unroute_all(behavior="wait")
    maker.away = False
