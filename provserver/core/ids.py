"""Identifiers and generated secrets; the source of randomness is passed in (bytes wanted -> random bytes)."""

from collections.abc import Callable
from uuid import UUID

Randomness = Callable[[int], bytes]

ALPHANUMERIC = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_ALPHANUMERIC = ALPHANUMERIC.encode()
_FAIR = bytes(_ALPHANUMERIC[b % 62] if b < 248 else 0 for b in range(256))  # 248 = 4 * 62: no modulo bias

_UUID7_FIXED = 0x7 << 76 | 0x2 << 62  # version and variant
_UUID7_RANDOM = (1 << 62) - 1

TOKEN_LENGTH = 32
"""Characters of a generated access token: 190 bits, and exactly what Blynk firmware takes."""

NAME_LENGTH = 20
"""Characters of a generated device name (spec thingsboard §5.3)."""


def in_stock(random: Randomness, size: int = 1 << 16) -> Randomness:
    """The same, drawn `size` bytes at a time: a system call takes as long as sealing a token."""
    stock, taken = b"", 0

    def draw(length: int) -> bytes:
        nonlocal stock, taken
        if taken + length > len(stock):
            stock, taken = random(max(size, length)), 0
        taken += length
        return stock[taken - length : taken]

    return draw


def uuid7(now: float, random: Randomness) -> UUID:
    """A UUID ordered by time, to a quarter of a microsecond (RFC 9562 §5.7, §6.2 method 3).

    now: seconds since the epoch.
    """
    return UUID(bytes=uuid7_bytes(now, random))


def uuid7_bytes(now: float, random: Randomness) -> bytes:
    """Its 16 bytes, for those who have a quicker type than the standard library's."""
    ticks = int(now * 4_096_000)  # 4096 a millisecond
    value = ticks >> 12 << 80 | (ticks & 0xFFF) << 64 | int.from_bytes(random(8)) & _UUID7_RANDOM
    return (value | _UUID7_FIXED).to_bytes(16)


def floor(at: float) -> UUID:
    """Below every time-ordered UUID of a time (seconds since the epoch) and after."""
    return UUID(int=max(int(at * 1000), 0) << 80)


def time_of(id_: UUID) -> float:
    """When a time-ordered UUID was made, in seconds since the epoch."""
    return (id_.int >> 80) / 1000


def alphanumeric(length: int, random: Randomness) -> str:
    """Evenly distributed characters of [A-Za-z0-9]."""
    text = b""
    while len(text) < length:
        text += random(length + 8).translate(_FAIR, b"").replace(b"\0", b"")
    return text[:length].decode()


def token(random: Randomness) -> str:
    """A generated access token: 32 alphanumerics."""
    return alphanumeric(TOKEN_LENGTH, random)


def device_name(random: Randomness) -> str:
    """A generated device name: 20 alphanumerics."""
    return alphanumeric(NAME_LENGTH, random)


def template_id(random: Randomness) -> str:
    """A profile's public id in Blynk's form: `TMPL` and 9 alphanumerics."""
    return "TMPL" + alphanumeric(9, random)
