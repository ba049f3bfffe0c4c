"""ESP-IDF's HTTP server, as protocomm uses it: POST alone, one connection, and sessions by a cookie.

A request that its handler does not answer has its connection closed without a word, as there.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from firmware_sim.address import Address

MAX_BODY: Final = 4096
MAX_HEAD: Final = 1024

Handler = Callable[[str, bytes], Awaitable[bytes | None]]


@asynccontextmanager
async def served(
    address: Address, endpoints: Collection[str], handler: Handler, new_session: Callable[[], None]
) -> AsyncIterator[Address]:
    """Listen as long as the context lasts. Yields where: port 0 is any that is free.

    handler: takes an endpoint's name and a request's body. new_session: called before somebody else's first request.
    """
    front = _Server(endpoints, handler, new_session)
    server = await asyncio.start_server(front.connected, address.host, address.port, limit=MAX_HEAD)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        yield Address(host, port)
    finally:
        server.close()
        await front.closed()


class _Server:
    def __init__(self, endpoints: Collection[str], handler: Handler, new_session: Callable[[], None]) -> None:
        self._endpoints = endpoints
        self._handler = handler
        self._new_session = new_session
        self._cookie = ""
        self._owner: asyncio.StreamWriter | None = None  # of a session whose client sends no cookie
        self._open: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}
        self._turn = asyncio.Lock()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; there is room for no other, and the newest gets it."""
        for older in self._open:
            older.close()
        self._open[writer] = asyncio.current_task()
        try:
            with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError):
                while await self._one(reader, writer):
                    await writer.drain()
        finally:
            del self._open[writer]
            if self._owner is writer:
                self._owner = None
            writer.close()

    async def closed(self) -> None:
        """End all connections."""
        tasks = [task for task in self._open.values() if task is not None]
        for writer in self._open:
            writer.close()
        if tasks:
            await asyncio.wait(tasks)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request. Returns whether another can follow."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.split("\r\n")
        method, target, _ = line.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
        endpoint = target.removeprefix("/").partition("?")[0]
        if endpoint not in self._endpoints:
            return _refuse(writer, "404 Not Found", "Nothing matches the given URI")
        if method != "POST":
            return _refuse(writer, "405 Method Not Allowed", "Specified method is invalid for this resource")
        length = int(headers.get("content-length", "0"))
        if not 0 < length <= MAX_BODY:
            return False
        body = await reader.readexactly(length)
        async with self._turn:
            begun = self._begin(headers.get("cookie"), writer)
            answer = await self._handler(endpoint, body)
        if answer is None:
            return False
        cookie = f"Set-Cookie: {self._cookie}\r\n" if begun else ""
        _send(writer, "200 OK", answer, cookie)
        return True

    def _begin(self, cookie: str | None, writer: asyncio.StreamWriter) -> bool:
        """Whether it is a new session that this request begins: no cookie, or an old one."""
        if cookie is not None and cookie == self._cookie:
            self._owner = None
            return False
        if cookie is None and self._owner is writer:
            return False
        self._cookie = f"session={secrets.randbelow(1 << 32)}"
        self._owner = writer
        self._new_session()
        return True


def _refuse(writer: asyncio.StreamWriter, status: str, text: str) -> bool:
    _send(writer, status, text.encode())
    return False


def _send(writer: asyncio.StreamWriter, status: str, body: bytes, more: str = "") -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    writer.write(head.encode("latin-1") + body)
