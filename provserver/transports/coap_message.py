"""CoAP messages and their bytes in a datagram (RFC 7252 §3)."""

import struct
from enum import IntEnum
from functools import lru_cache

import msgspec

Options = tuple[tuple[int, bytes], ...]
"""Numbers and values, in the order of the numbers."""

MAX_TOKEN = 8
MAX_OPTIONS = 64
"""Of one message: nobody needs as many, and each takes time."""

_MAX_REMEMBERED = 128
"""Bytes of options that are remembered as they were read, as devices of a kind send the same."""

_VERSION = 1 << 6
_head = struct.Struct("!BBH").pack
_MARKER = 0xFF
_MAX_NUMBER = 65_535


class Type(IntEnum):
    """What a message asks of the message layer (§4)."""

    CON = 0
    NON = 1
    ACK = 2
    RST = 3


class Code(IntEnum):
    """Methods and response codes that are used here (§12.1): class * 32 + detail."""

    EMPTY = 0
    GET = 1
    POST = 2
    CREATED = 65
    CONTENT = 69
    CONTINUE = 95
    BAD_REQUEST = 128
    UNAUTHORIZED = 129
    BAD_OPTION = 130
    NOT_FOUND = 132
    METHOD_NOT_ALLOWED = 133
    REQUEST_ENTITY_INCOMPLETE = 136
    REQUEST_ENTITY_TOO_LARGE = 141
    TOO_MANY_REQUESTS = 157
    INTERNAL_SERVER_ERROR = 160
    NOT_IMPLEMENTED = 161
    SERVICE_UNAVAILABLE = 163
    PROXYING_NOT_SUPPORTED = 165


class Malformed(ValueError):  # noqa: N818
    """A datagram is no message. id: that of a confirmable one, which is to be rejected (§4.2); None: say nothing."""

    def __init__(self, id_: int | None = None) -> None:
        super().__init__("not a CoAP message")
        self.id = id_


class Message(msgspec.Struct, frozen=True):
    """A message."""

    type: int
    code: int
    id: int
    token: bytes = b""
    options: Options = ()
    payload: bytes = b""

    def __repr__(self) -> str:  # paths, tokens and payloads are secrets
        return f"<Message {self.code >> 5}.{self.code & 31:02} {self.id}>"


def _suits(type_: int, code: int) -> bool:
    """Whether there are messages of this type and code (§4.3, table 1)."""
    class_ = code >> 5
    if code == 0:
        return type_ != Type.NON
    if class_ == 0:
        return type_ < Type.ACK
    return class_ in (2, 4, 5) and type_ != Type.RST


_SUITS = bytes(_suits(number >> 8, number & 0xFF) for number in range(1024))


def decode(datagram: bytes) -> Message:
    """Read a datagram. Raises Malformed."""
    if len(datagram) < 4 or datagram[0] >> 6 != 1:
        raise Malformed
    first, code, id_ = datagram[0], datagram[1], datagram[2] << 8 | datagram[3]
    type_, start, size = first >> 4 & 3, 4 + (first & 15), len(datagram)
    if start > 12 or start > size or not _SUITS[type_ << 8 | code] or (code == 0 and size > 4):
        raise Malformed(id_ if type_ == 0 else None)
    # Where whole options end before the first such byte, it is the marker; else it may be within an option.
    marker = datagram.find(b"\xff", start)
    end = marker if marker >= 0 else size
    options = _remembered(datagram[start:end]) if end - start <= _MAX_REMEMBERED and marker != size - 1 else None
    if options is not None:
        return Message(type_, code, id_, datagram[4:start], options, datagram[end + 1 :])
    try:
        read, end = _decode_options(datagram, start)
    except IndexError:  # the datagram ends too early
        read = None
    if read is None:
        raise Malformed(id_ if type_ == 0 else None)
    return Message(type_, code, id_, datagram[4:start], tuple(read), datagram[end:])


def encode(message: Message) -> bytes:
    """Write a message."""
    return assemble(
        message.type, message.code, message.id, message.token, encode_options(message.options), message.payload
    )


def assemble(type_: int, code: int, id_: int, token: bytes, options: bytes, payload: bytes) -> bytes:
    """Write a message whose options are written already."""
    head = _head(_VERSION | type_ << 4 | len(token), code, id_) + token + options
    return head + b"\xff" + payload if payload else head


def empty(type_: Type, id_: int) -> bytes:
    """An acknowledgement or a reset (§4.2)."""
    return _head(_VERSION | type_ << 4, 0, id_)


def uint(value: int) -> bytes:
    """The value of an option that is a number (§3.2)."""
    return value.to_bytes(value.bit_length() + 7 >> 3)


def _decode_options(datagram: bytes, at: int) -> tuple[list[tuple[int, bytes]] | None, int]:
    """The options from a place on, None if they are none, and where the payload begins. Raises IndexError."""
    options: list[tuple[int, bytes]] = []
    number, end = 0, len(datagram)
    while at < end:
        first = datagram[at]
        at += 1
        if first == _MARKER:
            return (options, at) if at < end else (None, at)
        delta, length = first >> 4, first & 15
        if delta > 12:
            delta, at = _extended(datagram, delta, at)
        if length > 12:
            length, at = _extended(datagram, length, at)
        number += delta
        if at + length > end or delta < 0 or length < 0 or number > _MAX_NUMBER or len(options) == MAX_OPTIONS:
            return None, at
        options.append((number, datagram[at : at + length]))
        at += length
    return options, end


@lru_cache(maxsize=256)
def _remembered(run: bytes) -> Options | None:
    """The options that bytes are; None if they are none, or end too early."""
    try:
        options, _ = _decode_options(run, 0)
    except IndexError:
        return None
    return tuple(options) if options is not None else None


def _extended(datagram: bytes, nibble: int, at: int) -> tuple[int, int]:
    """A delta or length that did not fit (§3.1), negative if it is reserved, and what comes after."""
    if nibble == 13:
        return datagram[at] + 13, at + 1
    if nibble == 14:
        return (datagram[at] << 8 | datagram[at + 1]) + 269, at + 2
    return -1, at


def encode_options(options: Options) -> bytes:
    """Write options, that are in the order of their numbers."""
    parts = bytearray()
    before = 0
    for number, value in options:
        (delta, more_delta), (length, more_length) = _split(number - before), _split(len(value))
        parts.append(delta << 4 | length)
        parts += more_delta + more_length + value
        before = number
    return bytes(parts)


def _split(value: int) -> tuple[int, bytes]:
    if value < 13:
        return value, b""
    if value < 269:
        return 13, bytes((value - 13,))
    return 14, (value - 269).to_bytes(2)
