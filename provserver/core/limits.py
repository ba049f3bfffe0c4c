"""Rate limits: token buckets, one for each key."""

from collections import OrderedDict
from collections.abc import Hashable

_TOLERANCE = 1e-6
"""Seconds by which arithmetic on floats may be wrong."""


class Buckets:
    """Token buckets. Each holds `capacity` tokens at first, and gets `per_second` of them back, up to that.

    keys: how many are remembered; past it, the one that was used least recently is forgotten, so it is full again.
    """

    def __init__(self, capacity: float, per_second: float, keys: int = 10_000) -> None:
        if capacity < 1 or per_second <= 0 or keys < 1:
            raise ValueError("a bucket must hold a token, and get some back")
        self._interval = 1 / per_second
        self._span = capacity / per_second
        self._keys = keys
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()  # one that is not there is full

    def take(self, key: Hashable, now: float) -> float:
        """Take a token. 0.0: taken; else the seconds until there is one. now: of a clock that never goes back."""
        full_at = max(self._full_at.get(key, now), now) + self._interval
        wait = full_at - now - self._span
        refused = wait > _TOLERANCE
        if not refused:
            self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if refused:
            return wait
        if len(self._full_at) > self._keys:
            self._full_at.popitem(last=False)
        return 0.0

    def give_back(self, key: Hashable, now: float) -> None:
        """Put a token back that was taken for nothing."""
        full_at = self._full_at.get(key, now) - self._interval
        if full_at > now:
            self._full_at[key] = full_at
        else:
            self._full_at.pop(key, None)
