"""A UDP socket that answers from the address that it was written to, where it listens on all of them.

asyncio's own cannot: behind one, a peer that writes to a second address (a VIP, say) gets answers from the first.
"""

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Callable
from functools import lru_cache

import msgspec

log = logging.getLogger("provserver.udp")

_IP_PKTINFO = 8  # linux/in.h; Python has no name for it before 3.14
_BATCH = 64  # datagrams that are read before others have their turn
_MAX_SIZE = 65_536
_ANCILLARY_SIZE = 128
_RECEIVE_BUFFER = 4 * 1024 * 1024
"""Bytes that may wait to be read, if the kernel allows as much (net.core.rmem_max). Its default holds some 300 small
datagrams: fewer than there are devices when the power comes back, and each that is lost comes again seconds later."""


class Address(msgspec.Struct, frozen=True):
    """Where a datagram came from, and the address it came to as the kernel wants it back (in_pktinfo, in6_pktinfo).

    local: empty where the socket listens on one address only.
    """

    peer: tuple[str, int] | tuple[str, int, int, int]
    local: bytes = b""

    @property
    def host(self) -> str:
        """The peer's IP address."""
        return self.peer[0].removeprefix("::ffff:")


class UdpSocket:
    """Takes and sends datagrams, on asyncio and uvloop. Those that cannot be sent are lost, as datagrams are."""

    def __init__(
        self,
        host: str,
        port: int,
        received: Callable[[bytes, Address], None],
        *,
        sock: socket.socket | None = None,
    ) -> None:
        """Listen; on `sock` if it is given, which is bound already. Raises OSError."""
        self._received = received
        self._loop = asyncio.get_running_loop()
        self._socket = sock = sock or _bound(host, port)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._level, self._option = socket.IPPROTO_IP, _IP_PKTINFO
        read = self._read
        if sock.getsockname()[0] in ("0.0.0.0", "::"):  # noqa: S104 - a comparison
            if sock.family == socket.AF_INET6:
                self._level, self._option = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                read = self._read_with_local
            elif sys.platform == "linux":
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
                read = self._read_with_local
        self._loop.add_reader(sock, read)

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._socket.getsockname()[1]
        return port

    def send(self, datagram: bytes, address: Address) -> None:
        """Send a datagram to where another came from."""
        peer = address.peer
        try:
            if local := address.local:
                self._socket.sendmsg((datagram,), ((self._level, self._option, local),), 0, peer)
            else:
                self._socket.sendto(datagram, peer)
        except OSError as fault:
            log.debug("a datagram was not sent: %s", fault)

    def hush(self) -> None:
        """Take no more datagrams."""
        self._loop.remove_reader(self._socket)

    def close(self) -> None:
        """Send none any more either."""
        self.hush()
        self._socket.close()

    def _read(self) -> None:
        receive, received = self._socket.recvfrom, self._received
        for _ in range(_BATCH):
            try:
                data, peer = receive(_MAX_SIZE)
            except BlockingIOError:
                return
            except OSError as fault:
                log.debug("a datagram was not read: %s", fault)
                return
            received(data, Address(peer))

    def _read_with_local(self) -> None:
        receive, received, wanted = self._socket.recvmsg, self._received, self._level
        for _ in range(_BATCH):
            try:
                data, ancillary, _, peer = receive(_MAX_SIZE, _ANCILLARY_SIZE)
            except BlockingIOError:
                return
            except OSError as fault:
                log.debug("a datagram was not read: %s", fault)
                return
            local = b""
            for level, _, information in ancillary:
                if level == wanted:
                    local = _answering(information)
            received(data, Address(peer, local))


def _bound(host: str, port: int) -> socket.socket:
    """A socket for this process alone. Raises OSError that names the address."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
    )[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.bind(address)
    except OSError as fault:
        made.close()
        raise OSError(fault.errno or errno.EADDRINUSE, f"{host}:{port}/udp: {fault.strerror}") from None
    return made


@lru_cache(maxsize=64)
def _answering(information: bytes) -> bytes:
    """For whom we answer, from the information on what came: by any interface, but where the address needs one."""
    if len(information) == 12:  # in_pktinfo: the interface, the local address, the one in the header
        return bytes(4) + information[4:8] + bytes(4)
    link_local = information[0] == 0xFE and information[1] & 0xC0 == 0x80
    return information if link_local else information[:16] + bytes(4)
