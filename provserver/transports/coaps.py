"""CoAP over DTLS (RFC 7252 §9): the same resources as over plain UDP, on aiocoap, for peers that have proved a key."""

import logging
import socket
from typing import Any

from aiocoap import Message, error, interfaces
from aiocoap.numbers.constants import COAPS_PORT
from aiocoap.util import hostportjoin

from provserver.core.model import Peer
from provserver.services.limits import Strangers
from provserver.transports.dtls import Association, DtlsEndpoint, Limits, SharedKey
from provserver.transports.tls import ServerContext

logger = logging.getLogger("provserver.coaps")


async def listen(
    messages: interfaces.MessageManager,
    host: str,
    port: int,
    context: ServerContext,
    shared_key: SharedKey,
    limits: Limits | None = None,
    strangers: Strangers | None = None,
    sock: socket.socket | None = None,
    **_: Any,
) -> "DtlsInterface":
    """Listen, for `CoapTransport.add`. Raises OSError.

    messages: aiocoap's message manager. shared_key: what a PSK identity stands for; may raise Unavailable.
    strangers: who may try such keys. sock: see UdpSocket.
    """
    interface = DtlsInterface(messages)
    interface.endpoint = DtlsEndpoint(
        context, shared_key, interface.received, interface.ended, limits or Limits(), strangers
    )
    interface.address = interface.endpoint.open(host, port, sock)
    return interface


class DtlsRemote(interfaces.EndpointAddress):  # type: ignore[misc] # aiocoap has no types
    """An association as aiocoap knows its peers. Each is another: messages of one are none of another (§9.1.1)."""

    scheme = "coaps"
    is_multicast = False
    is_multicast_locally = False
    hostinfo_local = ""

    def __init__(self, association: Association, local: str) -> None:
        self.association = association
        self.hostinfo_local = local

    def __repr__(self) -> str:
        return f"<DTLS {self.hostinfo}>"

    @property
    def peer(self) -> Peer:
        """Who it is."""
        return self.association.peer

    def prove(self) -> None:
        """A request of it was let in."""
        self.association.prove()

    @property
    def hostinfo(self) -> str:
        """Address and port of the peer."""
        host, port = self.association.address.peer[:2]
        text: str = hostportjoin(host, port if port != COAPS_PORT else None)
        return text

    @property
    def uri_base(self) -> str:
        """URI of the peer."""
        return f"coaps://{self.hostinfo}"

    @property
    def uri_base_local(self) -> str:
        """URI of this server."""
        return f"coaps://{self.hostinfo_local}"

    @property
    def blockwise_key(self) -> object:
        """What the blocks of one body have in common."""
        return self


class DtlsInterface(interfaces.MessageInterface):  # type: ignore[misc]
    """What aiocoap needs of a socket. address: where it listens."""

    endpoint: DtlsEndpoint
    address: tuple[str, int]

    def __init__(self, messages: interfaces.MessageManager) -> None:
        self._messages = messages
        self._remotes: dict[Association, DtlsRemote] = {}

    def hush(self) -> None:
        """Take no more datagrams."""
        self.endpoint.hush()

    def received(self, association: Association, data: bytes) -> None:
        """Take a datagram of an association."""
        remote = self._remotes.get(association)
        if remote is None:
            remote = self._remotes[association] = DtlsRemote(association, hostportjoin(*self.address))
        try:
            self._messages.dispatch_message(Message.decode(data, remote))
        except Exception as fault:  # some that are malformed make aiocoap raise
            logger.debug("a datagram could not be read (%s)", type(fault).__name__)

    def ended(self, association: Association) -> None:
        """Nothing more can be sent there: observations end."""
        remote = self._remotes.pop(association, None)
        if remote is not None:
            self._messages.dispatch_error(error.RemoteServerShutdown("The association has ended"), remote)

    def send(self, message: Message) -> None:
        """Send a message to its remote."""
        message.remote.association.send(message.encode())

    async def recognize_remote(self, remote: object) -> bool:
        """Whether a remote is one of ours."""
        return isinstance(remote, DtlsRemote)

    async def determine_remote(self, _request: Message) -> None:
        """None: this is no client."""

    async def shutdown(self) -> None:
        """End every association, and close the socket."""
        self._remotes.clear()  # aiocoap has ended what they were waiting for
        self.endpoint.close()
