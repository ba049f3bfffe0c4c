import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from firmware_sim.address import Address
from firmware_sim.errors import BadReply, NoAnswer, Refused, SimulatorError
from firmware_sim.links.cloud import Cloud
from firmware_sim.phone import Owner, Phone, WifiSession
from firmware_sim.retry import Retry
from firmware_sim.transports import TransportName

RETRY = Retry(attempts=5, base=0.01)
SCALE = 0.001


class Api:
    """The server of phone and device: sessions by order, and who logs in over HTTP with one of their tokens."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, Any]] = []
        self.answer: web.Response | None = None
        self.tokens: list[str] = []
        self.reported: list[tuple[str, str]] = []

    async def sessions(self, request: web.Request) -> web.Response:
        self.asked.append((request.headers.get("Authorization"), await request.json()))
        if self.answer:
            return self.answer
        self.tokens.append(secrets.token_hex(16))
        return web.json_response({"id": "s", "token": self.tokens[-1], "deviceId": "d", "more": 1}, status=201)

    async def provision(self, request: web.Request) -> web.Response:
        token, template = request.query["token"], request.query.get("templateId", "")
        if token not in self.tokens:
            return web.Response(status=400, text='{"error":{"message":"Invalid token."}}')
        self.reported.append((token, template))
        return web.json_response({})

    async def anything(self, _: web.Request) -> web.Response:
        return web.json_response([])


@pytest.fixture
async def api() -> AsyncIterator[tuple[Api, Phone]]:
    fake = Api()
    app = web.Application()
    app.router.add_post("/api/admin/wifi-sessions", fake.sessions)
    app.router.add_get("/external/api/provision", fake.provision)
    app.router.add_route("*", "/{path:.*}", fake.anything)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield fake, Phone(Address(*runner.addresses[0]), "psk_secret", "TMPL123456789", time_scale=SCALE)
    await runner.cleanup()


async def test_a_session_is_asked_for_as_the_api_wants_it(api: tuple[Api, Phone]) -> None:
    fake, phone = api
    session = await phone.request(10)
    assert (session.id, session.token, session.device_id) == ("s", fake.tokens[0], "d")
    assert fake.asked == [("Bearer psk_secret", {"template": "TMPL123456789", "client": "fleet"})]
    assert session.token not in repr(session)
    assert "psk_secret" not in repr(phone)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (403, "{}", Refused),
        (503, "{}", NoAnswer),
        (429, "{}", NoAnswer),
        (201, "no JSON", BadReply),
        (201, "{}", BadReply),
        (302, "", Refused),
    ],
)
async def test_what_else_may_come(api: tuple[Api, Phone], status: int, body: str, error: type[SimulatorError]) -> None:
    fake, phone = api
    fake.answer = web.Response(status=status, text=body)
    with pytest.raises(error):
        await phone.request(10)


async def test_no_server(free_port: int) -> None:
    with pytest.raises(NoAnswer):
        await Phone(Address("127.0.0.1", free_port), "k", "TMPL").request(10)


def owner(phone: Phone, retry: Retry = RETRY, mistakes: float = 0.0) -> Owner:
    phone = Phone(phone.api, phone.key, phone.template, mistakes, SCALE)
    return Owner(phone, Cloud(TransportName.HTTP, phone.api), retry)


async def test_a_device_is_brought_online_over_its_access_point(api: tuple[Api, Phone]) -> None:
    fake, phone = api
    outcome = await owner(phone).bring_online()
    assert (outcome.attempts, outcome.credentials.credentials_value) == (1, fake.tokens[0])
    assert fake.reported[0] == (fake.tokens[0], phone.template)
    assert len(fake.asked) == 1


async def test_a_password_that_is_mistyped_is_typed_again_and_the_token_is_the_same(api: tuple[Api, Phone]) -> None:
    fake, phone = api
    outcome = await owner(phone, mistakes=1.0).bring_online()
    assert outcome.attempts == 2
    assert len(fake.asked) == 1


async def test_who_mistypes_it_and_tries_once_gives_up(api: tuple[Api, Phone]) -> None:
    with pytest.raises(NoAnswer, match="last error 701"):
        await owner(api[1], Retry(attempts=1), mistakes=1.0).bring_online()


async def test_a_phone_that_gets_no_session(api: tuple[Api, Phone]) -> None:
    fake, phone = api
    fake.answer = web.Response(status=403)
    with pytest.raises(Refused, match="403"):
        await owner(phone).bring_online()


async def test_after_a_power_cut_the_owner_goes_on_with_the_token_he_has(
    api: tuple[Api, Phone], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, phone = api
    given = asyncio.Event()
    request = Phone.request

    async def observed(self: Phone, timeout: float) -> WifiSession:
        try:
            return await request(self, timeout)
        finally:
            given.set()

    monkeypatch.setattr(Phone, "request", observed)
    same = owner(phone)
    first = asyncio.create_task(same.bring_online())
    await given.wait()
    await asyncio.sleep(0)  # the owner has it
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    outcome = await same.bring_online()
    assert outcome.credentials.credentials_value == fake.tokens[-1]
    assert len(fake.tokens) <= 2
