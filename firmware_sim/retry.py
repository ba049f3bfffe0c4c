"""Asking again when no answer came: exponential backoff with full jitter, bounded."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from firmware_sim.errors import NoAnswer, Pending

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retry:
    """attempts: how often to ask in all; pending: how often to ask beside that while an operator is waited for.

    base, cap, patience: seconds.

    The wait before attempt n+1 is drawn from [0, min(cap, base * 2**(n-1))]. If the server named a time, the
    draw is added to it, so that devices turned away together do not come back together. A server that names
    more than `patience` is taken to be gone. sleep and uniform: replaced in tests and by a fleet.
    """

    attempts: int = 5
    pending: int = 360
    base: float = 0.5
    cap: float = 20.0
    patience: float = 120.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    uniform: Callable[[float, float], float] = random.SystemRandom().uniform

    async def run(self, ask: Callable[[int], Awaitable[T]], waiting: Callable[[NoAnswer, float], None]) -> T:
        """Call ask(1), ask(2), ... until one returns; of `attempts` times NoAnswer, the last is raised.

        `waiting` hears of each failure and of the seconds until the next attempt.
        """
        failures = waits = 0
        while True:
            try:
                return await ask(failures + waits + 1)
            except NoAnswer as failure:
                if isinstance(failure, Pending):
                    waits += 1
                else:
                    failures += 1
                if failures >= self.attempts or waits > self.pending:
                    raise
                if (failure.retry_after or 0.0) > self.patience:
                    raise
                delay = self.delay(max(failures, 1), failure.retry_after)
                waiting(failure, delay)
                await self.sleep(delay)

    def delay(self, failures: int, retry_after: float | None) -> float:
        """Seconds to wait after this many failures in a row."""
        return (retry_after or 0.0) + self.uniform(0.0, min(self.cap, self.base * 2.0 ** min(failures - 1, 62)))
