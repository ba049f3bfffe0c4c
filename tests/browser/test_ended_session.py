"""What a page says when its session has ended, its filter cannot be read, or the server is away while it asks again."""

import asyncio
import re

from playwright.async_api import expect

from tests.browser.conftest import Seat
from tests.browser.test_story import MAKER, set_up
from tests.server import Server
from tests.test_story import PASSWORD

PERIOD = 5
"""Seconds after which the list of attempts asks again."""


async def test_a_page_that_asks_again_says_what_is_wrong(server: Server, seat: Seat) -> None:
    operator = await seat(f"http://{server.admin}")
    await operator.holds_the_clock()
    await set_up(operator, server)
    problem = operator.page.locator("#problem")
    await operator.visit("/attempts?live=1")
    await operator.tick("Only refused")
    await expect(operator.page).to_have_url(re.compile("refused=true"))

    operator.page.remove_listener("response", operator._answered)  # refusals are what is to come

    # A filter that cannot be read is told, and no longer once it can.
    await operator.page.locator("summary", has_text="By address and time").click()
    await operator.fill("Address", "nowhere")
    await operator.field("Address").first.press("Tab")
    await expect(problem).to_contain_text("address", ignore_case=True)
    await operator.fill("Address", "192.0.2.7")
    await operator.field("Address").first.press("Tab")
    await expect(problem).to_be_empty()

    # While the server is away the page says so; it goes on by itself.
    operator.away = True
    await asyncio.to_thread(server.stop)
    await operator.later(PERIOD)
    await expect(problem).to_contain_text("cannot be reached")
    await asyncio.to_thread(server.start)
    await operator.later(PERIOD)
    await expect(problem).to_be_empty()
    operator.away = False

    # A session that ended is told with a way to sign in, and the page asks no more.
    await operator.context.clear_cookies()
    await operator.later(PERIOD)
    await expect(problem.get_by_role("link", name="Sign in in a new tab")).to_be_visible()
    await expect(operator.page.locator("#results")).not_to_have_attribute("hx-get", re.compile("."))


async def test_what_was_typed_outlives_a_session(server: Server, seat: Seat) -> None:
    operator = await seat(f"http://{server.admin}")
    await set_up(operator, server)
    await operator.visit("/organizations/new")
    await operator.fill("Name", "Blue Farm")
    await operator.context.clear_cookies()
    await operator.press("Create")
    form = operator.page.locator("form#create")
    async with operator.context.expect_page() as opened:
        await form.get_by_role("link", name="Sign in in a new tab").click()
    other = await opened.value
    await other.get_by_label("E-mail").fill(MAKER)
    await other.get_by_label("Password", exact=True).fill(PASSWORD)
    await other.get_by_role("button", name="Sign in").click()
    await expect(other.get_by_role("heading", name="Overview")).to_be_visible()
    await other.close()

    await operator.press("Create")
    await expect(form).to_contain_text("press the button once more")
    await expect(operator.field("Name").first).to_have_value("Blue Farm")
    await operator.press("Create")
    await operator.sees_heading("Blue Farm")
