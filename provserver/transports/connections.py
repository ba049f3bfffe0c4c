"""What listeners have in common whose clients stay connected, on TCP or TLS: one sans-IO session for each connection.

Cheap on purpose: no task and no timer per connection. Nothing that a client sends is logged or makes a stack trace; how
a connection ended is logged for debugging.
"""

import asyncio
import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, ClassVar, Final, Protocol, TypedDict, Unpack, cast

from provserver.core.model import Peer, Transport
from provserver.errors import described
from provserver.services.sessions import LiveSession
from provserver.transports import tcp
from provserver.transports.admission import Admission

MakeProtocol = Callable[[], asyncio.BaseProtocol]

_BACKLOG: Final = 4096  # a fleet wakes up at once; the kernel caps it at somaxconn


class Session(Protocol):
    """One connection without I/O, as `mqtt/session.py` describes it."""

    closing: bool
    close_reason: str
    crowded: bool
    deadline: float
    events: list[Any]
    left: bool
    output: list[bytes]
    reading: bool

    def receive(self, data: bytes, now: float) -> None:
        """Take what the client sent."""

    def receive_eof(self) -> None:
        """The client sends no more."""

    def expire(self, now: float) -> None:
        """Close if `deadline` has passed."""

    def drain(self) -> None:
        """Read no more, and shut down when nothing is owed."""

    def shut_down(self) -> None:
        """End because the server does."""

    def close(self, reason: str) -> None:
        """Close without a word."""


class Options(TypedDict, total=False):
    """Of a listener.

    max_connections: one more is closed as soon as it is accepted, and counted in `refused`.
    admission: of those that have not been let in, or provisioned, yet; one more is told to come back.
    write_timeout: seconds in which a client must read some of what it was sent, once much is waiting; while
        much is, nothing is read from it.
    close_timeout: seconds a client has to take the last bytes and close its side, before it is cut off.
    sweep_interval: seconds by which any time limit may be overrun.
    """

    max_connections: int
    admission: Admission
    write_timeout: float
    close_timeout: float
    sweep_interval: float


class Listener(ABC):
    """Accepts connections, and ends them."""

    logger: ClassVar[logging.Logger]

    def __init__(self, **options: Unpack[Options]) -> None:
        max_connections = options.get("max_connections", 10_000)
        self.write_timeout = options.get("write_timeout", 10)
        self.close_timeout = options.get("close_timeout", 2)
        self.refused = 0
        self.undecided = 0  # requests that no task works on
        self.admission = options.get("admission") or Admission(max_connections, max_connections)
        self._max_connections = max_connections
        self._sweep_interval = options.get("sweep_interval", 1)
        self._servers: list[asyncio.Server | tcp.TcpServer] = []
        self._abort_handshakes: list[Callable[[], None]] = []
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unused = asyncio.Event()
        self._unused.set()
        self._decided = asyncio.Event()
        self._sweeping: asyncio.TimerHandle | None = None
        self._stopping = False

    @abstractmethod
    def connection(self, loop: asyncio.AbstractEventLoop) -> "Connection":
        """The protocol of a new connection."""

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def start(
        self,
        host: str,
        port: int,
        *,
        wrap: Callable[[MakeProtocol], MakeProtocol] | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[str, int]:
        """Accept on an address (port 0: any free one) and return it; OSError if that cannot be had.

        sock: bound to it already, by a supervisor that shares the address between processes.

        May be called for several addresses. wrap: puts TLS around a connection's protocol; the transport it gives
        that knows `certificates` and `psk`, as `Peer` has them. What it returns may have `abort()`, which is called
        at the end for the handshakes under way.
        """
        loop = asyncio.get_running_loop()

        def connection() -> asyncio.BaseProtocol:
            return self.connection(loop)

        factory = wrap(connection) if wrap is not None else connection
        server: asyncio.Server | tcp.TcpServer
        if tcp.AVAILABLE:
            server = await tcp.serve(factory, host, port, sock=sock, backlog=_BACKLOG)
        elif sock is not None:
            server = await loop.create_server(factory, sock=sock, backlog=_BACKLOG)
        else:
            server = await loop.create_server(factory, host, port, backlog=_BACKLOG)
        self._servers.append(server)
        if (abort := getattr(factory, "abort", None)) is not None:
            self._abort_handshakes.append(abort)
        bound_host, bound_port, *_ = server.sockets[0].getsockname()
        return bound_host, bound_port

    async def stop(self, grace: float) -> None:
        """Accept no more, answer the requests in flight for at most `grace` seconds, disconnect everyone."""
        self._stopping = True
        for server in self._servers:
            server.close()
        for abort in self._abort_handshakes:
            abort()
        for connection in tuple(self._connections):
            connection.drain()
        try:
            async with asyncio.timeout(grace):
                if self.undecided:
                    await self._decided.wait()
                if self._tasks:
                    await asyncio.wait(tuple(self._tasks))
                await self._unused.wait()
        except TimeoutError:
            if unanswered := self.undecided + len(self._tasks):
                self.logger.warning("%d requests were not answered before the end", unanswered)
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in tuple(self._connections):
            connection.abort()
        await self._unused.wait()
        if self._sweeping is not None:
            self._sweeping.cancel()
        for server in self._servers:
            await server.wait_closed()

    # What follows is for the connections.

    def admit(self, connection: "Connection") -> bool:
        """Take a new connection in, if there is room."""
        if self._stopping or len(self._connections) >= self._max_connections:
            self.refused += 1
            return False
        if not self._connections:
            self._unused.clear()
        self._connections.add(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(self._sweep_interval, self._sweep)
        return True

    def dismiss(self, connection: "Connection") -> None:
        """Forget a connection that is lost."""
        self._connections.discard(connection)
        if not self._connections:
            self._unused.set()

    def decided(self) -> None:
        """One of the `undecided` is answered."""
        self.undecided -= 1
        if self._stopping and not self.undecided:
            self._decided.set()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run to its end, whatever becomes of the connection."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _sweep(self) -> None:
        """One timer for all time limits: a session's own would cost more than looking at each once a second."""
        self._sweeping = None
        if self._connections:
            loop = asyncio.get_running_loop()
            now = loop.time()
            for connection in tuple(self._connections):
                if connection.deadline <= now:
                    connection.expire(now)
            self._sweeping = loop.call_later(self._sweep_interval, self._sweep)


class Connection(asyncio.Protocol, ABC):
    """Between a transport and its session.

    A connection that we end is first closed for writing only, and read until the client closes too: bytes that are
    unread when a socket is closed make the kernel reset it, and our last words are lost with it. One that the client
    has ended itself has no bytes to come.

    _live: the device's live session, if it is one. _device: whoever was let in, as the protocol has it.
    """

    TRANSPORT: ClassVar[Transport]

    __slots__ = (
        "_abort_at",
        "_address",
        "_admitted",
        "_closing",
        "_device",
        "_known",
        "_listener",
        "_live",
        "_loop",
        "_reading",
        "_session",
        "_transport",
        "_writable",
    )

    _transport: asyncio.Transport
    _device: Any

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop, session: Session) -> None:
        self._listener = listener
        self._loop = loop
        self._session = session
        self._address = ""
        self._admitted = True
        self._known: Peer | None = None
        self._abort_at = inf
        self._reading = self._writable = True
        self._closing = False
        self._device = None
        self._live: LiveSession | None = None

    @abstractmethod
    def handle(self, event: Any) -> None:
        """Do what the session has asked for."""

    @property
    def deadline(self) -> float:
        """When `expire` is due."""
        return min(self._session.deadline, self._abort_at)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if there is room."""
        self._transport = cast("asyncio.Transport", transport)
        peer_name = transport.get_extra_info("peername")
        if not peer_name or not self._listener.admit(self):  # no name: it is gone already
            self._closing = True
            self._session.receive_eof()
            transport.close()
            return
        self._address = peer_name[0]
        if self._listener.admission.enter(self._address):
            self._admitted = False
        else:
            self._session.crowded = True

    def connection_lost(self, _exc: Exception | None) -> None:
        """It is over."""
        self._closing = True
        self._session.receive_eof()
        self._leave()
        self._admit()
        logger = self._listener.logger
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s: %s", self._address, self._session.close_reason)
        self._listener.dismiss(self)

    def data_received(self, data: bytes) -> None:
        """Hand it to the session."""
        if not self._closing:
            self._session.receive(data, self._loop.time())
            self._advance()

    def eof_received(self) -> None:
        """The client sends no more."""
        self._session.receive_eof()
        self._leave()
        self._closing = True
        self._abort_at = self._loop.time() + self._listener.close_timeout

    def pause_writing(self) -> None:
        """Much is waiting that the client does not read."""
        self._writable = False
        if not self._closing:
            self._abort_at = self._loop.time() + self._listener.write_timeout
            self._pause_or_resume_reading()

    def resume_writing(self) -> None:
        """It has read of it."""
        self._writable = True
        if not self._closing:
            self._abort_at = inf
            self._pause_or_resume_reading()

    def drain(self) -> None:
        """Close once nothing is owed."""
        self._session.drain()
        self._advance()

    def expire(self, now: float) -> None:
        """Act on a deadline that has passed."""
        if self._abort_at <= now:
            self._session.close("the client does not read")
            self._transport.abort()
        else:
            self._session.expire(now)
            self._advance()

    def abort(self) -> None:
        """Close now."""
        self._session.shut_down()
        self._advance()
        self._transport.abort()

    @property
    def address(self) -> str:
        """The peer's, without the port."""
        return self._address

    # What follows is for the protocol's own connection.

    def _peer(self) -> Peer:
        if self._known is None:
            certificates = self._transport.get_extra_info("certificates") or ()
            self._known = Peer(self.TRANSPORT, self._address, certificates, self._transport.get_extra_info("psk"))
        return self._known

    def _advance(self) -> None:
        """Do what the session wants done."""
        session = self._session
        if session.events:
            events, session.events = session.events, []
            for event in events:
                self.handle(event)
        if session.closing:
            self._leave()
        if self._closing:
            return
        if output := session.output:
            self._transport.write(output[0] if len(output) == 1 else b"".join(output))
            output.clear()
        if session.closing:
            self._close()
        elif (session.reading and self._writable) is not self._reading:
            self._pause_or_resume_reading()

    def _admit(self) -> None:
        """Wait no more to be let in."""
        if not self._admitted:
            self._admitted = True
            self._listener.admission.leave(self._address)

    def _leave(self) -> None:
        """Be the device's live session no more."""
        if self._live is not None:
            live, self._live, self._device = self._live, None, None
            live.close()

    def _close(self) -> None:
        self._closing = True
        self._abort_at = self._loop.time() + self._listener.close_timeout
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()
        if self._session.left or not self._transport.can_write_eof():
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except OSError:  # the client is gone, which nobody has noticed yet
            self._transport.abort()

    def _pause_or_resume_reading(self) -> None:
        reading = self._writable and self._session.reading
        if reading is not self._reading:
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _log_failure(self, what: str, error: Exception) -> None:
        self._listener.logger.error("%s of %s failed: %s", what, self._address, described(error))
