"""The access point's name server (RFC 1035): it tells phones the address of the device, and nothing else.

Firmware reads the one question of a datagram, and no further. No answer goes beyond 512 bytes.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Final

from firmware_sim.address import Address

TTL: Final = 300
PORT: Final = 53
CHIP: Final = IPv4Address("192.168.4.1")
"""Where the device is in its own network."""

_NAME = (b"blynk", b"setup")
_HEAD = struct.Struct("!6H")
_KIND = struct.Struct("!2H")
_RECORD = struct.Struct("!3HIH4s")
_RESPONSE, _OPCODE, _AUTHORITATIVE, _RECURSION_DESIRED = 0x8000, 0x7800, 0x0400, 0x0100
_SERVER_FAILURE = 2
_A, _ANY = 1, 255
_INTERNET = 1
_AS_IN_QUESTION = 0xC000 | _HEAD.size  # a pointer to the name there
_MAX_LABEL, _MAX_NAME = 63, 255


def answer(datagram: bytes, address: IPv4Address) -> bytes | None:
    """What is said to a phone that asks for names; None: that is no question.

    Of the device's own name other kinds of record do not exist: a phone that asks for IPv6, too, is to take this one.
    """
    if len(datagram) < _HEAD.size:
        return None
    number, flags, questions, answers, authorities, _ = _HEAD.unpack_from(datagram)
    if flags & (_RESPONSE | _OPCODE) or (questions, answers, authorities) != (1, 0, 0):
        return None
    read = _name(datagram, _HEAD.size)
    if read is None:
        return None
    name, end = read
    if len(datagram) < end + _KIND.size:
        return None
    kind, family = _KIND.unpack_from(datagram, end)
    question = datagram[_HEAD.size : end + _KIND.size]
    flags = _RESPONSE | flags & _RECURSION_DESIRED
    if name != _NAME or family != _INTERNET:
        return _HEAD.pack(number, flags | _SERVER_FAILURE, 1, 0, 0, 0) + question
    record = b""
    if kind in (_A, _ANY):
        record = _RECORD.pack(_AS_IN_QUESTION, _A, _INTERNET, TTL, len(address.packed), address.packed)
    return _HEAD.pack(number, flags | _AUTHORITATIVE, 1, bool(record), 0, 0) + question + record


def own_address(access_point: Address | None) -> IPv4Address:
    """What the name stands for: where the access point listens, if others can reach that; else as on the chip."""
    try:
        listening = IPv4Address(access_point.host if access_point else "")
    except AddressValueError:
        return CHIP
    return CHIP if listening.is_loopback or listening.is_unspecified else listening


@asynccontextmanager
async def served(where: Address, address: IPv4Address, is_open: Callable[[], bool]) -> AsyncIterator[Address]:
    """Answer whoever asks while the access point is open, as long as the context lasts.

    Yields where: port 0 is any that is free. Raises OSError: it is taken.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in where.host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.bind((where.host, where.port))  # uvloop would leave a socket behind that it could not bind
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Names(address, is_open), sock=bound
    )
    try:
        host, port = transport.get_extra_info("sockname")[:2]
        yield Address(host, port)
    finally:
        transport.close()


class _Names(asyncio.DatagramProtocol):
    def __init__(self, address: IPv4Address, is_open: Callable[[], bool]) -> None:
        self._address = address
        self._is_open = is_open

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.DatagramTransport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self._is_open() and (said := answer(data, self._address)) is not None:
            self._transport.sendto(said, addr)


def _name(datagram: bytes, start: int) -> tuple[tuple[bytes, ...], int] | None:
    """The labels of a name that is not abbreviated, in small letters, and where it ends."""
    labels: list[bytes] = []
    position = start
    while position < len(datagram):
        size = datagram[position]
        position += 1
        if size == 0:
            return tuple(labels), position
        if size > _MAX_LABEL or position + size - start >= _MAX_NAME:
            return None
        labels.append(datagram[position : position + size].lower())
        position += size
    return None
