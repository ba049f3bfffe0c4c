"""What pages cost a browser: few bytes, and nothing jumps while they load."""

from typing import Any

import pytest

from tests.browser import looks
from tests.browser.conftest import Seat
from tests.browser.seed import MAKER, World

FIRST_PAGE = 150 * 1024
"""Bytes over the wire, all that a browser without anything kept loads."""

_SHIFTS = """
window.shifted = [];
const called = ({node}) => node?.outerHTML?.slice(0, 90) ?? node?.nodeName ?? "";
new PerformanceObserver(list => {
  for (const each of list.getEntries()) {
    if (!each.hadRecentInput) window.shifted.push([each.value, ...each.sources.map(called)]);
  }
}).observe({type: "layout-shift", buffered: true});
"""


@pytest.mark.parametrize("size", ["desktop", "phone"])
@pytest.mark.parametrize("path", ["/", "/devices", "/static-tokens", "/claim", "/attempts", "/profiles", "/jobs"])
async def test_a_page_is_small_and_stands_still(path: str, size: str, world: World, seat: Seat) -> None:
    person = await seat(world.url, size=size)
    await person.context.add_cookies(world.cookies(MAKER))
    await person.context.add_init_script(_SHIFTS)
    network = await person.context.new_cdp_session(person.page)
    loaded: list[float] = []

    def count(event: dict[str, Any]) -> None:
        loaded.append(event["encodedDataLength"])

    network.on("Network.loadingFinished", count)
    await network.send("Network.enable")
    await person.visit(path)
    await looks.settle(person.page)
    assert len(loaded) > 2
    assert sum(loaded) < FIRST_PAGE
    assert await person.page.evaluate("window.shifted") == []
