"""The Things Stack's rate limit: a bucket for each API key, and headers that say how full it is.

It sends no Retry-After: seconds to wait are in X-Rate-Limit-Retry, cut to whole ones.
"""

import math
from collections.abc import Callable, Mapping

from tests.support.things_stack_errors import RESOURCE_EXHAUSTED, Problem


class Limit:
    """size: accesses of each key in so many seconds; clock: seconds."""

    def __init__(self, size: int, seconds: float, clock: Callable[[], float]) -> None:
        self._size = size
        self._rate = size / seconds
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> dict[str, str]:
        """One access; the headers of its answer. Raises Problem."""
        now = self._clock()
        left, then = self._left.get(key, (float(self._size), now))
        left = min(float(self._size), left + (now - then) * self._rate)
        allowed = left >= 1
        left -= allowed
        self._left[key] = left, now
        headers = {
            "X-Rate-Limit-Limit": str(self._size),
            "X-Rate-Limit-Available": str(math.floor(left)),
            "X-Rate-Limit-Reset": str(int((self._size - left) / self._rate)),
            "X-Rate-Limit-Retry": "0" if allowed else str(int((1 - left) / self._rate)),
        }
        if not allowed:
            raise exceeded(self._size, headers)
        return headers


def exceeded(rate: int, headers: Mapping[str, str]) -> Problem:
    """The bucket is empty."""
    return Problem(
        RESOURCE_EXHAUSTED,
        "pkg/ratelimit:rate_limit_exceeded",
        "more than {rate} accesses a minute",
        headers=headers,
        key="http:token",
        rate=rate,
    )
