"""Grouped work: what is asked while a group is under way forms the next one (DESIGN §4, "Fast by design").

No timer: a lone item starts at once and alone. Waiting items are bounded; past that, some are refused. Who shares the
work (profiles, say) takes turns, and gives way where he has most waiting.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Generic, TypeVar, cast
from weakref import WeakSet

from provserver import metrics
from provserver.errors import Unavailable

log = logging.getLogger("provserver.grouping")

Item = TypeVar("Item")
Result = TypeVar("Result")

_Waiting = tuple[Item, Callable[[Result | Exception], None] | None, asyncio.Future[Result] | None]


class Grouper(Generic[Item, Result]):
    """Turns single calls into calls of `work`, which takes a group and returns a result for each, in order.

    work: may answer an item with an exception; one it raises goes to the whole group.
    sharer: whom an item is for. Each has the same part in a group, as long as he has items waiting; past max_waiting,
        it is the last of whoever has most that is refused.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_group: int = 128,
        max_waiting: int = 10_000,
        lanes: int = 1,
        sharer: Callable[[Item], Hashable] | None = None,
    ) -> None:
        self._name = name
        self._work = work
        self._max_group = max_group
        self._max_waiting = max_waiting
        self._lanes = lanes
        self._sharer = sharer
        self._queues: dict[Hashable, deque[_Waiting[Item, Result]]] = {}  # none is empty; the first is next
        self._waiting = 0
        self._running: set[asyncio.Task[None]] = set()
        self._working = 0
        self._counted = name if name in metrics.GROUPS else "other"
        self._seconds = metrics.GROUP_SECONDS.cell(self._counted)
        self._items = metrics.GROUP_ITEMS.cell(self._counted)
        self._refused = metrics.GROUP_REFUSED.cell(self._counted)
        if metrics.counting():
            _GROUPERS.add(self)

    async def submit(self, item: Item) -> Result:
        """Wait for the item's result. Raises Unavailable at once when too many wait.

        Cancelling takes the item out of the queue; once its group is under way it runs to its end.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._add((item, None, future))
        return await future

    def submit_to(self, item: Item, done: Callable[[Result | Exception], None]) -> None:
        """Have `done` called with the item's result, which may be an exception. It must not raise.

        Called at once, with Unavailable, when too many wait. Costs neither a task nor a future.
        """
        self._add((item, done, None))

    def post(self, item: Item) -> bool:
        """Have the item worked on without waiting; False when too many wait and it was dropped."""
        if self._waiting >= self._max_waiting:
            self._refused.value += 1
            return False
        self._add((item, None, None))
        return True

    @property
    def counted(self) -> tuple[str, int]:
        """Under which name it is counted, and how many items have no result yet."""
        return self._counted, self._waiting + self._working

    @property
    def busy(self) -> bool:
        """Whether anything waits or is under way."""
        return bool(self._running)

    async def drain(self) -> None:
        """Wait until nothing waits and nothing is under way."""
        while self._running:
            await asyncio.wait(self._running)

    def _add(self, waiting: _Waiting[Item, Result]) -> None:
        sharer = self._sharer(waiting[0]) if self._sharer is not None else None
        queue = self._queues.get(sharer)
        if self._waiting >= self._max_waiting:
            self._refused.value += 1
            longest = max(self._queues.values(), key=len)
            refused = waiting if queue is not None and len(queue) == len(longest) else longest.pop()
            _tell(refused, Unavailable("Too many requests are waiting for Postgres."))
            if refused is waiting:
                return
            self._waiting -= 1
            if not longest:
                self._queues = {key: each for key, each in self._queues.items() if each}
        if queue is None:
            queue = self._queues[sharer] = deque()
        queue.append(waiting)
        self._waiting += 1
        if len(self._running) < self._lanes:
            self._running.add(asyncio.create_task(self._run(), name=f"group:{self._name}"))

    async def _run(self) -> None:
        try:
            while group := self._take():
                await self._settle(group)
        finally:  # in the same step as the last look at the queue: who submits after it must start the next run
            self._running.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _settle(self, group: Sequence[_Waiting[Item, Result]]) -> None:
        results: Sequence[Result | Exception]
        begun = perf_counter()
        self._working += len(group)
        try:
            results = await self._work([waiting[0] for waiting in group])
        except Exception as fault:
            results = [fault] * len(group)
        finally:
            self._working -= len(group)
        self._seconds.observe(perf_counter() - begun)
        self._items.observe(len(group))
        for waiting, result in zip(group, results, strict=True):
            _tell(waiting, result)

    def _take(self) -> list[_Waiting[Item, Result]]:
        group: list[_Waiting[Item, Result]] = []
        queues = self._queues
        while queues and (room := self._max_group - len(group)) > 0:
            part = max(room // len(queues), 1)
            for sharer in tuple(queues)[:room]:
                queue = queues.pop(sharer)
                taken = min(part, len(queue))
                for _ in range(taken):
                    waiting = queue.popleft()
                    if waiting[2] is None or not waiting[2].done():
                        group.append(waiting)
                self._waiting -= taken
                if queue:
                    queues[sharer] = queue  # behind the others
        return group


_GROUPERS: WeakSet[Grouper[Any, Any]] = WeakSet()


def _waiting(name: str) -> int:
    return sum(waiting for counted, waiting in [each.counted for each in _GROUPERS] if counted == name)


for _name in metrics.GROUPS:
    metrics.GROUP_WAITING.cell(_name).follow(partial(_waiting, _name))


def _tell(waiting: _Waiting[Item, Result], result: Result | Exception) -> None:
    _, done, future = waiting
    if done is not None:
        try:
            done(result)
        except Exception as fault:  # its neighbours must have theirs
            log.error("a result was not taken: %s", type(fault).__name__)  # noqa: TRY400 - it may quote the result
    elif future is not None and not future.done():
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
