"""Codes that are read, and what is beside them: links of strangers, and a camera that is asked for twice."""

from playwright.async_api import expect

from provserver.core import qr
from tests.browser.conftest import Seat
from tests.browser.test_story import set_up
from tests.server import Server


async def test_a_stranger_s_link_is_no_claim_code(server: Server, seat: Seat) -> None:
    somebody = await seat(f"http://{server.admin}", size="phone")
    await somebody.visit("/claim")
    picture = qr.png("https://example.com/menu#100%")
    await somebody.page.get_by_label("Use a picture").set_input_files(
        {"name": "menu.png", "mimeType": "image/png", "buffer": picture}
    )
    await somebody.sees("This QR code is not a claim code.")


async def test_the_camera_is_asked_for_once(server: Server, seat: Seat) -> None:
    somebody = await seat(f"http://{server.admin}", size="phone")
    await set_up(somebody, server)
    await somebody.page.add_init_script(
        "window.asked = 0;"
        "navigator.mediaDevices.getUserMedia = () => { window.asked += 1; return new Promise(() => {}); };"
    )
    await somebody.visit("/claim")
    button = somebody.page.locator("[data-camera]")
    await button.click()
    await button.click()
    await expect(somebody.page.locator("[data-said]")).to_have_text(
        "The browser asks whether this page may use the camera."
    )
    assert await somebody.page.evaluate("window.asked") == 1
