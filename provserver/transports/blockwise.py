"""Block-wise bodies (RFC 7959), sans-IO, with bounds on size, number and time.

An exchange is known by its key: the peer and whatever else tells its requests apart.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Self, TypeVar

LIFETIME = 93.0
"""Seconds an unfinished exchange is kept: MAX_TRANSMIT_WAIT (RFC 7252 §4.8.2)."""

MAX_EXCHANGES = 4096
MAX_BYTES = 16 * 1024 * 1024
"""Of all bodies kept, requests and responses each: anybody may begin a body, under any address."""


@dataclass(frozen=True, slots=True)
class Block:
    """A Block1 or Block2 option (RFC 7959 §2.2). exponent: SZX, the block size is 2 ** (exponent + 4) bytes."""

    number: int
    more: bool
    exponent: int

    @classmethod
    def of(cls, option: int) -> Self:
        """Read the option's value."""
        return cls(option >> 4, bool(option & 8), option & 7)

    @property
    def option(self) -> int:
        """The option's value."""
        return self.number << 4 | self.more << 3 | self.exponent

    @property
    def size(self) -> int:
        """Bytes of a full block."""
        return 1 << self.exponent + 4

    @property
    def start(self) -> int:
        """Offset of the block in the body."""
        return self.number * self.size


class Progress(Enum):
    """What a block that does not complete its body is answered with."""

    CONTINUE = "2.31"
    INCOMPLETE = "4.08"
    TOO_LARGE = "4.13"


Kept = TypeVar("Kept")


class _Exchanges(Generic[Kept]):
    """A bounded table of bodies and what else is kept of them. The oldest go first, by age or for want of room."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, tuple[float, bytes, Kept]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: Hashable, body: bytes, kept: Kept, now: float) -> None:
        self.pop(key)
        self._entries[key] = (now + LIFETIME, body, kept)
        self._bytes += len(body)
        while self._entries:
            oldest = next(iter(self._entries))
            fits = len(self._entries) <= MAX_EXCHANGES and self._bytes <= MAX_BYTES
            if fits and self._entries[oldest][0] > now:
                break
            self.pop(oldest)

    def get(self, key: Hashable, now: float) -> tuple[bytes, Kept] | None:
        entry = self._entries.get(key)
        return None if entry is None or entry[0] <= now else entry[1:]

    def pop(self, key: Hashable) -> None:
        if entry := self._entries.pop(key, None):
            self._bytes -= len(entry[1])


class RequestBodies:
    """Assembles request bodies from Block1 blocks (RFC 7959 §2.5), each at most max_size bytes."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._parts: _Exchanges[None] = _Exchanges()

    def feed(self, key: Hashable, block: Block, payload: bytes, now: float) -> bytes | Progress:
        """Take a block; returns the whole body with the last one. now: seconds of a monotonic clock."""
        if block.start + len(payload) > self._max_size:
            self._parts.pop(key)
            return Progress.TOO_LARGE
        if block.more and len(payload) != block.size:
            return Progress.INCOMPLETE
        before = (b"", None) if block.number == 0 else self._parts.get(key, now)
        if before is None or len(before[0]) < block.start:
            return Progress.INCOMPLETE
        body = before[0]
        if not block.more or body[block.start : block.start + len(payload)] != payload:  # else it comes twice
            body = body[: block.start] + payload
        if block.more:
            self._parts.put(key, body, None, now)
            return Progress.CONTINUE
        self._parts.pop(key)
        return body

    def keep(self, key: Hashable, body: bytes, now: float) -> None:
        """Have what came before a block again, so that it may come once more."""
        self._parts.put(key, body, None, now)


class ResponseBodies(Generic[Kept]):
    """Keeps responses that are fetched in Block2 blocks (RFC 7959 §2.4), so that none is produced twice."""

    def __init__(self) -> None:
        self._bodies: _Exchanges[Kept] = _Exchanges()

    def keep(self, key: Hashable, body: bytes, about: Kept, now: float) -> None:
        """Keep a response body and what else its blocks need."""
        self._bodies.put(key, body, about, now)

    def fetch(self, key: Hashable, now: float) -> tuple[bytes, Kept] | None:
        """The body kept for this exchange; None when there is none, or no longer."""
        return self._bodies.get(key, now)


def cut(body: bytes, number: int, exponent: int) -> tuple[bytes, Block] | None:
    """A block of a body, with its option; None past the end."""
    block = Block(number, False, exponent)
    part = body[block.start : block.start + block.size]
    if number and not part:
        return None
    return part, Block(number, block.start + block.size < len(body), exponent)
