"""MQTT control packets ⇄ bytes, the server's half: decodes what a client sends, encodes what a server sends.

MQTT 3.1, 3.1.1 and 5.0; pure. `§` is a section of MQTT 5.0, "3.1 §" and "3.1.1 §" one of the older standards.
`MalformedPacket` is the only exception that bytes can cause here.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

from provserver.transports.mqtt.packets import (
    Auth,
    ClientPacket,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    ReasonCode,
    ServerPacket,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Version,
    Will,
)


class MalformedPacket(Exception):  # noqa: N818 - the standard's term (§1.2)
    """What the client sent is no MQTT. The message is fixed text: it never repeats what was sent."""

    def __init__(self, reason_code: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.reason_code = reason_code


# MQTT Control Packet types (§2.1.2). 0 is none of them, and here means a Will where it has properties of its own.
# Plain integers, and the version below as a name of this module: members of an Enum are slow to look up.
(_WILL, _CONNECT, _CONNACK, _PUBLISH, _PUBACK, _PUBREC, _PUBREL, _PUBCOMP) = range(8)
(_SUBSCRIBE, _SUBACK, _UNSUBSCRIBE, _UNSUBACK, _PINGREQ, _PINGRESP, _DISCONNECT, _AUTH) = range(8, 16)
_V5: Final = Version.V5
_V3_1_1: Final = Version.V3_1_1


def _malformed(message: str) -> NoReturn:
    raise MalformedPacket(ReasonCode.MALFORMED_PACKET, message)


def _protocol_error(message: str) -> NoReturn:
    raise MalformedPacket(ReasonCode.PROTOCOL_ERROR, message)


class _Reader:
    """Reads the data representations of §1.5 from one packet's body, front to back."""

    __slots__ = ("_at", "_body", "_end")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0
        self._end = len(body)

    @property
    def left(self) -> int:
        return self._end - self._at

    def take(self, size: int) -> bytes:
        start = self._at
        self._at = end = start + size
        if end > self._end:
            _malformed("a field runs past the end of its packet")
        return self._body[start:end]

    def rest(self) -> bytes:
        return self.take(self._end - self._at)

    def end(self) -> None:
        if self._at != self._end:
            _malformed("bytes are left over after the last field")

    def byte(self) -> int:
        return self.take(1)[0]

    def flag(self) -> int:
        value = self.byte()
        if value > 1:
            _protocol_error("a property that is 0 or 1 has another value")
        return value

    def two_byte(self) -> int:
        return int.from_bytes(self.take(2))

    def four_byte(self) -> int:
        return int.from_bytes(self.take(4))

    def variable_byte(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if not byte and shift:
                    _malformed("a variable byte integer is longer than need be")
                return value
            shift += 7
            if shift > 21:
                _malformed("a variable byte integer is longer than four bytes")

    def binary(self) -> bytes:
        start = self._at + 2
        self._at = end = start + int.from_bytes(self._body[start - 2 : start])
        if end > self._end or start > self._end:
            _malformed("a field runs past the end of its packet")
        return self._body[start:end]

    def string(self) -> str:
        try:
            value = self.binary().decode()
        except UnicodeDecodeError:
            _malformed("a string is not UTF-8")
        if "\0" in value:
            _malformed("a string holds U+0000")
        return value

    def string_pair(self) -> tuple[str, str]:
        return self.string(), self.string()

    def packet_id(self) -> int:
        value = self.two_byte()
        if not value:
            _protocol_error("a packet identifier is 0")
        return value

    def topic_name(self) -> str:
        value = self.string()
        if "+" in value or "#" in value:
            _malformed("a topic name holds a wildcard")
        return value

    def topic_filter(self) -> str:
        value = self.string()
        if not value:
            _malformed("a topic filter is empty")
        if "#" in value or "+" in value:
            *parents, last = value.split("/")
            if last not in {"#", "+"} and ("#" in last or "+" in last):
                _malformed("a wildcard does not fill its level of a topic filter")
            if any("#" in level or ("+" in level and level != "+") for level in parents):
                _malformed("a wildcard is not where a topic filter may have one")
        return value

    def properties(self, packet: int, version: Version) -> Properties:
        if version is not _V5:
            return {}
        length = self.variable_byte()
        found: dict[str, Any] = {}
        if length:
            outer, self._end = self._end, self._at + length
            if self._end > outer:
                _malformed("the properties run past the end of their packet")
            while self._at < self._end:
                self._property(packet, found)
            self._end = outer
        return cast("Properties", found)

    def _property(self, packet: int, found: dict[str, Any]) -> None:
        row = _BY_IDENTIFIER.get(self.variable_byte())
        if row is None:
            _malformed("an unknown property")
        name, representation, packets = row
        if packet not in packets:
            _protocol_error("a property that its packet cannot have")
        value = representation.read(self)
        if name == "user_property":
            found.setdefault(name, []).append(value)
        elif name in found:
            _protocol_error("a property appears twice")
        elif not value and name in _NEVER_ZERO:
            _protocol_error("a property is 0 that cannot be")
        else:
            found[name] = value


def _variable_byte(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _binary(value: bytes) -> bytes:
    return len(value).to_bytes(2) + value


def _string(value: str) -> bytes:
    return _binary(value.encode())


def _packet(first_byte: int, body: bytes) -> bytes:
    return bytes((first_byte,)) + _variable_byte(len(body)) + body


@dataclass(frozen=True, slots=True)
class _Representation:
    """How a property's value is written (§1.5)."""

    read: Callable[[_Reader], Any]
    write: Callable[[Any], bytes]


_FLAG: Final = _Representation(_Reader.flag, lambda value: bytes((value,)))
_TWO: Final = _Representation(_Reader.two_byte, lambda value: value.to_bytes(2))
_FOUR: Final = _Representation(_Reader.four_byte, lambda value: value.to_bytes(4))
_VARIABLE: Final = _Representation(_Reader.variable_byte, _variable_byte)
_STRING: Final = _Representation(_Reader.string, _string)
_TOPIC: Final = _Representation(_Reader.topic_name, _string)
_BINARY: Final = _Representation(_Reader.binary, _binary)
_PAIR: Final = _Representation(_Reader.string_pair, lambda pair: _string(pair[0]) + _string(pair[1]))

_ACKNOWLEDGEMENTS: Final = (_PUBACK, _PUBREC, _PUBREL, _PUBCOMP)
_REASON: Final = (_CONNACK, *_ACKNOWLEDGEMENTS, _SUBACK, _UNSUBACK, _DISCONNECT, _AUTH)

# Table 2-4. In PUBLISH a Subscription Identifier goes from server to client only [MQTT-3.3.4-6].
_BY_IDENTIFIER: Final[dict[int, tuple[str, _Representation, Sequence[int]]]] = {
    0x01: ("payload_format_indicator", _FLAG, (_PUBLISH, _WILL)),
    0x02: ("message_expiry_interval", _FOUR, (_PUBLISH, _WILL)),
    0x03: ("content_type", _STRING, (_PUBLISH, _WILL)),
    0x08: ("response_topic", _TOPIC, (_PUBLISH, _WILL)),
    0x09: ("correlation_data", _BINARY, (_PUBLISH, _WILL)),
    0x0B: ("subscription_identifier", _VARIABLE, (_SUBSCRIBE,)),
    0x11: ("session_expiry_interval", _FOUR, (_CONNECT, _CONNACK, _DISCONNECT)),
    0x12: ("assigned_client_identifier", _STRING, (_CONNACK,)),
    0x13: ("server_keep_alive", _TWO, (_CONNACK,)),
    0x15: ("authentication_method", _STRING, (_CONNECT, _CONNACK, _AUTH)),
    0x16: ("authentication_data", _BINARY, (_CONNECT, _CONNACK, _AUTH)),
    0x17: ("request_problem_information", _FLAG, (_CONNECT,)),
    0x18: ("will_delay_interval", _FOUR, (_WILL,)),
    0x19: ("request_response_information", _FLAG, (_CONNECT,)),
    0x1A: ("response_information", _STRING, (_CONNACK,)),
    0x1C: ("server_reference", _STRING, (_CONNACK, _DISCONNECT)),
    0x1F: ("reason_string", _STRING, _REASON),
    0x21: ("receive_maximum", _TWO, (_CONNECT, _CONNACK)),
    0x22: ("topic_alias_maximum", _TWO, (_CONNECT, _CONNACK)),
    0x23: ("topic_alias", _TWO, (_PUBLISH,)),
    0x24: ("maximum_qos", _FLAG, (_CONNACK,)),
    0x25: ("retain_available", _FLAG, (_CONNACK,)),
    0x26: ("user_property", _PAIR, range(16)),
    0x27: ("maximum_packet_size", _FOUR, (_CONNECT, _CONNACK)),
    0x28: ("wildcard_subscription_available", _FLAG, (_CONNACK,)),
    0x29: ("subscription_identifier_available", _FLAG, (_CONNACK,)),
    0x2A: ("shared_subscription_available", _FLAG, (_CONNACK,)),
}
_BY_NAME: Final = {
    name: (bytes((identifier,)), representation) for identifier, (name, representation, _) in _BY_IDENTIFIER.items()
}
_NEVER_ZERO: Final = frozenset({"receive_maximum", "maximum_packet_size", "subscription_identifier"})


def _properties(properties: Properties) -> bytes:
    if not properties:
        return b"\0"
    body = b""
    for name, value in cast("dict[str, Any]", properties).items():
        identifier, representation = _BY_NAME[name]
        for each in value if name == "user_property" else (value,):
            body += identifier + representation.write(each)
    return _variable_byte(len(body)) + body


_PACKETS: Final = {_PUBACK: Puback, _PUBREC: Pubrec, _PUBREL: Pubrel, _PUBCOMP: Pubcomp}
_FIRST_BYTES: Final = {Puback: 0x40, Pubrec: 0x50, Pubrel: 0x62, Pubcomp: 0x70}


def encode(packet: ServerPacket, version: Version) -> bytes:
    """The bytes of a packet; `version` says whether its properties and reason codes go with it."""
    return _ENCODERS[type(packet)](packet, version is _V5)


def encode_publish(topic: bytes, payload: bytes) -> bytes:
    """A PUBLISH of QoS 0 before MQTT 5. topic: its field, length and name."""
    length = len(topic) + len(payload)
    if length < 0x80:
        return b"\x30%c%b%b" % (length, topic, payload)
    if length < 0x4000:
        return b"\x30%c%c%b%b" % (length & 0x7F | 0x80, length >> 7, topic, payload)
    return b"\x30%b%b%b" % (_variable_byte(length), topic, payload)


def encode_suback(packet_id: int, reason_codes: list[int]) -> bytes:
    """A SUBACK before MQTT 5."""
    if len(reason_codes) == 1:
        return b"\x90\x03%c%c%c" % (packet_id >> 8, packet_id & 0xFF, reason_codes[0])
    return _packet(0x90, packet_id.to_bytes(2) + bytes(reason_codes))


def _encode_publish(packet: Publish, v5: bool) -> bytes:
    body = _string(packet.topic) + (packet.packet_id.to_bytes(2) if packet.qos else b"")
    body += (_properties(packet.properties) if v5 else b"") + packet.payload
    return _packet(0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain, body)


def _encode_acknowledgement(packet: Puback, v5: bool) -> bytes:
    reason = _reason(packet.reason_code, packet.properties) if v5 else b""
    return _packet(_FIRST_BYTES[type(packet)], packet.packet_id.to_bytes(2) + reason)


def _encode_connack(packet: Connack, v5: bool) -> bytes:
    body = bytes((0, packet.reason_code))
    return _packet(0x20, body + _properties(packet.properties) if v5 else body)


def _encode_suback(packet: Suback, v5: bool) -> bytes:
    properties = _properties(packet.properties) if v5 else b""
    return _packet(0x90, packet.packet_id.to_bytes(2) + properties + bytes(packet.reason_codes))


def _encode_unsuback(packet: Unsuback, v5: bool) -> bytes:
    codes = _properties(packet.properties) + bytes(packet.reason_codes) if v5 else b""
    return _packet(0xB0, packet.packet_id.to_bytes(2) + codes)


_ENCODERS: Final[dict[type, Callable[[Any, bool], bytes]]] = {
    Publish: _encode_publish,
    Connack: _encode_connack,
    Suback: _encode_suback,
    **dict.fromkeys(_FIRST_BYTES, _encode_acknowledgement),
    Unsuback: _encode_unsuback,
    Pingresp: lambda _packet, _v5: b"\xd0\0",
    Disconnect: lambda packet, _v5: _packet(0xE0, _reason(packet.reason_code, packet.properties)),
}


def _reason(reason_code: int, properties: Properties) -> bytes:
    """Reason Code and properties, left out from the end where they say nothing (§3.4.2.1, §3.14.2.1)."""
    if properties:
        return bytes((reason_code,)) + _properties(properties)
    return bytes((reason_code,)) if reason_code else b""


def _connect(read: _Reader, version: Version) -> Connect:
    """The fields after Protocol Name and Version, which the decoder has read."""
    flags = read.byte()
    if version is not Version.V3_1:  # 3.1 §3.1 does not reserve the bits it has no use for
        if flags & 0x01:
            _malformed("the reserved flag of CONNECT is set")
        if not flags & 0x04 and flags & 0x38:
            _malformed("Will QoS or Will Retain without a Will")
    if flags & 0x18 == 0x18:
        _malformed("Will QoS is 3")
    if flags & 0xC0 == 0x40 and version is not _V5:
        _malformed("a password without a user name")
    keep_alive = read.two_byte()
    properties = read.properties(_CONNECT, version)
    if "authentication_data" in properties and "authentication_method" not in properties:
        _protocol_error("Authentication Data without an Authentication Method")
    client_id = read.string()
    will = None
    if flags & 0x04:
        will_properties = read.properties(_WILL, version)
        topic = read.topic_name()
        if not topic:
            _malformed("the Will Topic is empty")
        will = Will(topic, read.binary(), flags >> 3 & 3, bool(flags & 0x20), will_properties)
    # 3.1 §3.1: a flag may announce a user name or password that is not there.
    optional = version is Version.V3_1
    username = read.string() if flags & 0x80 and (read.left or not optional) else None
    password = read.binary() if flags & 0x40 and (read.left or not optional) else None
    return Connect(version, client_id, bool(flags & 0x02), keep_alive, username, password, will, properties)


def _publish(flags: int, read: _Reader, version: Version) -> Publish:
    qos = flags >> 1 & 3
    if qos == 3:
        _malformed("a PUBLISH has QoS 3")
    if flags & 0x08 and not qos and version is not Version.V3_1:
        _malformed("a PUBLISH has DUP at QoS 0")
    topic = read.topic_name()
    packet_id = read.packet_id() if qos else 0
    properties = read.properties(_PUBLISH, version)
    if not topic and "topic_alias" not in properties:
        _protocol_error("a PUBLISH has no topic")
    return Publish(topic, read.rest(), qos, packet_id, bool(flags & 1), bool(flags & 8), properties)


def _subscribe(read: _Reader, version: Version) -> Subscribe:
    packet = Subscribe(read.packet_id(), [], read.properties(_SUBSCRIBE, version))
    reserved = 0xC0 if version is _V5 else 0xFC if version is Version.V3_1_1 else 0
    if not read.left:
        _protocol_error("a SUBSCRIBE has no topic filter")
    while read.left:
        topic_filter, options = read.topic_filter(), read.byte()
        if options & 0x03 == 0x03:
            _malformed("a subscription asks for QoS 3")
        if options & reserved:
            _malformed("reserved bits of the Subscription Options are set")
        if version is _V5:
            if options & 0x30 == 0x30:
                _protocol_error("Retain Handling is 3")
            if options & 0x04 and topic_filter.startswith("$share/"):
                _protocol_error("No Local on a shared subscription")
        packet.subscriptions.append((topic_filter, options))
    return packet


def _unsubscribe(read: _Reader, version: Version) -> Unsubscribe:
    packet = Unsubscribe(read.packet_id(), [], read.properties(_UNSUBSCRIBE, version))
    if not read.left:
        _protocol_error("an UNSUBSCRIBE has no topic filter")
    while read.left:
        packet.topic_filters.append(read.topic_filter())
    return packet


def _decode(packet_type: int, flags: int, read: _Reader, version: Version) -> ClientPacket:
    if packet_type == _PUBLISH:
        return _publish(flags, read, version)
    if packet_type == _SUBSCRIBE:
        return _subscribe(read, version)
    if packet_type == _UNSUBSCRIBE:
        return _unsubscribe(read, version)
    if packet_type == _PINGREQ:
        return Pingreq()
    if packet_type == _DISCONNECT:
        return Disconnect(*_decoded_reason(_DISCONNECT, read, version))
    if packet_type == _AUTH:
        return Auth(*_decoded_reason(_AUTH, read, version))
    return _PACKETS[packet_type](read.packet_id(), *_decoded_reason(packet_type, read, version))


def _decoded_reason(packet_type: int, read: _Reader, version: Version) -> tuple[int, Properties]:
    if version is not _V5 or not read.left:
        return 0, {}
    return read.byte(), read.properties(packet_type, version) if read.left else {}


_PROTOCOLS: Final = {(b"MQIsdp", 3): Version.V3_1, (b"MQTT", 4): Version.V3_1_1, (b"MQTT", 5): Version.V5}


def _first_bytes(version: Version) -> frozenset[int]:
    """What a packet may begin with that a client sends after its CONNECT: type and flags (Table 2-1, §2.1.3)."""
    types = {_PUBLISH, *_ACKNOWLEDGEMENTS, _SUBSCRIBE, _UNSUBSCRIBE, _PINGREQ, _DISCONNECT}
    if version is _V5:
        types.add(_AUTH)
    fixed = {each << 4 | 2 * (each in {_PUBREL, _SUBSCRIBE, _UNSUBSCRIBE}) for each in types}
    # 3.1 §2.1 does not reserve flags, and sets DUP in a repeated SUBSCRIBE.
    free = types if version is Version.V3_1 else {_PUBLISH}
    return frozenset(fixed | {each << 4 | flags for each in free for flags in range(16)})


_CONNECT_FIRST: Final = frozenset({_CONNECT << 4})

_Known = dict[bytes, ClientPacket]

_KNOWN_SIZE: Final = 64
_KNOWN_COUNT: Final = 256  # few are learned from a fleet; who sends many different ones is served as others were before
_NOTHING_KNOWN: Final[_Known] = {}
_RULES: Final[dict[Version, tuple[frozenset[int], _Known]]] = {
    version: (_first_bytes(version), {b"\xc0\0": Pingreq(), b"\xe0\0": Disconnect()}) for version in Version
}

_PLAIN_HEAD: Final = b"\0\x04MQTT\x04"
_flags_keep_alive_length: Final = struct.Struct(">BHH").unpack_from


def _plain_connect(data: bytes, size: int) -> Connect | None:
    """A CONNECT of 3.1.1 with a user name or none, and no will; None if it is no such one, or not right."""
    if data[1] != size - 2 or size >= 0x80 or not data.startswith(_PLAIN_HEAD, 2):
        return None
    try:
        flags, keep_alive, length = _flags_keep_alive_length(data, 9)
        if flags & 0x7D:
            return None
        end = 14 + length
        client_id, username = data[14:end].decode(), None
        if flags & 0x80:
            start = end + 2
            end = start + (data[end] << 8 | data[end + 1])
            username = data[start:end].decode()
            if "\0" in username:
                return None
    except (struct.error, IndexError, UnicodeDecodeError):
        return None
    if end != size or "\0" in client_id:
        return None
    return Connect(_V3_1_1, client_id, flags & 2 == 2, keep_alive, username)


def _plain_publish(data: bytes, size: int) -> Publish | None:
    """A PUBLISH of QoS 0 before MQTT 5; None if it is not whole, more than one packet, or not right."""
    try:
        length, start = data[1], 2
        if length >= 0x80:
            length, start = length & 0x7F | data[2] << 7, 3
        end = start + 2 + (data[start] << 8 | data[start + 1])
        if start + length != size or end > size or length >= 0x4000:
            return None
        topic = data[start + 2 : end].decode()
    except (IndexError, UnicodeDecodeError):
        return None
    if not topic or "+" in topic or "#" in topic or "\0" in topic:
        return None
    return Publish(topic, data[end:])


class Decoder:
    """Cuts a client's bytes into packets, however they were chunked.

    Feed it, then iterate: iteration ends where the next packet is incomplete and may be taken up again after
    more was fed. A packet above `max_packet_size` (all of it, §3.1.2.11.4) is refused at its fixed header.
    After a `MalformedPacket` the decoder is of no more use.

    version: None until a CONNECT named it; from then on packets are read by its rules.
    _known: what packets mean that all clients send alike, by their bytes.
    """

    __slots__ = ("_buffer", "_expected", "_known", "_max_packet_size", "_offset", "version")

    def __init__(self, max_packet_size: int) -> None:
        self._max_packet_size = max_packet_size
        self._buffer: bytes | bytearray = b""
        self._offset = 0
        self._expected = _CONNECT_FIRST
        self._known = _NOTHING_KNOWN
        self.version: Version | None = None

    @property
    def buffered(self) -> int:
        """Bytes held that no packet was made of yet."""
        return len(self._buffer) - self._offset

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        if self._offset == len(self._buffer):
            self._buffer, self._offset = data, 0
            return
        if self._offset or isinstance(self._buffer, bytes):
            self._buffer, self._offset = bytearray(self._buffer[self._offset :]), 0
        self._buffer += data

    def plain(self, data: bytes) -> ClientPacket | None:
        """The packet that was received, if it is a whole one of a common kind and nothing was left before it.

        None: feed it. Nothing is refused here, and nothing is read in another way than after `feed`.
        """
        if self._buffer or len(data) < 2:  # no packet is shorter
            return None
        packet = self._known.get(data)
        if packet is None:
            first, size = data[0], len(data)
            if size > self._max_packet_size:
                return None
            if first == _PUBLISH << 4:
                if self.version is _V3_1_1:
                    return _plain_publish(data, size)
            elif first == _CONNECT << 4:
                if self.version is None and (packet := _plain_connect(data, size)) is not None:
                    self._begin(_V3_1_1)
            elif first == _SUBSCRIBE << 4 | 2 and size < _KNOWN_SIZE:
                self._remember(data)
        return packet

    def __iter__(self) -> Iterator[ClientPacket]:
        buffer, start, end = self._buffer, self._offset, len(self._buffer)
        while start < end:
            first = buffer[start]
            if first not in self._expected:
                self._unexpected(first)
            if (remaining := self._remaining_length(buffer[start + 1 : start + 5])) is None:
                return
            size, length = remaining
            stop = start + size + length
            if stop - start > self._max_packet_size:
                raise MalformedPacket(ReasonCode.PACKET_TOO_LARGE, "the packet is too large")
            if stop > end:
                return
            read = _Reader(bytes(buffer[start + size : stop]))
            packet: ClientPacket
            if self.version is None:
                packet = _connect(read, self._protocol_version(read))
            else:
                packet = _decode(first >> 4, first & 0x0F, read, self.version)
            read.end()
            self._offset = start = stop
            yield packet
        self._buffer, self._offset = b"", 0

    def _unexpected(self, first_byte: int) -> NoReturn:
        """Refuse a packet before the rest of it has arrived."""
        if any(first_byte >> 4 == expected >> 4 for expected in self._expected):
            _malformed("reserved flags are set")
        if self.version is None:
            _protocol_error("the first packet is not a CONNECT")
        _protocol_error("a packet that a client sends once, or never")

    def _remaining_length(self, data: bytes | bytearray) -> tuple[int, int] | None:
        """Size of the fixed header (§2.1.1) and Remaining Length (§2.1.4), None while that is incomplete."""
        if data and data[0] < 0x80:
            return 2, data[0]
        length = 0
        for at, byte in enumerate(data):
            length |= (byte & 0x7F) << 7 * at
            if byte < 0x80:
                if not byte and self.version is _V5:
                    _malformed("the Remaining Length is longer than need be")
                return 2 + at, length
        if len(data) == 4:
            _malformed("the Remaining Length is longer than four bytes")
        return None

    def _protocol_version(self, read: _Reader) -> Version:
        """Protocol Name and Version (§3.1.2.1). An unknown one sets `version` to the nearest."""
        name, level = read.binary(), read.byte()
        version = _PROTOCOLS.get((name, level))
        if version is None:
            if name not in (b"MQTT", b"MQIsdp"):
                _protocol_error("the protocol is not MQTT")
            self.version = Version.V5 if level > Version.V5 else Version.V3_1_1
            raise MalformedPacket(ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, "the version is not supported")
        self._begin(version)
        return version

    def _begin(self, version: Version) -> None:
        self.version = version
        self._expected, self._known = _RULES[version]

    def _remember(self, data: bytes) -> None:
        """Learn a SUBSCRIBE, if it is a right one."""
        if self.version is None or len(self._known) >= _KNOWN_COUNT or data[1] != len(data) - 2:
            return
        read = _Reader(data[2:])
        try:
            packet = _subscribe(read, self.version)
            read.end()
        except MalformedPacket:
            return
        self._known[data] = packet
