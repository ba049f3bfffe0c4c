"""Blynk's native protocol as a device writes and reads it: written apart from the server's."""

import struct

LOGIN, OLD_LOGIN, PING, SYNC, INTERNAL, PROPERTY, HARDWARE, GROUP = 29, 2, 6, 16, 17, 19, 20, 21
RESPONSE, REDIRECT, EVENT_LOG = 0, 41, 64


def message(command: int, id_: int, *texts: str) -> bytes:
    body = "\0".join(texts).encode()
    return struct.pack(">BHH", command, id_, len(body)) + body


def response(id_: int, status: int) -> bytes:
    return struct.pack(">BHH", RESPONSE, id_, status)


def whole(data: bytes) -> int | None:
    """The size of the first message; None while it is incomplete."""
    if len(data) < 5:
        return None
    size = 5 if data[0] == RESPONSE else 5 + int.from_bytes(data[3:5])
    return size if len(data) >= size else None
