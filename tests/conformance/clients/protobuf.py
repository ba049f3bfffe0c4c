"""Enough of protobuf to write any message, valid or not."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Proto:
    """A protobuf message: (field number, value) pairs, in the order they are sent."""

    fields: tuple[tuple[int, "int | str | bytes | Proto"], ...]


def encode(message: Proto, fill: Callable[[str], str] = str) -> bytes:
    """The bytes of a message, every field of it written; fill: puts values in for placeholders."""
    out = bytearray()
    for number, value in message.fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
            continue
        if isinstance(value, Proto):
            data = encode(value, fill)
        else:
            data = fill(value).encode() if isinstance(value, str) else value
        out += varint(number << 3 | 2) + varint(len(data)) + data
    return bytes(out)


def varint(value: int) -> bytes:
    """A number in base 128, least significant first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
