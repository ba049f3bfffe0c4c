"""The client's half of MQTT, written apart from the codec under test: packets as bytes, and bytes cut into packets."""

from dataclasses import dataclass


def string(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(2, "big") + data


def packet(first: int, body: bytes = b"") -> bytes:
    length, header = len(body), bytearray((first,))
    while True:
        length, digit = divmod(length, 128)
        header.append(digit | (128 if length else 0))
        if not length:
            return bytes(header) + body


def short(properties: bytes) -> bytes:
    """Properties behind their length."""
    assert len(properties) < 128
    return bytes((len(properties),)) + properties


@dataclass(frozen=True)
class Wire:
    """What a client of one protocol level sends."""

    level: int

    def __str__(self) -> str:
        return {3: "3.1", 4: "3.1.1", 5: "5"}[self.level]

    @property
    def v5(self) -> bool:
        return self.level == 5

    def properties(self, properties: bytes) -> bytes:
        return short(properties) if self.v5 else b""

    def connect(
        self,
        client_id: str = "dev",
        username: str | None = "provision",
        password: bytes | None = None,
        *,
        clean: bool = True,
        keep_alive: int = 60,
        properties: bytes = b"\x17\x00",  # Request Problem Information 0: answers are shorter to write down
        will: bytes = b"",
        will_flags: int = 0,
    ) -> bytes:
        flags = will_flags | clean << 1 | (username is not None) << 7 | (password is not None) << 6
        body = string("MQIsdp" if self.level == 3 else "MQTT") + bytes((self.level, flags))
        body += keep_alive.to_bytes(2, "big") + self.properties(properties) + string(client_id) + will
        body += b"" if username is None else string(username)
        body += b"" if password is None else string(password)
        return packet(0x10, body)

    def publish(
        self,
        payload: bytes = b"{}",
        topic: str = "/provision/request",
        qos: int = 0,
        packet_id: int = 1,
        *,
        dup: bool = False,
        retain: bool = False,
        properties: bytes = b"",
    ) -> bytes:
        head = string(topic) + (packet_id.to_bytes(2, "big") if qos else b"") + self.properties(properties)
        return packet(0x30 | dup << 3 | qos << 1 | retain, head + payload)

    def subscribe(
        self, *filters: tuple[str, int], packet_id: int = 10, properties: bytes = b"", flags: int = 2
    ) -> bytes:
        body = b"".join(string(topic_filter) + bytes((options,)) for topic_filter, options in filters)
        return packet(0x80 | flags, packet_id.to_bytes(2, "big") + self.properties(properties) + body)

    def unsubscribe(self, *filters: str, packet_id: int = 11) -> bytes:
        body = b"".join(string(topic_filter) for topic_filter in filters)
        return packet(0xA2, packet_id.to_bytes(2, "big") + self.properties(b"") + body)

    def puback(self, packet_id: int = 1) -> bytes:
        return packet(0x40, packet_id.to_bytes(2, "big"))

    def pubrec(self, packet_id: int = 1) -> bytes:
        return packet(0x50, packet_id.to_bytes(2, "big"))

    def pubrel(self, packet_id: int = 1) -> bytes:
        return packet(0x62, packet_id.to_bytes(2, "big"))

    def pubcomp(self, packet_id: int = 1) -> bytes:
        return packet(0x70, packet_id.to_bytes(2, "big"))

    def response(self, body: bytes, qos: int = 1, packet_id: int = 1, *, properties: bytes = b"") -> bytes:
        """What the server publishes."""
        return self.publish(body, "/provision/response", qos, packet_id, properties=properties)


PINGREQ = b"\xc0\0"
PINGRESP = b"\xd0\0"
DISCONNECT = b"\xe0\0"

V31, V311, V5 = Wire(3), Wire(4), Wire(5)
V3 = (V31, V311)
ALL = (V31, V311, V5)


def whole(data: bytes) -> int | None:
    """The size of the first packet, None while it is incomplete."""
    length = shift = 0
    for at, byte in enumerate(data[1:5], 2):
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return at + length if at + length <= len(data) else None
    return None


def cut(data: bytes) -> list[bytes]:
    """Bytes as packets; they must be whole ones."""
    packets = []
    while data:
        size = whole(data)
        assert size is not None, data
        packets.append(data[:size])
        data = data[size:]
    return packets
