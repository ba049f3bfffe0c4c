"""Plain CoAP, against aiocoap's server. Over DTLS: test_coaps; OSCORE: test_life, for ours is the only server."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiocoap
import aiocoap.resource
import pytest

from firmware_sim.errors import BadReply, NoAnswer, Refused, SimulatorError, Unauthorized
from firmware_sim.links import coap
from firmware_sim.links.coap import CoapLink


class Attributes(aiocoap.resource.ObservableResource):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.values: Mapping[str, Any] = {}
        self.response: aiocoap.Message | None = None
        self.observed = asyncio.Event()

    def update_observation_count(self, newcount: int) -> None:
        if newcount:
            self.observed.set()

    def push(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.updated_state()

    async def render_get(self, request: aiocoap.Message) -> aiocoap.Message:
        assert request.opt.uri_query == ("sharedKeys=telemetryInterval",)
        if self.response:
            return self.response
        return aiocoap.Message(code=aiocoap.CONTENT, payload=json.dumps(self.values).encode())


class Telemetry(aiocoap.resource.Resource):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.code = aiocoap.CREATED
        self.received: list[Any] = []

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        assert request.opt.content_format == 50
        self.received.append(json.loads(request.payload))
        return aiocoap.Message(code=self.code)


class FakeServer:
    def __init__(self) -> None:
        self.attributes, self.telemetry = Attributes(), Telemetry()

    @asynccontextmanager
    async def linked(self, port: int, timeout: float = 60.0) -> AsyncIterator[CoapLink]:
        site = aiocoap.resource.Site()
        site.add_resource(["api", "v1", "token", "attributes"], self.attributes)
        site.add_resource(["api", "v1", "token", "telemetry"], self.telemetry)
        context = await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port), transports=["udp6"])
        try:
            async with CoapLink(f"coap://127.0.0.1:{port}/api/v1/token", timeout) as link:
                yield link
        finally:
            await context.shutdown()


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer()


async def test_telemetry_is_acknowledged(fake: FakeServer, free_port: int) -> None:
    async with fake.linked(free_port) as link:
        await link.telemetry(b'{"a":1}')
    assert fake.telemetry.received == [{"a": 1}]


async def test_attributes_are_asked_for_and_then_observed(fake: FakeServer, free_port: int) -> None:
    fake.attributes.values = {"shared": {"telemetryInterval": 5}}
    async with fake.linked(free_port) as link, aclosing(link.updates()) as updates:
        assert await anext(updates) == {"telemetryInterval": 5}
        assert await anext(updates) == {"telemetryInterval": 5}
        fake.attributes.push({"telemetryInterval": 6})
        assert await anext(updates) == {"telemetryInterval": 6}
        fake.attributes.push({"deleted": ["telemetryInterval"]})
        assert await anext(updates) == {"deleted": ["telemetryInterval"]}


async def test_a_server_that_has_forgotten_is_asked_again(
    fake: FakeServer, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coap, "_QUIET", 0.01)
    fake.attributes.values = {"telemetryInterval": 5}
    async with fake.linked(free_port) as link, aclosing(link.updates()) as updates:
        for _ in range(4):
            assert await anext(updates) == {"telemetryInterval": 5}


async def test_a_server_that_does_not_notify_is_asked_now_and_then(
    fake: FakeServer, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coap, "_QUIET", 0.01)
    fake.attributes.response = aiocoap.Message(code=aiocoap.NOT_FOUND)
    async with fake.linked(free_port) as link, aclosing(link.updates()) as updates:
        for _ in range(4):
            assert await anext(updates) == {}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (aiocoap.UNAUTHORIZED, Unauthorized),
        (aiocoap.SERVICE_UNAVAILABLE, NoAnswer),
        (aiocoap.INTERNAL_SERVER_ERROR, NoAnswer),
        (aiocoap.FORBIDDEN, Refused),
    ],
)
async def test_bad_credentials_are_one_thing_and_unavailable_is_another(
    fake: FakeServer, free_port: int, code: aiocoap.Code, error: type[SimulatorError]
) -> None:
    fake.attributes.response = aiocoap.Message(code=code, max_age=7)
    with pytest.raises(SimulatorError) as caught:
        async with fake.linked(free_port):
            raise AssertionError
    assert type(caught.value) is error
    if isinstance(caught.value, NoAnswer):
        assert caught.value.retry_after == 7


async def test_telemetry_to_nowhere_is_refused(fake: FakeServer, free_port: int) -> None:
    fake.telemetry.code = aiocoap.NOT_FOUND
    async with fake.linked(free_port) as link:
        with pytest.raises(Refused, match=r"4\.04"):
            await link.telemetry(b"{}")


async def test_attributes_that_are_none_are_a_bad_reply(fake: FakeServer, free_port: int) -> None:
    fake.attributes.response = aiocoap.Message(code=aiocoap.CONTENT, payload=b"[]")
    with pytest.raises(BadReply):
        async with fake.linked(free_port):
            raise AssertionError


async def test_nobody_listens(free_port: int) -> None:
    with pytest.raises(NoAnswer, match="connection refused"):
        async with CoapLink(f"coap://127.0.0.1:{free_port}/api/v1/token", 60.0):
            raise AssertionError
