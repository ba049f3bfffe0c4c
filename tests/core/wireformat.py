"""Protobuf's wire format from the outside: an encoder of the tests' own, which also writes what no encoder would."""

VARINT, FIXED64, LENGTH, GROUP_START, GROUP_END, FIXED32 = range(6)


def varint(value: int, *, padding: int = 0) -> bytes:
    """Base 128; padding: bytes more than needed."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    groups += [0] * padding
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return tag(number, VARINT) + varint(value % 2**64)
    data = value.encode() if isinstance(value, str) else value
    return tag(number, LENGTH) + varint(len(data)) + data


def group(number: int, content: bytes = b"") -> bytes:
    return tag(number, GROUP_START) + content + tag(number, GROUP_END)
