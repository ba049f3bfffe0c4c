"""As much of protobuf as protocomm's messages need: numbers, bytes and messages."""

Fields = dict[int, list[int | bytes]]


class Unreadable(ValueError):  # noqa: N818
    """Not such a message."""


def pack(*fields: tuple[int, int | bytes]) -> bytes:
    """Fields by number, in this order. Bytes stand there even when they are empty; a 0 does not."""
    out = bytearray()
    for number, value in fields:
        if isinstance(value, bytes):
            out += _varint(number << 3 | 2) + _varint(len(value)) + value
        elif value:
            out += _varint(number << 3) + _varint(value & 0xFFFFFFFFFFFFFFFF)
    return bytes(out)


def unpack(data: bytes) -> Fields:
    """All fields by number. Raises Unreadable."""
    fields: Fields = {}
    rest = data
    while rest:
        key, rest = _take(rest)
        kind = key & 7
        value: int | bytes
        if kind == 0:
            value, rest = _take(rest)
        elif kind == 2:
            length, rest = _take(rest)
            value, rest = _cut(rest, length)
        elif kind in (1, 5):
            value, rest = _cut(rest, 8 if kind == 1 else 4)
        else:
            raise Unreadable("a field of a kind that there is not")
        if not key >> 3:
            raise Unreadable("a field without a number")
        fields.setdefault(key >> 3, []).append(value)
    return fields


def number(fields: Fields, at: int) -> int:
    """A number, or 0. Raises Unreadable."""
    value = fields.get(at, [0])[-1]
    if isinstance(value, bytes):
        raise Unreadable("bytes where a number should be")
    return value


def data(fields: Fields, at: int) -> bytes:
    """Bytes, or none. Raises Unreadable."""
    value = fields.get(at, [b""])[-1]
    if isinstance(value, int):
        raise Unreadable("a number where bytes should be")
    return value


def _varint(value: int) -> bytes:
    groups: list[int] = []
    while True:
        groups.append(value & 0x7F)
        value >>= 7
        if not value:
            break
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def _take(data: bytes) -> tuple[int, bytes]:
    for size in range(1, min(len(data), 10) + 1):
        if not data[size - 1] & 0x80:
            return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data[:size])), data[size:]
    raise Unreadable("a number without its end")


def _cut(data: bytes, length: int) -> tuple[bytes, bytes]:
    if length > len(data):
        raise Unreadable("a field past the end")
    return data[:length], data[length:]
