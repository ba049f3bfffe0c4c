"""MQTT on TCP: drives one `Session` per connection with asyncio.

Cheap on purpose: no stream, no task and no timer per connection, one read buffer for all of them. Nothing
that a client sends is logged or makes a stack trace; how a connection ended is logged for debugging.
"""

import asyncio
import itertools
import logging
import secrets
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from typing import Any, Final, cast

from provserver.core.model import Peer, Transport
from provserver.services.provisioning import Provisioning
from provserver.transports.mqtt.packets import Connect, ReasonCode
from provserver.transports.mqtt.session import AuthenticationRequested, Limits, ProvisionRequested, Session

logger = logging.getLogger("provserver.mqtt")

Authenticate = Callable[[Connect, Peer], Awaitable[ReasonCode]]
"""Decides on a CONNECT that is not for provisioning: the reason code to refuse it with (§3.2.2.2)."""

_READ_SIZE: Final = 16_384  # also how much one client can have handled before the others have their turn
_WRITE_HIGH_WATER: Final = 65_536
_BACKLOG: Final = 4096  # a fleet wakes up at once; the kernel caps it at somaxconn
_DEFAULT_LIMITS: Final = Limits()


async def unavailable(_connect: Connect, _peer: Peer) -> ReasonCode:
    """The `Authenticate` that never says whether credentials are good."""
    return ReasonCode.SERVER_UNAVAILABLE


class MqttListener:
    """Accepts MQTT connections and answers their provision requests.

    max_connections: one more is closed as soon as it is accepted, and counted in `refused`.
    write_timeout: seconds in which a client must read some of what it was sent, once much is waiting; while
        much is, nothing is read from it.
    close_timeout: seconds a client has to take the last bytes and close its side, before it is cut off.
    sweep_interval: seconds by which any time limit may be overrun.
    """

    def __init__(
        self,
        provisioning: Provisioning,
        *,
        limits: Limits = _DEFAULT_LIMITS,
        max_connections: int = 10_000,
        write_timeout: float = 10,
        close_timeout: float = 2,
        sweep_interval: float = 1,
        authenticate: Authenticate = unavailable,
    ) -> None:
        self.provisioning = provisioning
        self.authenticate = authenticate
        self.limits = limits
        self.write_timeout = write_timeout
        self.close_timeout = close_timeout
        self.refused = 0
        self.read_buffer = memoryview(bytearray(_READ_SIZE))
        self._max_connections = max_connections
        self._sweep_interval = sweep_interval
        self._servers: list[asyncio.Server] = []
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unused = asyncio.Event()
        self._unused.set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._stopping = False
        client_ids = (f"provision-{secrets.token_hex(4)}-{number}" for number in itertools.count(1))
        self.assign_client_id = client_ids.__next__

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def start(self, host: str, port: int, *, reuse_port: bool = False) -> tuple[str, int]:
        """Accept on an address (port 0: any free one) and return it; OSError if that cannot be had.

        May be called for several addresses.
        """
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Connection(self, loop), host, port, reuse_port=reuse_port, backlog=_BACKLOG
        )
        self._servers.append(server)
        bound_host, bound_port, *_ = server.sockets[0].getsockname()
        return bound_host, bound_port

    async def stop(self, grace: float) -> None:
        """Accept no more, answer the requests in flight for at most `grace` seconds, disconnect everyone."""
        self._stopping = True
        for server in self._servers:
            server.close()
        for connection in tuple(self._connections):
            connection.drain()
        try:
            async with asyncio.timeout(grace):
                if self._tasks:
                    await asyncio.wait(tuple(self._tasks))
                await self._unused.wait()
        except TimeoutError:
            if self._tasks:
                logger.warning("%d requests were not answered before the end", len(self._tasks))
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

    def admit(self, connection: "_Connection") -> bool:
        """Take a new connection in, if there is room."""
        if self._stopping or len(self._connections) >= self._max_connections:
            self.refused += 1
            return False
        self._connections.add(connection)
        self._unused.clear()
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(self._sweep_interval, self._sweep)
        return True

    def dismiss(self, connection: "_Connection") -> None:
        """Forget a connection that is lost."""
        self._connections.discard(connection)
        if not self._connections:
            self._unused.set()

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


class _Connection(asyncio.BufferedProtocol):
    """Between a transport and its session.

    A closing connection is first closed for writing only, and read until the client closes too: bytes that are
    unread when a socket is closed make the kernel reset it, and our last words are lost with it.
    """

    __slots__ = (
        "_abort_at",
        "_address",
        "_closing",
        "_listener",
        "_loop",
        "_reading",
        "_session",
        "_transport",
        "_writable",
    )

    _transport: asyncio.Transport

    def __init__(self, listener: MqttListener, loop: asyncio.AbstractEventLoop) -> None:
        self._listener = listener
        self._loop = loop
        self._session = Session(listener.limits, loop.time(), listener.assign_client_id)
        self._address = ""
        self._abort_at = inf
        self._reading = self._writable = True
        self._closing = False

    @property
    def deadline(self) -> float:
        """When `expire` is due."""
        return min(self._session.deadline, self._abort_at)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer_name = transport.get_extra_info("peername")
        if not peer_name or not self._listener.admit(self):  # no name: it is gone already
            self._closing = True
            self._session.receive_eof()
            transport.close()
            return
        self._address = peer_name[0]
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._closing = True
        self._session.receive_eof()
        logger.debug("%s: %s", self._address, self._session.close_reason)
        self._listener.dismiss(self)

    def get_buffer(self, _sizehint: int) -> memoryview:
        # Shared: both selector and uvloop transports fill it and call buffer_updated at once.
        return self._listener.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        if not self._closing:
            self._session.receive(bytes(self._listener.read_buffer[:nbytes]), self._loop.time())
            self._advance()

    def eof_received(self) -> None:
        self._session.receive_eof()
        self._closing = True
        self._abort_at = self._loop.time() + self._listener.close_timeout

    def pause_writing(self) -> None:
        self._writable = False
        if not self._closing:
            self._abort_at = self._loop.time() + self._listener.write_timeout
            self._pause_or_resume_reading()

    def resume_writing(self) -> None:
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

    def _advance(self) -> None:
        """Do what the session wants done."""
        session = self._session
        for event in session.events():
            match event:
                case ProvisionRequested():
                    self._listener.run(self._provision(event))
                case AuthenticationRequested():
                    self._listener.run(self._authenticate(event))
        if self._closing:
            return
        data = session.data_to_send()
        if data:
            self._transport.write(data)
        if session.closing:
            self._close()
        else:
            self._pause_or_resume_reading()

    def _close(self) -> None:
        self._closing = True
        self._abort_at = self._loop.time() + self._listener.close_timeout
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _pause_or_resume_reading(self) -> None:
        reading = self._writable and self._session.reading
        if reading is not self._reading:
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    async def _provision(self, request: ProvisionRequested) -> None:
        try:
            peer = Peer(Transport.MQTT, self._address)
            answer = await self._listener.provisioning.answer(request.payload, peer)
        except Exception as error:
            self._log_failure("a provision request", error)
            answer = None
        self._session.answer(request, answer, self._loop.time())
        self._advance()

    async def _authenticate(self, event: AuthenticationRequested) -> None:
        try:
            reason_code = await self._listener.authenticate(event.connect, Peer(Transport.MQTT, self._address))
        except Exception as error:
            self._log_failure("an authentication", error)
            reason_code = ReasonCode.SERVER_UNAVAILABLE
        self._session.refuse(reason_code, "the server is unavailable")
        self._advance()

    def _log_failure(self, what: str, error: Exception) -> None:
        """Where and what it was; not its message, which may quote the request."""
        at = traceback.extract_tb(error.__traceback__)[-1]
        kind = type(error).__qualname__
        logger.error("%s of %s failed: %s at %s:%s", what, self._address, kind, at.filename, at.lineno)
