import asyncio
import itertools
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import pytest
from aiocoap import Context, Message
from aiocoap.numbers.codes import Code
from aiocoap.numbers.contentformat import ContentFormat
from aiocoap.numbers.types import Type
from aiocoap.optiontypes import BlockOption

from provserver.core import protobuf
from provserver.errors import RENDERINGS, Outcome
from provserver.services.provisioning import Provisioning
from provserver.store.database import Database
from provserver.transports.coap import CoapTransport
from provserver.transports.sockets import shared
from tests.transports.test_http import Service, logging_as_serve_does, service

PATH = ("api", "v1", "provision")
LIMIT = 10_000

pytestmark = pytest.mark.usefixtures("piggybacked")

numbers = itertools.count()


class Datagrams(asyncio.DatagramProtocol):
    """A client that sends datagrams as they are, and takes what comes."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[bytes] = asyncio.Queue()
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, _addr: object) -> None:
        self.came.put_nowait(data)

    def send(self, data: bytes) -> None:
        self.transport.sendto(data)

    async def message(self) -> Any:
        return Message.decode(await self.came.get(), None)

    async def answer(self) -> Any:
        """The answer, where it may have to be waited for after an acknowledgement."""
        while (message := await self.message()).code is Code.EMPTY:
            pass
        return message


class Site:
    """A listener, and a profile to provision by."""

    def __init__(self, transport: CoapTransport, port: int, made: Service, client: Any) -> None:
        self.transport = transport
        self.port = port
        self.service = made
        self.client = client
        self._ports: set[int] = set()

    @property
    def uri(self) -> str:
        return f"coap://127.0.0.1:{self.port}"

    async def ask(self, payload: bytes, path: tuple[str, ...] = PATH, code: Code = Code.POST, **options: Any) -> Any:
        request = Message(code=code, uri=self.uri, payload=payload)
        request.opt.uri_path = path
        for name, value in options.items():
            setattr(request.opt, name, value)
        return await self.client.request(request).response

    async def provision(self, name: str, **members: object) -> Any:
        return await self.ask(self.body(name, **members))

    def body(self, name: str, **members: object) -> bytes:
        pair = self.service.pair
        request = {"deviceName": name, "provisionDeviceKey": pair.key, "provisionDeviceSecret": pair.secret}
        return json.dumps(request | members).encode()

    def datagram(self, payload: bytes, mid: int, type_: Type = Type.CON, **options: Any) -> bytes:
        request = Message(code=Code.POST, payload=payload, _mtype=type_, _mid=mid, _token=mid.to_bytes(2))
        request.opt.uri_path = PATH
        for name, value in options.items():
            setattr(request.opt, name, value)
        encoded: bytes = request.encode()
        return encoded

    @asynccontextmanager
    async def datagrams(self) -> AsyncIterator[Datagrams]:
        """A client on a port that none had before: the listener remembers what it answered to a port's message ids,
        and each test begins with the same ones."""
        loop = asyncio.get_running_loop()
        while True:
            transport, protocol = await loop.create_datagram_endpoint(Datagrams, remote_addr=("127.0.0.1", self.port))
            port = transport.get_extra_info("sockname")[1]
            if port not in self._ports:
                break
            transport.close()
        self._ports.add(port)
        yield protocol
        transport.close()


@pytest.fixture(scope="module")
async def made(postgres: str, tmp_path_factory: pytest.TempPathFactory, front: bool) -> AsyncIterator[Service]:
    async with service(postgres, tmp_path_factory.mktemp("coap"), f"coap_{front}".lower()) as service_:
        yield service_


@asynccontextmanager
async def serving(made: Service, *, front: bool, provisioning: Provisioning | None = None) -> AsyncIterator[Site]:
    """A listener of the test's own, and a client."""
    transport = CoapTransport(provisioning or made.provisioning, front=front, max_payload_size=LIMIT)
    client = await Context.create_client_context()
    host, port = await transport.start("127.0.0.1", 0)
    assert (host, port > 0) == ("127.0.0.1", True)
    try:
        yield Site(transport, port, made, client)
    finally:
        await client.shutdown()
        await transport.stop(0)


@pytest.fixture(scope="module")
async def site(made: Service, front: bool) -> AsyncIterator[Site]:
    """A listener that the tests of this module share."""
    async with serving(made, front=front) as shared:
        yield shared


# --- provisioning


async def test_a_device_is_provisioned(site: Site) -> None:
    response = await site.provision("created")

    assert response.code is Code.CREATED
    assert response.opt.content_format == ContentFormat.JSON
    assert json.loads(response.payload)["status"] == "SUCCESS"
    assert response.opt.max_age is None


@pytest.mark.parametrize(
    ("options", "format_"),
    [
        ({}, ContentFormat.JSON),
        ({"content_format": ContentFormat.JSON}, ContentFormat.JSON),
        ({"content_format": ContentFormat.TEXT}, ContentFormat.TEXT),
        ({"content_format": ContentFormat.OCTETSTREAM}, ContentFormat.JSON),
        ({"content_format": 65_000}, ContentFormat.JSON),
        ({"accept": ContentFormat.JSON}, ContentFormat.JSON),
        ({"accept": ContentFormat.TEXT}, ContentFormat.TEXT),
        ({"accept": ContentFormat.JSON, "content_format": ContentFormat.TEXT}, ContentFormat.JSON),
        ({"accept": ContentFormat.CBOR}, ContentFormat.JSON),
    ],
    ids=str,
)
async def test_the_format_that_was_asked_for_is_named(
    site: Site, options: dict[str, Any], format_: ContentFormat
) -> None:
    response = await site.ask(site.body(f"format {next(numbers)}"), **options)

    assert (response.code, response.opt.content_format) == (Code.CREATED, format_)
    assert json.loads(response.payload)["status"] == "SUCCESS"


@pytest.mark.parametrize(
    "path",
    [
        ("api", "v1", "provision"),
        ("api", "v1", "PROVISION"),
        ("api", "v1", "any-token", "provision"),
        ("api", "v1", "provision", "17"),
        ("api/v1/provision",),
        ("/api/v1/provision",),
    ],
    ids="|".join,
)
async def test_the_path_may_be_any_of_thingsboards(site: Site, path: tuple[str, ...]) -> None:
    response = await site.ask(site.body(f"path {path}"), path)

    assert response.code is Code.CREATED


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ((), Code.NOT_FOUND),
        (("nothing",), Code.NOT_FOUND),
        (("api",), Code.NOT_FOUND),
        (("api", "v2", "provision"), Code.NOT_FOUND),
        ((".well-known", "core"), Code.NOT_FOUND),
        (("api", "v1"), Code.BAD_REQUEST),
        (("api", "v1", ""), Code.BAD_REQUEST),
        (("api", "v1", "nothing"), Code.BAD_REQUEST),
        (("api", "v1", "token", "nothing"), Code.BAD_REQUEST),
        (("api", "v1", "provision", "x"), Code.BAD_REQUEST),
    ],
    ids=str,
)
async def test_other_paths_are_refused(made: Service, site: Site, path: tuple[str, ...], code: Code) -> None:
    response = await site.ask(site.body("lost"), path)

    assert (response.code, response.payload) == (code, b"")
    assert await made.value("SELECT count(*) FROM device WHERE name = 'lost'") == 0


@pytest.mark.parametrize(
    ("method", "code"),
    [
        (Code.GET, Code.BAD_REQUEST),
        (Code.PUT, Code.METHOD_NOT_ALLOWED),
        (Code.DELETE, Code.METHOD_NOT_ALLOWED),
        (Code.FETCH, Code.METHOD_NOT_ALLOWED),
        (Code.PATCH, Code.METHOD_NOT_ALLOWED),
    ],
    ids=str,
)
async def test_other_methods_are_refused(site: Site, method: Code, code: Code) -> None:
    response = await site.ask(b"" if method in (Code.GET, Code.DELETE) else b"{}", code=method)

    assert (response.code, response.payload) == (code, b"")


async def test_what_is_refused_is_told_with_4_00_and_why(site: Site) -> None:
    await site.provision("refused")

    for response, status in (
        (await site.provision("refused"), "FAILURE"),
        (await site.provision("new", provisionDeviceSecret="wrong"), "NOT_FOUND"),
        (await site.ask(b"{}"), "FAILURE"),
        (await site.provision("new", requestNonce="short"), "FAILURE"),
    ):
        assert (response.code, response.opt.content_format) == (Code.BAD_REQUEST, ContentFormat.JSON)
        reply = json.loads(response.payload)
        assert (reply["status"], bool(reply["errorMsg"])) == (status, True)


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe", b"{", b"[]"], ids=repr)
async def test_what_cannot_be_read_is_told_with_4_00_alone(site: Site, payload: bytes) -> None:
    response = await site.ask(payload)

    assert response.code is Code.BAD_REQUEST
    assert response.payload in (b"", b"\x08\x02")  # nothing at all is also an empty protobuf message
    assert b"FAILURE" not in response.payload


async def test_protobuf_is_answered_in_protobuf(site: Site) -> None:
    keys = protobuf.encode([(1, site.service.pair.key), (2, site.service.pair.secret)])
    payload = protobuf.encode([(1, "protobuf"), (3, keys)])

    first, second = await site.ask(payload), await site.ask(payload)

    assert (first.code, first.opt.content_format) == (Code.CREATED, ContentFormat.OCTETSTREAM)
    assert dict(protobuf.fields(first.payload))[1] == 1
    assert (second.code, list(protobuf.fields(second.payload))) == (Code.BAD_REQUEST, [(1, 3)])


async def test_who_asks_while_postgres_is_away_is_told_to_come_back(made: Service, front: bool) -> None:
    away = Provisioning(Database("postgresql:///nowhere"), made.keys, wait_limit=0.05)
    async with serving(made, front=front, provisioning=away) as site:
        response = await site.provision("away")
    await away.drain()

    assert (response.code, response.opt.max_age) == (
        Code.SERVICE_UNAVAILABLE,
        json.loads(response.payload)["retryAfter"],
    )
    assert json.loads(response.payload)["errorMsg"] == RENDERINGS[Outcome.UNAVAILABLE].error


async def test_the_peers_address_is_recorded(made: Service, site: Site) -> None:
    await site.provision("address")

    assert await made.value("SELECT address FROM attempt WHERE device_name = 'address'") == "127.0.0.1"
    assert await made.value("SELECT transport FROM attempt WHERE device_name = 'address'") == "COAP"


async def test_a_fault_of_ours_is_logged_and_told_without_its_words(
    made: Service, capsys: pytest.CaptureFixture[str], front: bool
) -> None:
    class Faulty(Provisioning):
        def request(self, *_args: object, **_kwargs: object) -> None:
            raise ZeroDivisionError("pl4nted")

    with logging_as_serve_does("info"):
        async with serving(made, front=front, provisioning=Faulty(made.database, made.keys)) as site:
            response = await site.provision("fault")

    assert (response.code, response.payload) == (Code.INTERNAL_SERVER_ERROR, b"")
    assert "ZeroDivisionError" in capsys.readouterr().err


# --- block-wise


async def test_a_certificate_comes_and_goes_in_blocks(site: Site) -> None:
    certificate = os.urandom(2_000).hex()

    response = await site.provision("certificate", credentialsType="X509_CERTIFICATE", hash=certificate)

    assert response.code is Code.CREATED
    assert json.loads(response.payload)["credentialsValue"] == certificate


@pytest.mark.parametrize("exponent", range(6))
async def test_blocks_may_be_small(site: Site, exponent: int) -> None:
    size = 16 << exponent
    certificate = f"{exponent}" * 1_500
    body = site.body(f"blocks of {size}", hash=certificate, credentialsType="X509_CERTIFICATE")
    async with site.datagrams() as client:
        count = -(-len(body) // size)
        first = BlockOption.BlockwiseTuple(0, False, exponent)
        for n in range(count):
            block = BlockOption.BlockwiseTuple(n, n < count - 1, exponent)
            part = body[n * size : (n + 1) * size]
            client.send(site.datagram(part, 100 + n, block1=block, block2=first))
            response = await client.message()
            assert response.code is (Code.CONTINUE if n < count - 1 else Code.CREATED)
            assert response.opt.block1 == block
        received = response.payload
        while response.opt.block2.more:
            number = response.opt.block2.block_number + 1
            more = BlockOption.BlockwiseTuple(number, False, exponent)
            client.send(site.datagram(b"", 10_000 + number, block2=more))
            response = await client.message()
            assert (response.opt.block2.block_number, response.opt.block2.size_exponent) == (number, exponent)
            assert len(response.payload) <= size
            received += response.payload

    assert json.loads(received)["credentialsValue"] == certificate


async def test_a_body_that_is_too_large_is_refused(made: Service, site: Site) -> None:
    body = site.body("large", hash="x" * LIMIT)
    async with site.datagrams() as client:
        for n in range(LIMIT // 1024 + 1):
            block = BlockOption.BlockwiseTuple(n, True, 6)
            client.send(site.datagram(body[n * 1024 : (n + 1) * 1024], n, block1=block))
            response = await client.message()
            if response.code is not Code.CONTINUE:
                break

    assert (response.code, response.opt.block1) == (Code.REQUEST_ENTITY_TOO_LARGE, block)
    assert n == LIMIT // 1024
    assert (await site.ask(body)).code is Code.REQUEST_ENTITY_TOO_LARGE
    assert await made.value("SELECT count(*) FROM device WHERE name = 'large'") == 0


@pytest.mark.parametrize(
    ("number", "more", "size"),
    [(1, True, 16), (7, False, 5), (65_535, True, 16), (0, True, 15), (0, True, 17), (0, True, 0)],
)
async def test_a_block_out_of_order_or_of_a_wrong_size_is_refused(
    site: Site, number: int, more: bool, size: int
) -> None:
    async with site.datagrams() as client:
        block = BlockOption.BlockwiseTuple(number, more, 0)
        client.send(site.datagram(b"x" * size, 1, block1=block))
        response = await client.message()

    too_large = number * 16 + size > LIMIT
    assert response.code is (Code.REQUEST_ENTITY_TOO_LARGE if too_large else Code.REQUEST_ENTITY_INCOMPLETE)


async def test_a_later_block_of_an_answer_that_is_not_kept_is_refused(site: Site) -> None:
    async with site.datagrams() as client:
        client.send(site.datagram(b"", 1, block2=BlockOption.BlockwiseTuple(1, False, 6)))
        assert (await client.message()).code is Code.REQUEST_ENTITY_INCOMPLETE


async def test_an_answer_that_is_too_large_for_a_datagram_goes_in_blocks(site: Site) -> None:
    certificate = "c" * 2_500
    body = site.body("large answer", hash=certificate, credentialsType="X509_CERTIFICATE")
    async with site.datagrams() as client:
        client.send(site.datagram(body, 1))
        response = await client.message()
        assert (response.mtype, response.code, len(response.payload)) == (Type.ACK, Code.CREATED, 1024)
        size, received = response.opt.size2, response.payload
        while response.opt.block2.more:
            number = response.opt.block2.block_number + 1
            client.send(site.datagram(b"", 1 + number, block2=BlockOption.BlockwiseTuple(number, False, 6)))
            response = await client.message()
            received += response.payload
        client.send(site.datagram(body, 1))
        assert (await client.message()).opt.block2 == BlockOption.BlockwiseTuple(0, True, 6)

    assert len(received) == size
    assert json.loads(received)["credentialsValue"] == certificate


async def test_a_block_past_the_end_of_an_answer_is_refused(site: Site) -> None:
    async with site.datagrams() as client:
        client.send(site.datagram(site.body("past the end"), 1, block2=BlockOption.BlockwiseTuple(0, False, 2)))
        assert (await client.message()).opt.block2.more
        client.send(site.datagram(b"", 2, block2=BlockOption.BlockwiseTuple(1_000, False, 2)))
        assert (await client.message()).code is Code.BAD_OPTION


async def test_the_blocks_of_two_peers_are_not_mixed(site: Site) -> None:
    bodies = [site.body(f"peer {n}", hash=f"{n}" * 300, credentialsType="X509_CERTIFICATE") for n in range(2)]
    async with site.datagrams() as one, site.datagrams() as two:
        for n in range(2):
            for client, body in zip((one, two), bodies, strict=True):
                part = body[n * 256 :][: 256 if not n else None]
                client.send(site.datagram(part, n, block1=BlockOption.BlockwiseTuple(n, not n, 4)))
                response = await client.message()
                assert response.code is (Code.CREATED if n else Code.CONTINUE)
                if n:
                    assert json.loads(response.payload)["deviceName"] == json.loads(body)["deviceName"]


# --- datagrams


async def test_a_datagram_that_comes_twice_is_answered_twice_and_done_once(made: Service, site: Site) -> None:
    async with site.datagrams() as client:
        datagram = site.datagram(site.body("twice"), 7)
        client.send(datagram)
        first = await client.came.get()
        client.send(datagram)
        second = await client.came.get()

    assert first == second
    assert Message.decode(first).code is Code.CREATED
    assert await made.value("SELECT count(*) FROM attempt WHERE device_name = 'twice'") == 1


async def test_a_datagram_that_comes_twice_while_it_is_worked_on_is_done_once(made: Service, site: Site) -> None:
    async with site.datagrams() as client:
        async with made.blocked() as blocked:
            for _ in range(3):
                client.send(site.datagram(site.body("impatient"), 8))
            await blocked.until_waiting()
        while (response := await client.message()).code is Code.EMPTY:
            pass
        assert response.code is Code.CREATED
        if response.mtype is Type.CON:
            client.send(Message(_mtype=Type.ACK, _mid=response.mid, code=Code.EMPTY).encode())

    assert await made.value("SELECT count(*) FROM attempt WHERE device_name = 'impatient'") == 1


@pytest.mark.usefixtures("acknowledged")
async def test_an_answer_that_takes_long_is_announced_and_sent_apart(made: Service, front: bool) -> None:
    async with serving(made, front=front) as site, site.datagrams() as client:
        async with made.blocked():
            client.send(site.datagram(site.body("long"), 9))
            announced = await client.message()
        response = await client.message()
        client.send(Message(_mtype=Type.ACK, _mid=response.mid, code=Code.EMPTY).encode())

    assert (announced.mtype, announced.code, announced.mid) == (Type.ACK, Code.EMPTY, 9)
    assert (response.mtype, response.code, response.token) == (Type.CON, Code.CREATED, (9).to_bytes(2))


async def test_who_does_not_ask_for_a_confirmation_gets_none(site: Site) -> None:
    async with site.datagrams() as client:
        client.send(site.datagram(site.body("non"), 10, Type.NON))
        response = await client.message()

    assert (response.mtype, response.code, response.token) == (Type.NON, Code.CREATED, (10).to_bytes(2))


async def test_many_at_once_get_their_own_answers(made: Service, site: Site) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(site.datagrams()) for _ in range(300)]
        for n, client in enumerate(clients):  # by ids that no test before has sent, perhaps from the same port
            client.send(site.datagram(site.body(f"many {n}"), 30_000 + n))
        responses = [await client.answer() for client in clients]

    for n, response in enumerate(responses):
        assert (response.code, json.loads(response.payload)["deviceName"]) == (Code.CREATED, f"many {n}")
    assert len({json.loads(response.payload)["credentialsValue"] for response in responses}) == 300
    assert await made.value("SELECT count(*) FROM device WHERE name LIKE 'many %'") == 300


@pytest.mark.filterwarnings("ignore:Initializing messages with an m:DeprecationWarning")  # as aiocoap itself does
@pytest.mark.parametrize("wanted", [2, 26])
async def test_who_wants_no_response_gets_none(made: Service, site: Site, wanted: int) -> None:
    async with site.datagrams() as client:
        client.send(site.datagram(site.body(f"silent {wanted}"), 1, Type.NON, no_response=wanted))
        client.send(site.datagram(site.body(f"quiet {wanted}"), 2, no_response=wanted))
        response = await client.message()

    assert (response.mtype, response.code, response.mid) == (Type.ACK, Code.EMPTY, 2)
    for name in (f"silent {wanted}", f"quiet {wanted}"):
        assert await made.value("SELECT count(*) FROM device WHERE name = $1", name) == 1


@pytest.mark.parametrize("options", [(), ("-N",), ("-b", "64"), ("-T", "token")], ids=str)
async def test_libcoap(site: Site, tool: Callable[..., str], options: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        tool("coap-client-notls", "coap-client"),
        *("-m", "post", "-t", "json", *options, "-e", site.body(f"libcoap {options}").decode()),
        f"{site.uri}/api/v1/provision",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()

    assert json.loads(out)["status"] == "SUCCESS"


@pytest.mark.parametrize("destination", ["127.0.0.1", "127.0.0.5", "::1"])
async def test_it_answers_from_the_address_that_was_asked(made: Service, front: bool, destination: str) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    transport = CoapTransport(made.provisioning, front=front)
    _, port = await transport.start("::", 0)
    site = Site(transport, port, made, None)
    connected, client = await asyncio.get_running_loop().create_datagram_endpoint(
        Datagrams, remote_addr=(destination, port)
    )
    for n, options in enumerate(({}, {"block1": BlockOption.BlockwiseTuple(0, False, 6)})):
        client.send(site.datagram(site.body(f"{destination} {n}"), n, **options))
        assert (await client.message()).code is Code.CREATED
        address = await made.value("SELECT address FROM attempt WHERE device_name = $1", f"{destination} {n}")
        assert address == ("::1" if destination == "::1" else "127.0.0.1")
    connected.close()
    await transport.stop(0)


async def test_a_ping_is_answered(site: Site) -> None:
    async with site.datagrams() as client:
        client.send(Message(_mtype=Type.CON, _mid=11, code=Code.EMPTY).encode())
        response = await client.message()

    assert (response.mtype, response.code, response.mid) == (Type.RST, Code.EMPTY, 11)


GARBAGE = [
    b"",
    b"\x00",
    b"\x40",
    b"pl4nted",
    b"POST /api/v1/provision HTTP/1.1\r\n\r\npl4nted",
    b"\x40\x02\x00\x01\xff",  # a payload marker without a payload
    b"\x4f\x02\x00\x01pl4nted",  # a token of 15 bytes
    b"\x40\x02\x00\x02\xf0pl4nted",  # an option delta of 15
    b"\x40\x02\x00\x03\xbe\xff\xff",  # an option that ends too early
    b"\x40\x02\x00\x04\xb2\xc3\x28\xffpl4nted",  # a path that is not UTF-8
    b"\x40\x02\x00\x05\xd1\x0e\xff\xffpl4nted",  # a block option of a reserved size
    b"\x40\x02\x00\x06\xd4\x0e\xff\xff\xff\xffpl4nted",  # a block option of 4 bytes
    b"\x40\xe0\x00\x07pl4nted",  # a reserved code class
    b"\x80\x02\x00\x08pl4nted",  # version 2
    b"\x60\x41\x00\x09pl4nted",  # an ACK of nothing
    b"\x70\x00\x00\x0a",  # an RST of nothing
    b"\x40\x02\x00\x0b\x11\x00\xffpl4nted",  # an unknown critical option
    b"\x40\x02\x00\x0c\x39pl4nted!!\xff{}",  # Uri-Host of another
    b"\x40\x02\x00\x0d\xd1\x16\x00\xffpl4nted",  # Proxy-Uri
    b"\x40\x01\x00\x0e\x60",  # observe
    b"\xff" * 1_500,
    os.urandom(60_000),
]


@pytest.mark.parametrize("level", ["debug", "info"])
async def test_garbage_breaks_nothing_and_is_not_logged(
    made: Service, capsys: pytest.CaptureFixture[str], level: str, front: bool
) -> None:
    with logging_as_serve_does(level):
        async with serving(made, front=front) as site, site.datagrams() as client:
            for data in GARBAGE:
                client.send(data)
            # One socket, in order: once this is answered, all of that has been dealt with.
            client.send(site.datagram(site.body(f"after garbage {level}"), 77))
            while (response := await client.message()).token != (77).to_bytes(2):
                pass

    assert response.code is Code.CREATED
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "pl4nted" not in err
    if level == "info":
        assert err == ""


# --- starting and stopping


async def test_a_port_in_use_is_refused(made: Service, site: Site) -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(OSError, match="Address already in use"):
            await CoapTransport(made.provisioning).start(host, site.port)


async def test_a_socket_that_is_shared_is_taken_over(made: Service, front: bool) -> None:
    sockets = shared("127.0.0.1", 0, socket.SOCK_DGRAM, 2)
    kept = sockets[0].dup()
    transports = [CoapTransport(made.provisioning, front=front) for _ in sockets]
    addresses = [
        await transport.start("127.0.0.1", 0, sock=each) for transport, each in zip(transports, sockets, strict=True)
    ]
    assert len(set(addresses)) == 1
    client = await Context.create_client_context()
    site = Site(transports[0], addresses[0][1], made, client)
    with pytest.raises(OSError, match="Address already in use"):
        await CoapTransport(made.provisioning).start("127.0.0.1", site.port)
    await transports[1].stop(0)

    async with site.datagrams() as device:
        async with made.blocked() as blocked:
            device.send(site.datagram(site.body(f"before {front}"), 1))
            await blocked.until_waiting()
            stopping = asyncio.create_task(transports[0].stop(60))
            await asyncio.sleep(0)
            device.send(site.datagram(site.body(f"between {front}"), 2))
        await stopping
        while (first := await device.message()).token != (1).to_bytes(2):
            pass
        again = CoapTransport(made.provisioning, front=front)
        assert await again.start("127.0.0.1", 0, sock=kept) == addresses[0]
        while (second := await device.message()).token != (2).to_bytes(2):
            pass
    assert (first.code, second.code) == (Code.CREATED, Code.CREATED)
    await again.stop(0)
    await client.shutdown()


async def test_a_port_in_use_on_all_addresses_is_refused(made: Service) -> None:
    transport = CoapTransport(made.provisioning)
    _, port = await transport.start("0.0.0.0", 0)

    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(OSError, match="Address already in use"):
            await CoapTransport(made.provisioning).start(host, port)

    await transport.stop(0)
    again = CoapTransport(made.provisioning)
    await again.start("0.0.0.0", port)
    await again.stop(0)


async def test_an_address_that_is_not_ours_is_refused(made: Service) -> None:
    for host in ("192.0.2.1", "host.invalid"):
        for port in (0, 56_830):
            with pytest.raises(OSError):  # noqa: PT011 - says what the system says
                await CoapTransport(made.provisioning).start(host, port)


async def test_stopping_answers_what_is_under_way(made: Service, front: bool) -> None:
    async with serving(made, front=front) as site:
        async with made.blocked() as blocked:
            asking = asyncio.create_task(site.provision("under way"))
            await blocked.until_waiting()
            stopping = asyncio.create_task(site.transport.stop(60))
            await asyncio.sleep(0)
            assert not stopping.done()

        assert (await asking).code is Code.CREATED
        await stopping


async def test_stopping_does_not_wait_past_its_grace(made: Service, front: bool) -> None:
    async with serving(made, front=front) as site, site.datagrams() as client, made.blocked() as blocked:
        client.send(site.datagram(site.body("cut off"), 1))
        await blocked.until_waiting()

        await site.transport.stop(0.05)
    await made.provisioning.drain()


async def test_stopping_before_starting_is_nothing(made: Service) -> None:
    await CoapTransport(made.provisioning).stop(0)
