"""Where phones reach a device: a port that is open or refuses, and one client at a time."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable

from firmware_sim.address import Address
from firmware_sim.errors import WrongUsage
from firmware_sim.softap import Reader, Request

DATA_WAIT = 5.0
"""Seconds of the phone's time that a client may say nothing."""

_CHUNK = 65_536
_BACKLOG = 16
# What lets a socket listen on the port that another keeps. On Linux the second would let two devices listen there.
_SHARED = socket.SO_REUSEADDR if sys.platform == "linux" else socket.SO_REUSEPORT

Answer = Callable[[Request], Awaitable[bytes | None]]
"""The response to a request, None to hang up without one."""


class AccessPoint:
    """A port of this machine that is the device's alone, open or not."""

    def __init__(self, address: Address | None) -> None:
        """address: port 0 takes any that is free; None: nobody can reach it."""
        self._reserved: socket.socket | None = None
        self._serving: asyncio.Task[None] | None = None
        self.address: Address | None = None
        if address is None:
            return
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        # Bound, it keeps the port; as it does not listen, whoever calls is refused.
        self._reserved = bound(family, address.host, address.port)
        self.address = Address(address.host, self._reserved.getsockname()[1])

    @property
    def listens(self) -> bool:
        """Whether who calls is let in. One without an address has nothing to wait for."""
        return self._reserved is None or self._serving is not None

    def open(self, joined: Callable[[], None], answer: Answer) -> None:
        """Let phones in. joined: one is there. Raises WrongUsage: somebody else listens there by now."""
        if self._reserved is None or self.address is None or self._serving is not None:
            return
        try:
            listener = bound(self._reserved.family, self.address.host, self.address.port)
        except OSError as error:
            raise WrongUsage(f"cannot listen on {self.address}: {error.strerror}") from None
        listener.listen(_BACKLOG)
        self._serving = asyncio.create_task(_serve(listener, joined, answer))
        self._serving.add_done_callback(lambda _: listener.close())  # a task that is cancelled at once never begins

    async def close(self) -> None:
        """Refuse them."""
        if self._serving is not None:
            serving, self._serving = self._serving, None
            serving.cancel()
            await asyncio.wait({serving})

    async def release(self) -> None:
        """Give the port back."""
        await self.close()
        if self._reserved is not None:
            self._reserved.close()


def bound(family: socket.AddressFamily | int, host: str, port: int) -> socket.socket:
    """A socket that keeps the port; until one like it listens there, who calls is refused. Raises OSError."""
    kept = socket.socket(family, socket.SOCK_STREAM)
    try:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.setsockopt(socket.SOL_SOCKET, _SHARED, 1)
        kept.bind((host, port))
        kept.setblocking(False)
    except OSError:
        kept.close()
        raise
    return kept


async def _serve(listener: socket.socket, joined: Callable[[], None], answer: Answer) -> None:
    while True:
        await _readable(listener)
        try:
            client, _ = listener.accept()
        except OSError:  # who called has hung up meanwhile
            continue
        client.setblocking(False)
        with client:
            joined()
            with contextlib.suppress(OSError):
                await _one(client, answer)


async def _readable(listener: socket.socket) -> None:
    """Somebody calls. The loop's own accept would lose a client if it was cancelled just then."""
    loop = asyncio.get_running_loop()
    called = asyncio.Event()
    loop.add_reader(listener, called.set)
    try:
        await called.wait()
    finally:
        loop.remove_reader(listener)


async def _one(client: socket.socket, answer: Answer) -> None:
    loop = asyncio.get_running_loop()
    reader = Reader()
    while reader.request is None:
        try:
            async with asyncio.timeout(DATA_WAIT):
                data = await loop.sock_recv(client, _CHUNK)
        except TimeoutError:
            return
        if not data:
            return
        reader.feed(data)
        if reader.broken:
            return
    response = await answer(reader.request)
    if response is not None:
        await loop.sock_sendall(client, response)
