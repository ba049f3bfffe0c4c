"""What a device calls its access point: vendor, product, and four characters of its own.

Both generations of the firmware make the four from the address in the chip's fuses, with alphabets that differ in one
letter; they cut what is too long in different places.
"""

import zlib
from typing import Final

CLASSIC_ALPHABET: Final = "0W8N4Y1HP5DF9K6JM3C2UA7R"
EDGENT_ALPHABET: Final = "0W8N4Y1HP5DF9K6JM3C2XA7R"

CLASSIC_LENGTH, EDGENT_LENGTH = 31, 29
"""Bytes of a whole name, at most."""

_SUFFIX = 4
_ROUNDS = 4
_AROUND = 6  # bytes of a classic name that are neither vendor nor product: a blank, a hyphen, the suffix


def suffix(fuses: bytes, alphabet: str = CLASSIC_ALPHABET) -> str:
    """The four characters. fuses: as they lie in memory; an ESP32 has eight bytes, the address and two zeros."""
    number = 0
    for _ in range(_ROUNDS):
        number = zlib.crc32(fuses, number)
    base = len(alphabet)
    characters = ""
    for _ in range(_SUFFIX):
        character = alphabet[number % base]
        if characters.endswith(character):
            character = alphabet[(number + 1) % base]
        characters += character
        number //= base
    return characters


def esp32_fuses(mac: bytes) -> bytes:
    """What an ESP32 of this address (six bytes, in the order they are written) has in its fuses."""
    return mac + bytes(2)


def classic_name(vendor: str, product: str, mac: bytes) -> str:
    """`Blynk Garage door-8DCF`."""
    room = max(CLASSIC_LENGTH - _AROUND - len(vendor.encode()), 0)
    return f"{vendor} {_cut(product, room)}-{suffix(esp32_fuses(mac))}"


def edgent_name(vendor: str, product: str, mac: bytes) -> str:
    """The same, but that the vendor comes first, then the suffix, and the product gets what is left.

    A product that is called as its vendor is left out.
    """
    own = suffix(esp32_fuses(mac), EDGENT_ALPHABET)
    vendor = _cut(vendor, EDGENT_LENGTH)
    room = EDGENT_LENGTH - len(vendor.encode())
    own = own[: max(room - 1, 0)]
    room -= len(own) + 1 if own else 0
    name = vendor
    if product != vendor and (piece := _cut(product, room - bool(name))):
        name = f"{name} {piece}" if name else piece
    return "-".join(part for part in (name, own) if part)


def host_name(name: str) -> str:
    """What the router calls the device."""
    return name.replace(" ", "-")


def _cut(text: str, size: int) -> str:
    """So many bytes of it, as firmware cuts: wherever that is. Half a character stays as a lone surrogate."""
    return text.encode()[: max(size, 0)].decode(errors="surrogateescape")
