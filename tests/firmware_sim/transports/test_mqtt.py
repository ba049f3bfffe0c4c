"""Against a server that plays canned packets: MQTT 3.1.1 §3 and 5 §3."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from firmware_sim.address import Address
from firmware_sim.errors import NoAnswer, Refused
from firmware_sim.transports import MqttVersion
from firmware_sim.transports.mqtt import MqttTransport

CONNACK = {MqttVersion.V311: b"\x20\x02\x00\x00", MqttVersion.V5: b"\x20\x03\x00\x00\x00"}
PROPERTIES = {MqttVersion.V311: b"", MqttVersion.V5: b"\x00"}
TOPIC = b"\x00\x13/provision/response"


@dataclass(frozen=True)
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    version: MqttVersion

    async def receive(self) -> tuple[int, bytes]:
        """One packet: its type, and what follows the fixed header (of up to 127 bytes)."""
        header = await self.reader.readexactly(2)
        return header[0] >> 4, await self.reader.readexactly(header[1])

    def send(self, packet: bytes) -> None:
        self.writer.write(packet)

    async def subscribed(self) -> bytes:
        """Let the client connect and subscribe; its CONNECT."""
        connect_type, connect = await self.receive()
        self.send(CONNACK[self.version])
        subscribe_type, subscribe = await self.receive()
        assert (connect_type, subscribe_type) == (1, 8)
        assert TOPIC in subscribe
        body = subscribe[:2] + PROPERTIES[self.version] + b"\x00"
        self.send(bytes([0x90, len(body)]) + body)
        return connect

    def respond(self, payload: bytes, topic: bytes = TOPIC) -> None:
        body = topic + PROPERTIES[self.version] + payload
        self.send(bytes([0x30, len(body)]) + body)


Script = Callable[[Connection], Awaitable[None]]


@asynccontextmanager
async def served(script: Script, version: MqttVersion) -> AsyncIterator[Address]:
    """An MQTT server on a free port; the script's failure is the test's."""
    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(Connection(reader, writer, version))
        except Exception as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)
        finally:
            writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield Address(host, port)
        await outcome


async def ask(script: Script, version: MqttVersion = MqttVersion.V311, timeout: float = 5.0) -> bytes:
    async with served(script, version) as server, MqttTransport(server, version) as transport:
        return await transport.provision(b'{"a":1}', timeout)


async def until_closed(connection: Connection) -> None:
    assert await connection.reader.read() in (b"", b"\xe0\x00")


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
            await transport.provision(b"{}", 5.0)
