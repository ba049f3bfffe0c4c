import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from firmware_sim.address import Address
from firmware_sim.errors import NoAnswer, Refused, Unauthorized, Untrusted
from firmware_sim.tls import ClientCertificate, Security
from firmware_sim.transports.http import Connector, HttpTransport, open_session, parse_retry_after
from tests.firmware_sim.conftest import Identity

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Address]:
    """An HTTP server on a free port that answers POST /api/v1/provision."""
    app = web.Application()
    app.router.add_post("/api/v1/provision", handler)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    host, port = runner.addresses[0]
    try:
        yield Address(host, port)
    finally:
        await runner.cleanup()


async def ask(handler: Handler, timeout: float = 60.0) -> bytes:
    async with served(handler) as server, HttpTransport(server, 1) as transport:
        return await transport.provision(b'{"a":1}', timeout)


async def test_posts_json_and_returns_the_verdict() -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.content_type == "application/json"
        return web.Response(body=b"verdict on " + await request.read())

    assert await ask(handler) == b'verdict on {"a":1}'


async def test_a_json_error_is_a_verdict_too() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"errorMsg": "no key"}, status=400)

    assert await ask(handler) == b'{"errorMsg": "no key"}'


@pytest.mark.parametrize("status", [204, 301, 307, 400, 404, 501])
async def test_any_other_status_is_a_refusal(status: int) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": "http://127.0.0.1:9/"})

    with pytest.raises(Refused, match=f"HTTP {status}"):
        await ask(handler)


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(("headers", "wait"), [({"Retry-After": "7"}, 7.0), ({}, None)])
async def test_temporarily_unavailable(status: int, headers: dict[str, str], wait: float | None) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"errorMsg": "later"}, status=status, headers=headers)

    with pytest.raises(NoAnswer, match=f"HTTP {status}") as caught:
        await ask(handler)
    assert caught.value.retry_after == wait


async def test_silence_ends_at_the_timeout() -> None:
    silence = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        await silence.wait()
        raise AssertionError

    with pytest.raises(NoAnswer, match=r"no answer within 0\.05 s"):
        await ask(handler, timeout=0.05)


async def test_a_broken_connection_is_no_answer() -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.transport
        request.transport.close()
        return web.Response()

    with pytest.raises(NoAnswer, match="disconnected"):
        await ask(handler)


async def test_nobody_listens(free_port: int) -> None:
    async with HttpTransport(Address("127.0.0.1", free_port), 1) as transport:
        with pytest.raises(NoAnswer, match="connection refused"):
            await transport.provision(b"{}", 60.0)


async def test_keeps_connections_and_no_more_than_it_may() -> None:
    peers: set[object] = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(body=b"ok")

    async with served(handler) as server, HttpTransport(server, 3) as transport:
        await asyncio.gather(*(transport.provision(b"{}", 60.0) for _ in range(30)))
    assert len(peers) <= 3


async def test_over_tls_each_device_shakes_hands_for_itself(identity: Identity) -> None:
    peers: set[object] = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(body=b"verdict")

    async with (
        served(handler, identity.context()) as server,
        HttpTransport(server, 4, Security(identity.trust)) as transport,
    ):
        assert (transport.name, transport.url) == ("https", f"https://{server}/api/v1/provision")
        assert [await transport.provision(b"{}", 60.0) for _ in range(3)] == [b"verdict"] * 3
    assert len(peers) == 3


async def test_a_server_of_another_ca_or_name_learns_nothing(identity: Identity, stranger: Identity) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise AssertionError

    for server_identity in (identity, stranger):
        async with (
            served(handler, server_identity.context()) as server,
            HttpTransport(server, 1, Security(stranger.trust)) as transport,
        ):
            with pytest.raises(Untrusted, match="--ca"):
                await transport.provision(b"{}", 60.0)


async def test_a_certificate_that_the_server_does_not_accept(
    identity: Identity, stranger: Identity, certificate: ClientCertificate
) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise AssertionError

    async with (
        served(handler, identity.context(stranger.ca)) as server,
        HttpTransport(server, 1, Security(identity.trust, certificate)) as transport,
    ):
        with pytest.raises((Unauthorized, NoAnswer)):  # asyncio's server may hang up before its alert is out
            await transport.provision(b"{}", 60.0)


async def test_plain_http_behind_https(identity: Identity) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise AssertionError

    async with served(handler) as server, HttpTransport(server, 1, Security(identity.trust)) as transport:
        with pytest.raises(NoAnswer, match="TLS: "):
            await transport.provision(b"{}", 60.0)


NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Tue, 01 Jan 2030 00:00:09 GMT", 9.0),
        ("Tue, 01 Jan 2030 00:00:09 -0000", 9.0),
        ("Mon, 31 Dec 2029 00:00:00 GMT", 0.0),
        ("-1", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


async def test_a_closed_session_has_closed_the_connection_of_a_cancelled_request(identity: Identity) -> None:
    asked, silence = asyncio.Event(), asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        asked.set()
        await silence.wait()
        raise AssertionError

    async with served(handler, identity.context()) as server:
        session = open_session(1, Security(identity.trust))
        request = asyncio.create_task(session.post(f"https://{server}/api/v1/provision").__aenter__())
        await asked.wait()
        assert isinstance(session.connector, Connector)
        (connection,) = session.connector.sockets
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await session.close()
        assert connection.fileno() == -1
