"""A tiny MQTT client whose packets are exactly what a test says; 3.1, 3.1.1 and 5."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from tests.conformance.clients.protobuf import Proto

V3_1, V3_1_1, V5 = 3, 4, 5

REQUEST_TOPIC = "/provision/request"
RESPONSE_TOPIC = "/provision/response"

TIME_LIMIT = 90.0
"""Seconds for what must come; nothing waits for what must not."""


# What a client sends. `properties` are the raw bytes behind their length.


@dataclass(frozen=True, slots=True)
class Connect:
    """CONNECT; user name `provision` unless told otherwise. version: instead of the connection's own."""

    client_id: str = "any"
    username: str | None = "provision"
    password: str | None = None
    clean: bool = True
    keep_alive: int = 60
    will: bool = False
    properties: bytes = b""
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Publish:
    """PUBLISH; the payload may hold placeholders."""

    payload: str | bytes | Proto
    qos: int = 1
    packet_id: int = 1
    topic: str = REQUEST_TOPIC
    retain: bool = False
    properties: bytes = b""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """SUBSCRIBE to (filter, QoS) pairs."""

    packet_id: int = 1
    filters: tuple[tuple[str, int], ...] = ((RESPONSE_TOPIC, 1),)


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """UNSUBSCRIBE."""

    packet_id: int = 2
    filters: tuple[str, ...] = (RESPONSE_TOPIC,)


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """PUBACK, PUBREC, PUBREL or PUBCOMP from the client."""

    kind: str
    packet_id: int


@dataclass(frozen=True, slots=True)
class Pingreq:
    """PINGREQ."""


@dataclass(frozen=True, slots=True)
class Bye:
    """DISCONNECT from the client."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes as they are."""

    data: bytes


ClientPacket = Connect | Publish | Subscribe | Unsubscribe | Acknowledge | Pingreq | Bye | Raw


# What a server sends.


@dataclass(frozen=True, slots=True)
class Connack:
    """CONNACK. code None: any refusal. has, lacks: properties in MQTT 5, `...` for any value."""

    code: int | None = 0
    session_present: int = 0
    has: Mapping[str, object] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suback:
    """SUBACK."""

    codes: tuple[int, ...] = (1,)
    packet_id: int = 1


@dataclass(frozen=True, slots=True)
class Unsuback:
    """UNSUBACK; the codes are sent in MQTT 5 only."""

    codes: tuple[int, ...] = (0,)
    packet_id: int = 2


@dataclass(frozen=True, slots=True)
class Ack:
    """PUBACK, PUBREC or PUBCOMP from the server."""

    packet_id: int = 1
    code: int = 0
    kind: str = "PUBACK"


@dataclass(frozen=True, slots=True)
class Published:
    """PUBLISH from the server."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    retain: bool
    dup: bool
    properties: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Pingresp:
    """PINGRESP."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """DISCONNECT from the server, MQTT 5 only."""

    code: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The end of the connection, and nothing before it."""


ServerPacket = Connack | Suback | Unsuback | Ack | Published | Pingresp | Disconnected | Closed

_ACKNOWLEDGEMENTS = {"PUBACK": 4, "PUBREC": 5, "PUBREL": 6, "PUBCOMP": 7}
_PROPERTIES: dict[int, tuple[str, int]] = {  # name, and size of the value; 0 for one with a length before it
    0x09: ("correlation_data", 0),
    0x11: ("session_expiry_interval", 4),
    0x12: ("assigned_client_identifier", 0),
    0x13: ("server_keep_alive", 2),
    0x1F: ("reason_string", 0),
    0x21: ("receive_maximum", 2),
    0x22: ("topic_alias_maximum", 2),
    0x24: ("maximum_qos", 1),
    0x25: ("retain_available", 1),
    0x27: ("maximum_packet_size", 4),
    0x28: ("wildcard_subscription_available", 1),
    0x29: ("subscription_identifier_available", 1),
    0x2A: ("shared_subscription_available", 1),
}


def encode(packet: ClientPacket, version: int) -> bytes:
    """The bytes of a client's packet."""
    match packet:
        case Raw():
            return packet.data
        case Connect():
            return _connect(packet, packet.version or version)
        case Publish():
            assert isinstance(packet.payload, bytes), "placeholders are filled in before"
            id_ = packet.packet_id.to_bytes(2) if packet.qos else b""
            body = _string(packet.topic) + id_ + _properties(packet.properties, version) + packet.payload
            return _packet(0x30 | packet.qos << 1 | packet.retain, body)
        case Subscribe():
            filters = b"".join(_string(name) + bytes((qos,)) for name, qos in packet.filters)
            return _packet(0x82, packet.packet_id.to_bytes(2) + _properties(b"", version) + filters)
        case Unsubscribe():
            filters = b"".join(map(_string, packet.filters))
            return _packet(0xA2, packet.packet_id.to_bytes(2) + _properties(b"", version) + filters)
        case Acknowledge():
            flags = 2 if packet.kind == "PUBREL" else 0
            return _packet(_ACKNOWLEDGEMENTS[packet.kind] << 4 | flags, packet.packet_id.to_bytes(2))
        case Pingreq():
            return b"\xc0\0"
        case Bye():
            return b"\xe0\0"


def _connect(packet: Connect, version: int) -> bytes:
    flags = packet.clean << 1 | packet.will << 2
    flags |= (packet.username is not None) << 7 | (packet.password is not None) << 6
    body = _string("MQIsdp" if version == V3_1 else "MQTT") + bytes((version, flags)) + packet.keep_alive.to_bytes(2)
    body += _properties(packet.properties, version) + _string(packet.client_id)
    if packet.will:
        body += _properties(b"", version) + _string("gone") + _string("out of power")
    for text in (packet.username, packet.password):
        body += b"" if text is None else _string(text)
    return _packet(0x10, body)


def _packet(first_byte: int, body: bytes) -> bytes:
    return bytes((first_byte,)) + _variable(len(body)) + body


def _variable(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _string(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2) + data


def _properties(raw: bytes, version: int) -> bytes:
    return _variable(len(raw)) + raw if version == V5 else b""


class Link:
    """One connection. version: of the packets that are sent and expected on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self._reader = reader
        self._writer = writer
        self.version = version
        self.open = True

    @classmethod
    async def to(cls, address: str, version: int) -> Self:
        """Connect, without CONNECT yet."""
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)), version)

    def send(self, *packets: ClientPacket) -> None:
        """Send packets in one write."""
        self._writer.write(b"".join(encode(packet, self.version) for packet in packets))
        for packet in packets:
            if isinstance(packet, Connect) and packet.version:
                self.version = packet.version

    async def receive(self) -> ServerPacket:
        """The next packet, or that there is none any more."""
        async with asyncio.timeout(TIME_LIMIT):
            try:
                first = await self._reader.read(1)
            except ConnectionError:
                first = b""
            if not first:
                self.open = False
                return Closed()
            length = shift = 0
            while True:
                byte = (await self._reader.readexactly(1))[0]
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            return self._decode(first[0], await self._reader.readexactly(length))

    async def close(self) -> None:
        """Close the socket, without a word."""
        self.open = False
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    def _decode(self, first: int, body: bytes) -> ServerPacket:
        v5 = self.version == V5
        kind = first >> 4
        if kind == 3:
            return self._published(first, body)
        assert not first & 0xF, f"flags of packet {kind}"
        if kind == 2:
            assert v5 or len(body) == 2
            return Connack(body[1], body[0], self._read_properties(body[2:])[0] if v5 else {})
        if kind == 9:
            codes = self._read_properties(body[2:])[1] if v5 else body[2:]
            return Suback(tuple(codes), int.from_bytes(body[:2]))
        if kind == 11:
            codes = self._read_properties(body[2:])[1] if v5 else body[2:]
            return Unsuback(tuple(codes), int.from_bytes(body[:2]))
        for name, number in _ACKNOWLEDGEMENTS.items():
            if kind == number:
                assert v5 or len(body) == 2
                return Ack(int.from_bytes(body[:2]), body[2] if len(body) > 2 else 0, name)
        if kind == 13:
            assert not body
            return Pingresp()
        assert kind == 14, f"unexpected packet {kind}"
        assert v5, "only MQTT 5 has a DISCONNECT from the server"
        return Disconnected(body[0] if body else 0)

    def _published(self, first: int, body: bytes) -> Published:
        length = int.from_bytes(body[:2])
        topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
        qos = first >> 1 & 3
        packet_id = 0
        if qos:
            packet_id, rest = int.from_bytes(rest[:2]), rest[2:]
        properties: Mapping[str, object] = {}
        if self.version == V5:
            properties, rest = self._read_properties(rest)
        return Published(topic, rest, qos, packet_id, bool(first & 1), bool(first & 8), properties)

    @staticmethod
    def _read_properties(data: bytes) -> tuple[dict[str, object], bytes]:
        length, at = data[0], 1
        if length > 0x7F:
            length, at = length & 0x7F | data[1] << 7, 2
        end = at + length
        found: dict[str, object] = {}
        while at < end:
            name, size = _PROPERTIES[data[at]]
            at += 1
            if size:
                found[name] = int.from_bytes(data[at : at + size])
            else:
                size = int.from_bytes(data[at : at + 2])
                at += 2
                value = data[at : at + size]
                found[name] = value if name == "correlation_data" else value.decode()
            at += size
        return found, data[end:]
