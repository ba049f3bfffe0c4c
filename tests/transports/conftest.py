import asyncio
from collections.abc import Iterator

import pytest
from aiocoap.numbers.constants import TransportTuning

from provserver.transports import coap_front, coap_udp
from provserver.transports.coap_front import ACK_DELAY
from tests.services.loop_clock import LoopClock


@pytest.fixture(scope="module", params=[True, False], ids=["front", "behind"])
def front(request: pytest.FixtureRequest) -> bool:
    """Who answers plain requests over HTTP and UDP: what holds for one way must hold for the other."""
    return bool(request.param)


@pytest.fixture(scope="module")
def piggybacked() -> Iterator[None]:
    """However long Postgres takes, a CoAP request is acknowledged by its answer, and by nothing before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coap_front, "ACK_DELAY", 60.0)
        for tuning in (coap_udp._Tuning, TransportTuning):
            patch.setattr(tuning, "EMPTY_ACK_DELAY", 60.0)
        yield


@pytest.fixture
def acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long is acknowledged before it is answered, as it is usually: by listeners of the test's own."""
    monkeypatch.setattr(coap_front, "ACK_DELAY", ACK_DELAY)
    monkeypatch.setattr(coap_udp._Tuning, "EMPTY_ACK_DELAY", ACK_DELAY)


@pytest.fixture
async def loop_clock(monkeypatch: pytest.MonkeyPatch) -> LoopClock:
    """That of the test's loop, until the test ends."""
    clock = LoopClock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock.time)
    return clock
