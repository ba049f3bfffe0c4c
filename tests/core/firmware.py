"""Firmware images for tests: small, whole, and as the vendors' tools make them."""

import base64
import struct
import zlib

TAG = b"blnkopt\0ssid\0" + b"Placeholder" * 20 + b"\0host\0blynk.cloud\0port\x00443\0\0\0"
INFO = b"blnkinf\0mcu\x001.2.3\0fw-type\0TMPL2feLBENZh\0build\0Nov  1 2026 10:00:00\0blynk\x001.3.2\0\0\0"

ESP32 = zlib.decompress(
    base64.b85decode(
        "c-ni(%m4%&4(}LH03!p#Z~Fy6G9xu7Ctsl`KP9mwQ6VWOFFU`WL?N?Sp(r&mg@FhF)xuC*oSDK9kdv64nvtKAl3FzEm<$>D#U()R"
        "R_0~vCFkUqrZ5!b7nLxWm>8o5MrK|bLvC^@gQ1?0o-spOxo$~iK`KLtZ-9?cTB?tet6x+GLsDsGP6~rxewl)Tp@NZtk(q*_ft3LW"
        "K`a1jHr6wO8p`2t0vuyZ%q*;I>>Qk2+&sK|`~reP!Xlz#;u4Zl(lWAg@(PMd$||aA>Kd9_+B&*=`UZwZ#wMm_<`$M#);6|w_709t"
        "&MvNQ?jD|A-afv5{sDnO!6Bhx;SrHh(J`@c@d=4Z$tkI6=^2?>**Up+`2~eV#U-U><rS4x)it$s^$m?p%`L5M?H!$6-95d1{Szim"
        "nmlFdwCOWu&YC@E?!5U67A{)6Wa+ZyD^{*ry=LvY^&2*B+Pr1!w(UE1?%KU)@4o#94jwvu<mj>E3<4YuB2e$3W1#R=)9K$$j{4m!"
        "Uc<BDlfVkAH`gu24x05n+Q7c$`JO8RON;<&sp<C"
    )
)
"""Written by esptool 5.6.0: three segments, the first with TAG and INFO, a checksum and a SHA-256."""


def esp32(*segments: bytes, hashed: bool = False) -> bytes:
    """An image without what follows its checksum. hashed: what its header says."""
    header = struct.pack("<BBBBI15sB", 0xE9, len(segments), 2, 0x20, 0x40080000, bytes(15), hashed)
    return _program(header, segments)


def esp8266(*segments: bytes, place: int = 0x1010) -> bytes:
    """An image with its length and CRC at a place; the newer one is the start of the first segment."""
    if place == 0x1010:
        segments = (bytes(8) + segments[0], *segments[1:])
    boot = _program(struct.pack("<BBBBI", 0xE9, 1, 0, 0, 0x4010F000), (b"boot",))
    program = _program(struct.pack("<BBBBI", 0xE9, len(segments), 0, 0, 0x40100000), segments)
    image = bytearray(boot.ljust(4096, b"\xaa") + program)
    struct.pack_into("<II", image, place, 0, 0)
    struct.pack_into("<II", image, place, len(image), mpeg2(image))
    return bytes(image)


def mpeg2(data: bytes | bytearray) -> int:
    """CRC-32/MPEG-2."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _TABLE[crc >> 24 ^ byte]
    return crc


def _shifted(crc: int) -> int:
    for _ in range(8):
        crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc


_TABLE = [_shifted(byte << 24) for byte in range(256)]


def _program(header: bytes, segments: tuple[bytes, ...]) -> bytes:
    image, checksum = header, 0xEF
    for number, segment in enumerate(segments):
        image += struct.pack("<II", 0x3FFE8000 + number * 0x1000, len(segment)) + segment
        for byte in segment:
            checksum ^= byte
    return image + bytes(15 - len(image) % 16) + bytes((checksum,))
