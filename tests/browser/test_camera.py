"""A customer holds a label into the camera: Chromium is given one that films a QR code."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.async_api import Browser, async_playwright

from tests.browser.person import Person
from tests.browser.photo import taken
from tests.browser.seed import CUSTOMER, World

SIZE = (640, 480)


def film(photo: bytes, path: Path) -> None:
    """A Y4M of one picture, for `--use-file-for-fake-video-capture`."""
    import io

    with Image.open(io.BytesIO(photo)) as image:
        light, blue, red = image.convert("YCbCr").resize(SIZE, Image.Resampling.LANCZOS).split()
    half = (SIZE[0] // 2, SIZE[1] // 2)
    frame = light.tobytes() + blue.resize(half).tobytes() + red.resize(half).tobytes()
    head = f"YUV4MPEG2 W{SIZE[0]} H{SIZE[1]} F10:1 Ip A1:1 C420jpeg\n".encode()
    path.write_bytes(head + (b"FRAME\n" + frame) * 5)


@pytest.fixture
async def label(world: World) -> tuple[str, bytes]:
    """A token that nobody has claimed: its name, and its code as PNG."""
    found = await world.maker.get("GET", "/static-tokens", limit="60")
    token = next(each for each in reversed(found["items"]) if each["status"] == "UNCLAIMED" and each["name"])
    return token["name"], await world.maker.get("GET", f"/static-tokens/{token['id']}/qr.png")


@pytest.fixture
async def filming(tool: Callable[..., str], label: tuple[str, bytes], tmp_path: Path) -> AsyncIterator[Browser]:
    """Chromium with a camera that has the label before it."""
    film(taken(label[1], turned=6), tmp_path / "label.y4m")
    options = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={tmp_path / 'label.y4m'}",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=tool("chromium"), args=options)
        yield browser
        await browser.close()


async def test_a_label_before_the_camera_is_claimed(world: World, label: tuple[str, bytes], filming: Browser) -> None:
    customer = await Person.sit_down(filming, world.url, size="phone")
    await customer.context.add_cookies(world.cookies(CUSTOMER))
    await customer.context.grant_permissions(["camera"])
    await customer.visit("/claim")
    await customer.press("Scan with the camera")
    await customer.sees_heading(f"{label[0]} is yours")
    assert customer.faults == []
    await customer.leave()
