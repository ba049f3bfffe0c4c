"""The server is restarted under people's hands: they stay signed in, and what they look at goes on."""

import asyncio
import re

from playwright.async_api import Locator, expect

from tests.browser.conftest import Seat
from tests.browser.person import Person
from tests.browser.test_leaked_key import ask, makes_profile
from tests.browser.test_story import set_up
from tests.server import Server

MANY = 1_000_000
"""Tokens that are not made in the time that pages of a slow browser take: their job is to be under way."""


def _feed(person: Person) -> Locator:
    return person.page.get_by_role("log", name="Happens now")


async def test_the_live_feed_goes_on_by_itself(server: Server, seat: Seat) -> None:
    operator = await seat(f"http://{server.admin}")
    await set_up(operator, server)
    key, secret = await makes_profile(operator, "Wi-Fi sensor")
    assert await ask(server, key, secret, "before") == "SUCCESS"
    await operator.visit("/")
    await operator.sees("Listening")
    assert await ask(server, key, secret, "sensor-1") == "SUCCESS"
    await expect(_feed(operator)).to_contain_text("sensor-1")

    operator.away = True
    await asyncio.to_thread(server.stop)
    await expect(operator.page.locator(".feed-state")).not_to_contain_text("Listening")
    await asyncio.to_thread(server.start)
    await expect(operator.page.locator(".feed-state")).to_contain_text("Listening")
    operator.away = False
    assert await ask(server, key, secret, "sensor-2") == "SUCCESS"
    await expect(_feed(operator)).to_contain_text("sensor-2")
    await expect(_feed(operator)).to_contain_text("sensor-1")  # nobody has loaded the page again


async def test_a_form_is_kept_and_sent_again(server: Server, seat: Seat) -> None:
    """What was typed is there still when the server comes back, and the session as well."""
    operator = await seat(f"http://{server.admin}")
    await set_up(operator, server)
    await operator.visit("/organizations/new")
    await operator.fill("Name", "Blue Farm")
    operator.away = True
    await asyncio.to_thread(server.kill)
    await operator.press("Create")
    await operator.sees("The server cannot be reached. What you typed is still here")
    await expect(operator.field("Name").first).to_have_value("Blue Farm")
    await asyncio.to_thread(server.start)
    operator.away = False
    await operator.press("Create")
    await operator.sees_heading("Blue Farm")


async def test_a_long_job_is_watched_over_a_restart(server: Server, seat: Seat) -> None:
    """The page of a job shows how far it is, survives a reload and a restart, and says what came of it."""
    operator = await seat(f"http://{server.admin}")
    await set_up(operator, server)
    await makes_profile(operator, "Temperature node")
    await operator.visit("/static-tokens/new")
    await operator.choose("Device profile", "Temperature node")
    await operator.page.get_by_role("spinbutton").fill(str(MANY))
    await operator.page.get_by_role("main").get_by_role("button").last.click()
    await operator.is_at(re.compile("/static-tokens/jobs/"))
    job = operator.page.url
    progress = operator.page.get_by_role("progressbar")
    await expect(progress).to_be_visible()
    await operator.page.reload()
    await expect(progress.or_(operator.page.get_by_role("link", name="Export them"))).to_be_visible()

    # Such a job is of the process that was asked: it ends with it, and nothing of it is left. The page says so.
    operator.away = True
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    await operator.sees_heading("No token was made")
    operator.away = False
    await operator.follow("Generate tokens")
    await operator.choose("Device profile", "Temperature node")
    await operator.page.get_by_role("spinbutton").fill("1500")
    await operator.page.get_by_role("main").get_by_role("button").last.click()
    await operator.sees_heading("1,500 tokens are made for Temperature node")
    await operator.page.goto(job)
    await operator.sees_heading("No token was made")
