import asyncio
import json
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from firmware_sim.address import Address
from firmware_sim.errors import BadReply, NoAnswer, Refused, SimulatorError, Unauthorized
from firmware_sim.links import Login
from firmware_sim.links.mqtt import MqttLink
from firmware_sim.pki import Factory
from firmware_sim.tls import ClientCertificate, Security
from firmware_sim.transports import MqttVersion
from tests.firmware_sim.conftest import Identity
from tests.firmware_sim.mqtt_server import CONNACK, PROPERTIES, Connection, Script, served, until_closed

TOKEN = Login(token="the-token")


def topic(name: bytes) -> bytes:
    return len(name).to_bytes(2, "big") + name


async def welcome(connection: Connection, granted: bytes = b"\x01") -> bytes:
    """Let a device in, up to its request for attributes; its CONNECT."""
    _, connect = await connection.receive()
    connection.send(CONNACK[connection.version])
    for name in (b"v1/devices/me/attributes", b"v1/devices/me/attributes/response/+"):
        packet_type, subscribe = await connection.receive()
        assert packet_type == 8
        assert topic(name) + b"\x01" in subscribe
        suback = subscribe[:2] + PROPERTIES[connection.version] + granted
        connection.send(bytes([0x90, len(suback)]) + suback)
        if granted >= b"\x80":
            await until_closed(connection)
            return connect
    await acknowledge(connection, b"v1/devices/me/attributes/request/1", {"sharedKeys": "telemetryInterval"})
    return connect


async def acknowledge(connection: Connection, name: bytes, expected: Mapping[str, Any]) -> None:
    packet_type, publish = await connection.receive()
    assert packet_type == 3
    assert publish.startswith(topic(name))
    identifier, payload = publish[len(name) + 2 :][:2], publish[len(name) + 4 + len(PROPERTIES[connection.version]) :]
    assert json.loads(payload) == expected
    connection.send(b"\x40\x02" + identifier)


async def play(
    script: Script,
    use: Callable[[MqttLink], Any],
    login: Login = TOKEN,
    version: MqttVersion = MqttVersion.V311,
    timeout: float = 60.0,
) -> Any:
    async with served(script, version) as server, MqttLink(server, version, login, None, timeout) as link:
        return await use(link)


async def news(link: MqttLink, count: int) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    async for values in link.updates():
        found.append(values)
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize("version", MqttVersion)
async def test_telemetry_is_acknowledged(version: MqttVersion) -> None:
    async def script(connection: Connection) -> None:
        connect = await welcome(connection)
        assert connect.endswith(topic(b"the-token"))
        await acknowledge(connection, b"v1/devices/me/telemetry", {"a": 1})
        await until_closed(connection)

    await play(script, lambda link: link.telemetry(b'{"a":1}'), version=version)


@pytest.mark.parametrize(
    ("basic", "end"),
    [
        ({"clientId": "me", "userName": "user", "password": "pass"}, b"me\x00\x04user\x00\x04pass"),
        ({"clientId": "", "userName": "user", "password": ""}, b"\x00\x04user\x00\x00"),
        ({"clientId": "me", "userName": "", "password": ""}, b"\x00\x02me"),
    ],
)
async def test_user_name_and_password(basic: Mapping[str, str], end: bytes) -> None:
    async def script(connection: Connection) -> None:
        connect = await welcome(connection)
        assert connect.endswith(end)
        await until_closed(connection)

    async def nothing(_: MqttLink) -> None:
        pass

    await play(script, nothing, Login(basic=basic))


async def test_attributes_come_with_the_answer_and_then_as_they_change() -> None:
    async def script(connection: Connection) -> None:
        await welcome(connection)
        connection.respond(b'{"shared":{"a":1}}', topic(b"v1/devices/me/attributes/response/1"))
        connection.respond(b'{"a":2}', topic(b"v1/devices/me/attributes"))
        connection.respond(b'{"deleted":["a"]}', topic(b"v1/devices/me/attributes"))
        connection.respond(b"{}", topic(b"v1/devices/me/attributes/response/1"))
        await until_closed(connection)

    assert await play(script, lambda link: news(link, 4)) == [{"a": 1}, {"a": 2}, {"deleted": ["a"]}, {}]


@pytest.mark.parametrize("payload", [b"", b"[]", b"\xff"])
async def test_attributes_that_are_none_are_a_bad_reply(payload: bytes) -> None:
    async def script(connection: Connection) -> None:
        await welcome(connection)
        connection.respond(payload, topic(b"v1/devices/me/attributes"))
        await until_closed(connection)

    with pytest.raises(BadReply):
        await play(script, lambda link: news(link, 1))


@pytest.mark.parametrize(
    ("version", "connack", "error"),
    [
        (MqttVersion.V311, b"\x20\x02\x00\x02", Unauthorized),
        (MqttVersion.V311, b"\x20\x02\x00\x04", Unauthorized),
        (MqttVersion.V311, b"\x20\x02\x00\x05", Unauthorized),
        (MqttVersion.V5, b"\x20\x03\x00\x85\x00", Unauthorized),
        (MqttVersion.V5, b"\x20\x03\x00\x86\x00", Unauthorized),
        (MqttVersion.V5, b"\x20\x03\x00\x87\x00", Unauthorized),
        (MqttVersion.V311, b"\x20\x02\x00\x03", NoAnswer),
        (MqttVersion.V5, b"\x20\x03\x00\x88\x00", NoAnswer),
        (MqttVersion.V5, b"\x20\x03\x00\x9f\x00", NoAnswer),
        (MqttVersion.V5, b"\x20\x03\x00\x9d\x00", Refused),
    ],
)
async def test_bad_credentials_are_one_thing_and_unavailable_is_another(
    version: MqttVersion, connack: bytes, error: type[SimulatorError]
) -> None:
    async def script(connection: Connection) -> None:
        await connection.receive()
        connection.send(connack)

    async def never(_: MqttLink) -> None:
        raise AssertionError

    with pytest.raises(SimulatorError) as caught:
        await play(script, never, version=version)
    assert type(caught.value) is error


async def test_a_subscription_that_is_refused_is_said() -> None:
    async def script(connection: Connection) -> None:
        await welcome(connection, b"\x80")

    async def never(_: MqttLink) -> None:
        raise AssertionError

    with pytest.raises(Refused, match="subscription"):
        await play(script, never)


async def test_a_connection_that_ends_ends_the_updates() -> None:
    async def script(connection: Connection) -> None:
        await welcome(connection)

    with pytest.raises(NoAnswer, match="closed the connection"):
        await play(script, lambda link: news(link, 1))


async def test_a_disconnect_says_why() -> None:
    async def script(connection: Connection) -> None:
        await welcome(connection)
        connection.send(b"\xe0\x02\x8e\x00")
        await until_closed(connection)

    with pytest.raises(NoAnswer, match="0x8e Session taken over"):
        await play(script, lambda link: news(link, 1), version=MqttVersion.V5)


async def test_silence_after_telemetry_ends_at_the_timeout() -> None:
    async def script(connection: Connection) -> None:
        await welcome(connection)
        await connection.receive()
        await until_closed(connection)

    with pytest.raises(NoAnswer):
        await play(script, lambda link: link.telemetry(b"{}"), timeout=0.5)


async def test_a_certificate_says_it_all(identity: Identity, certificate: ClientCertificate, factory: Factory) -> None:
    async def script(connection: Connection) -> None:
        shown = connection.writer.get_extra_info("peercert")
        assert shown["subject"] == ((("commonName", "sensor-1"),),)
        connect = await welcome(connection)
        assert connect[7] == 0x02  # clean session, neither user name nor password
        await until_closed(connection)

    security = Security(identity.trust, certificate)
    login = Login(certificate=certificate)
    async with (
        served(script, tls=identity.context(factory.root_file)) as server,
        MqttLink(server, MqttVersion.V311, login, security, 60.0),
    ):
        pass


async def test_a_certificate_that_the_handshake_refuses(
    identity: Identity, stranger: Identity, certificate: ClientCertificate
) -> None:
    """In TLS 1.2; in 1.3 the client's handshake is over by then, and paho tells of a lost connection."""
    context = identity.context(stranger.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def refuse(listening: socket.socket) -> None:  # asyncio's server would close before the alert is out
        listening.settimeout(120)  # a thread that waits for ever is never joined
        connection, _ = listening.accept()
        connection.settimeout(120)
        with connection, pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)

    login, security = Login(certificate=certificate), Security(identity.trust, certificate)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        refusing = asyncio.create_task(asyncio.to_thread(refuse, listening))
        server = Address(*listening.getsockname())
        with pytest.raises(Unauthorized, match="unknown ca"):
            async with MqttLink(server, MqttVersion.V311, login, security, 60.0):
                raise AssertionError
        await refusing
