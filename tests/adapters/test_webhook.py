import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import formatdate
from uuid import uuid4

import pytest

from provserver.adapters.outgoing import Outgoing
from provserver.adapters.webhook import WebhookClient
from provserver.core.events import encode
from provserver.core.webhook import Answer, shown
from tests.adapters.conftest import serving
from tests.adapters.receiver import Receiver

NOW = 1_800_000_000.5
SECRET = b"s" * 32


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with serving(Receiver(shown(SECRET))) as made:
        assert isinstance(made, Receiver)
        yield made


async def send(receiver: Receiver, outgoing: Outgoing) -> Answer:
    id_ = uuid4()
    body = encode(id_, "device.claimed", datetime.now(UTC), '{"n":1}')
    return await WebhookClient(outgoing).send(receiver.url, SECRET, id_, body, NOW)


async def test_what_is_taken_is_delivered(receiver: Receiver, outgoing: Outgoing) -> None:
    for status in (200, 202, 204):
        receiver.answers = lambda _, status=status: status  # type: ignore[misc]
        assert await send(receiver, outgoing) == Answer(status)
    assert receiver.timestamps == [1_800_000_000] * 3


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422, 500, 501])
async def test_what_may_be_the_event_s_fault(receiver: Receiver, outgoing: Outgoing, status: int) -> None:
    receiver.answers = lambda _: status
    assert await send(receiver, outgoing) == Answer(status, f"HTTP {status}", refused=True)


@pytest.mark.parametrize("status", [401, 403, 404, 408, 410, 429, 502, 503, 504])
async def test_what_is_the_endpoint_s_fault(receiver: Receiver, outgoing: Outgoing, status: int) -> None:
    receiver.answers = lambda _: status
    assert await send(receiver, outgoing) == Answer(status, f"HTTP {status}")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30.0),
        ("0", 0.0),
        ("999999999", 3600.0),
        ("-5", 0.0),
        ("soon", 0.0),
        (formatdate(NOW + 100, usegmt=True), 99.5),
        (formatdate(NOW - 100, usegmt=True), 0.0),
    ],
)
async def test_when_to_come_back(receiver: Receiver, outgoing: Outgoing, header: str, seconds: float) -> None:
    receiver.answers, receiver.answer_headers = lambda _: 503, {"Retry-After": header}
    assert (await send(receiver, outgoing)).retry_after == seconds


async def test_a_redirect_is_not_followed(receiver: Receiver, outgoing: Outgoing) -> None:
    receiver.answers, receiver.answer_headers = lambda _: 302, {"Location": receiver.url}
    answer = await send(receiver, outgoing)
    assert (answer.status, answer.refused) == (302, False)
    assert "redirects are not followed" in answer.error
    assert receiver.tries == 1


async def test_who_is_not_there_cannot_be_told(receiver: Receiver, outgoing: Outgoing) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        receiver.url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        answer = await send(receiver, outgoing)
    assert answer.status is None
    assert "no connection" in answer.error
    assert not answer.refused


async def test_private_addresses_are_told_nothing(receiver: Receiver) -> None:
    async with Outgoing() as public:
        answer = await send(receiver, public)
    assert answer.status is None
    assert "outgoing_private" in answer.error
    assert receiver.tries == 0
