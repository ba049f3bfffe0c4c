"""Grouped work: what is asked while a group is under way forms the next one (DESIGN §4, "Fast by design").

No timer: a lone item starts at once and alone. Waiting items are bounded; past that, some are refused. Who shares the
work (profiles, say) takes turns, and gives way where he has most waiting.
"""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from itertools import chain, islice
from operator import attrgetter
from time import perf_counter
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast
from weakref import WeakSet

from provserver import metrics
from provserver.errors import Unavailable

log = logging.getLogger("provserver.grouping")

LOOKS: Final = 8
"""How often, within the limit to the waiting, it is looked who has waited too long."""

Item = TypeVar("Item")
Result = TypeVar("Result")

_Waiting: TypeAlias = tuple[int, Item, Callable[[Result | Exception], None] | None, asyncio.Future[Result] | None, int]
"""Its place in the order of coming, an item, who is told, and what it weighs."""


class _Queue(dict[int, _Waiting[Item, Result]]):
    """What waits for one sharer, by place, in order. weight: of all of it."""

    __slots__ = ("weight",)

    def __init__(self) -> None:
        self.weight = 0


_weight_of: Callable[[_Queue[Any, Any]], int] = attrgetter("weight")


class Grouper(Generic[Item, Result]):
    """Turns single calls into calls of `work`, which takes a group and returns a result for each, in order.

    work: may answer an item with an exception; one it raises goes to the whole group.
    max_weight: of what waits and is under way together, where items differ in size; heavier ones are taken alone.
    wait_limit: seconds after which `submit` waits no more, less an eighth at most; None: it waits for the result.
    sharer: whom an item is for. Each has the same part in a group, as long as he has items waiting; past max_waiting,
        it is the last of whoever has most that is refused, and past max_weight of whoever has the heaviest, as long as
        he keeps no less than who comes.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_group: int = 128,
        max_waiting: int = 10_000,
        max_weight: int = sys.maxsize,
        wait_limit: float | None = None,
        lanes: int = 1,
        sharer: Callable[[Item], Hashable] | None = None,
    ) -> None:
        self._name = name
        self._work = work
        self._max_group = max_group
        self._max_waiting = max_waiting
        self._max_weight = max_weight
        self._wait_limit = wait_limit
        self._lanes = lanes
        self._sharer = sharer
        self._queues: dict[Hashable, _Queue[Item, Result]] = {}  # none is empty; the first is next
        self._place = 0  # of the last that came
        self._waiting = 0
        self._weight = 0  # of what waits and is under way
        self._running: dict[asyncio.Task[None], Sequence[_Waiting[Item, Result]]] = {}  # the group of each
        self._working = 0
        self._timer: asyncio.TimerHandle | None = None
        self._came: deque[tuple[float, int]] = deque()  # the last place there was at times within the limit
        self._counted = name if name in metrics.GROUPS else "other"
        self._seconds = metrics.GROUP_SECONDS.cell(self._counted)
        self._items = metrics.GROUP_ITEMS.cell(self._counted)
        self._refused = metrics.GROUP_REFUSED.cell(self._counted)
        if metrics.counting():
            _GROUPERS.add(self)

    async def submit(self, item: Item, weight: int = 0) -> Result:
        """Wait for the item's result. Raises Unavailable: at once when too many wait, or after wait_limit.

        Who gives up, or is told so, takes the item out of the queue; once its group is under way it runs to its end.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        place = self._add(item, None, future, weight)
        try:
            return await future
        except BaseException:
            self._take_out(place, item)
            raise

    def submit_to(self, item: Item, done: Callable[[Result | Exception], None]) -> None:
        """Have `done` called with the item's result, which may be an exception. It must not raise.

        Called at once, with Unavailable, when too many wait. Costs neither a task nor a future.
        """
        self._add(item, done, None, 0)

    def post(self, item: Item) -> bool:
        """Have the item worked on without waiting; False when too many wait and it was dropped."""
        if self._waiting >= self._max_waiting:
            self._refused.value += 1
            return False
        self._add(item, None, None, 0)
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

    def _add(
        self,
        item: Item,
        done: Callable[[Result | Exception], None] | None,
        future: asyncio.Future[Result] | None,
        weight: int,
    ) -> int:
        """Have an item wait; its place. Who has most may be refused, maybe the item itself."""
        self._place = place = self._place + 1
        sharer = self._sharer(item) if self._sharer is not None else None
        queue = self._queues.get(sharer)
        if queue is None:
            queue = self._queues[sharer] = _Queue()
        queue[place] = (place, item, done, future, weight)
        if weight:
            queue.weight += weight
            self._weight += weight
        self._waiting += 1
        if len(self._running) < self._lanes:
            self._running[asyncio.create_task(self._run(), name=f"group:{self._name}")] = ()
        if self._timer is None and self._wait_limit is not None:
            self._look()
        if self._waiting > self._max_waiting or self._weight > self._max_weight:
            self._refuse(queue, weight)
        return place

    def _refuse(self, queue: _Queue[Item, Result], weight: int) -> None:
        """Refuse what is too much, now that one of this weight has come to the end of this queue: maybe that one."""
        over = self._weight - self._max_weight
        if over > 0 and self._weight > weight:
            fullest = max(self._queues.values(), key=_weight_of)
            if fullest.weight - over < queue.weight:
                fullest, over = queue, 0
        elif self._waiting > self._max_waiting:
            fullest = max(self._queues.values(), key=len)
        else:
            return
        refused: list[_Waiting[Item, Result]] = []
        while over > 0 or not refused:
            refused.append(last := fullest.popitem()[1])
            self._forget(fullest, last)
            over -= last[4]
        for each in refused:  # now that all is in its place: who is told may ask again at once
            self._refused.value += 1
            _tell(each, Unavailable("Too many requests are waiting for Postgres."))

    def _take_out(self, place: int, item: Item) -> None:
        """Let go of an item that nobody waits for any more, if it is not under way."""
        queue = self._queues.get(self._sharer(item) if self._sharer is not None else None)
        if queue is not None and (waiting := queue.pop(place, None)) is not None:
            self._forget(queue, waiting)

    def _forget(self, queue: _Queue[Item, Result], waiting: _Waiting[Item, Result]) -> None:
        """Give back the room of what was taken from a queue."""
        queue.weight -= waiting[4]
        self._weight -= waiting[4]
        self._waiting -= 1
        if not queue:
            del self._queues[self._sharer(waiting[1]) if self._sharer is not None else None]

    def _look(self) -> None:
        """Tell those of `submit` who have waited too long, be it under way or not; look again later."""
        assert self._wait_limit is not None  # noqa: S101 - who has no limit never looks
        loop, came = asyncio.get_running_loop(), self._came
        now, period = loop.time(), self._wait_limit / LOOKS
        came.append((now, self._place))
        last = 0
        while came and came[0][0] <= now - self._wait_limit + period:
            _, last = came.popleft()
        if last:
            for waiting in chain(*(queue.values() for queue in self._queues.values()), *self._running.values()):
                if waiting[0] <= last and waiting[3] is not None:
                    _tell(waiting, Unavailable("Postgres did not answer in time."))
        if self._running:
            self._timer = loop.call_later(period, self._look)
        else:
            self._timer = None
            came.clear()

    async def _run(self) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            while group := self._take():
                self._running[task] = group
                await self._settle(group)
        finally:  # in the same step as the last look at the queue: who submits after it must start the next run
            del self._running[task]

    async def _settle(self, group: Sequence[_Waiting[Item, Result]]) -> None:
        results: Sequence[Result | Exception]
        begun = perf_counter()
        self._working += len(group)
        try:
            results = await self._work([waiting[1] for waiting in group])
        except Exception as fault:
            results = [fault] * len(group)
        finally:
            self._working -= len(group)
            if self._weight:
                self._weight -= sum([waiting[4] for waiting in group])
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
                taken = [*islice(queue.values(), part)]
                self._waiting -= len(taken)
                group += (alive := [each for each in taken if each[3] is None or not each[3].done()])
                if len(alive) < len(taken):  # some have been told already, or have given up
                    self._weight -= sum([each[4] for each in taken]) - sum([each[4] for each in alive])
                if len(taken) < len(queue):
                    for each in taken:
                        del queue[each[0]]
                    if queue.weight:
                        queue.weight -= sum([each[4] for each in taken])
                    queues[sharer] = queue  # behind the others
        return group


_GROUPERS: WeakSet[Grouper[Any, Any]] = WeakSet()


def _waiting(name: str) -> int:
    return sum(waiting for counted, waiting in [each.counted for each in _GROUPERS] if counted == name)


for _name in metrics.GROUPS:
    metrics.GROUP_WAITING.cell(_name).follow(partial(_waiting, _name))


def _tell(waiting: _Waiting[Item, Result], result: Result | Exception) -> None:
    _, _, done, future, _ = waiting
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
