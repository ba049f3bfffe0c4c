"""CoAP twice: one message in one datagram exactly as a test says, and aiocoap as the ordinary client."""

import asyncio
import itertools
from dataclasses import dataclass
from typing import Any, Self, cast

from aiocoap import Context, Message
from aiocoap.numbers.codes import Code

TIME_LIMIT = 90.0

CON, NON, ACK, RST = range(4)
METHODS = {"GET": 1, "POST": 2, "PUT": 3, "DELETE": 4, "FETCH": 5, "PATCH": 6, "IPATCH": 7}
URI_PATH, CONTENT_FORMAT, MAX_AGE, ACCEPT, BLOCK2, BLOCK1 = 11, 12, 14, 17, 23, 27

Block = tuple[int, bool, int]
"""Number, whether more follow, and size exponent (RFC 7959 §2.2)."""


_mids = itertools.count(1)
"""For all endpoints: a later one may get the port of an earlier one, whose message ids are still remembered."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response. code: as in "2.01". piggybacked: it came on the ACK."""

    code: str
    payload: bytes
    format: int | None
    block1: Block | None = None
    block2: Block | None = None
    piggybacked: bool = False
    max_age: int | None = None


def request(
    method: str,
    mid: int,
    token: bytes,
    options: list[tuple[int, bytes]],
    payload: bytes,
    *,
    confirmable: bool = True,
) -> bytes:
    """A request's datagram (RFC 7252 §3)."""
    out = bytearray((0x40 | (CON if confirmable else NON) << 4 | len(token), METHODS[method]))
    out += mid.to_bytes(2) + token
    before = 0
    for number, value in sorted(options, key=lambda option: option[0]):
        (delta, more_delta), (length, more_length) = _nibble(number - before), _nibble(len(value))
        out += bytes((delta << 4 | length,)) + more_delta + more_length + value
        before = number
    return bytes(out) + (b"\xff" + payload if payload else b"")


def path_options(path: tuple[str, ...]) -> list[tuple[int, bytes]]:
    """Uri-Path options."""
    return [(URI_PATH, segment.encode()) for segment in path]


def unsigned(value: int) -> bytes:
    """An option's number: no leading zero bytes."""
    return value.to_bytes((value.bit_length() + 7) // 8)


def block_option(block: Block) -> bytes:
    """A Block1 or Block2 option's value."""
    number, more, exponent = block
    return unsigned(number << 4 | more << 3 | exponent)


@dataclass(frozen=True, slots=True)
class _Datagram:
    kind: int
    code: int
    mid: int
    token: bytes
    options: dict[int, bytes]
    payload: bytes

    def response(self) -> Response:
        return Response(
            f"{self.code >> 5}.{self.code & 31:02}",
            self.payload,
            self._number(CONTENT_FORMAT),
            _block(self._number(BLOCK1)),
            _block(self._number(BLOCK2)),
            self.kind == ACK,
            self._number(MAX_AGE),
        )

    def _number(self, option: int) -> int | None:
        value = self.options.get(option)
        return None if value is None else int.from_bytes(value)


class Endpoint(asyncio.DatagramProtocol):
    """A socket of its own, talking to one server."""

    _transport: asyncio.DatagramTransport

    def __init__(self) -> None:
        self._received: asyncio.Queue[bytes] = asyncio.Queue()

    @classmethod
    async def to(cls, address: str) -> Self:
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        _, endpoint = await loop.create_datagram_endpoint(cls, remote_addr=(host, int(port)))
        return endpoint

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, _addr: Any) -> None:
        self._received.put_nowait(data)

    def close(self) -> None:
        self._transport.close()

    async def ask(
        self,
        method: str,
        options: list[tuple[int, bytes]],
        payload: bytes,
        *,
        confirmable: bool = True,
        times: int = 1,
        burst: int = 1,
    ) -> Response:
        """Send a request, `burst` times at once; once answered, send it again until it was sent `times` times.

        Each later answer must be the first one, byte for byte.
        """
        mid = next(_mids) & 0xFFFF
        token = mid.to_bytes(2)
        data = request(method, mid, token, options, payload, confirmable=confirmable)
        for _ in range(burst):
            self._transport.sendto(data)
        first: bytes | None = None
        while True:
            raw = await self._next()
            message = _decode(raw)
            if message.kind == ACK and message.mid == mid and first is None:
                first = raw
            if message.code and message.token == token:
                first = first or raw
                break
        if message.kind == CON:
            self._transport.sendto(bytes((0x60, 0)) + message.mid.to_bytes(2))
        for _ in range(times - burst):
            self._transport.sendto(data)
            while (again := await self._next()) != first:
                assert _decode(again).code == 0, "a repeated request got another answer"
        return message.response()

    async def _next(self) -> bytes:
        async with asyncio.timeout(TIME_LIMIT):
            return await self._received.get()


class Client:
    """aiocoap, as it comes."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def __aenter__(self) -> Self:
        self._context = await Context.create_client_context()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._context.shutdown()

    async def post(self, payload: bytes) -> Response:
        """Post to /api/v1/provision, in blocks if need be."""
        uri = f"coap://{self._address}/api/v1/provision"
        message = Message(code=Code.POST, uri=uri, payload=payload)
        async with asyncio.timeout(TIME_LIMIT):
            response = await self._context.request(message).response
        format_ = response.opt.content_format
        return Response(response.code.dotted, response.payload, None if format_ is None else int(format_))


def _nibble(value: int) -> tuple[int, bytes]:
    if value < 13:
        return value, b""
    return (13, bytes((value - 13,))) if value < 269 else (14, (value - 269).to_bytes(2))


def _decode(data: bytes) -> _Datagram:
    assert data[0] >> 6 == 1
    at = 4 + (data[0] & 15)
    token = data[4:at]
    options: dict[int, bytes] = {}
    number = 0
    while at < len(data) and data[at] != 0xFF:
        sizes = [data[at] >> 4, data[at] & 15]
        at += 1
        for index, size in enumerate(sizes):
            if size == 13:
                sizes[index], at = data[at] + 13, at + 1
            elif size == 14:
                sizes[index], at = int.from_bytes(data[at : at + 2]) + 269, at + 2
        number += sizes[0]
        options[number] = data[at : at + sizes[1]]
        at += sizes[1]
    return _Datagram(data[0] >> 4 & 3, data[1], int.from_bytes(data[2:4]), token, options, data[at + 1 :])


def _block(value: int | None) -> Block | None:
    return None if value is None else (value >> 4, bool(value & 8), value & 7)
