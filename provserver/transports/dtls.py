"""A listener for DTLS 1.2 (RFC 6347): the associations by their peers' addresses, and their time.

What it costs to be attacked: a datagram that is no hello of an unknown peer is looked at and forgotten; a hello is
answered with a cookie and forgotten; only whoever returns the cookie gets state. Handshakes, associations of peers that
have proved nothing yet, and all others have tables of their own, each bounded: what is oldest goes first. A certificate
alone proves nothing, as anybody can make one: a request must have been let in.
"""

import asyncio
import hashlib
import logging
import secrets
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from provserver import metrics
from provserver.core.limits import network
from provserver.core.model import Peer, PreSharedKey, Transport
from provserver.errors import Unavailable
from provserver.services.limits import Strangers, Trial
from provserver.transports.dtls_cookie import CookieExchange, Hello
from provserver.transports.handshake import MessageType, encrypted, fragments
from provserver.transports.tls import Channel, ServerContext
from provserver.transports.udp import Address, UdpSocket

log = logging.getLogger("provserver.dtls")

_COMPLETED = metrics.HANDSHAKES.cell("dtls", "completed")
_FAILED = metrics.HANDSHAKES.cell("dtls", "failed")
_OPEN = metrics.CONNECTIONS.cell(Transport.COAP.value)

SharedKey = Callable[[str, str], Awaitable[PreSharedKey | None]]
"""Looks up what an identity stands for, that was named from a network (`core/limits.py`). May raise Unavailable."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Each association takes about 80 kB of memory.

    handshake_timeout: seconds, in which a lost flight may be repeated five times (RFC 6347 §4.2.4.1).
    idle_timeout: seconds without a datagram after which an association is closed; as long as ThingsBoard's by default.
    max_unproven, max_unproven_per_address, unproven_idle_timeout: for associations whose peers have proved nothing yet.
    """

    max_handshakes: int = 1024
    max_associations: int = 10_000
    handshake_timeout: float = 60.0
    idle_timeout: float = 86_400.0
    max_unproven: int = 1000
    max_unproven_per_address: int = 64
    unproven_idle_timeout: float = 60.0


class Association:
    """What is shared with one peer, from its verified hello on.

    peer: who it has proved to be, once it is established. unproven: the identity that it has named, whose key it is to
    prove. early: encrypted records that came before the key was there. trials: what was made of the key, one for each
    encrypted record: of a wrong one nothing is heard, neither by the peer nor by us.
    """

    def __init__(self, endpoint: "DtlsEndpoint", address: Address, channel: Channel, hello: bytes) -> None:
        self.address = address
        self.hello = hello
        self.peer = Peer(Transport.COAP, address.peer[0].removeprefix("::ffff:"))
        self.psk: PreSharedKey | None = None
        self.unproven: str | None = None
        self.early = 0
        self.trials: list[Trial] = []
        self.established = False
        self.look_up: asyncio.Task[None] | None = None
        self.due = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self._endpoint = endpoint
        self._channel: Channel | None = channel

    @property
    def channel(self) -> Channel | None:
        """None when it has ended. Whoever still holds the association holds no buffers with it."""
        return self._channel

    def send(self, data: bytes) -> None:
        """Send a datagram to the peer; nothing when the association has ended."""
        if self._channel is not None and self.established:
            self._channel.write(data)
            self._endpoint.flush(self)

    def prove(self) -> None:
        """A request of the peer was let in: strangers take its room no more. Nothing when it has ended."""
        self._endpoint.proved(self)

    def end(self) -> list[bytes]:
        """Let go; returns what says so to the peer."""
        farewell: list[bytes] = []
        if self._channel is not None:
            self._channel.close()
            farewell = self._channel.data_to_send()
        self._channel = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.look_up is not None:
            self.look_up.cancel()
            self.look_up = None
        return farewell


class DtlsEndpoint:
    """Serves the peers of one socket."""

    def __init__(
        self,
        context: ServerContext,
        shared_key: SharedKey,
        received: Callable[[Association, bytes], None],
        ended: Callable[[Association], None],
        limits: Limits,
        strangers: Strangers | None = None,
    ) -> None:
        """received: takes the datagrams of established associations. ended: hears of each that was established.

        strangers: who may try pre-shared keys.
        """
        self._context = context
        self._shared_key = shared_key
        self._received = received
        self._ended = ended
        self._limits = limits
        self._strangers = strangers
        self._cookies = CookieExchange(secrets.token_bytes(32))
        self._handshakes: OrderedDict[Address, Association] = OrderedDict()
        self._unproven: OrderedDict[Address, Association] = OrderedDict()
        self._associations: OrderedDict[Address, Association] = OrderedDict()
        self._tables = (self._handshakes, self._unproven, self._associations)
        self._loop = asyncio.get_running_loop()
        self._socket: UdpSocket | None = None

    def open(self, host: str, port: int, sock: socket.socket | None = None) -> tuple[str, int]:
        """Listen; returns the address, with the port that was free if 0 was asked. Raises OSError.

        sock: see UdpSocket.
        """
        self._socket = UdpSocket(host, port, self.datagram_received, sock=sock)
        return host, self._socket.port

    def hush(self) -> None:
        """Take no more datagrams."""
        if self._socket is not None:
            self._socket.hush()

    def close(self) -> None:
        """End every association, telling the peers, and close the socket."""
        for association in [each for table in self._tables for each in table.values()]:
            self._end(association)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def datagram_received(self, data: bytes, address: Address) -> None:
        """Take a datagram, whoever it is from."""
        first = next(fragments(data), None)
        if first is not None and first.type == MessageType.CLIENT_HELLO:
            self._hello(data, first.body, address)
            return
        # While a peer that is known makes a new handshake, only a key tells which of both it means.
        for association in [table.get(address) for table in self._tables]:
            if association is not None:
                self._feed(association, data)

    # Associations

    def _hello(self, data: bytes, hello: bytes, address: Address) -> None:
        verdict = self._cookies.judge(data, repr(address).encode(), self._loop.time())
        if isinstance(verdict, bytes):
            self._send(verdict, address)
        if verdict is not Hello.VERIFIED:
            return
        digest = hashlib.sha256(hello).digest()
        if any((one := table.get(address)) is not None and one.hello == digest for table in self._tables):
            return  # it comes again, as our answers will
        if (unfinished := self._handshakes.get(address)) is not None:
            self._end(unfinished)
        self._make_room(self._handshakes, self._limits.max_handshakes)
        self._context.refresh(self._loop.time())
        association = Association(self, address, Channel(self._context), digest)
        association.due = self._loop.time() + self._limits.handshake_timeout
        self._handshakes[address] = association
        self._feed(association, data)

    def _feed(self, association: Association, data: bytes) -> None:
        if association.channel is None or not (association.established or self._may_prove(association, data)):
            return
        association.channel.feed(data)
        self._advance(association)

    def _may_prove(self, association: Association, data: bytes) -> bool:
        """Whether a datagram is taken, each of whose encrypted records may prove the key."""
        records = encrypted(data)
        if association.unproven is not None:
            return self._try(association, association.unproven, records)
        if records and association.early and association.look_up is not None:
            return False  # it repeats itself, as the look-up takes its time
        association.early += records
        return True

    def _try(self, association: Association, identity: str, times: int) -> bool:
        """Count tries at a key before OpenSSL makes them; False: one too many, and the association has ended."""
        if self._strangers is None:
            return True
        trials = association.trials
        for _ in range(times):
            if not trials or trials[-1].tried:
                trials.append(self._strangers.trial(association.peer.address, identity))
            if not trials[-1].heard():
                trials.pop()  # which was in vain for no fault of its own
                self._end(association)
                return False
            trials[-1].charge()
        return True

    def _advance(self, association: Association) -> None:
        """Do what the channel is ready for."""
        channel = association.channel
        if channel is None:
            return
        if channel.wanted_identity is not None:
            if association.look_up is None:
                association.look_up = self._loop.create_task(
                    self._look_up(association, channel, channel.wanted_identity)
                )
            return
        if channel.established and not association.established:
            self._establish(association, channel)
        self.flush(association)
        while (data := channel.read()) and association.channel is not None:
            self._touch(association)
            self._received(association, data)
        if channel.closed:
            self._end(association)
        else:
            self.flush(association)

    def _establish(self, association: Association, channel: Channel) -> None:
        address = association.address
        psk = association.psk if channel.psk_identity else None
        association.peer = Peer(Transport.COAP, association.peer.address, channel.certificates, psk, proved=True)
        association.established = True
        for trial in association.trials:
            trial.proved()
        association.trials.clear()
        _COMPLETED.value += 1
        _OPEN.value += 1
        if self._handshakes.get(address) is association:
            del self._handshakes[address]
        if (before := self._associations.get(address) or self._unproven.get(address)) is not None:
            self._end(before)
        if psk is not None:
            self._keep(association)
            return
        same = [each for each in self._unproven.values() if each.peer.address == association.peer.address]
        if len(same) >= self._limits.max_unproven_per_address:
            self._end(same[0])
        self._make_room(self._unproven, self._limits.max_unproven)
        self._unproven[address] = association
        self._touch(association)

    def proved(self, association: Association) -> None:
        """See Association.prove."""
        if self._unproven.get(association.address) is association:
            del self._unproven[association.address]
            self._keep(association)

    def _keep(self, association: Association) -> None:
        self._make_room(self._associations, self._limits.max_associations)
        self._associations[association.address] = association
        self._touch(association)

    def _touch(self, association: Association) -> None:
        """It is in use. Among strangers that saves nobody: who keeps them all busy would shut out the next."""
        proven = self._associations.get(association.address) is association
        if proven:
            self._associations.move_to_end(association.address)
        limit = self._limits.idle_timeout if proven else self._limits.unproven_idle_timeout
        association.due = self._loop.time() + limit

    def _make_room(self, table: OrderedDict[Address, Association], limit: int) -> None:
        while len(table) >= limit:
            self._end(next(iter(table.values())))

    def _end(self, association: Association) -> None:
        channel = association.channel
        if channel is None:
            return
        if channel.failure:
            log.info("DTLS with %s failed: %s", association.peer.address, channel.failure)
        for datagram in association.end():
            self._send(datagram, association.address)
        for table in self._tables:
            if table.get(association.address) is association:
                del table[association.address]
        if association.established:
            _OPEN.value -= 1
            self._ended(association)
        else:
            _FAILED.value += 1
            if association.unproven is not None:
                for trial in association.trials[-1:]:
                    trial.lost()

    async def _look_up(self, association: Association, channel: Channel, identity: str) -> None:
        if self._strangers is not None:
            trial = self._strangers.trial(association.peer.address, identity)
            if not trial.heard():
                association.look_up = None
                self._end(association)
                return
            association.trials.append(trial)
        found = True
        try:
            association.psk = await self._shared_key(identity, network(association.peer.address))
        except Unavailable:
            found = False
        except Exception:
            log.exception("a pre-shared key could not be looked up")
            found = False
        association.look_up = None
        if not found:
            self._end(association)  # without a word: nobody is told that a key is wrong because Postgres is away
            return
        association.unproven = identity
        early, association.early = association.early, 0
        if not self._try(association, identity, early):
            return
        channel.resume_with(association.psk.key if association.psk is not None else None)
        self._advance(association)

    # Time and datagrams

    def flush(self, association: Association) -> None:
        """Send what the association has to send, and see to its timer."""
        channel = association.channel
        if channel is None:
            return
        for datagram in channel.data_to_send():
            self._send(datagram, association.address)
        now = self._loop.time()
        when = min(association.due, channel.timeout(now) or association.due)
        timer = association.timer
        if timer is None or timer.when() > when:
            if timer is not None:
                timer.cancel()
            association.timer = self._loop.call_at(when, self._time_has_come, association)

    def _time_has_come(self, association: Association) -> None:
        association.timer = None
        channel = association.channel
        if channel is None:
            return
        if self._loop.time() >= association.due:
            if not association.established:
                log.info("DTLS with %s failed: the handshake was not completed", association.peer.address)
            self._end(association)
            return
        channel.handle_timeout()
        if channel.closed:
            self._end(association)
        else:
            self.flush(association)

    def _send(self, datagram: bytes, address: Address) -> None:
        if self._socket is not None:
            self._socket.send(datagram, address)
