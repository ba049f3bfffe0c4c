"""A UDP socket that answers from the address that it was written to, where it listens on all of them.

asyncio's own cannot: behind one, a peer that writes to a second address (a VIP, say) gets answers from the first.
"""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from typing import NamedTuple

log = logging.getLogger("provserver.udp")

_IP_PKTINFO = 8  # linux/in.h; Python has no name for it before 3.14
_BATCH = 64  # datagrams that are read before others have their turn
_MAX_SIZE = 65_536
_ANCILLARY_SIZE = 128


class Address(NamedTuple):
    """Where a datagram came from, and the address it came to as the kernel wants it back (in_pktinfo, in6_pktinfo)."""

    peer: tuple[str, int] | tuple[str, int, int, int]
    local: bytes = b""


class UdpSocket:
    """Takes and sends datagrams, on asyncio and uvloop. Those that cannot be sent are lost, as datagrams are."""

    def __init__(self, host: str, port: int, received: Callable[[bytes, Address], None]) -> None:
        """Listen. Raises OSError."""
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )[0]
        self._received = received
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(family, kind, protocol)
        self._level, self._option = socket.IPPROTO_IP, _IP_PKTINFO
        try:
            self._socket.setblocking(False)
            if family == socket.AF_INET6:
                self._level, self._option = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            elif sys.platform == "linux":
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            self._socket.bind(address)
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket, self._readable)

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._socket.getsockname()[1]
        return port

    def send(self, datagram: bytes, address: Address) -> None:
        """Send a datagram to where another came from."""
        ancillary = [(self._level, self._option, address.local)] if address.local else []
        try:
            self._socket.sendmsg([datagram], ancillary, 0, address.peer)
        except OSError as fault:
            log.debug("a datagram was not sent: %s", fault)

    def hush(self) -> None:
        """Take no more datagrams."""
        self._loop.remove_reader(self._socket)

    def close(self) -> None:
        """Send none any more either."""
        self.hush()
        self._socket.close()

    def _readable(self) -> None:
        for _ in range(_BATCH):
            try:
                data, ancillary, _, peer = self._socket.recvmsg(_MAX_SIZE, _ANCILLARY_SIZE)
            except BlockingIOError:
                return
            except OSError as fault:
                log.debug("a datagram was not read: %s", fault)
                return
            local = next((_answering(info) for level, _, info in ancillary if level == self._level), b"")
            self._received(data, Address(peer, local))


def _answering(information: bytes) -> bytes:
    """For whom we answer, from the information on what came: by any interface, but where the address needs one."""
    if len(information) == 12:  # in_pktinfo: the interface, the local address, the one in the header
        return bytes(4) + information[4:8] + bytes(4)
    link_local = information[0] == 0xFE and information[1] & 0xC0 == 0x80
    return information if link_local else information[:16] + bytes(4)
