"""TCP connections for protocols of many short ones, on an epoll of our own instead of the event loop's transports.

What a loop's transport costs to make, to start and to close is more than what MQTT does with a connection. All
streams of a server wait in one epoll, which the loop waits for as for any other file: an accepted connection costs a
descriptor and one small object; it is read as soon as it is accepted, since a client's first packet is mostly there by
then.
"""

import asyncio
import errno
import select
import socket
from asyncio import BaseProtocol, Protocol
from collections.abc import Callable
from contextlib import suppress
from os import close, read, set_blocking, write
from typing import Any, Final, cast

AVAILABLE: Final = hasattr(select, "epoll")
"""Elsewhere than on Linux the loop's own server has to do."""

_EVENTS: Final = 64  # handled before the loop has its turn
_ACCEPTS: Final = 16  # likewise, of one listening socket
_ACCEPT_PAUSE: Final = 1.0  # seconds, when there are no descriptors left; as asyncio has it
_FIRST_READ: Final = 992  # with Python's header in what malloc keeps for the thread; larger buffers cost 2 µs
_READ_SIZE: Final = 16_384  # also how much one client can have handled before the others have their turn
_WRITE_HIGH_WATER: Final = 65_536
_WRITE_LOW_WATER: Final = 16_384

_IN: Final = 0x001  # EPOLLIN and EPOLLOUT, which `select` has on Linux only
_OUT: Final = 0x004
_NO_FAMILY: Final = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}  # `localhost` where the kernel has no IPv6, say
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class _Listening(socket.socket):
    """A listening socket."""

    def accept_descriptor(self) -> tuple[int, Any]:
        """What `accept` returns before it makes a socket object, which costs more than the system call."""
        return self._accept()  # type: ignore[attr-defined, no-any-return]


class TcpServer:
    """Accepts connections on listening sockets, and drives their streams."""

    def __init__(
        self,
        make_protocol: Callable[[], BaseProtocol],
        loop: asyncio.AbstractEventLoop,
        sockets: list[socket.socket],
    ) -> None:
        """sockets: listening; they are the server's from now on."""
        self.loop = loop
        self.epoll = select.epoll()
        self.streams: dict[int, _Stream] = {}
        self._make_protocol = make_protocol
        self._accepting: dict[int, _Listening] = {}
        for sock in sockets:
            listening = _Listening(sock.family, sock.type, sock.proto, fileno=sock.detach())
            listening.setblocking(False)
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones inherit it
            self._accepting[listening.fileno()] = listening
            self.epoll.register(listening.fileno(), _IN)
        loop.add_reader(self.epoll.fileno(), self._ready)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Those that accept."""
        return tuple(self._accepting.values())

    def close(self) -> None:
        """Accept no more; the streams go on."""
        accepting, self._accepting = self._accepting, {}
        for listening in accepting.values():
            with suppress(OSError):  # it was not registered, as accepting pauses
                self.epoll.unregister(
                    listening.fileno()
                )  # a supervisor has it open, too, so that closing is not enough
            listening.close()
        self.release()

    async def wait_closed(self) -> None:
        """As `asyncio.Server` has it: at once."""

    def release(self) -> None:
        """Give the epoll back once nothing is left to wait for."""
        if not self._accepting and not self.streams and not self.epoll.closed:
            self.loop.remove_reader(self.epoll.fileno())
            self.epoll.close()

    def _ready(self) -> None:
        streams = self.streams
        for descriptor, events in self.epoll.poll(0, _EVENTS):
            stream = streams.get(descriptor)
            if stream is not None:
                # It may be another stream's by now: nothing is believed but what the kernel says when it is asked.
                if events == _IN:
                    stream.read()
                else:
                    stream.handle(events)
            elif descriptor in self._accepting:
                self._accept(self._accepting[descriptor])

    def _accept(self, listening: _Listening) -> None:
        for _ in range(_ACCEPTS):
            try:
                descriptor, address = listening.accept_descriptor()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(listening, error)
                return  # others are errors of a connection that is gone already (accept(2))
            set_blocking(descriptor, False)
            stream = self.streams[descriptor] = _Stream(self, descriptor, address)
            self.epoll.register(descriptor, _IN)
            stream.begin(self._make_protocol())

    def _pause(self, listening: _Listening, error: OSError) -> None:
        self.loop.call_exception_handler({"message": "no connection can be accepted", "exception": error})
        self.epoll.unregister(listening.fileno())
        self.loop.call_later(_ACCEPT_PAUSE, self._resume, listening)

    def _resume(self, listening: _Listening) -> None:
        if listening.fileno() in self._accepting:
            self.epoll.register(listening.fileno(), _IN)


async def serve(
    make_protocol: Callable[[], BaseProtocol],
    host: str,
    port: int,
    *,
    sock: socket.socket | None = None,
    backlog: int,
) -> TcpServer:
    """Listen on all addresses of a host, or on a socket that is bound already. OSError if they cannot be had."""
    loop = asyncio.get_running_loop()
    if sock is not None:
        sock.listen(backlog)
        return TcpServer(make_protocol, loop, [sock])
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    for family, address in dict.fromkeys((each[0], each[4]) for each in found):
        try:
            sockets.append(socket.create_server(address, family=family, backlog=backlog))
        except OSError as error:
            lacking = error
            if error.errno in _NO_FAMILY:
                continue
            for each in sockets:
                each.close()
            raise
    if not sockets:
        raise lacking
    return TcpServer(make_protocol, loop, sockets)


class _Stream(asyncio.Transport):
    """One connection. `connection_lost` may be called from within `write`'s siblings `close` and `abort`, not later.

    _waits_for: the events it is registered with; 0: it is not registered, so that a client that is gone is noticed
    no sooner than its last words are read.
    """

    __slots__ = ("_address", "_closing", "_descriptor", "_ending", "_protocol", "_server", "_unsent", "_waits_for")

    _protocol: Protocol | None

    def __init__(self, server: TcpServer, descriptor: int, address: Any) -> None:
        self._server = server
        self._descriptor = descriptor
        self._address = address
        self._waits_for = _IN
        self._unsent: bytearray | None = None
        self._closing = self._ending = False

    # What follows is for the server.

    def begin(self, protocol: BaseProtocol) -> None:
        """Start the protocol, with what the client has sent already."""
        self._protocol = cast("Protocol", protocol)
        try:
            protocol.connection_made(self)
        except Exception as error:
            self._fail(error)
        else:
            self.read()

    def handle(self, events: int) -> None:
        """Read and write what can be."""
        if events & _OUT:
            self._flush()
        if events != _OUT:
            self.read()

    def read(self) -> None:
        """Read what is there, and hand it on."""
        if not self._waits_for & _IN:
            return
        try:
            data = read(self._descriptor, _FIRST_READ)
            if len(data) == _FIRST_READ:
                data += self._read_more()
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        protocol = self._protocol
        try:
            if data:
                protocol.data_received(data)  # type: ignore[union-attr]
            elif protocol.eof_received():  # type: ignore[union-attr]
                self.pause_reading()
            else:
                self.close()
        except Exception as error:
            self._fail(error)

    # The transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._address if name == "peername" else default

    def get_protocol(self) -> BaseProtocol:
        return cast("BaseProtocol", self._protocol)

    def set_protocol(self, protocol: BaseProtocol) -> None:
        self._protocol = cast("Protocol", protocol)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return bool(self._waits_for & _IN)

    def pause_reading(self) -> None:
        self._wait_for(self._waits_for & ~_IN)

    def resume_reading(self) -> None:
        self._wait_for(self._waits_for | _IN)

    def get_write_buffer_size(self) -> int:
        return 0 if self._unsent is None else len(self._unsent)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._unsent is not None:
            before = len(self._unsent)
            self._unsent += data
        elif self._closing:
            return
        else:
            try:
                sent = write(self._descriptor, data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._closing = True
                self._server.loop.call_soon(self._lose, error)
                return
            if sent == len(data):
                return
            before = 0
            self._unsent = bytearray(data[sent:])
            self._wait_for(self._waits_for | _OUT)
        if before <= _WRITE_HIGH_WATER < len(self._unsent) and self._protocol is not None:
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Raises OSError when the client is gone."""
        self._ending = True
        if self._unsent is None:
            self._shut_down()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if self._unsent is None:
                self._lose(None)
            else:
                self.pause_reading()

    def abort(self) -> None:
        self._closing = True
        self._lose(None)

    # Between the two

    def _read_more(self) -> bytes:
        try:
            return read(self._descriptor, _READ_SIZE - _FIRST_READ)
        except OSError:  # whatever it is, the next read tells
            return b""

    def _flush(self) -> None:
        if self._unsent is None:
            return
        before = len(self._unsent)
        try:
            sent = write(self._descriptor, self._unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        del self._unsent[:sent]
        left = before - sent
        if not left:
            self._unsent = None
            self._wait_for(self._waits_for & ~_OUT)
        if left <= _WRITE_LOW_WATER < before and self._protocol is not None and not self._closing:
            self._protocol.resume_writing()
        if not left and self._closing:
            self._lose(None)
        elif not left and self._ending:
            try:
                self._shut_down()
            except OSError as error:
                self._lose(error)

    def _shut_down(self) -> None:
        borrowed = socket.socket(fileno=self._descriptor)
        try:
            borrowed.shutdown(socket.SHUT_WR)
        finally:
            borrowed.detach()

    def _wait_for(self, events: int) -> None:
        before = self._waits_for
        if events == before or self._descriptor < 0:
            return
        self._waits_for = events
        if not events:
            self._server.epoll.unregister(self._descriptor)
        elif before:
            self._server.epoll.modify(self._descriptor, events)
        else:
            self._server.epoll.register(self._descriptor, events)

    def _fail(self, error: Exception) -> None:
        self._server.loop.call_exception_handler(
            {"message": "a protocol failed", "exception": error, "transport": self, "protocol": self._protocol}
        )
        self.abort()

    def _lose(self, error: Exception | None) -> None:
        protocol = self._protocol
        if protocol is None:
            return
        self._protocol = None
        server, descriptor = self._server, self._descriptor
        self._closing, self._descriptor, self._waits_for, self._unsent = True, -1, 0, None
        del server.streams[descriptor]
        close(descriptor)  # by which the epoll forgets it
        protocol.connection_lost(error)
        if not server.streams:
            server.release()
