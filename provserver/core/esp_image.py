"""Images of firmware for Espressif's chips, and the checks in them that a change of their bytes must renew.

ESP32 and its successors: a header of 24 bytes, segments, a checksum and, if the header says so, a SHA-256 behind it.
ESP8266, as its Arduino core builds them: a boot loader's image, at 4096 the program's with headers of 8 bytes, and a
CRC over all.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass

MAGIC = 0xE9
MAX_SEGMENTS = 16

_SEED = 0xEF
_PROGRAM = 0x1000  # where an ESP8266's program begins
_CRC_PLACES = (0x1010, 0x0FF8)  # of its length and CRC: since core 3.0 and before
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class InvalidImage(ValueError):  # noqa: N818
    """It is no image, or one that is damaged or cannot be changed."""


@dataclass(frozen=True, slots=True)
class Image:
    """Where an image has what. Segments: the first byte of their data, and the one behind the last.

    digest: of the SHA-256, if there is one. crc: of the ESP8266's length and CRC.
    """

    chip: str
    segments: tuple[tuple[int, int], ...]
    checksum: int
    digest: int | None = None
    crc: int | None = None


def inspect(data: bytes) -> Image:
    """What an image is; all its checks hold. Raises InvalidImage."""
    if data[:2] == b"\x1f\x8b":
        raise InvalidImage("it is compressed: take the one that is not")
    if len(data) > _PROGRAM + 24 and data[0] == data[_PROGRAM] == MAGIC:
        for place in _CRC_PLACES:
            if struct.unpack_from("<I", data, place)[0] == len(data):
                return _esp8266(data, place)
    if len(data) < 24 or data[0] != MAGIC:
        raise InvalidImage(
            "it is no image of an application for an ESP32 or ESP8266: take the application's own .bin, "
            "not one that is merged with boot loader and partition table"
        )
    return _esp32(data)


def replace(data: bytes, offset: int, new: bytes) -> bytes:
    """The image with other bytes at an offset in one of its segments, and its checks renewed. Raises InvalidImage."""
    image = inspect(data)
    if not any(start <= offset and offset + len(new) <= end for start, end in image.segments):
        raise InvalidImage("what is to be changed does not lie in one segment of it")
    changed = bytearray(data)
    changed[offset : offset + len(new)] = new
    changed[image.checksum] ^= _xor(data[offset : offset + len(new)]) ^ _xor(new)
    if image.digest is not None:
        changed[image.digest : image.digest + 32] = hashlib.sha256(changed[: image.digest]).digest()
    if image.crc is not None:
        changed[image.crc + 4 : image.crc + 8] = _crc8266(changed, image.crc)
    return bytes(changed)


def _esp32(data: bytes) -> Image:
    segments = _segments(data, 0, header=24)
    checksum = segments[-1][1] | 15
    hashed = data[23] == 1
    end = checksum + 1 + 32 * hashed
    if len(data) < end:
        raise InvalidImage("it is cut off at the end")
    _check_sum(data, segments, checksum)
    if hashed and hashlib.sha256(data[: checksum + 1]).digest() != data[checksum + 1 : end]:
        raise InvalidImage("it does not match its SHA-256: it is damaged")
    if len(data) > end:
        raise InvalidImage("it has something behind its end, such as a signature: take it as it was before that")
    return Image("ESP32", segments, checksum, checksum + 1 if hashed else None)


def _esp8266(data: bytes, crc: int) -> Image:
    segments = _segments(data, _PROGRAM, header=8)
    checksum = segments[-1][1] | 15
    if len(data) != checksum + 1:
        raise InvalidImage("it does not end where it should")
    plain = bytearray(data)
    plain[crc : crc + 8] = bytes(8)  # they were written when the checksum was there
    _check_sum(plain, segments, checksum)
    if _crc8266(plain, crc) != data[crc + 4 : crc + 8]:
        raise InvalidImage("it does not match its CRC: it is damaged")
    return Image("ESP8266", segments, checksum, crc=crc)


def _segments(data: bytes, start: int, *, header: int) -> tuple[tuple[int, int], ...]:
    count, at = data[start + 1], start + header
    if not 1 <= count <= MAX_SEGMENTS:
        raise InvalidImage("it has no proper number of segments")
    found = []
    for _ in range(count):
        if at + 8 > len(data):
            raise InvalidImage("it is cut off in a segment")
        (size,) = struct.unpack_from("<I", data, at + 4)
        found.append((at + 8, at + 8 + size))
        at += 8 + size
    if at >= len(data):
        raise InvalidImage("it is cut off in a segment")
    return tuple(found)


def _check_sum(data: bytes | bytearray, segments: tuple[tuple[int, int], ...], place: int) -> None:
    expected = _SEED
    for start, end in segments:
        expected ^= _xor(data[start:end])
    if data[place] != expected:
        raise InvalidImage("it does not match its checksum: it is damaged")


def _xor(data: bytes | bytearray) -> int:
    """All bytes in one exclusive or: halves on halves, as that is a thousand times quicker than a loop."""
    value, length = int.from_bytes(data), len(data)
    while length > 1:
        lower = length // 2
        value = (value >> 8 * lower) ^ (value & (1 << 8 * lower) - 1)
        length -= lower
    return value


def _crc8266(data: bytes | bytearray, place: int) -> bytes:
    """CRC-32/MPEG-2 with length and CRC as zeroes: the usual CRC-32 of the bits the other way round."""
    plain = bytearray(data)
    plain[place : place + 8] = bytes(8)
    reflected = zlib.crc32(plain.translate(_REVERSED)) ^ 0xFFFFFFFF
    return reflected.to_bytes(4, "big").translate(_REVERSED)
