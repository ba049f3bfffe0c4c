import asyncio

import pytest

from tests.services.loop_clock import LoopClock


@pytest.fixture(scope="module", params=[True, False], ids=["front", "behind"])
def front(request: pytest.FixtureRequest) -> bool:
    """Who answers plain requests over HTTP and UDP: what holds for one way must hold for the other."""
    return bool(request.param)


@pytest.fixture
async def loop_clock(monkeypatch: pytest.MonkeyPatch) -> LoopClock:
    """That of the test's loop, until the test ends."""
    clock = LoopClock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock.time)
    return clock
