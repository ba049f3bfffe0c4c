"""Rate limits: token buckets, one for each key, in memory that processes share."""

from collections.abc import Hashable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from mmap import mmap

from provserver.errors import RETRY_AFTER_SECONDS

_TOLERANCE = 1e-6
"""Seconds by which arithmetic on floats may be wrong."""

_WAYS = 8
"""Places that a key may have."""

_MARK = (1 << 64) - 1


class Buckets:
    """Token buckets. Each holds `capacity` tokens at first, and gets `per_second` of them back, up to that.

    Processes that are forked after it was made share it, without a lock: of two that take at the same instant, one
    may go unnoticed, so each process takes at most one token too many at a time.

    keys: about how many are remembered (16 bytes each); past it, of some that share a place, the one is forgotten
        that is the next to be full. They are told apart by 64 bits of their hash: texts, bytes, and tuples with one.
    drained: one number: the moment from which on no bucket is empty any more, if nobody takes.
    """

    def __init__(self, capacity: float, per_second: float, keys: int = 8_192) -> None:
        if capacity < 1 or per_second <= 0 or keys < 1:
            raise ValueError("a bucket must hold a token, and get some back")
        self._interval = 1 / per_second
        self._span = capacity / per_second
        self._sets = -(-keys // _WAYS)
        places = self._sets * _WAYS
        memory = memoryview(mmap(-1, 16 * places + 8))
        self._marks = memory[: 8 * places].cast("Q")
        self._full_at = memory[8 * places : 16 * places].cast("d")  # what is not there is full
        self.drained = memory[16 * places :].cast("d")

    def take(self, key: Hashable, now: float, amount: float = 1.0) -> float:
        """Take a token. 0.0: taken; else the seconds until there is one. now: of a clock that never goes back.

        amount: another number of tokens, up to the capacity, or a part of one.
        """
        mark, place = self._find(key)
        taken = self._interval * amount
        full_at = (now if place < 0 else max(self._full_at[place], now)) + taken
        wait = full_at - now - self._span
        if wait > _TOLERANCE:
            return wait
        self._put(mark, place, full_at, now)
        if (empty_until := full_at + taken - self._span) > self.drained[0]:
            self.drained[0] = empty_until
        return 0.0

    def wait(self, key: Hashable, now: float, amount: float = 1.0) -> float:
        """The seconds until there is a token, or another number of them; 0.0: there is."""
        _, place = self._find(key)
        full_at = now if place < 0 else max(self._full_at[place], now)
        wait = full_at + self._interval * amount - now - self._span
        return wait if wait > _TOLERANCE else 0.0

    def give_back(self, key: Hashable, now: float, amount: float = 1.0) -> None:
        """Put a token back that was taken for nothing."""
        _, place = self._find(key)
        if place >= 0:
            self._full_at[place] = max(self._full_at[place] - self._interval * amount, now)

    def _find(self, key: Hashable) -> tuple[int, int]:
        """What stands for a key, and where; -1: nowhere."""
        mark = hash(key) & _MARK or 1
        first = mark % self._sets * _WAYS
        marks = self._marks[first : first + _WAYS].tolist()
        return mark, first + marks.index(mark) if mark in marks else -1

    def _put(self, mark: int, place: int, full_at: float, now: float) -> None:
        if place >= 0:
            self._full_at[place] = full_at
            return
        if full_at <= now:
            return
        first = mark % self._sets * _WAYS
        times = self._full_at[first : first + _WAYS].tolist()
        place = first + times.index(min(times))  # one that is full, if there is one
        self._full_at[place] = full_at
        self._marks[place] = mark


@lru_cache(maxsize=4_096)
def network(address: str) -> str:
    """What one requester has: an IPv4 address, or 2^64 of IPv6. Anything else is taken as it is."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped else str(IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)


def retry_after(chance: float, least: int = RETRY_AFTER_SECONDS) -> int:
    """Seconds that who is told to come back is to wait: between `least` and twice that, lest all come at once.

    chance: a number from 0.0 to 1.0, another one each time.
    """
    return least + round(chance * least)
