import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from firmware_sim import esp_http
from firmware_sim.address import Address

ENDPOINTS = ("proto-ver", "prov-session")


class Peer:
    """A connection whose bytes are looked at."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> bytes:
        """An answer, or nothing once the connection is closed."""
        self._writer.write(request)
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as rest:
            return rest.partial
        length = re.search(rb"Content-Length: (\d+)", head)
        assert length is not None
        return head + await self._reader.readexactly(int(length[1]))

    async def post(self, body: bytes = b"---", cookie: str = "") -> bytes:
        more = f"Cookie: {cookie}\r\n" if cookie else ""
        return await self.ask(f"POST /proto-ver HTTP/1.1\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body)

    async def closed(self) -> bool:
        return await self._reader.read() == b""

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


class Served:
    def __init__(self, address: Address) -> None:
        self.address = address
        self.sessions = 0
        self.bodies: list[bytes] = []
        self.peers: list[Peer] = []

    async def handle(self, endpoint: str, body: bytes) -> bytes | None:
        self.bodies.append(body)
        return None if body == b"wrong" else endpoint.encode() + b" " + body

    def new_session(self) -> None:
        self.sessions += 1

    async def connect(self) -> Peer:
        self.peers.append(Peer(*await asyncio.open_connection(self.address.host, self.address.port)))
        return self.peers[-1]


@asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    served = Served(Address("127.0.0.1", 0))
    async with esp_http.served(served.address, ENDPOINTS, served.handle, served.new_session) as served.address:
        yield served
        for peer in served.peers:
            await peer.close()


def session(answer: bytes) -> str:
    found = re.search(rb"\r\nSet-Cookie: (session=\d+)\r\n", answer)
    assert found is not None
    return found[1].decode()


async def test_a_transcript() -> None:
    async with serving() as served:
        peer = await served.connect()
        answer = await peer.post()
        cookie = session(answer)
        assert answer == (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\nSet-Cookie: "
            + cookie.encode()
            + b"\r\n\r\nproto-ver ---"
        )
        answer = await peer.post(b"more", cookie)
        assert answer == b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 14\r\n\r\nproto-ver more"


async def test_a_session_by_its_cookie_outlives_its_connection() -> None:
    async with serving() as served:
        first = await served.connect()
        cookie = session(await first.post())
        await first.close()
        second = await served.connect()
        assert b"Set-Cookie" not in await second.post(cookie=cookie)
        assert served.sessions == 1


async def test_a_session_without_cookies_is_its_connection() -> None:
    async with serving() as served:
        first = await served.connect()
        await first.post()
        assert b"Set-Cookie" not in await first.post()
        assert served.sessions == 1
        second = await served.connect()
        session(await second.post())
        assert served.sessions == 2


async def test_a_cookie_of_another_session_begins_one() -> None:
    async with serving() as served:
        peer = await served.connect()
        old = session(await peer.post(cookie="session=0x"))
        new = session(await peer.post(cookie="session=1x"))
        assert old != new
        assert served.sessions == 2


async def test_the_newest_connection_is_the_one() -> None:
    async with serving() as served:
        first = await served.connect()
        await first.post()
        second = await served.connect()
        await second.post()
        assert await first.closed()


async def test_what_the_handler_does_not_answer() -> None:
    async with serving() as served:
        peer = await served.connect()
        assert await peer.post(b"wrong") == b""


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (b"POST /prov-other HTTP/1.1\r\n\r\n", b"404 Not Found", b"Nothing matches the given URI"),
        (
            b"GET /proto-ver HTTP/1.1\r\n\r\n",
            b"405 Method Not Allowed",
            b"Specified method is invalid for this resource",
        ),
    ],
)
async def test_what_there_is_not(request_: bytes, status: bytes, text: bytes) -> None:
    async with serving() as served:
        peer = await served.connect()
        head = b"HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % (status, len(text))
        assert await peer.ask(request_) == head + text
        assert await peer.closed()
        assert served.bodies == []


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /proto-ver HTTP/1.1\r\n\r\n",
        b"POST /proto-ver HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"POST /proto-ver HTTP/1.1\r\nContent-Length: 4097\r\n\r\n",
        b"POST /proto-ver HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /proto-ver HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST\r\n\r\n",
        b"POST /proto-ver HTTP/1.1\r\nX: " + b"x" * 3000 + b"\r\n\r\n",
    ],
    ids=["no length", "nothing", "too much", "less than nothing", "no number", "no request", "a long head"],
)
async def test_what_it_does_not_take(request_: bytes) -> None:
    async with serving() as served:
        peer = await served.connect()
        assert await peer.ask(request_) == b""
        assert served.bodies == []


async def test_the_largest_body() -> None:
    async with serving() as served:
        peer = await served.connect()
        await peer.post(b"x" * 4096)
        assert served.bodies == [b"x" * 4096]
