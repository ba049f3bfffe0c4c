"""Grouped work: what is asked while a group is under way forms the next one (DESIGN §4, "Fast by design").

No timer: a lone item starts at once and alone. The queue is bounded; past it, items are refused.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, cast

from provserver.errors import Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


class Grouper(Generic[Item, Result]):
    """Turns single calls into calls of `work`, which takes a group and returns a result for each, in order.

    work: may answer an item with an exception; one it raises goes to the whole group.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_group: int = 128,
        max_waiting: int = 10_000,
        lanes: int = 1,
    ) -> None:
        self._name = name
        self._work = work
        self._max_group = max_group
        self._max_waiting = max_waiting
        self._lanes = lanes
        self._waiting: deque[tuple[Item, asyncio.Future[Result] | None]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """Wait for the item's result. Raises Unavailable at once when too many wait.

        Cancelling takes the item out of the queue; once its group is under way it runs to its end.
        """
        if len(self._waiting) >= self._max_waiting:
            raise Unavailable("Too many requests are waiting for Postgres.")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._start()
        return await future

    def post(self, item: Item) -> bool:
        """Have the item worked on without waiting; False when too many wait and it was dropped."""
        if len(self._waiting) >= self._max_waiting:
            return False
        self._waiting.append((item, None))
        self._start()
        return True

    async def drain(self) -> None:
        """Wait until nothing waits and nothing is under way."""
        while self._running:
            await asyncio.wait(self._running)

    def _start(self) -> None:
        if len(self._running) < self._lanes:
            self._running.add(asyncio.create_task(self._run(), name=f"group:{self._name}"))

    async def _run(self) -> None:
        try:
            while group := self._take():
                await self._settle(group)
        finally:  # in the same step as the last look at the queue: who submits after it must start the next run
            self._running.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _settle(self, group: Sequence[tuple[Item, asyncio.Future[Result] | None]]) -> None:
        try:
            results = await self._work([item for item, _ in group])
        except Exception as fault:
            results = [fault] * len(group)
        for (_, future), result in zip(group, results, strict=True):
            if future is None or future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _take(self) -> list[tuple[Item, asyncio.Future[Result] | None]]:
        group: list[tuple[Item, asyncio.Future[Result] | None]] = []
        while self._waiting and len(group) < self._max_group:
            item, future = self._waiting.popleft()
            if future is None or not future.done():
                group.append((item, future))
        return group
