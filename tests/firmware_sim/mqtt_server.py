"""An MQTT server that plays canned packets: MQTT 3.1.1 §3 and 5 §3."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from firmware_sim.address import Address
from firmware_sim.transports import MqttVersion

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
async def served(
    script: Script, version: MqttVersion = MqttVersion.V311, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Address]:
    """An MQTT server on a free port; the script's failure is the test's. Over TLS, no script plays if that fails."""
    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    begun = False

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal begun
        begun = True
        try:
            await script(Connection(reader, writer, version))
        except Exception as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)
        finally:
            writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls) as server:
        host, port = server.sockets[0].getsockname()
        yield Address(host, port)
        if begun or tls is None:
            await outcome


async def until_closed(connection: Connection) -> None:
    """Wait for DISCONNECT, or for the end without."""
    assert await connection.reader.read() in (b"", b"\xe0\x00")
