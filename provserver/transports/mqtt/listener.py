"""MQTT on TCP or TLS: drives one `Session` per connection.

Cheap on purpose: no task and no timer per connection, and none per provision request. Nothing that a client sends is
logged or makes a stack trace; how a connection ended is logged for debugging.
"""

import asyncio
import itertools
import logging
import secrets
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Final, cast

from provserver import metrics
from provserver.core import attributes
from provserver.core.authentication import Denial
from provserver.core.model import Authenticated, Peer, Transport
from provserver.core.telemetry import InvalidData
from provserver.errors import Outcome, Unavailable, described
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.datastreams import Datastreams
from provserver.services.provisioning import Answer, Provisioning
from provserver.services.sessions import Cause, LiveSession, Sessions
from provserver.transports import tcp
from provserver.transports.admission import Admission
from provserver.transports.mqtt import device, topics
from provserver.transports.mqtt.device import DeviceAnswer, DeviceBehaviour, DeviceRequested
from provserver.transports.mqtt.packets import Connect, ReasonCode
from provserver.transports.mqtt.session import AuthenticationRequested, Limits, ProvisionRequested, Session
from provserver.transports.mqtt.topics import Feature

logger = logging.getLogger("provserver.mqtt")

MakeProtocol = Callable[[], asyncio.BaseProtocol]


@dataclass(frozen=True, slots=True)
class _Services:
    """What devices with credentials of their own are served by."""

    access: Access
    sessions: Sessions
    data: Data
    datastreams: Datastreams | None


_MQTT: Final = Transport.MQTT  # members of an Enum are slow to look up
_ACCEPTED: Final = metrics.AUTHENTICATIONS.cell(_MQTT.value, metrics.ACCEPTED)
_UNAVAILABLE: Final = metrics.AUTHENTICATIONS.cell(_MQTT.value, metrics.UNAVAILABLE)
_SUCCESS: Final = Outcome.SUCCESS
_BACKLOG: Final = 4096  # a fleet wakes up at once; the kernel caps it at somaxconn
_DEFAULT_LIMITS: Final = Limits()


_END_CODES: Final = {
    Cause.TAKEN_OVER: ReasonCode.SESSION_TAKEN_OVER,
    Cause.REVOKED: ReasonCode.ADMINISTRATIVE_ACTION,
}


class MqttListener:
    """Accepts MQTT connections, answers their provision requests, and takes what devices send.

    access, sessions, data: what devices come back with needs all three; without, they are told that the server is
        unavailable. datastreams: Blynk's topics, if they are to be had.
    max_connections: one more is closed as soon as it is accepted, and counted in `refused`.
    admission: of those that have not been let in, or provisioned, yet; one more is told to come back.
    write_timeout: seconds in which a client must read some of what it was sent, once much is waiting; while
        much is, nothing is read from it.
    close_timeout: seconds a client has to take the last bytes and close its side, before it is cut off.
    sweep_interval: seconds by which any time limit may be overrun.
    """

    def __init__(
        self,
        provisioning: Provisioning,
        *,
        access: Access | None = None,
        sessions: Sessions | None = None,
        data: Data | None = None,
        datastreams: Datastreams | None = None,
        limits: Limits = _DEFAULT_LIMITS,
        max_connections: int = 10_000,
        admission: Admission | None = None,
        write_timeout: float = 10,
        close_timeout: float = 2,
        sweep_interval: float = 1,
    ) -> None:
        self.provisioning = provisioning
        self.services: _Services | None = None
        if access is not None and sessions is not None and data is not None:
            self.services = _Services(access, sessions, data, datastreams)
        self.limits = limits
        self.write_timeout = write_timeout
        self.close_timeout = close_timeout
        self.refused = 0
        self.undecided = 0  # provision requests
        self.admission = admission or Admission(max_connections, max_connections)
        self._max_connections = max_connections
        self._sweep_interval = sweep_interval
        self._servers: list[asyncio.Server | tcp.TcpServer] = []
        self._abort_handshakes: list[Callable[[], None]] = []
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unused = asyncio.Event()
        self._unused.set()
        self._decided = asyncio.Event()
        self._sweeping: asyncio.TimerHandle | None = None
        self._stopping = False
        client_ids = (f"auto-{secrets.token_hex(4)}-{number}" for number in itertools.count(1))
        self.assign_client_id = client_ids.__next__

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
            return _Connection(self, loop)

        factory = wrap(connection) if wrap is not None else connection
        server: asyncio.Server | tcp.TcpServer
        if wrap is None and tcp.AVAILABLE:
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
                logger.warning("%d requests were not answered before the end", unanswered)
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
        if not self._connections:
            self._unused.clear()
        self._connections.add(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(self._sweep_interval, self._sweep)
        return True

    def dismiss(self, connection: "_Connection") -> None:
        """Forget a connection that is lost."""
        self._connections.discard(connection)
        if not self._connections:
            self._unused.set()

    def decided(self) -> None:
        """A provision request is answered."""
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


class _Connection(asyncio.Protocol):
    """Between a transport and its session.

    A connection that we end is first closed for writing only, and read until the client closes too: bytes that are
    unread when a socket is closed make the kernel reset it, and our last words are lost with it. One that the client
    has ended with its DISCONNECT has no bytes to come.

    _waiting: what a device has published and is worked on, one after the other, so that nothing of one device
    overtakes; None when there is nothing. _changed: shared attributes it is about to be told of, likewise.
    """

    __slots__ = (
        "_abort_at",
        "_address",
        "_admitted",
        "_changed",
        "_closing",
        "_device",
        "_known",
        "_listener",
        "_live",
        "_loop",
        "_reading",
        "_session",
        "_transport",
        "_waiting",
        "_writable",
    )

    _transport: asyncio.Transport

    def __init__(self, listener: MqttListener, loop: asyncio.AbstractEventLoop) -> None:
        self._listener = listener
        self._loop = loop
        self._session = Session(listener.limits, loop.time(), listener.assign_client_id)
        self._address = ""
        self._admitted = True
        self._known: Peer | None = None
        self._abort_at = inf
        self._reading = self._writable = True
        self._closing = False
        self._device: DeviceBehaviour | None = None
        self._live: LiveSession | None = None
        self._waiting: deque[DeviceRequested] | None = None
        self._changed: list[tuple[str, ...]] | None = None

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
        if self._listener.admission.enter(self._address):
            self._admitted = False
        else:
            self._session.crowded = True

    def connection_lost(self, _exc: Exception | None) -> None:
        self._closing = True
        self._session.receive_eof()
        self._leave()
        self._admit()
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s: %s", self._address, self._session.close_reason)
        self._listener.dismiss(self)

    def data_received(self, data: bytes) -> None:
        if not self._closing:
            self._session.receive(data, self._loop.time())
            self._advance()

    def eof_received(self) -> None:
        self._session.receive_eof()
        self._leave()
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

    # What follows is for the device's live session.

    @property
    def address(self) -> str:
        """The peer's, without the port."""
        return self._address

    def end(self, cause: Cause) -> None:
        """Close, and forget what was not yet begun."""
        if self._waiting is not None:
            self._waiting.clear()
        self._session.disconnect(_END_CODES[cause], cause.value)
        self._advance()

    def attributes_changed(self, keys: tuple[str, ...]) -> None:
        """Tell the device, if it wants to know."""
        if self._changed is not None:
            self._changed.append(keys)
        elif self._device is not None and self._device.awaits_updates and self._listener.services is not None:
            self._changed = [keys]
            self._listener.run(self._update(self._device, self._listener.services.data))

    async def still_welcome(self) -> bool:
        """Judge the client's certificate again, if it has one; while nobody can, it stays."""
        peer, services = self._peer(), self._listener.services
        if not peer.certificates or services is None:
            return True
        try:
            found = await services.access.with_channel(peer)
        except Unavailable:
            return True
        if isinstance(found, Denial):
            return False
        return self._live is None or self._live.device.device_id == found.device_id

    def _peer(self) -> Peer:
        if self._known is None:
            certificates = self._transport.get_extra_info("certificates") or ()
            self._known = Peer(_MQTT, self._address, certificates, self._transport.get_extra_info("psk"))
        return self._known

    def _advance(self) -> None:
        """Do what the session wants done."""
        session = self._session
        if session.events:
            events, session.events = session.events, []
            for event in events:
                if isinstance(event, ProvisionRequested):
                    self._provision(event)
                elif isinstance(event, DeviceRequested):
                    self._enqueue(event)
                elif isinstance(event, AuthenticationRequested):
                    self._authenticate(event.connect)
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

    def _provision(self, request: ProvisionRequested) -> None:
        listener = self._listener
        listener.undecided += 1
        try:
            listener.provisioning.request(request.payload, self._peer(), partial(self._provisioned, request))
        except Exception as error:
            self._log_failure("a provision request", error)
            self._provisioned(request, None)

    def _provisioned(self, request: ProvisionRequested, answer: Answer | None) -> None:
        self._listener.decided()
        if answer is not None and answer.outcome is _SUCCESS:
            self._admit()
        self._session.answer(request, answer, self._loop.time())
        self._advance()

    # The live session comes first: a client that hears that it is let in has taken over from any other.

    def _authenticate(self, connect: Connect) -> None:
        services = self._listener.services
        if services is None:
            self._refuse(None)
            return
        peer = self._peer()
        try:
            token = None
            if not peer.certificates and peer.psk is None:  # the usual case, without a task
                token = services.access.token_in(connect.client_id, connect.username, connect.password, peer)
            if token is None:
                self._listener.run(self._judge(connect, services))
            else:
                self._live = services.sessions.enter(token, self, partial(self._entered, connect, services))
        except Exception as error:
            self._refuse(error)

    def _entered(self, connect: Connect, services: _Services, verdict: bool | Exception) -> None:
        if isinstance(verdict, Exception):
            self._live = None
            _UNAVAILABLE.value += 1
            self._refuse(verdict)
        elif not verdict:  # its first use, other credentials, or bad ones
            self._live = None
            self._listener.run(self._judge(connect, services))
        elif self._live is not None and services.access.doubtful(self._peer()):
            self._live.close()
            self._live = None
            self._listener.run(self._judge(connect, services))
        elif self._live is not None and not self._live.closed:
            _ACCEPTED.value += 1  # what `Access` judges it counts itself
            self._let_in(connect, services, self._live)

    async def _judge(self, connect: Connect, services: _Services) -> None:
        session = self._session
        try:
            found = await services.access.with_mqtt(connect.client_id, connect.username, connect.password, self._peer())
            if isinstance(found, Denial):
                session.refuse(found.reason_code, found.text, found.return_code)
                self._advance()
            elif not session.closing:
                live = await services.sessions.open(found, self)
                if session.closing:
                    live.close()
                else:
                    self._live = live
                    self._let_in(connect, services, live)
        except Exception as error:
            self._refuse(error)

    def _let_in(self, connect: Connect, services: _Services, live: LiveSession) -> None:
        session = self._session
        self._admit()
        self._device = DeviceBehaviour(session, connect, live.device, services.datastreams)
        session.accept(connect, self._device, self._loop.time())
        self._advance()

    def _refuse(self, error: Exception | None) -> None:
        """Have the device come again later."""
        if error is not None and not isinstance(error, Unavailable):
            self._log_failure("an authentication", error)
        self._session.refuse(ReasonCode.SERVER_UNAVAILABLE, "the server is unavailable")
        self._advance()

    def _enqueue(self, request: DeviceRequested) -> None:
        if self._waiting is not None:
            self._waiting.append(request)
        elif self._device is not None and self._listener.services is not None:
            self._waiting = deque((request,))
            self._listener.run(self._work(self._device.device, self._waiting, self._listener.services))

    async def _work(self, who: Authenticated, waiting: deque[DeviceRequested], services: _Services) -> None:
        """Do what the device asks for, also when it has left behind its last message."""
        while waiting:
            request = waiting.popleft()
            answer = await self._perform(who, request, services.data, services.datastreams)
            if answer is device.UNAVAILABLE and request.qos:
                waiting.clear()  # it is disconnected, and sends again what follows
            self._session.answer(request, answer, self._loop.time())
            self._advance()
        self._waiting = None

    async def _perform(
        self, who: Authenticated, request: DeviceRequested, data: Data, datastreams: Datastreams | None
    ) -> DeviceAnswer | None:
        try:
            match request.feature:
                case Feature.TELEMETRY:
                    await data.telemetry(who, request.payload)
                case Feature.ATTRIBUTES:
                    await data.publish_attributes(who, request.payload)
                case Feature.ATTRIBUTE_REQUEST:
                    found = await data.attributes(who, *attributes.decode_request(request.payload))
                    return DeviceAnswer(messages=[(topics.reply_topic(request.topic), device.encoded(found))])
                case Feature.CLAIM:
                    await data.claim(who, request.payload)
                case Feature.CREDENTIALS:
                    given = await data.credentials(who, request.payload, self._peer())
                    return DeviceAnswer(messages=[(topics.reply_topic(request.topic), given.body)])
                case Feature.DATASTREAM if datastreams is not None:
                    return DeviceAnswer(messages=await datastreams.publish(who, request.topic, request.payload))
        except InvalidData as error:
            return device.invalid(str(error))
        except Unavailable:
            return device.UNAVAILABLE
        except Exception as error:
            self._log_failure("a device's message", error)
            return None
        return device.DONE

    async def _update(self, behaviour: DeviceBehaviour, data: Data) -> None:
        """Tell the device of the shared attributes that have changed, as they are now."""
        while self._changed and not self._session.closing:
            changed, self._changed = self._changed, []
            keys = () if () in changed else tuple(dict.fromkeys(key for each in changed for key in each))
            try:
                found = await data.changed_attributes(behaviour.device.device_id, keys)
            except Exception as error:
                if not isinstance(error, Unavailable):
                    self._log_failure("an update of attributes", error)
                # What it has is out of date: it asks for all of them when it comes back.
                self._session.disconnect(ReasonCode.SERVER_BUSY, "attributes could not be read")
            else:
                if found:
                    behaviour.update_attributes(found)
            self._advance()
        self._changed = None

    def _log_failure(self, what: str, error: Exception) -> None:
        logger.error("%s of %s failed: %s", what, self._address, described(error))
