import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiocoap
import aiocoap.resource
import pytest

from firmware_sim.address import Address
from firmware_sim.errors import NoAnswer, Refused
from firmware_sim.transports import coap
from firmware_sim.transports.coap import CoapTransport

Handler = Callable[[aiocoap.Message], Awaitable[aiocoap.Message]]


class Provision(aiocoap.resource.Resource):  # type: ignore[misc]
    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self._handler = handler

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        return await self._handler(request)


@asynccontextmanager
async def served(handler: Handler, port: int) -> AsyncIterator[Address]:
    """A CoAP server that answers POST /api/v1/provision."""
    site = aiocoap.resource.Site()
    site.add_resource(["api", "v1", "provision"], Provision(handler))
    context = await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port), transports=["udp6"])
    try:
        yield Address("127.0.0.1", port)
    finally:
        await context.shutdown()


async def ask(handler: Handler, port: int, body: bytes = b"{}", timeout: float = 60.0) -> bytes:
    async with served(handler, port) as server, CoapTransport(server) as transport:
        return await transport.provision(body, timeout)


@pytest.mark.parametrize("size", [2, 1024, 1025, 5000])
async def test_posts_json_in_blocks_if_need_be(free_port: int, size: int) -> None:
    async def handler(request: aiocoap.Message) -> aiocoap.Message:
        assert request.opt.content_format == 50
        return aiocoap.Message(code=aiocoap.CREATED, payload=b"verdict on " + request.payload)

    assert await ask(handler, free_port, b"x" * size) == b"verdict on " + b"x" * size


async def test_a_bad_request_with_a_body_is_a_verdict(free_port: int) -> None:
    async def handler(_: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(code=aiocoap.BAD_REQUEST, payload=b'{"status":"NOT_FOUND"}')

    assert await ask(handler, free_port) == b'{"status":"NOT_FOUND"}'


@pytest.mark.parametrize("code", [aiocoap.BAD_REQUEST, aiocoap.NOT_FOUND, aiocoap.FORBIDDEN])
async def test_any_other_code_is_a_refusal(free_port: int, code: aiocoap.Code) -> None:
    async def handler(_: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(code=code)

    with pytest.raises(Refused, match=r"CoAP 4\.0"):
        await ask(handler, free_port)


@pytest.mark.parametrize("code", [aiocoap.SERVICE_UNAVAILABLE, aiocoap.TOO_MANY_REQUESTS])
@pytest.mark.parametrize("max_age", [7, None])
async def test_temporarily_unavailable(free_port: int, code: aiocoap.Code, max_age: int | None) -> None:
    async def handler(_: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(code=code, max_age=max_age, payload=b"later")

    with pytest.raises(NoAnswer) as caught:
        await ask(handler, free_port)
    assert caught.value.retry_after == max_age


async def test_silence_ends_at_the_timeout(free_port: int) -> None:
    silence = asyncio.Event()

    async def handler(_: aiocoap.Message) -> aiocoap.Message:
        await silence.wait()
        raise AssertionError

    with pytest.raises(NoAnswer, match=r"no answer within 0\.05 s"):
        await ask(handler, free_port, timeout=0.05)


async def test_nobody_listens(free_port: int) -> None:
    async with CoapTransport(Address("127.0.0.1", free_port)) as transport:
        with pytest.raises(NoAnswer, match="connection refused"):
            await transport.provision(b"{}", 60.0)


async def test_exchanges_run_side_by_side_on_as_many_endpoints(free_port: int) -> None:
    """Ten exchanges that all wait for each other: with NSTART 1 and one endpoint they would wait for ever."""
    peers: list[str] = []
    everyone = asyncio.Event()

    async def handler(request: aiocoap.Message) -> aiocoap.Message:
        peers.append(request.remote.hostinfo)
        if len(peers) == 10:
            everyone.set()
        await everyone.wait()
        return aiocoap.Message(code=aiocoap.CREATED, payload=request.payload)

    async with served(handler, free_port) as server, CoapTransport(server) as transport:
        for bodies in ([b"%d" % n for n in range(10)], [b"a", b"b", b"c"]):
            assert await asyncio.gather(*(transport.provision(body, 60.0) for body in bodies)) == bodies
    assert len(set(peers)) == 10


async def test_an_endpoint_retires_before_its_message_ids_come_again(
    free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coap, "_EXCHANGES_PER_ENDPOINT", 2)
    peers: list[str] = []

    async def handler(request: aiocoap.Message) -> aiocoap.Message:
        peers.append(request.remote.hostinfo)
        return aiocoap.Message(code=aiocoap.CREATED, payload=b"ok")

    async with served(handler, free_port) as server, CoapTransport(server) as transport:
        for _ in range(4):
            await transport.provision(b"{}", 60.0)
    assert peers[0] == peers[1] != peers[2] == peers[3]


async def test_an_endpoint_outlives_a_refused_connection(free_port: int) -> None:
    """A new port for every attempt would soon take the one that a restarting test server wants back."""
    peers: list[str] = []

    async def handler(request: aiocoap.Message) -> aiocoap.Message:
        peers.append(request.remote.hostinfo)
        return aiocoap.Message(code=aiocoap.CREATED, payload=b"ok")

    async with CoapTransport(Address("127.0.0.1", free_port)) as transport:
        for _ in range(2):
            async with served(handler, free_port):
                await transport.provision(b"{}", 60.0)
            with pytest.raises(NoAnswer):
                await transport.provision(b"{}", 60.0)
    assert peers[0] == peers[1]
