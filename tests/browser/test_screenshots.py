"""Every page, light and dark, at a desk and on a phone: it fits, is for everybody (axe-core), and has its picture."""

import asyncio
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.browser import axe, looks
from tests.browser.conftest import Gallery
from tests.browser.person import SCHEMES
from tests.browser.places import ALL, PLACES, Place, shown
from tests.browser.seed import World

TALLEST = {"desktop": 1600, "phone": 1688}
"""Pixels of a page that the docs show."""

RULES: dict[str, tuple[str, ...]] = {"light": (), "dark": ("color-contrast", "link-in-text-block")}
"""Of axe-core: all, and those for which colours count."""

GAP = 16
LARGEST = 60_000
"""Bytes of a picture in the docs."""


def test_every_page_has_its_place() -> None:
    assert set(PLACES) == set(shown())


@pytest.mark.parametrize("place", ALL, ids=lambda place: place.picture)
async def test_a_page_looks_as_it_should(place: Place, world: World, gallery: Gallery, tmp_path: Path) -> None:
    """Where something is wrong, there are pictures of it in the test's directory."""
    directory = os.environ.get("PROVSERVER_TEST_SCREENSHOTS")
    wrong: dict[str, list[Any]] = {}
    pictures: dict[tuple[str, str], bytes] = {}

    async def look(size: str) -> None:
        person = await gallery(place.who, size)
        await person.visit(place.path.format_map(world.ids))
        for scheme in SCHEMES:
            await person.wears(scheme)
            await looks.settle(person.page)
            problems = await axe.problems(person, *RULES[scheme])
            found = [*person.faults, *await looks.faults(person.page), *problems]
            person.faults.clear()
            if found or directory:
                pictures[size, scheme] = picture = await person.page.screenshot(full_page=True)
                (tmp_path / f"{place.picture}-{size}-{scheme}.png").write_bytes(picture)
            if found:
                wrong[f"{size} {scheme}"] = found

    await asyncio.gather(*(look(size) for size in TALLEST))
    if directory:
        shots = {(size, scheme): pictures[size, scheme] for size in TALLEST for scheme in SCHEMES}
        _keep(shots, Path(directory) / f"{place.picture}.webp")
    assert not wrong, json.dumps(wrong, indent=2)


def _keep(pictures: dict[tuple[str, str], bytes], path: Path) -> None:
    """One picture of the four, small enough for a repository."""
    images = [
        picture.crop((0, 0, picture.width, min(picture.height, TALLEST[size])))
        for (size, _), picture in ((shot, Image.open(io.BytesIO(data))) for shot, data in pictures.items())
    ]
    tall = max(image.height for image in images)
    sheet = Image.new("RGB", (sum(image.width for image in images) + GAP * 5, tall + GAP * 2), "#8a8f98")
    left = GAP
    for image in images:
        sheet.paste(image, (left, GAP))
        left += image.width + GAP
    sheet = sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    for quality in (60, 45, 30, 15):
        sheet.save(path, "WEBP", quality=quality, method=6)
        if path.stat().st_size < LARGEST:
            break
