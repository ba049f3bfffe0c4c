import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from firmware_sim.errors import BadReply, NoAnswer, Refused, SimulatorError, Unauthorized, Untrusted
from firmware_sim.links import http
from firmware_sim.links.http import HttpLink
from firmware_sim.pki import Factory
from firmware_sim.tls import ClientCertificate, Security
from tests.firmware_sim.conftest import Identity


class FakeServer:
    """Attributes and telemetry of one device, at /api/v1/token or, for a certificate, at /api/v1."""

    def __init__(self) -> None:
        self.shared: dict[str, Any] = {}
        self.status = 200
        self.content: bytes | None = None
        self.telemetry: list[Any] = []
        self.polls = 0
        self.polled = asyncio.Event()
        self.changes: asyncio.Queue[Mapping[str, Any] | int] = asyncio.Queue()
        self.peers: set[object] = set()
        self.subjects: set[str] = set()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.note])
        for base in ("/api/v1/token", "/api/v1"):
            app.router.add_get(f"{base}/attributes", self.get)
            app.router.add_get(f"{base}/attributes/updates", self.poll)
            app.router.add_post(f"{base}/telemetry", self.post)
        return app

    @web.middleware
    async def note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        assert request.transport
        self.peers.add(request.transport.get_extra_info("peername"))
        if certificate := request.transport.get_extra_info("peercert"):
            self.subjects.add(certificate["subject"][0][0][1])
        if self.status != 200:
            return web.Response(status=self.status, headers={"Retry-After": "7", "Location": "http://127.0.0.1:9/"})
        response: web.StreamResponse = await handler(request)
        return response

    async def get(self, request: web.Request) -> web.Response:
        assert request.query == {"sharedKeys": "telemetryInterval"}
        return web.Response(body=self.content) if self.content else web.json_response({"shared": self.shared})

    async def post(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/json"
        self.telemetry.append(await request.json())
        return web.Response()

    async def poll(self, request: web.Request) -> web.Response:
        assert int(request.query["timeout"]) > 0
        self.polls += 1
        self.polled.set()
        change = await self.changes.get()
        return web.Response(status=change) if isinstance(change, int) else web.json_response(change)


@asynccontextmanager
async def served(fake: FakeServer, tls: Any = None) -> AsyncIterator[str]:
    runner = web.AppRunner(fake.app(), handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    host, port = runner.addresses[0]
    try:
        yield f"{'https' if tls else 'http'}://{host}:{port}/api/v1"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def linked(fake: FakeServer) -> AsyncIterator[HttpLink]:
    async with served(fake) as url, HttpLink(f"{url}/token", None, 60.0) as link:
        yield link


async def test_telemetry_goes_over_the_connection_that_was_let_in() -> None:
    fake = FakeServer()
    async with linked(fake) as link:
        await link.telemetry(b'{"a":1}')
        await link.telemetry(b'{"a":2}')
    assert fake.telemetry == [{"a": 1}, {"a": 2}]
    assert len(fake.peers) == 1


async def test_attributes_are_asked_for_and_then_polled() -> None:
    fake = FakeServer()
    fake.shared = {"telemetryInterval": 5}
    async with linked(fake) as link, aclosing(link.updates()) as updates:
        assert await anext(updates) == {"telemetryInterval": 5}
        fake.changes.put_nowait({"telemetryInterval": 6})
        assert await anext(updates) == {"telemetryInterval": 6}
        fake.changes.put_nowait({"deleted": ["telemetryInterval"]})
        assert await anext(updates) == {"deleted": ["telemetryInterval"]}


async def test_between_two_polls_nothing_is_missed() -> None:
    fake = FakeServer()
    async with linked(fake) as link, aclosing(link.updates()) as updates:
        assert await anext(updates) == {}
        fake.shared = {"telemetryInterval": 7}
        fake.changes.put_nowait(408)
        assert await anext(updates) == {"telemetryInterval": 7}


async def test_a_server_that_holds_a_poll_for_ever_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Impatient with polls alone: a connection that takes its time is no poll that is held."""
    ask = HttpLink._ask

    async def patient(link: HttpLink) -> Mapping[str, Any]:
        link._timeout = 60.0
        try:
            return await ask(link)
        finally:
            link._timeout = 0.5

    monkeypatch.setattr(HttpLink, "_ask", patient)
    monkeypatch.setattr(http, "_POLL", 0.01)
    fake = FakeServer()
    async with linked(fake) as link, aclosing(link.updates()) as updates:
        for _ in range(3):
            assert await anext(updates) == {}
    assert fake.polls == 2


@pytest.mark.parametrize(
    ("status", "error"), [(401, Unauthorized), (503, NoAnswer), (429, NoAnswer), (404, Refused), (302, Refused)]
)
async def test_bad_credentials_are_one_thing_and_unavailable_is_another(
    status: int, error: type[SimulatorError]
) -> None:
    fake = FakeServer()
    fake.status = status
    with pytest.raises(SimulatorError) as caught:
        async with linked(fake):
            raise AssertionError
    assert type(caught.value) is error
    if isinstance(caught.value, NoAnswer):
        assert caught.value.retry_after == 7


async def test_a_device_that_is_revoked_hears_it_at_its_next_message() -> None:
    fake = FakeServer()
    async with linked(fake) as link:
        fake.status = 401
        with pytest.raises(Unauthorized, match="HTTP 401"):
            await link.telemetry(b"{}")


@pytest.mark.parametrize("content", [b"x", b"[]", b"\xff"])
async def test_attributes_that_are_none_are_a_bad_reply(content: bytes) -> None:
    fake = FakeServer()
    fake.content = content
    with pytest.raises(BadReply):
        async with linked(fake):
            raise AssertionError


async def test_a_server_that_goes_away() -> None:
    fake = FakeServer()
    async with served(fake) as url:
        link = await HttpLink(f"{url}/token", None, 60.0).__aenter__()
    with pytest.raises(NoAnswer):
        await link.telemetry(b"{}")
    await link.__aexit__(None, None, None)


async def test_a_certificate_says_it_all(identity: Identity, certificate: ClientCertificate, factory: Factory) -> None:
    fake = FakeServer()
    security = Security(identity.trust, certificate)
    async with served(fake, identity.context(factory.root_file)) as url, HttpLink(url, security, 60.0) as link:
        await link.telemetry(b'{"a":1}')
    assert fake.subjects == {"sensor-1"}
    assert len(fake.peers) == 1


async def test_a_server_of_another_ca_is_not_trusted(identity: Identity, stranger: Identity) -> None:
    fake = FakeServer()
    async with served(fake, identity.context()) as url:
        with pytest.raises(Untrusted, match="--ca"):
            async with HttpLink(url, Security(stranger.trust), 60.0):
                raise AssertionError
    assert not fake.peers
