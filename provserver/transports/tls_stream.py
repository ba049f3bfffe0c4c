"""TLS on asyncio: puts a `Channel` between a TCP connection and a protocol that knows nothing of it.

`over_tls` makes what `loop.create_server` wants. Cheap on purpose: one object and one timer for each connection, one
read buffer for all, and nothing of OpenSSL's before a whole ClientHello has come.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, cast

from provserver import metrics
from provserver.core.limits import network
from provserver.core.model import PreSharedKey
from provserver.errors import Unavailable
from provserver.services.limits import Strangers, Trial
from provserver.transports.admission import Admission
from provserver.transports.tls import CHUNK_SIZE, MAX_HANDSHAKE_SIZE, Channel, ServerContext

logger = logging.getLogger("provserver.tls")

SharedKeyLookUp = Callable[[str, str], Awaitable[PreSharedKey | None]]

Oversized = Callable[[str, str], None]
"""Is told the IP address of a client whose certificates were too large, and the failure in words."""

_COMPLETED: Final = metrics.HANDSHAKES.cell("tls", "completed")
_FAILED: Final = metrics.HANDSHAKES.cell("tls", "failed")
_READ_SIZE: Final = 16_384  # also how much one client can have handled before the others have their turn
_SLOW: Final = 1.0  # seconds after which a handshake takes nobody's turn any more
_PAUSE: Final = 0.005  # seconds between turns while connections come: the loop accepts one a round, backlogs overflow


class TlsAcceptor:
    """Makes the protocol of each TCP connection, and holds what they share.

    refused: connections that were closed as soon as they were accepted, because of `max_handshakes`.
    """

    def __init__(
        self,
        context: ServerContext,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        loop: asyncio.AbstractEventLoop,
        *,
        shared_key: SharedKeyLookUp,
        handshake_timeout: float,
        close_timeout: float,
        max_handshakes: int,
        at_once: int,
        oversized: Oversized | None = None,
        admission: Admission | None = None,
        strangers: Strangers | None = None,
    ) -> None:
        self.context = context
        self.make_protocol = make_protocol
        self.loop = loop
        self.shared_key = shared_key
        self.handshake_timeout = handshake_timeout
        self.close_timeout = close_timeout
        self.oversized = oversized
        self.at_once = at_once
        self.refused = 0
        self.read_buffer = memoryview(bytearray(_READ_SIZE))
        self._max_handshakes = max_handshakes
        self._admission = admission
        self.strangers = strangers
        self._handshakes: dict[_Connection, str] = {}  # whence
        self._waiting: OrderedDict[_Connection, None] = OrderedDict()
        self._begun: OrderedDict[_Connection, float] = OrderedDict()  # lately; when
        self._next_turn: asyncio.Handle | None = None
        self._last_turn = 0.0
        self._arrived = False  # a connection, in this round of the loop

    def __call__(self) -> asyncio.BaseProtocol:
        """As a protocol factory."""
        return _Connection(self)

    @property
    def handshakes(self) -> int:
        """How many are under way."""
        return len(self._handshakes)

    @property
    def waiting(self) -> int:
        """How many of them wait for their turn."""
        return len(self._waiting)

    def abort(self) -> None:
        """End the handshakes under way; connections that have a protocol are its own to end."""
        for transport in tuple(self._handshakes):
            transport.abort()

    # What follows is for the connections.

    def begin(self, transport: "_Connection") -> bool:
        """Take a new connection in, if there is room."""
        if len(self._handshakes) >= self._max_handshakes:
            self.refused += 1
            return False
        address = transport.address
        if self._admission is not None and not self._admission.enter(address):
            self.refused += 1
            return False
        self.context.refresh(self.loop.time())
        self._handshakes[transport] = address
        self._arrived = True
        return True

    def enqueue(self, transport: "_Connection") -> None:
        """Have `take_turn` called, in the order in which they came.

        Else a storm would begin all its handshakes before it ends the first, when the time is up for all of them.
        """
        self._waiting[transport] = None
        if self._next_turn is None:
            self._next_turn = self.loop.call_soon(self._give_turn)

    def done(self, transport: "_Connection") -> None:
        """Count it no more."""
        address = self._handshakes.pop(transport, None)
        if address is not None and self._admission is not None:
            self._admission.leave(address)
        self._waiting.pop(transport, None)
        self._begun.pop(transport, None)

    def _give_turn(self) -> None:
        """One in a round of the loop, so that those who are further on go before."""
        now = self.loop.time()
        while self._begun and next(iter(self._begun.values())) < now - _SLOW:
            self._begun.popitem(last=False)
        full = len(self._begun) >= self.at_once
        turn: Callable[[], None] | None = None
        if self._waiting and not full and not (self._arrived and now < self._last_turn + _PAUSE):
            transport, _ = self._waiting.popitem(last=False)
            self._begun[transport] = self._last_turn = now
            turn = transport.take_turn
        self._arrived = False
        self._next_turn = None
        if self._waiting:
            self._next_turn = self.loop.call_later(_PAUSE if full else 0, self._give_turn)
        if turn is not None:  # last: should it fail, the others have theirs all the same
            turn()


def over_tls(
    context: ServerContext,
    make_protocol: Callable[[], asyncio.BaseProtocol],
    loop: asyncio.AbstractEventLoop,
    *,
    shared_key: SharedKeyLookUp,
    handshake_timeout: float = 10,
    close_timeout: float = 2,
    max_handshakes: int = 10_000,
    at_once: int = 256,
    oversized: Oversized | None = None,
    admission: Admission | None = None,
    strangers: Strangers | None = None,
) -> TlsAcceptor:
    """A protocol factory for TCP that gives each inner protocol a transport once its handshake is done.

    The transport's extra info has "peername" and "socket", "certificates" (DER, leaf first, as in
    `Channel.certificates`) and "psk" (the PreSharedKey that protects the connection, or None).
    shared_key: looks an identity up for a client's network; when it raises, the connection is cut without a word about
        the key.
    handshake_timeout: seconds to begin, and for the handshake once its turn has come. close_timeout: seconds for the
        client to take the last bytes and close.
    max_handshakes: at one time; one more is closed at once. at_once: so many of them are worked on, not counting who
        is slow; the others wait for their turn.
    oversized: told of each handshake that was ended because the client's certificates were too large.
    admission: where handshakes count, too; one more is closed at once. strangers: who may try pre-shared keys.
    """
    return TlsAcceptor(
        context,
        make_protocol,
        loop,
        shared_key=shared_key,
        handshake_timeout=handshake_timeout,
        close_timeout=close_timeout,
        max_handshakes=max_handshakes,
        at_once=at_once,
        oversized=oversized,
        admission=admission,
        strangers=strangers,
    )


class _Connection(asyncio.Transport, asyncio.BufferedProtocol):
    """One connection: the protocol of its TCP transport, and the transport of its inner protocol.

    What is to be sent is collected while input is handled, so that an answer leaves with the end of a handshake.
    A connection is first closed for writing only, and read until the client closes too: bytes that are unread when a
    socket is closed make the kernel reset it, and our last words are lost with it.
    """

    __slots__ = (
        "__weakref__",  # as the loop's own transports have it
        "_acceptor",
        "_channel",
        "_closing",
        "_early",
        "_ended",
        "_error",
        "_half_open",
        "_handling",
        "_inner",
        "_key_search",
        "_psk",
        "_reading",
        "_tcp",
        "_tcp_reading",
        "_timer",
        "_trial",
        "_writable",
        "address",
    )

    _tcp: asyncio.Transport

    def __init__(self, acceptor: TlsAcceptor) -> None:
        super().__init__()
        self._acceptor = acceptor
        self._channel = Channel(acceptor.context)
        self._inner: asyncio.BaseProtocol | None = None  # from the end of the handshake to that of the connection
        self._psk: PreSharedKey | None = None
        self._trial: Trial | None = None  # at the key of the identity that it has named
        self._key_search: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._early: bytearray | None = bytearray()  # what has come before its turn; None from then on
        self._error: Exception | None = None
        self._handling = False
        self._closing = self._ended = self._half_open = False
        self._reading = self._writable = self._tcp_reading = True

    # The protocol of the TCP transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast("asyncio.Transport", transport)
        self.address = self._address() or ""
        if self._acceptor.begin(self):
            self._timer = self._acceptor.loop.call_later(self._acceptor.handshake_timeout, self._expire)
        else:
            self._closing = self._ended = True
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = self._ended = True
        self._acceptor.done(self)
        self._lose()
        if self._timer is not None:
            self._timer.cancel()
        if self._key_search is not None:
            self._key_search.cancel()
        inner, self._inner = self._inner, None
        if inner is None and (self._early is None or self._early):
            _FAILED.value += 1
        if inner is not None:
            inner.connection_lost(exc or self._error)

    def get_buffer(self, _sizehint: int) -> memoryview:
        # Shared: both selector and uvloop transports fill it and call buffer_updated at once.
        return self._acceptor.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._acceptor.read_buffer[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        """What `transports/tcp.py` calls, as it has a buffer of its own."""
        if self._closing:
            return
        if self._early is None:
            if self._trial is None or self._may_prove(self._trial):
                self._channel.feed(data)
                self._advance()
            return
        if not self._early:
            if self._timer is not None:
                self._timer.cancel()
            self._acceptor.enqueue(self)
        self._early += data
        if len(self._early) > MAX_HANDSHAKE_SIZE:
            self._log("more was sent than a handshake takes")
            self.abort()

    def take_turn(self) -> None:
        """Begin the handshake; its time counts from now."""
        if self._closing or self._early is None:
            return
        early, self._early = self._early, None
        self._timer = self._acceptor.loop.call_later(self._acceptor.handshake_timeout, self._expire)
        self._channel.feed(bytes(early))
        self._advance()

    def eof_received(self) -> bool:
        if self._half_open:
            return True
        if not self._closing:
            self._closing = self._ended = True
            self._error = ConnectionAbortedError("the stream ended without close_notify")
            self._log("the stream ended")
        return False

    def pause_writing(self) -> None:
        # Nothing is read either, as input may make OpenSSL answer by itself.
        self._writable = False
        self._pause_or_resume_tcp()
        if self._inner is not None:
            cast("asyncio.Protocol", self._inner).pause_writing()

    def resume_writing(self) -> None:
        self._writable = True
        self._pause_or_resume_tcp()
        if self._inner is not None:
            cast("asyncio.Protocol", self._inner).resume_writing()

    # The transport of the inner protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "certificates":
                return self._channel.certificates
            case "psk":
                return self._psk if self._channel.psk_identity else None
            case "sslcontext":
                return self._acceptor.context  # by which aiohttp knows that it speaks HTTPS
        return self._tcp.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast("asyncio.BaseProtocol", self._inner)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False
        self._pause_or_resume_tcp()

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._pause_or_resume_tcp()
            if not self._handling:  # what was read before the pause
                self._acceptor.loop.call_soon(self._advance)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._tcp.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._tcp.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._tcp.get_write_buffer_limits()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        if len(data) <= CHUNK_SIZE:
            self._channel.write(data)
        else:
            whole = memoryview(data)
            for start in range(0, len(whole), CHUNK_SIZE):
                self._channel.write(whole[start : start + CHUNK_SIZE])
                self._flush()
        if not self._handling:
            self._settle()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return False  # as HTTP's and MQTT's ends are of both directions

    def write_eof(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._channel.close()
            if not self._handling:
                self._settle()

    def abort(self) -> None:
        self._closing = self._ended = True
        self._tcp.abort()

    # Between the two

    def _advance(self) -> None:
        """Do what the channel has made possible."""
        if self._closing:
            return
        self._handling = True
        try:
            if self._inner is None:
                self._shake_hands()
            if self._inner is not None:
                self._deliver(self._inner)
        finally:
            self._handling = False
        self._settle()

    def _shake_hands(self) -> None:
        channel = self._channel
        if channel.established:
            _COMPLETED.value += 1
            self._trial = None
            self._acceptor.done(self)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._inner = self._acceptor.make_protocol()
            self._inner.connection_made(self)
        elif channel.wanted_identity is not None and self._key_search is None:
            self._key_search = self._acceptor.loop.create_task(self._find_key(channel.wanted_identity))
        elif channel.failure:
            self._lose()

    async def _find_key(self, identity: str) -> None:
        strangers = self._acceptor.strangers
        trial = strangers.trial(self.address, identity) if strangers is not None else None
        if trial is not None and not self._may_prove(trial):
            return
        try:
            self._psk = await self._acceptor.shared_key(identity, network(self.address))
        except Unavailable:
            self._log("no keys can be looked up now")
            self.abort()
            return
        except Exception as error:  # whose message may quote what is secret
            logger.error("looking up a shared key failed: %s", type(error).__qualname__)  # noqa: TRY400
            self.abort()
            return
        self._key_search = None
        if trial is not None and not self._may_prove(trial):
            return
        self._trial = trial
        self._channel.resume_with(None if self._psk is None else self._psk.key)
        self._advance()

    def _may_prove(self, trial: Trial) -> bool:
        """Whether what came may be tried as the proof of a key; if not, it is over."""
        if trial.heard():
            return True
        self._trial = None
        self._log("too many wrong keys came from its address")
        self.abort()
        return False

    def _lose(self) -> None:
        """The key that it has named was not proved."""
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.lost()

    def _deliver(self, inner: asyncio.BaseProtocol) -> None:
        channel = self._channel
        while self._reading and not self._closing:
            if isinstance(inner, asyncio.BufferedProtocol):
                buffer = memoryview(inner.get_buffer(CHUNK_SIZE))
                if not (data := channel.read(len(buffer))):
                    break
                buffer[: len(data)] = data
                inner.buffer_updated(len(data))
            else:
                if not (data := channel.read()):
                    break
                cast("asyncio.Protocol", inner).data_received(data)
            inner = self._inner or inner
        if channel.closed and not channel.failure and self._reading and not self._closing and not self._half_open:
            self._half_open = bool(cast("asyncio.Protocol", inner).eof_received())
            if not self._half_open:
                self.close()

    def _settle(self) -> None:
        """Send what is to be sent, and end what is to end."""
        if self._ended:
            return
        self._flush()
        channel = self._channel
        if channel.failure:
            self._log(channel.failure)
            if channel.oversized and self._acceptor.oversized is not None:
                self._acceptor.oversized(self._address() or "", channel.failure)
            self._error = ConnectionAbortedError(channel.failure)
            self._closing = True
        if self._closing:
            self._end()

    def _flush(self) -> None:
        if self._channel.only_tickets:
            return
        for piece in self._channel.data_to_send():
            if not self._tcp.is_closing():
                self._tcp.write(piece)

    def _end(self) -> None:
        self._ended = True
        channel = self._channel
        while channel.read():
            pass  # nobody wants it, but the client's close_notify may be there
        if self._half_open or (channel.closed and not channel.failure) or self._tcp.is_closing():
            self._tcp.close()
            return
        self._reading = self._writable = True
        self._pause_or_resume_tcp()
        try:
            self._tcp.write_eof()
        except OSError:  # the client is gone, which nobody has noticed yet
            self._tcp.abort()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._linger(self._tcp.get_write_buffer_size())

    def _linger(self, waiting: int) -> None:
        """Leave the client its time, and more of it as long as it takes what waits for it."""
        self._timer = self._acceptor.loop.call_later(self._acceptor.close_timeout, self._linger_on, waiting)

    def _linger_on(self, waiting: int) -> None:
        left = self._tcp.get_write_buffer_size()
        if left < waiting:
            self._linger(left)
        else:
            self._tcp.abort()

    def _expire(self) -> None:
        self._log("the handshake took too long")
        self.abort()

    def _pause_or_resume_tcp(self) -> None:
        reading = self._ended or (self._reading and self._writable)
        if reading is not self._tcp_reading and not self._tcp.is_closing():
            self._tcp_reading = reading
            if reading:
                self._tcp.resume_reading()
            else:
                self._tcp.pause_reading()

    def _log(self, what: str) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s: %s", self._address() or "a client that is gone", what)

    def _address(self) -> str | None:
        peer = self._tcp.get_extra_info("peername")
        return peer[0] if peer else None
