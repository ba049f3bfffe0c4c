"""Against a server that plays canned packets: MQTT 3.1.1 §3 and 5 §3."""

import pytest

from firmware_sim.address import Address
from firmware_sim.errors import NoAnswer, Refused, Untrusted
from firmware_sim.pki import Factory
from firmware_sim.tls import ClientCertificate, Security, Trust
from firmware_sim.transports import MqttVersion
from firmware_sim.transports.mqtt import MqttTransport
from tests.firmware_sim.conftest import Identity
from tests.firmware_sim.mqtt_server import PROPERTIES, Connection, Script, served, until_closed


async def ask(script: Script, version: MqttVersion = MqttVersion.V311, timeout: float = 60.0) -> bytes:
    async with served(script, version) as server, MqttTransport(server, version) as transport:
        return await transport.provision(b'{"a":1}', timeout)


@pytest.mark.parametrize("version", MqttVersion)
async def test_subscribes_publishes_and_returns_the_reply(version: MqttVersion) -> None:
    async def script(connection: Connection) -> None:
        connect = await connection.subscribed()
        assert connect[6] == (5 if version is MqttVersion.V5 else 4)
        assert connect.endswith(b"\x00\x09provision")
        packet_type, publish = await connection.receive()
        assert packet_type == 3
        assert publish == b"\x00\x12/provision/request" + PROPERTIES[version] + b'{"a":1}'
        connection.respond(b"noise", topic=b"\x00\x06/other")
        connection.respond(b"verdict")
        await until_closed(connection)

    assert await ask(script, version) == b"verdict"


@pytest.mark.parametrize(
    ("version", "connack"),
    [
        (MqttVersion.V311, b"\x20\x02\x00\x03"),
        (MqttVersion.V5, b"\x20\x03\x00\x88\x00"),
        (MqttVersion.V5, b"\x20\x03\x00\x97\x00"),
        (MqttVersion.V5, b"\x20\x03\x00\x9f\x00"),
    ],
)
async def test_temporarily_unavailable(version: MqttVersion, connack: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.receive()
        connection.send(connack)

    with pytest.raises(NoAnswer, match="MQTT 0x"):
        await ask(script, version)


@pytest.mark.parametrize(
    ("version", "connack"),
    [(MqttVersion.V311, b"\x20\x02\x00\x05"), (MqttVersion.V5, b"\x20\x03\x00\x87\x00")],
)
async def test_not_authorized_is_a_refusal(version: MqttVersion, connack: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.receive()
        connection.send(connack)

    with pytest.raises(Refused, match="MQTT 0x87 Not authorized"):
        await ask(script, version)


@pytest.mark.parametrize("version", MqttVersion)
async def test_a_connection_closed_instead_of_a_reply_is_no_answer(version: MqttVersion) -> None:
    async def script(connection: Connection) -> None:
        await connection.subscribed()
        await connection.receive()

    with pytest.raises(NoAnswer, match="closed the connection"):
        await ask(script, version)


async def test_a_disconnect_says_why() -> None:
    async def script(connection: Connection) -> None:
        await connection.subscribed()
        await connection.receive()
        connection.send(b"\xe0\x02\x8b\x00")

    with pytest.raises(NoAnswer, match="MQTT 0x8b Server shutting down"):
        await ask(script, MqttVersion.V5)


async def test_silence_after_the_request_ends_at_the_timeout() -> None:
    async def script(connection: Connection) -> None:
        await connection.subscribed()
        await connection.receive()
        await until_closed(connection)

    with pytest.raises(NoAnswer, match=r"no answer within 0\.2 s"):
        await ask(script, timeout=0.2)


async def test_silence_after_connect_ends_at_the_timeout_and_leaves_no_socket() -> None:
    async def script(connection: Connection) -> None:
        await connection.receive()
        await until_closed(connection)

    with pytest.raises(NoAnswer, match=r"no answer within 0\.2 s"):
        await ask(script, timeout=0.2)


async def test_nobody_listens(free_port: int) -> None:
    async with MqttTransport(Address("127.0.0.1", free_port), MqttVersion.V311) as transport:
        with pytest.raises(NoAnswer, match="connection refused"):
            await transport.provision(b"{}", 60.0)


async def test_a_server_that_hangs_up_before_connack_is_not_waited_for() -> None:
    async def script(connection: Connection) -> None:
        await connection.receive()

    with pytest.raises(NoAnswer, match="closed the connection"):
        await ask(script, timeout=60.0)


async def answer(connection: Connection) -> None:
    await connection.subscribed()
    await connection.receive()
    connection.respond(b"verdict")
    await until_closed(connection)


async def ask_over_tls(
    security: Security, identity: Identity, script: Script = answer, client_ca: Factory | None = None
) -> bytes:
    file = client_ca.root_file if client_ca else None
    async with (
        served(script, MqttVersion.V311, identity.context(file)) as server,
        MqttTransport(server, MqttVersion.V311, security) as transport,
    ):
        assert transport.name == "mqtts"
        assert transport.url == f"mqtts://{server}/provision/request"
        return await transport.provision(b'{"a":1}', 60.0)


async def test_over_tls(identity: Identity) -> None:
    assert await ask_over_tls(Security(identity.trust), identity) == b"verdict"


async def test_over_tls_without_a_check(stranger: Identity) -> None:
    assert await ask_over_tls(Security(Trust(insecure=True)), stranger) == b"verdict"


async def test_a_server_of_another_ca_or_name_learns_nothing(identity: Identity, stranger: Identity) -> None:
    async def script(connection: Connection) -> None:
        assert await connection.reader.read() == b""

    for server in (identity, stranger):
        with pytest.raises(Untrusted, match="--ca"):
            await ask_over_tls(Security(stranger.trust), server, script)


async def test_shows_its_certificate(identity: Identity, certificate: ClientCertificate, factory: Factory) -> None:
    async def script(connection: Connection) -> None:
        shown = connection.writer.get_extra_info("peercert")
        assert shown["subject"] == ((("commonName", "sensor-1"),),)
        await answer(connection)

    assert await ask_over_tls(Security(identity.trust, certificate), identity, script, factory) == b"verdict"


async def test_nobody_shakes_hands() -> None:
    async def script(connection: Connection) -> None:
        await connection.reader.read(1)

    async with (
        served(script, MqttVersion.V311) as server,
        MqttTransport(server, MqttVersion.V311, Security(Trust(insecure=True))) as transport,
    ):
        with pytest.raises(NoAnswer):
            await transport.provision(b"{}", 60.0)
