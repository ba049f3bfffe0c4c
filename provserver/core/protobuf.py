"""The protobuf wire format (protobuf.dev, "Encoding"), as far as flat messages of scalars and messages need it."""

from collections.abc import Iterable, Iterator

VARINT, FIXED64, BYTES, GROUP_START, GROUP_END, FIXED32 = range(6)

_MAX_VARINT_BYTES = 10
_MAX_GROUP_DEPTH = 32


class SyntaxFault(ValueError):  # noqa: N818
    """The bytes are not a protobuf message."""


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) in order: int for varints, bytes for length-delimited fields.

    Fields of the other wire types are checked and skipped. Raises SyntaxFault.
    """
    at = 0
    while at < len(message):
        number, wire_type, at = _tag(message, at)
        if wire_type == VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif wire_type == BYTES:
            start = at
            at = _skip(message, at, number, wire_type, 0)
            length, start = _varint(message, start)
            yield number, message[start : start + length]
        else:
            at = _skip(message, at, number, wire_type, 0)


def encode(members: Iterable[tuple[int, int | str | bytes]]) -> bytes:
    """Encode (field number, value) pairs; values equal to their proto3 default are left out."""
    out = bytearray()
    for number, value in members:
        if not value:
            continue
        if isinstance(value, int):
            out += _to_varint(number << 3 | VARINT) + _to_varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += _to_varint(number << 3 | BYTES) + _to_varint(len(data)) + data
    return bytes(out)


def embedded(number: int, message: bytes) -> bytes:
    """Encode a field that is a message, which says something by being there even when it is empty."""
    return _to_varint(number << 3 | BYTES) + _to_varint(len(message)) + message


def _tag(message: bytes, at: int) -> tuple[int, int, int]:
    tag, at = _varint(message, at)
    number, wire_type = tag >> 3, tag & 7
    if not 0 < number < 1 << 29:
        raise SyntaxFault("a field number out of range")
    return number, wire_type, at


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(message[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at + index + 1
    raise SyntaxFault("a varint without its end")


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _skip(message: bytes, at: int, number: int, wire_type: int, depth: int) -> int:
    """Return the offset behind a field whose tag ended at `at`."""
    if wire_type == VARINT:
        return _varint(message, at)[1]
    if wire_type == GROUP_START and depth < _MAX_GROUP_DEPTH:
        while True:
            inner, inner_type, at = _tag(message, at)
            if inner_type == GROUP_END:
                if inner != number:
                    raise SyntaxFault("a group without its end")
                return at
            at = _skip(message, at, inner, inner_type, depth + 1)
    if wire_type == BYTES:
        length, at = _varint(message, at)
    elif wire_type == FIXED64:
        length = 8
    elif wire_type == FIXED32:
        length = 4
    else:
        raise SyntaxFault("an unknown wire type")
    if at + length > len(message):
        raise SyntaxFault("a field past the end")
    return at + length
