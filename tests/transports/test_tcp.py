"""Streams on an epoll of our own, on both event loops: what a transport must do, over real sockets."""

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import pytest
import uvloop

from provserver.transports import tcp

pytestmark = pytest.mark.skipif(not tcp.AVAILABLE, reason="this machine has no epoll")

BIG: Final = bytes(range(256)) * 20_000

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs to the end on a loop of its own."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(main, 30))

    return run


class Peer(asyncio.Protocol):
    """Keeps what happens to it."""

    def __init__(self) -> None:
        self.received = b""
        self.events: list[str] = []
        self.changed = asyncio.Event()
        self.keep_open = self.fails = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._note("made")

    def data_received(self, data: bytes) -> None:
        if self.fails:
            raise LookupError
        self.received += data
        self._note("data")

    def eof_received(self) -> bool:
        self._note("eof")
        return self.keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        self._note("lost" if exc is None else type(exc).__name__)

    def pause_writing(self) -> None:
        self._note("pause")

    def resume_writing(self) -> None:
        self._note("resume")

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Peer, asyncio.StreamReader, asyncio.StreamWriter, tcp.TcpServer]]:
    peer = Peer()
    server = await tcp.serve(lambda: peer, "127.0.0.1", 0, backlog=5)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await peer.until(lambda: "made" in peer.events)
    try:
        yield peer, reader, writer, server
    finally:
        server.close()
        writer.close()
        peer.transport.abort()
        assert server.epoll.closed


def test_talk_and_leave(run: Run) -> None:
    async def main() -> None:
        async with connected() as (peer, reader, writer, _):
            assert peer.transport.get_extra_info("peername") == writer.get_extra_info("sockname")
            writer.write(b"hello")
            await peer.until(lambda: peer.received == b"hello")
            peer.transport.write(b"you")
            assert await reader.readexactly(3) == b"you"
            writer.write_eof()
            await peer.until(lambda: peer.events[-1] == "lost")
            assert peer.events == ["made", "data", "eof", "lost"]
            assert await reader.read() == b""

    run(main())


def test_large_both_ways(run: Run) -> None:
    """What the client does not take waits, and the protocol hears of it; `close` sends it first."""

    async def main() -> None:
        async with connected() as (peer, reader, writer, _):
            writer.write(BIG)
            await peer.until(lambda: peer.received == BIG)
            peer.transport.write(BIG)
            assert "pause" in peer.events
            assert peer.transport.get_write_buffer_size() > 0
            assert await reader.readexactly(len(BIG)) == BIG
            await peer.until(lambda: "resume" in peer.events)
            peer.transport.write(BIG)
            peer.transport.write(b"end")
            peer.transport.close()
            assert await reader.read() == BIG + b"end"
            await peer.until(lambda: peer.events[-1] == "lost")

    run(main())


def test_closing_is_enough_when_another_process_has_the_socket_too(run: Run) -> None:
    async def main() -> None:
        async with connected() as (_, _, _, server):
            copy = server.sockets[0].dup()
            address = copy.getsockname()
            server.close()
            late = socket.create_connection(address)
            assert server.epoll.poll(0) == []
            late.close()
            copy.close()

    run(main())


def test_a_family_that_the_kernel_lacks_is_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    make = socket.create_server

    def lacking(address: Any, *, family: int, backlog: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6")
        return make(address, family=family, backlog=backlog)

    monkeypatch.setattr(socket, "create_server", lacking)

    async def main() -> None:
        server = await tcp.serve(Peer, "localhost", 0, backlog=5)
        assert [each.family for each in server.sockets] == [socket.AF_INET]
        server.close()
        with pytest.raises(OSError, match="no IPv6"):
            await tcp.serve(Peer, "::1", 0, backlog=5)

    run(main())


def test_half_closed(run: Run) -> None:
    async def main() -> None:
        async with connected() as (peer, reader, writer, _):
            peer.transport.write(BIG)
            peer.transport.write_eof()
            assert await reader.read() == BIG
            writer.write(b"last words")
            await peer.until(lambda: peer.received == b"last words")
            peer.keep_open = True
            writer.write_eof()
            await peer.until(lambda: peer.events[-1] == "eof")
            assert not peer.transport.is_closing()

    run(main())


def test_paused(run: Run) -> None:
    """Also who is gone is not noticed before its last words are read."""

    async def main() -> None:
        async with connected() as (peer, _, writer, _server):
            peer.transport.pause_reading()
            assert not peer.transport.is_reading()
            writer.write(b"hello")
            writer.write_eof()
            for _ in range(10):
                await asyncio.sleep(0)
            assert peer.events == ["made"]
            peer.transport.resume_reading()
            await peer.until(lambda: peer.events[-1] == "lost")
            assert peer.received == b"hello"

    run(main())


def test_reset(run: Run) -> None:
    async def main() -> None:
        async with connected() as (peer, _, writer, _server):
            own = writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            await peer.until(lambda: len(peer.events) > 1)
            assert peer.events == ["made", "ConnectionResetError"]
            peer.transport.write(b"too late")
            peer.transport.close()
            peer.transport.abort()
            assert len(peer.events) == 2

    run(main())


def test_protocol_that_fails_loses_its_connection_alone(run: Run) -> None:
    async def main() -> None:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        async with connected() as (peer, reader, writer, _):
            peer.fails = True
            writer.write(b"hello")
            assert await reader.read() == b""
            assert peer.events == ["made", "lost"]
            assert [type(fault["exception"]) for fault in faults] == [LookupError]

    run(main())


def test_no_descriptors_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, waits, and accepts then."""

    async def main() -> None:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        peer, accept, left = Peer(), tcp._Listening.accept_descriptor, [1]

        def exhausted(listening: tcp._Listening) -> tuple[int, Any]:
            if left:
                left.pop()
                raise OSError(errno.EMFILE, "too many open files")
            return accept(listening)

        monkeypatch.setattr(tcp._Listening, "accept_descriptor", exhausted)
        monkeypatch.setattr(tcp, "_ACCEPT_PAUSE", 0.01)
        server = await tcp.serve(lambda: peer, "127.0.0.1", 0, backlog=5)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await peer.until(lambda: "made" in peer.events)
        assert len(faults) == 1
        server.close()
        peer.transport.abort()
        writer.close()

    run(main())
