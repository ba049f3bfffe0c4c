"""Listeners on real sockets, clients that say what they are told to, and what answers for provisioning."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self

import aiomqtt

from provserver.core.model import Peer
from provserver.errors import Outcome
from provserver.services.provisioning import Answer, Provisioning
from provserver.transports.mqtt.listener import MqttListener
from tests.transports.mqtt.wire import Wire, whole

PROTOCOLS: Final = {
    "mqttv31": aiomqtt.ProtocolVersion.V31,
    "mqttv311": aiomqtt.ProtocolVersion.V311,
    "mqttv5": aiomqtt.ProtocolVersion.V5,
}

Find = Callable[..., str]


class Scripted(Provisioning):
    """Answers with the request itself, as soon as the gate is open; some requests have a script of their own."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, Peer]] = []
        self.finished: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.changed = asyncio.Event()
        self._waiting: list[asyncio.Task[None]] = []

    def request(
        self,
        payload: bytes,
        peer: Peer,
        done: Callable[[Answer], None],
        *,
        accept_protobuf: bool = True,  # noqa: ARG002
        opened: bytes | None = None,  # noqa: ARG002
        heard: bool = False,  # noqa: ARG002
    ) -> None:
        self.asked.append((payload, peer))
        self.changed.set()
        if payload == b"raise":
            raise LookupError(payload)
        if self.gate.is_set():
            self._finish(payload, done)
        else:
            self._waiting.append(asyncio.create_task(self._wait(payload, done)))

    def forget(self) -> None:
        """What still waits is never answered."""
        for each in self._waiting:
            each.cancel()

    async def _wait(self, payload: bytes, done: Callable[[Answer], None]) -> None:
        await self.gate.wait()
        self._finish(payload, done)

    def _finish(self, payload: bytes, done: Callable[[Answer], None]) -> None:
        self.finished.append(payload)
        self.changed.set()
        if payload == b"undecodable":
            done(Answer(Outcome.UNDECODABLE, b""))
        else:
            done(Answer(Outcome.SUCCESS, b"answer to " + payload))

    async def until(self, predicate: Callable[[Self], bool]) -> None:
        while not predicate(self):
            self.changed.clear()
            await self.changed.wait()


@dataclass
class Served:
    """A listener, what answers for it, and where it is."""

    listener: MqttListener
    provisioning: Scripted
    port: int

    async def connect(self) -> "Raw":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        return Raw(reader, writer)

    async def provision_session(self, wire: Wire) -> "Raw":
        raw = await self.connect()
        await raw.send(wire.connect())
        assert (await raw.packet())[0] == 0x20
        return raw

    async def emptied(self) -> None:
        """Until no connection is left."""
        await self.listener._unused.wait()


@dataclass
class Raw:
    """A client that says what it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytes = b""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def packet(self) -> bytes:
        while (size := whole(self.received)) is None:
            data = await self.reader.read(4096)
            assert data, "closed"
            self.received += data
        packet, self.received = self.received[:size], self.received[size:]
        return packet

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        return self.received + await self.reader.read()

    def reset(self) -> None:
        """Vanish."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@dataclass
class Listen:
    """Starts listeners that end with the test."""

    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def __call__(self, **options: Any) -> Served:
        provisioning = Scripted()
        listener = MqttListener(provisioning, **{"sweep_interval": 0.01, **options})
        self.stack.callback(provisioning.forget)
        self.stack.push_async_callback(listener.stop, 0)
        _, port = await listener.start("127.0.0.1", 0)
        return Served(listener, provisioning, port)


async def run(*command: str) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out, err
