"""What CoAP's message layer must remember of exchanges (RFC 7252 §4), with bounds: anybody may begin one, under any
address.
"""

import asyncio
import random
import struct
from collections import OrderedDict
from collections.abc import Callable

from provserver.transports.udp import Address

EXCHANGE_LIFETIME = 247.0
"""Seconds after which a message id may mean another message (§4.8.2)."""

ACK_TIMEOUT = 2.0
ACK_RANDOM_FACTOR = 1.5
MAX_RETRANSMIT = 4

_ENTRY = 350  # bytes of memory that an answer takes besides its own
_pack = struct.Struct("!HH").pack
_Send = Callable[[bytes, Address], None]


def exchange(address: Address, id_: int) -> bytes:
    """What tells a message from others of the same socket: bytes, as those are small."""
    peer, local = address.peer, address.local
    key = _pack(peer[1], id_) + peer[0].encode()
    if len(peer) > 2:
        key = peer[3].to_bytes(4) + key  # the interface, where the address needs one
    return local + key if local else key


class Answers:
    """What requests were answered, so that one which comes again is not done again (§4.5). The oldest are forgotten
    first, by age or for want of room. max_bytes: of memory, about.

    entries: by exchange; `find` says what an entry is worth.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0
        self._oldest = 0.0  # no entry ends before

    def __len__(self) -> int:
        return len(self.entries)

    def keep(self, key: bytes, datagram: bytes, now: float) -> None:
        """Remember an answer, instead of what was remembered before. Empty: there is none, or not yet.

        now: seconds of a monotonic clock, as of `find`.
        """
        entries = self.entries
        if key in entries:
            self.forget(key)
        entries[key] = now + EXCHANGE_LIFETIME, datagram
        self._bytes += len(datagram) + _ENTRY
        while self._bytes > self._max_bytes:
            _, (_, answer) = entries.popitem(last=False)
            self._bytes -= len(answer) + _ENTRY
        if now >= self._oldest:
            self._let_go(now)

    def _let_go(self, now: float) -> None:
        """Forget what is too old."""
        entries = self.entries
        while entries:
            key, (end, _) = next(iter(entries.items()))
            if end > now:
                self._oldest = end
                return
            self.forget(key)

    def forget(self, key: bytes) -> None:
        """Take a request as new."""
        if (entry := self.entries.pop(key, None)) is not None:
            self._bytes -= len(entry[1]) + _ENTRY

    def find(self, key: bytes, now: float) -> bytes | None:
        """The answer; None when the request is new."""
        entry = self.entries.get(key)
        return entry[1] if entry is not None and entry[0] > now else None


class Confirmations:
    """Messages that ask for an acknowledgement, and are sent again until it comes (§4.2), or it is of no use."""

    def __init__(self, send: _Send, *, max_messages: int = 16_384) -> None:
        """Past max_messages, one is sent once."""
        self._send = send
        self._max_messages = max_messages
        self._loop = asyncio.get_running_loop()
        self._timers: dict[bytes, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._timers)

    def send(self, key: bytes, datagram: bytes, address: Address) -> None:
        """Send a message for the first time."""
        if len(self._timers) < self._max_messages:
            timeout = ACK_TIMEOUT * random.uniform(1, ACK_RANDOM_FACTOR)  # noqa: S311 - no secret
            self._wait(key, datagram, address, timeout, MAX_RETRANSMIT)
        self._send(datagram, address)

    def settle(self, key: bytes) -> bool:
        """An acknowledgement or reset has come; whether it was waited for."""
        timer = self._timers.pop(key, None)
        if timer is None:
            return False
        timer.cancel()
        return True

    def close(self) -> None:
        """Wait for none any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _wait(self, key: bytes, datagram: bytes, address: Address, timeout: float, times: int) -> None:
        self._timers[key] = self._loop.call_later(timeout, self._again, key, datagram, address, timeout, times)

    def _again(self, key: bytes, datagram: bytes, address: Address, timeout: float, times: int) -> None:
        del self._timers[key]
        if times:
            self._wait(key, datagram, address, timeout * 2, times - 1)
            self._send(datagram, address)
