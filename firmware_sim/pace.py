"""How quickly many of something begin: devices that are switched on, guesses that are made."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """rate: how many a second, 0 for no pause. ramp: seconds in which it grows to that from nothing, evenly."""

    rate: float = 0.0
    ramp: float = 0.0

    def due(self, number: int) -> float | None:
        """Seconds from the beginning to when this one is due, counted from 0; None when there is no pause."""
        if not self.rate:
            return None
        on_the_ramp = self.rate * self.ramp / 2
        if number < on_the_ramp:
            return math.sqrt(2 * number * self.ramp / self.rate)
        return self.ramp + (number - on_the_ramp) / self.rate

    async def each(self, count: int) -> AsyncGenerator[tuple[int, float | None], None]:
        """Numbers from 0 when they are due, and the monotonic time at which they are; None when there is no pause."""
        begin = time.monotonic()
        for number in range(count):
            after = self.due(number)
            due = None if after is None else begin + after
            if due and (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            yield number, due
