"""CoAP over plain UDP (RFC 7252): a socket, our front, and aiocoap behind it."""

import logging
import socket
from typing import Any

from aiocoap import Message, interfaces
from aiocoap.message import Direction
from aiocoap.messagemanager import MessageManager
from aiocoap.numbers.constants import COAP_PORT, TransportTuning
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.util import hostportjoin

from provserver.core.model import Peer, Transport
from provserver.transports import coap_message
from provserver.transports.coap_features import MAX_OBSERVERS
from provserver.transports.coap_front import ACK_DELAY, Front
from provserver.transports.coap_resources import Resources
from provserver.transports.udp import Address, UdpSocket

log = logging.getLogger("provserver.coap")

_MAX_REQUESTS = 16_384
"""That aiocoap works on at a time, besides observations. Each takes some 10 kB."""


async def listen(
    messages: MessageManager,
    host: str,
    port: int,
    resources: Resources | None,
    sock: socket.socket | None = None,
    **_: Any,
) -> "UdpInterface":
    """Listen, for `CoapTransport.add`. Raises OSError.

    messages: aiocoap's message manager. resources: for the front; without them aiocoap answers all requests.
    sock: see UdpSocket.
    """
    interface = UdpInterface(messages)
    interface.socket = UdpSocket(host, port, interface.received, sock=sock)
    interface.front = Front(interface.socket.send, interface, resources)
    interface.address = host, interface.socket.port
    return interface


class UdpRemote(interfaces.EndpointAddress):  # type: ignore[misc] # aiocoap has no types
    """An address as aiocoap knows its peers."""

    scheme = "coap"
    is_multicast = False
    is_multicast_locally = False

    def __init__(self, address: Address, local: tuple[str, int]) -> None:
        self.address = address
        self._local = local

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UdpRemote) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __repr__(self) -> str:
        return f"<UDP {self.hostinfo}>"

    @property
    def peer(self) -> Peer:
        """Who it is: anybody."""
        return Peer(Transport.COAP, self.address.host)

    @property
    def hostinfo(self) -> str:
        """Address and port of the peer."""
        host, port = self.address.peer[:2]
        text: str = hostportjoin(host, port if port != COAP_PORT else None)
        return text

    @property
    def hostinfo_local(self) -> str:
        """Address and port of this server."""
        text: str = hostportjoin(*self._local)
        return text

    @property
    def uri_base(self) -> str:
        """URI of the peer."""
        return f"coap://{self.hostinfo}"

    @property
    def uri_base_local(self) -> str:
        """URI of this server."""
        return f"coap://{self.hostinfo_local}"

    @property
    def blockwise_key(self) -> object:
        """What the blocks of one body have in common."""
        return self.address


class _Tuning(TransportTuning):  # type: ignore[misc]
    """The front knows repeated requests, within bounds: aiocoap need not remember them, without bounds."""

    EXCHANGE_LIFETIME = 0.0
    EMPTY_ACK_DELAY = ACK_DELAY


class UdpInterface(interfaces.MessageInterface):  # type: ignore[misc]
    """What aiocoap needs of a socket. address: where it listens."""

    socket: UdpSocket
    front: Front
    address: tuple[str, int]

    def __init__(self, messages: MessageManager) -> None:
        self._messages = messages
        self._not_begun: set[tuple[Address, bytes]] = set()

    def hush(self) -> None:
        """Take no more datagrams."""
        self.socket.hush()

    def received(self, datagram: bytes, address: Address) -> None:
        """Take a datagram."""
        self.front.received(datagram, address)

    def take(self, message: coap_message.Message, address: Address) -> bool:
        """See coap_front.Behind."""
        if 0 < message.code < 32 and not self._admit(address, message.token):
            return False
        try:
            self._messages.dispatch_message(self._incoming(message, address))
        except Exception as fault:  # some that are malformed make aiocoap raise
            log.debug("a message could not be read (%s)", type(fault).__name__)
        return True

    def next_id(self) -> int:
        """See coap_front.Behind."""
        id_: int = self._messages._next_message_id()  # noqa: SLF001 - there is no other way to its sequence
        return id_

    def send(self, message: Message) -> None:
        """Send a message to its remote."""
        self.front.send(message.encode(), message.remote.address)

    async def recognize_remote(self, remote: object) -> bool:
        """Whether a remote is one of ours."""
        return isinstance(remote, UdpRemote)

    async def determine_remote(self, _request: Message) -> None:
        """None: this is no client."""

    async def shutdown(self) -> None:
        """Close the socket."""
        await self.front.close()
        self.socket.close()

    def _admit(self, address: Address, token: bytes) -> bool:
        """Whether a request is taken: not when there are too many, nor where one with the same token has not begun
        yet, which aiocoap would then cancel, and warn of a coroutine that was never awaited.
        """
        messages, key = self._messages, (address, token)
        too_many = len(messages.token_manager.incoming_requests) >= _MAX_REQUESTS + MAX_OBSERVERS
        if too_many or key in self._not_begun:
            return False
        self._not_begun.add(key)
        messages.loop.call_soon(self._not_begun.discard, key)
        return True

    def _incoming(self, message: coap_message.Message, address: Address) -> Message:
        made = Message(
            code=message.code,
            payload=message.payload,
            transport_tuning=_Tuning,
            _mtype=message.type,
            _mid=message.id,
            _token=message.token,
        )
        for number, value in message.options:
            made.opt.add_option(OptionNumber(number).create_option(decode=value))
        made.remote = UdpRemote(address, self.address)
        made.direction = Direction.INCOMING
        return made
