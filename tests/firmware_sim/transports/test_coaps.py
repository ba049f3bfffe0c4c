"""Provisioning and links over DTLS, against libcoap's servers on OpenSSL and GnuTLS."""

from collections.abc import Callable

import pytest

from firmware_sim.address import Address
from firmware_sim.errors import NoAnswer, Refused, SimulatorError, Unauthorized, Untrusted
from firmware_sim.links.coap import CoapsLink
from firmware_sim.pki import Factory
from firmware_sim.tls import ClientCertificate, PreSharedKey, Security, Trust
from firmware_sim.transports.coap import CoapsTransport
from tests.firmware_sim.conftest import Identity
from tests.firmware_sim.libcoap import libcoap

PROGRAMS = ["coap-server-openssl", "coap-server-gnutls"]
KEY = PreSharedKey("sensor-1", b"a key that both know")
BY_KEY = ("-k", KEY.key.decode(), "-h", "")

Tool = Callable[[str], str]


async def use(server: Address, security: Security, timeout: float = 60.0) -> None:
    """Be provisioned, then connect and send: 2.01, 4.04 and 2.01."""
    async with CoapsTransport(server, security) as transport:
        assert transport.url == f"coaps://{server}/api/v1/provision"
        assert await transport.provision(b"{}" * 1000, timeout) == b""
    async with CoapsLink(f"coaps://{server}/api/v1", server, security, timeout) as link:
        await link.telemetry(b"{}")


@pytest.mark.parametrize("program", PROGRAMS)
async def test_by_pre_shared_key(tool: Tool, program: str) -> None:
    with libcoap(tool(program), *BY_KEY) as server:
        await use(server, Security(key=KEY))


@pytest.mark.parametrize("program", PROGRAMS)
async def test_by_certificate(
    tool: Tool, program: str, identity: Identity, factory: Factory, certificate: ClientCertificate
) -> None:
    options = ("-c", identity.certificate, "-j", identity.key, "-R", factory.root_file)
    with libcoap(tool(program), *options) as server:
        await use(server, Security(identity.trust, certificate))


async def test_a_server_that_asks_for_no_certificate(tool: Tool, identity: Identity) -> None:
    with libcoap(tool("coap-server-openssl"), "-c", identity.certificate, "-j", identity.key, "-n") as server:
        await use(server, Security(identity.trust))
        await use(server, Security(Trust(insecure=True)))


async def failing(server: Address, security: Security, timeout: float = 60.0) -> tuple[SimulatorError, SimulatorError]:
    """What provisioning and a link say."""
    with pytest.raises(SimulatorError) as first:
        async with CoapsTransport(server, security) as transport:
            await transport.provision(b"{}", timeout)
    with pytest.raises(SimulatorError) as second:
        async with CoapsLink(f"coaps://{server}/api/v1", server, security, timeout):
            raise AssertionError
    return first.value, second.value


async def test_another_key(tool: Tool) -> None:
    with libcoap(tool("coap-server-openssl"), *BY_KEY) as server:
        for error in await failing(server, Security(key=PreSharedKey("sensor-1", b"another")), timeout=3.0):
            assert isinstance(error, Unauthorized)


async def test_another_ca(tool: Tool, identity: Identity, stranger: Identity) -> None:
    options = ("-c", identity.certificate, "-j", identity.key, "-n")
    with libcoap(tool("coap-server-openssl"), *options) as server:
        for error in await failing(server, Security(stranger.trust)):
            assert isinstance(error, Untrusted)


async def test_a_certificate_that_the_server_does_not_accept(
    tool: Tool, identity: Identity, stranger: Identity, certificate: ClientCertificate
) -> None:
    options = ("-c", identity.certificate, "-j", identity.key, "-R", stranger.ca)
    with libcoap(tool("coap-server-openssl"), *options) as server:
        for error in await failing(server, Security(identity.trust, certificate)):
            assert isinstance(error, Refused), error


async def test_nobody_listens(free_port: int) -> None:
    for error in await failing(Address("127.0.0.1", free_port), Security(key=KEY)):
        assert isinstance(error, NoAnswer)
        assert str(error) == "connection refused"


async def test_lost_datagrams_come_again(tool: Tool) -> None:
    with libcoap(tool("coap-server-openssl"), *BY_KEY, "-l", "2,5") as server:
        await use(server, Security(key=KEY))


async def test_a_server_that_dies_is_heard_of(tool: Tool) -> None:
    with libcoap(tool("coap-server-openssl"), *BY_KEY) as server:
        link = CoapsLink(f"coaps://{server}/api/v1", server, Security(key=KEY), 60.0)
        await link.__aenter__()
    with pytest.raises(NoAnswer):
        await link.telemetry(b"{}")
    await link.__aexit__(None, None, None)
