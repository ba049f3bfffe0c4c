import asyncio
import itertools
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiocoap import Context, Message
from aiocoap.numbers.codes import Code
from aiocoap.numbers.types import Type
from cryptography import x509
from OpenSSL import SSL

from provserver.services.oscore import SequenceNumbers
from provserver.transports import coaps
from provserver.transports.coap import CoapTransport
from provserver.transports.dtls import Limits
from provserver.transports.oscore import OscoreSite
from provserver.transports.sockets import shared
from provserver.transports.tls import ServerContext
from tests.pki import Authority, Issued, self_signed
from tests.transports.devices import Backend, Device, backend
from tests.transports.dtls_client import DtlsClient
from tests.transports.oscore_client import DeviceContext

CLIENTS = ("coap-client-openssl", "coap-client-gnutls")

pytestmark = pytest.mark.usefixtures("piggybacked")

numbers = itertools.count(1)


@dataclass
class Site:
    """A server for CoAP, CoAPS and OSCORE, and its files."""

    transport: CoapTransport
    interface: Any
    backend: Backend
    plain_port: int
    authority: Authority

    @property
    def port(self) -> int:
        port: int = self.interface.address[1]
        return port

    def body(self, name: str, **members: object) -> bytes:
        pair = self.backend.made.pair
        request = {"deviceName": name, "provisionDeviceKey": pair.key, "provisionDeviceSecret": pair.secret}
        return json.dumps(request | members).encode()


@pytest.fixture(scope="module")
async def services(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    async with backend(postgres, tmp_path_factory.mktemp("coaps"), "coaps") as made:
        yield made


@asynccontextmanager
async def serving(
    services: Backend, directory: Path, limits: Limits | None = None, sock: socket.socket | None = None
) -> AsyncIterator[Site]:
    authority = Authority.root()
    files = authority.leaf("localhost", san=[x509.DNSName("localhost")]).write(directory, "server")
    (directory / "root.pem").write_text(authority.pem)
    context = ServerContext(*files, datagram=True)
    shared_key = services.access.shared_key
    numbers = SequenceNumbers(services.made.database)
    transport = CoapTransport(
        services.made.provisioning,
        **services.services,
        wrap=partial(OscoreSite, shared_keys=services.access.shared_keys, numbers=numbers),
    )
    listen = partial(coaps.listen, host="127.0.0.1", port=0, context=context, shared_key=shared_key, sock=sock)
    listen = partial(listen, limits=limits or Limits())
    _, plain_port = await transport.start("127.0.0.1", 0)
    interface = await transport.add(listen)
    try:
        yield Site(transport, interface, services, plain_port, authority)
    finally:
        await transport.stop(0)


@pytest.fixture(scope="module")
async def site(services: Backend, directory: Path) -> AsyncIterator[Site]:
    async with serving(services, directory) as shared:
        yield shared


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, tool: Callable[[str], str]) -> str:
    return tool(request.param)


async def run(*command: str) -> str:
    """What a program prints. coap-client says of codes past 2.xx what they are, and of others nothing."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return output.decode()


def with_key(identity: str, key: str) -> tuple[str, ...]:
    return "-u", identity, "-k", key


def with_certificate(directory: Path, device: Issued) -> tuple[str, ...]:
    both = directory / f"device-{next(numbers)}.pem"
    both.write_text(device.chain_pem + device.key_pem)
    return "-c", str(both), "-C", str(directory / "root.pem")


def written(directory: Path, body: bytes) -> str:
    file = directory / f"body-{next(numbers)}"
    file.write_bytes(body)
    return str(file)


def post(port: int, file: str, path: str = "api/v1/provision", host: str = "localhost") -> tuple[str, ...]:
    return "-m", "post", "-B", "60", "-t", "json", "-f", file, f"coaps://{host}:{port}/{path}"


# --- real clients


async def test_a_device_is_provisioned_and_comes_back_by_its_key(site: Site, directory: Path, client: str) -> None:
    pair = site.backend.made.pair
    body = written(directory, site.body(f"by key, {Path(client).name}"))

    reply = json.loads(await run(client, *with_key(pair.key, pair.secret), *post(site.port, body, host="127.0.0.1")))
    assert reply["status"] == "SUCCESS"
    device = Device(UUID(reply["deviceId"]), reply["credentialsValue"])
    telemetry = written(directory, b'{"temperature": 21}')
    said = await run(
        client,
        *with_key(str(device.id), device.token),
        *post(site.port, telemetry, "api/v1/telemetry", host="127.0.0.1"),
    )

    assert said == ""
    assert await site.backend.latest(device) == {"temperature": 21}


async def test_a_device_is_known_by_its_certificate(site: Site, directory: Path, client: str) -> None:
    """A self-signed one, that the device brought when it was provisioned."""
    own = self_signed(f"sensor {Path(client).name}")
    body = site.body(f"x509 {Path(client).name}", credentialsType="X509_CERTIFICATE", hash=own.pem)

    provisioned = await run(client, *with_certificate(directory, own), *post(site.port, written(directory, body)))
    reply = json.loads(provisioned)
    assert reply["status"] == "SUCCESS"
    said = await run(
        client,
        *with_certificate(directory, own),
        *post(site.port, written(directory, b'{"x": 1}'), "api/v1/telemetry"),
    )

    assert said == ""
    assert await site.backend.latest(Device(UUID(reply["deviceId"]), "")) == {"x": 1}


async def test_a_socket_that_is_bound_already_is_used(services: Backend, tmp_path: Path, client: str) -> None:
    (bound,) = shared("127.0.0.1", 0, socket.SOCK_DGRAM, 1)
    async with serving(services, tmp_path, sock=bound) as site:
        assert site.port == bound.getsockname()[1]
        pair = services.made.pair
        body = written(tmp_path, site.body(f"shared {Path(client).name}"))
        reply = await run(client, *with_key(pair.key, pair.secret), *post(site.port, body, host="127.0.0.1"))

    assert json.loads(reply)["status"] == "SUCCESS"


async def test_a_stranger_is_told_so(site: Site, directory: Path, client: str) -> None:
    body = written(directory, b'{"x": 1}')
    stranger = site.authority.intermediate().leaf("stranger")

    said = await run(client, *with_certificate(directory, stranger), *post(site.port, body, "api/v1/telemetry"))

    assert said.startswith("4.01")


async def test_a_wrong_key_is_not_let_in(site: Site, directory: Path, client: str) -> None:
    device = await site.backend.device(f"wrong key {Path(client).name}")
    body = written(directory, b'{"x": 1}')
    command = post(site.port, body, "api/v1/telemetry", host="127.0.0.1")
    command = tuple("1" if each == "60" else each for each in command)

    for identity, key in ((str(device.id), "wrong"), ("nobody", device.token)):
        assert "cannot send CoAP pdu" in await run(client, *with_key(identity, key), *command)

    assert await site.backend.latest(device) == {}


async def test_bodies_of_many_blocks_go_both_ways(site: Site, directory: Path, client: str) -> None:
    own = self_signed(
        "x" * 60, extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), bytes(2900)), False)]
    )
    assert len(own.pem) > 4096
    body = site.body(f"large {Path(client).name}", credentialsType="X509_CERTIFICATE", hash=own.pem)
    pair = site.backend.made.pair

    said = await run(
        client, *with_key(pair.key, pair.secret), *post(site.port, written(directory, body), host="127.0.0.1")
    )

    reply = json.loads(said)
    assert reply["status"] == "SUCCESS"
    assert len(reply["credentialsValue"]) > 3500


# --- CoAP's own


def message(mid: int, path: str, payload: bytes = b"", code: Code = Code.POST, **options: Any) -> bytes:
    request = Message(code=code, payload=payload, uri_path=tuple(path.split("/")), **options)
    request.mtype, request.mid, request.token = Type.CON, mid, mid.to_bytes(2)
    encoded: bytes = request.encode()
    return encoded


async def test_a_request_that_comes_twice_is_answered_the_same(site: Site) -> None:
    pair = site.backend.made.pair
    request = message(1, "api/v1/provision", site.body("twice"))
    async with DtlsClient.connected(site.port, psk=(pair.key, pair.secret.encode())) as client:
        assert await client.ask(request) == await client.ask(request)


async def test_message_ids_begin_anew_with_an_association(site: Site) -> None:
    """RFC 7252 §9.1.1: also from the same address."""
    device = await site.backend.device("again")
    async with DtlsClient.connected(site.port, psk=(str(device.id), device.token.encode())) as client:
        for value in range(3):
            answer = Message.decode(await client.ask(message(1, "api/v1/telemetry", b'{"value": %d}' % value)))
            assert answer.code is Code.CREATED
            client.begin()
            await client.handshake()

    assert await site.backend.latest(device) == {"value": 2}


async def test_whoever_is_let_in_keeps_its_association(services: Backend, directory: Path) -> None:
    """However many strangers come; by whichever way it was let in."""
    device = await services.device("let in")
    own = self_signed("let in by certificate")
    async with (
        serving(services, directory, Limits(max_unproven=1)) as site,
        DtlsClient.connected(site.port) as by_token,
    ):
        telemetry = message(1, f"api/v1/{device.token}/telemetry", b'{"x": 1}')
        observe = message(2, f"api/v1/{device.token}/attributes", code=Code.GET, observe=0)
        provision = site.body("let in x509", credentialsType="X509_CERTIFICATE", hash=own.pem)
        assert Message.decode(await by_token.ask(telemetry)).code is Code.CREATED
        async with DtlsClient.connected(site.port) as observer, DtlsClient.open(site.port) as provisioned:
            assert Message.decode(await observer.ask(observe)).code is Code.CONTENT
            await provisioned.handshake()
            assert Message.decode(await provisioned.ask(message(3, "api/v1/provision", provision))).code is Code.CREATED
            async with (
                DtlsClient.connected(site.port, certificate=own) as by_certificate,
                DtlsClient.open(site.port, certificate=self_signed("a stranger")) as stranger,
            ):
                own_telemetry = message(9, "api/v1/telemetry", b'{"x": 1}')
                assert Message.decode(await by_certificate.ask(own_telemetry)).code is Code.CREATED
                await stranger.handshake()
                assert Message.decode(await stranger.ask(own_telemetry)).code is Code.UNAUTHORIZED
                async with DtlsClient.connected(site.port):
                    with pytest.raises(SSL.ZeroReturnError):
                        await stranger.receive()
                    again = message(20, "api/v1/telemetry", b'{"x": 2}')
                    assert Message.decode(await by_certificate.ask(again)).code is Code.CREATED
                    again = message(20, f"api/v1/{device.token}/telemetry", b'{"x": 2}')
                    for client in (by_token, observer, provisioned):
                        assert Message.decode(await client.ask(again)).code is Code.CREATED


async def test_what_is_no_message_is_ignored(site: Site) -> None:
    device = await site.backend.device("garbage")
    async with DtlsClient.connected(site.port, psk=(str(device.id), device.token.encode())) as client:
        for garbage in (
            b"\xff",
            b"\x40",
            b"\xff" * 1000,
            b"\x40\xe5\x00\x01",
        ):
            client.send(garbage)
        answer = Message.decode(await client.ask(message(2, "api/v1/telemetry", b'{"value": 1}')))

    assert answer.code is Code.CREATED


async def test_observers_hear_of_changes_until_they_are_gone(site: Site) -> None:
    device = await site.backend.device("observer")
    await site.backend.share(device, colour="red")
    async with DtlsClient.connected(site.port, psk=(str(device.id), device.token.encode())) as client:
        first = Message.decode(await client.ask(message(3, "api/v1/attributes", code=Code.GET, observe=0)))
        assert json.loads(first.payload) == {"colour": "red"}
        await site.backend.until_watched(device)
        await site.backend.share(device, colour="blue")
        notification = Message.decode(await client.receive())
        assert json.loads(notification.payload) == {"colour": "blue"}
        client.close()
        await site.backend.until_watched(device, 0)


async def test_whoever_asks_when_it_stops_is_answered_and_told_goodbye(services: Backend, directory: Path) -> None:
    async with serving(services, directory) as site:
        pair = site.backend.made.pair
        async with DtlsClient.connected(site.port, psk=(pair.key, pair.secret.encode())) as client:
            async with services.made.blocked() as blocked:
                client.send(message(4, "api/v1/provision", site.body("at the end")))
                await blocked.until_waiting()
                stopping = asyncio.create_task(site.transport.stop(60))
                await asyncio.sleep(0)
            await stopping
            while (answer := Message.decode(await client.receive())).code is Code.EMPTY:
                pass
            with pytest.raises(SSL.ZeroReturnError):
                await client.receive()

    assert answer.code is Code.CREATED


# --- OSCORE, by the whole server


async def oscore_client(site: Site, context: DeviceContext) -> Context:
    client = await Context.create_client_context(transports=["oscore", "udp6"])
    client.client_credentials[f"coap://127.0.0.1:{site.plain_port}/*"] = context
    return client


async def test_a_device_is_provisioned_under_oscore_and_comes_back(site: Site) -> None:
    pair = site.backend.made.pair
    uri = f"coap://127.0.0.1:{site.plain_port}/api/v1"
    own = self_signed(
        "x" * 60, extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), bytes(2900)), False)]
    )

    client = await oscore_client(site, DeviceContext(pair.key.encode() + os.urandom(16), pair.secret.encode()))
    replies = []
    for members in ({}, {"credentialsType": "X509_CERTIFICATE", "hash": own.pem}):
        body = site.body(f"oscore {len(members)}", **members)
        response = await client.request(Message(code=Code.POST, uri=f"{uri}/provision", payload=body)).response
        assert response.code is Code.CREATED
        replies.append(json.loads(response.payload))
    await client.shutdown()
    device = Device(UUID(replies[0]["deviceId"]), replies[0]["credentialsValue"])

    client = await oscore_client(site, DeviceContext(device.id.bytes, device.token.encode()))
    sent = await client.request(Message(code=Code.POST, uri=f"{uri}/telemetry", payload=b'{"x": 1}')).response
    await site.backend.share(device, colour="red")
    observing = client.request(Message(code=Code.GET, uri=f"{uri}/attributes", observe=0))
    first = await observing.response
    await site.backend.until_watched(device)
    await site.backend.share(device, colour="blue")
    second = await anext(aiter(observing.observation))
    await site.backend.revoke(device)
    revoked = await client.request(Message(code=Code.POST, uri=f"{uri}/telemetry", payload=b'{"x": 2}')).response
    await client.shutdown()

    assert len(replies[1]["credentialsValue"]) > 3500
    assert sent.code is Code.CREATED
    assert [json.loads(each.payload) for each in (first, second)] == [{"colour": "red"}, {"colour": "blue"}]
    assert revoked.code is Code.UNAUTHORIZED
    assert await site.backend.latest(device) == {"x": 1}
