"""What CoAP's message layer must remember of exchanges (RFC 7252 §4), with bounds: anybody may begin one, under any
address.
"""

import asyncio
import random
import struct
from collections.abc import Callable
from math import inf

from provserver.transports.udp import Address

EXCHANGE_LIFETIME = 247.0
"""Seconds after which a message id may mean another message (§4.8.2)."""

ACK_TIMEOUT = 2.0
ACK_RANDOM_FACTOR = 1.5
MAX_RETRANSMIT = 4

_PERIOD = EXCHANGE_LIFETIME / 2
"""Seconds of a generation."""

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


class _Generation:
    """Answers of about the same age. over: from when on none of them is worth anything."""

    __slots__ = ("answers", "bytes", "over", "until")

    def __init__(self, until: float) -> None:
        self.answers: dict[bytes, tuple[float, bytes]] = {}
        self.bytes = 0
        self.until = until
        self.over = inf


class Answers:
    """What requests were answered, so that one which comes again is not done again (§4.5). max_bytes: of memory, about.

    They are kept in generations, and forgotten a generation at a time: by age, or for want of room, a quarter of it. A
    table from which the oldest goes each time would be made anew now and then, at twice its size.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._share = max_bytes // 4
        self._bytes = 0
        self._generations = [_Generation(0.0)]  # newest first

    def __len__(self) -> int:
        return sum(len(each.answers) for each in self._generations)

    def __contains__(self, key: bytes) -> bool:
        """Whether there may be an answer; `find` says what it is worth."""
        for each in self._generations:  # noqa: SIM110 - a generator costs more than it says
            if key in each.answers:
                return True
        return False

    def keep(self, key: bytes, datagram: bytes, now: float) -> None:
        """Remember an answer, instead of what was remembered before. Empty: there is none, or not yet.

        now: seconds of a monotonic clock, as of `find`.
        """
        size = len(datagram) + _ENTRY
        if size > self._max_bytes:
            self.forget(key)
            return
        newest = self._generations[0]
        if now >= newest.until or newest.bytes + size > self._share:
            newest = self._begin(newest, now)
        newest.answers[key] = now + EXCHANGE_LIFETIME, datagram  # an older one is not looked at any more
        newest.bytes += size
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._bytes -= self._generations.pop().bytes

    def _begin(self, newest: _Generation, now: float) -> _Generation:
        newest.over = now + EXCHANGE_LIFETIME
        alive = [each for each in self._generations if each.over > now]
        self._bytes = sum(each.bytes for each in alive)
        self._generations = [newest := _Generation(now + _PERIOD), *alive]
        return newest

    def forget(self, key: bytes) -> None:
        """Take a request as new."""
        for each in self._generations:
            each.answers.pop(key, None)

    def find(self, key: bytes, now: float) -> bytes | None:
        """The answer; None when the request is new."""
        for each in self._generations:
            if (entry := each.answers.get(key)) is not None:
                return entry[1] if entry[0] > now else None
        return None


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
