import asyncio
import gc
import weakref
from collections.abc import Sequence

import pytest

from provserver import metrics
from provserver.errors import Unavailable
from provserver.services.grouping import Grouper
from tests.services.conftest import until
from tests.services.loop_clock import LoopClock


class Gate:
    """Work that says which groups it got, and holds each until it is let through."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.begun = asyncio.Condition()
        self._passes = asyncio.Semaphore(0)
        self.results: dict[str, str | Exception] = {}
        self.fault: Exception | None = None

    async def work(self, items: Sequence[str]) -> list[str | Exception]:
        async with self.begun:
            self.groups.append(list(items))
            self.begun.notify_all()
        await self._passes.acquire()
        if self.fault is not None:
            raise self.fault
        return [self.results.get(item, item.upper()) for item in items]

    async def until(self, groups: int) -> None:
        async with self.begun:
            await self.begun.wait_for(lambda: len(self.groups) >= groups)

    def let_through(self, groups: int = 1) -> None:
        for _ in range(groups):
            self._passes.release()


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def submit(grouper: Grouper[str, str], *items: str) -> list[asyncio.Task[str]]:
    """Have the items wait, in this order."""
    tasks = [asyncio.create_task(grouper.submit(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_a_lone_item_is_worked_on_at_once_and_alone(gate: Gate) -> None:
    grouper = Grouper("test", gate.work)
    gate.let_through()

    assert await grouper.submit("a") == "A"

    assert gate.groups == [["a"]]


async def test_what_waits_forms_the_next_group_in_order(gate: Gate) -> None:
    grouper = Grouper("test", gate.work)
    tasks = await submit(grouper, "a", "b", "c", "d")
    await gate.until(1)
    tasks += await submit(grouper, "e")
    gate.let_through(2)

    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D", "E"]
    assert gate.groups == [["a", "b", "c", "d"], ["e"]]


async def test_who_asks_again_right_after_an_answer_is_served(gate: Gate) -> None:
    grouper = Grouper("test", gate.work)
    gate.let_through(3)

    answers = [await grouper.submit(item) for item in "abc"]  # nothing of the loop runs in between

    assert answers == ["A", "B", "C"]


async def test_who_asks_again_right_after_a_failure_is_served(gate: Gate) -> None:
    grouper = Grouper("test", gate.work)
    gate.results["bad"] = ValueError("bad")
    gate.let_through(2)

    with pytest.raises(ValueError, match="bad"):
        await grouper.submit("bad")

    assert await grouper.submit("good") == "GOOD"


async def test_a_group_has_at_most_max_group_items(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_group=3)
    tasks = await submit(grouper, *"abcdefgh")
    gate.let_through(3)

    await asyncio.gather(*tasks)

    assert gate.groups == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]


async def test_lanes_work_on_groups_side_by_side(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, lanes=2)
    first = await submit(grouper, "a")
    await gate.until(1)
    second = await submit(grouper, "b")
    await gate.until(2)
    third = await submit(grouper, "c", "d")
    assert gate.groups == [["a"], ["b"]]
    gate.let_through(3)

    assert await asyncio.gather(*first, *second, *third) == ["A", "B", "C", "D"]
    assert gate.groups[2] == ["c", "d"]


async def test_items_past_max_waiting_are_refused_at_once(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_waiting=2)
    under_way = await submit(grouper, "a")
    await gate.until(1)
    waiting = await submit(grouper, "b", "c")

    with pytest.raises(Unavailable):
        await grouper.submit("d")
    assert not grouper.post("d")

    gate.let_through(2)
    assert await asyncio.gather(*under_way, *waiting) == ["A", "B", "C"]
    gate.let_through()
    assert await grouper.submit("e") == "E"


async def test_an_item_that_fails_spares_its_neighbours(gate: Gate) -> None:
    grouper = Grouper("test", gate.work)
    gate.results["b"] = ValueError("b is bad")
    tasks = await submit(grouper, "a", "b", "c")
    gate.let_through()

    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert (answers[0], answers[2]) == ("A", "C")
    assert isinstance(answers[1], ValueError)


async def test_what_work_raises_goes_to_its_group_and_no_further(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_group=2)
    gate.fault = ValueError("the group is bad")
    bad = await submit(grouper, "a", "b")
    good = await submit(grouper, "c")
    gate.let_through()
    assert [type(e) for e in await asyncio.gather(*bad, return_exceptions=True)] == [ValueError, ValueError]
    gate.fault = None
    gate.let_through()

    assert await asyncio.gather(*good) == ["C"]


async def test_who_gives_up_while_waiting_is_not_worked_on(gate: Gate) -> None:
    grouper = Grouper("test", gate.work)
    under_way = await submit(grouper, "a")
    await gate.until(1)
    waiting = await submit(grouper, "b", "c")
    waiting[0].cancel()
    gate.let_through(2)

    assert await asyncio.gather(*under_way, waiting[1]) == ["A", "C"]
    assert gate.groups == [["a"], ["c"]]


async def test_who_gives_up_under_way_does_not_stop_its_group(gate: Gate) -> None:
    grouper = Grouper("test", gate.work)
    tasks = await submit(grouper, "a", "b")
    await gate.until(1)
    tasks[0].cancel()
    gate.let_through()

    assert await tasks[1] == "B"
    assert gate.groups == [["a", "b"]]
    assert tasks[0].cancelled()


async def test_when_all_who_wait_gave_up_nothing_is_worked_on(gate: Gate) -> None:
    grouper = Grouper("test", gate.work)
    under_way = await submit(grouper, "a")
    await gate.until(1)
    for task in await submit(grouper, "b", "c"):
        task.cancel()
    gate.let_through()
    await grouper.drain()

    assert gate.groups == [["a"]]
    assert await under_way[0] == "A"


async def test_who_gives_up_leaves_his_place_to_others(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_waiting=2)
    under_way = await submit(grouper, "a")
    await gate.until(1)
    waiting = await submit(grouper, "b", "c")
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    assert grouper.counted == ("other", 2)

    others = await submit(grouper, "d")
    with pytest.raises(Unavailable):
        await grouper.submit("e")

    gate.let_through(2)
    assert await asyncio.gather(*under_way, waiting[1], *others) == ["A", "C", "D"]
    assert gate.groups == [["a"], ["c", "d"]]


class Thing:
    """What a test sees go."""


async def test_what_nobody_waits_for_any_more_is_let_go_of_at_once() -> None:
    begun, end = asyncio.Event(), asyncio.Event()

    async def work(things: Sequence[Thing]) -> Sequence[Thing]:
        begun.set()
        await end.wait()
        return things

    grouper = Grouper("test", work)
    under_way = asyncio.create_task(grouper.submit(Thing()))
    await begun.wait()
    things = [Thing() for _ in range(100)]
    seen = [weakref.ref(thing) for thing in things]
    tasks = [asyncio.create_task(grouper.submit(thing)) for thing in things]
    await asyncio.sleep(0)
    for task in tasks[::-1]:
        task.cancel()
    await asyncio.wait(tasks)

    del things, tasks, task
    gc.collect()  # tracebacks hold frames

    assert [ref for ref in seen if ref() is not None] == []
    end.set()
    await under_way


async def test_post_does_not_wait_and_shares_a_group_with_who_does(gate: Gate) -> None:
    grouper = Grouper("test", gate.work)
    under_way = await submit(grouper, "a")
    await gate.until(1)
    assert grouper.post("b")
    waiting = await submit(grouper, "c")
    gate.let_through(2)

    assert await asyncio.gather(*under_way, *waiting) == ["A", "C"]
    assert gate.groups == [["a"], ["b", "c"]]


async def test_nobody_hears_of_a_posted_item_that_fails(gate: Gate) -> None:
    grouper = Grouper("test", gate.work)
    gate.fault = ValueError("bad")
    gate.let_through()
    assert grouper.post("a")
    await grouper.drain()
    gate.fault = None
    gate.let_through()

    assert await grouper.submit("b") == "B"


async def test_drain_waits_for_what_waits_and_what_is_under_way(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_group=1)
    grouper.post("a")
    grouper.post("b")
    draining = asyncio.create_task(grouper.drain())
    await gate.until(1)
    assert not draining.done()
    gate.let_through()
    await gate.until(2)
    assert not draining.done()
    gate.let_through()

    await draining

    assert gate.groups == [["a"], ["b"]]
    await grouper.drain()  # of nothing


# --- who shares the work


async def test_each_has_the_same_part_in_a_group(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_group=4, sharer=lambda item: item[0])
    under_way = await submit(grouper, "x")
    await gate.until(1)
    tasks = await submit(grouper, "a1", "a2", "a3", "a4", "a5", "a6", "b1", "c1", "c2")
    gate.let_through(4)

    await asyncio.gather(*under_way, *tasks)

    assert gate.groups[1] == ["a1", "b1", "c1", "a2"]
    assert gate.groups[2:] == [["c2", "a3", "a4", "a5"], ["a6"]]


async def test_who_shares_takes_turns_when_there_are_more_than_a_group_has_items(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_group=2, sharer=lambda item: item[0])
    under_way = await submit(grouper, "x")
    await gate.until(1)
    tasks = await submit(grouper, "a1", "a2", "b1", "b2", "c1", "c2")
    gate.let_through(4)

    await asyncio.gather(*under_way, *tasks)

    assert gate.groups[1:] == [["a1", "b1"], ["c1", "a2"], ["b2", "c2"]]


async def test_past_max_waiting_the_last_of_whoever_has_most_is_refused(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_waiting=3, sharer=lambda item: item[0])
    under_way = await submit(grouper, "x")
    await gate.until(1)
    greedy = await submit(grouper, "a1", "a2", "a3")

    modest = await submit(grouper, "b1")
    with pytest.raises(Unavailable):
        await greedy[2]
    with pytest.raises(Unavailable):
        await grouper.submit("a4")

    gate.let_through(2)
    assert await asyncio.gather(*under_way, *greedy[:2], *modest) == ["X", "A1", "A2", "B1"]


async def test_nobody_is_forgotten_when_his_last_item_is_refused(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_waiting=1, sharer=lambda item: item[0])
    under_way = await submit(grouper, "x")
    await gate.until(1)
    first = await submit(grouper, "a1")

    second = await submit(grouper, "b1")

    with pytest.raises(Unavailable):
        await first[0]
    gate.let_through(3)
    assert await asyncio.gather(*under_way, *second, *await submit(grouper, "a2")) == ["X", "B1", "A2"]


# --- items that differ in size


async def heavy(grouper: Grouper[str, str], weight: int, *items: str) -> list[asyncio.Task[str]]:
    """Have items of this weight wait, in this order."""
    tasks = [asyncio.create_task(grouper.submit(item, weight)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_past_max_weight_of_what_waits_and_is_under_way_items_are_refused_at_once(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_weight=10)
    tasks = await heavy(grouper, 4, "a")
    await gate.until(1)
    tasks += await heavy(grouper, 5, "b")

    with pytest.raises(Unavailable):
        await grouper.submit("c", 2)

    tasks += await heavy(grouper, 1, "d")
    gate.let_through(3)
    assert await asyncio.gather(*tasks) == ["A", "B", "D"]
    assert await grouper.submit("e", 10) == "E"


async def test_what_weighs_more_than_all_may_is_taken_alone(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_weight=10)
    tasks = await heavy(grouper, 11, "a")
    await gate.until(1)

    with pytest.raises(Unavailable):
        await grouper.submit("b", 11)

    gate.let_through(2)
    assert await asyncio.gather(*tasks) == ["A"]
    assert await grouper.submit("c", 11) == "C"


async def test_who_gives_up_leaves_his_weight_to_others(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_weight=10)
    under_way = await submit(grouper, "x")
    await gate.until(1)
    first = await heavy(grouper, 10, "a")
    first[0].cancel()
    await asyncio.wait(first)
    second = await heavy(grouper, 10, "b")
    second[0].cancel()  # and its group is taken before it hears of it
    gate.let_through()
    await asyncio.wait([*under_way, *second])

    gate.let_through()
    assert await grouper.submit("c", 10) == "C"
    assert gate.groups == [["x"], ["c"]]


async def test_what_work_raises_leaves_no_weight_behind(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_weight=10)
    gate.fault = ValueError("the group is bad")
    gate.let_through(2)
    with pytest.raises(ValueError, match="bad"):
        await grouper.submit("a", 10)
    gate.fault = None

    assert await grouper.submit("b", 10) == "B"


async def test_past_max_weight_the_last_of_whoever_has_the_heaviest_are_refused(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_weight=12, sharer=lambda item: item[0])
    under_way = await submit(grouper, "x")
    await gate.until(1)
    many = await heavy(grouper, 1, "a1", "a2", "a3", "a4")
    greedy = await heavy(grouper, 2, "b1", "b2", "b3", "b4")

    modest = await heavy(grouper, 3, "c1")
    for refused in greedy[2:]:
        with pytest.raises(Unavailable):
            await refused
    with pytest.raises(Unavailable):
        await grouper.submit("c2", 3)  # who comes has most himself

    gate.let_through(2)
    kept = [*many, *greedy[:2], *modest]
    assert await asyncio.gather(*under_way, *kept) == ["X", "A1", "A2", "A3", "A4", "B1", "B2", "C1"]


async def test_nobody_is_refused_for_whom_there_is_no_room_all_the_same(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_weight=10, sharer=lambda item: item[0])
    tasks = await heavy(grouper, 8, "x")
    await gate.until(1)
    tasks += await heavy(grouper, 1, "a1", "a2")

    with pytest.raises(Unavailable):
        await grouper.submit("b1", 2)

    gate.let_through(2)
    assert await asyncio.gather(*tasks) == ["X", "A1", "A2"]


# --- a limit to the waiting


async def pass_time(grouper: Grouper[str, str], clock: LoopClock, looks: int) -> None:
    """Have it look so often, each time after 1000 s, an eighth of the limit."""
    for _ in range(looks):
        last = grouper._timer
        clock.pass_(1000)
        await until(lambda last=last: grouper._timer is not last)  # type: ignore[misc]


async def test_who_has_waited_too_long_is_told_be_it_under_way_or_not(gate: Gate, loop_clock: LoopClock) -> None:
    grouper = Grouper("test", gate.work, max_group=1, wait_limit=8000)
    early = await submit(grouper, "a", "b")
    await gate.until(1)
    await pass_time(grouper, loop_clock, 6)
    assert not any(task.done() for task in early)
    late = await submit(grouper, "c")
    await pass_time(grouper, loop_clock, 2)

    await asyncio.wait(early)

    assert [type(task.exception()) for task in early] == [Unavailable, Unavailable]
    assert grouper.counted == ("other", 2)
    gate.let_through(2)
    assert await late[0] == "C"
    assert gate.groups == [["a"], ["c"]]


async def test_nobody_waits_longer_than_the_limit_whenever_he_came(gate: Gate, loop_clock: LoopClock) -> None:
    grouper = Grouper("test", gate.work, wait_limit=8000)
    tasks: list[asyncio.Task[str]] = []
    for number in range(20):
        tasks += await submit(grouper, str(number))
        assert all(task.done() for task in tasks[: max(number - 7, 0)])
        assert not any(task.done() for task in tasks[max(number - 6, 0) :])
        await pass_time(grouper, loop_clock, 1)
        await asyncio.sleep(0)  # and those hear of it who are told
    gate.let_through(2)
    await asyncio.wait(tasks)
    assert gate.groups[0] == ["0"]
    assert gate.groups[1][-6:] == ["14", "15", "16", "17", "18", "19"]


async def test_who_is_served_in_time_hears_nothing_of_the_limit(gate: Gate, loop_clock: LoopClock) -> None:
    grouper = Grouper("test", gate.work, wait_limit=8000)
    for _ in range(3):
        gate.let_through()
        assert await grouper.submit("a") == "A"
        loop_clock.pass_(8000)
        await until(lambda: grouper._timer is None)  # nothing is looked at while nothing waits


# --- without futures


async def test_who_gave_a_callback_hears_of_his_result_or_fault(gate: Gate) -> None:
    grouper = Grouper("test", gate.work)
    fault = gate.results["b"] = ValueError("b is bad")
    heard: list[object] = []
    grouper.submit_to("a", heard.append)
    grouper.submit_to("b", heard.append)
    gate.let_through()
    await grouper.drain()

    assert heard == ["A", fault]
    assert gate.groups == [["a", "b"]]


async def test_a_callback_past_max_waiting_is_called_at_once(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_waiting=1)
    under_way = await submit(grouper, "a")
    await gate.until(1)
    heard: list[object] = []
    grouper.submit_to("b", heard.append)
    assert not heard

    grouper.submit_to("c", heard.append)

    assert [type(each) for each in heard] == [Unavailable]
    gate.let_through(2)
    await asyncio.gather(*under_way)
    await grouper.drain()
    assert heard[1:] == ["B"]


async def test_a_callback_that_fails_spares_its_neighbours(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    grouper = Grouper("test", gate.work)
    heard: list[object] = []

    def broken(_result: object) -> None:
        raise ValueError("planted")

    grouper.submit_to("a", broken)
    grouper.submit_to("b", heard.append)
    gate.let_through(2)
    await grouper.drain()
    grouper.submit_to("c", heard.append)
    await grouper.drain()

    assert heard == ["B", "C"]
    assert "a result was not taken: ValueError" in caplog.text
    assert "planted" not in caplog.text


async def test_who_asks_again_from_a_callback_is_served(gate: Gate) -> None:
    grouper = Grouper("test", gate.work)
    heard: list[object] = []

    def again(result: object) -> None:
        heard.append(result)
        if len(heard) < 3:
            grouper.submit_to("b", again)

    grouper.submit_to("a", again)
    gate.let_through(3)
    await grouper.drain()

    assert heard == ["A", "B", "B"]
    assert not grouper.busy


async def test_groups_are_counted_and_what_has_no_result_is_seen(gate: Gate) -> None:
    seconds, items = metrics.GROUP_SECONDS.cell("data"), metrics.GROUP_ITEMS.cell("data")
    refused, waiting = metrics.GROUP_REFUSED.cell("data"), metrics.GROUP_WAITING.cell("data")
    before = sum(seconds.counts), sum(items.counts), items.total, refused.value
    grouper = Grouper("data", gate.work, max_waiting=2)

    first = asyncio.create_task(grouper.submit("a"))
    await gate.until(1)
    others = [asyncio.create_task(grouper.submit(item)) for item in "bc"]
    await asyncio.sleep(0)
    assert not grouper.post("d")
    assert waiting.numbers() == (3,)
    gate.let_through(2)
    await asyncio.gather(first, *others)

    assert waiting.numbers() == (0,)
    assert sum(seconds.counts) - before[0] == 2
    assert (sum(items.counts) - before[1], items.total - before[2]) == (2, 3)
    assert refused.value - before[3] == 1


async def test_a_group_that_fails_is_counted_as_well(gate: Gate) -> None:
    counted = metrics.GROUP_SECONDS.cell("other")
    before = sum(counted.counts)
    gate.fault = ZeroDivisionError()
    grouper = Grouper("of a name that is not in the list", gate.work)
    gate.let_through()

    with pytest.raises(ZeroDivisionError):
        await grouper.submit("a")

    assert sum(counted.counts) - before == 1
    assert grouper.counted == ("other", 0)


async def test_who_asks_again_when_he_is_refused_loses_nothing(gate: Gate) -> None:
    grouper = Grouper("test", gate.work, max_waiting=1, sharer=lambda item: item[0])
    under_way = await submit(grouper, "x")
    await gate.until(1)
    heard: list[object] = []

    def again(result: object) -> None:
        heard.append(type(result))
        grouper.submit_to("b2", heard.append)

    grouper.submit_to("a1", again)
    grouper.submit_to("b1", heard.append)  # in place of a1, and b2 comes meanwhile

    gate.let_through(3)
    await asyncio.gather(*under_way)
    await grouper.drain()
    assert [heard[0], type(heard[1]), heard[2]] == [Unavailable, Unavailable, "B1"]
    assert gate.groups == [["x"], ["b1"]]
    assert grouper.counted == ("other", 0)
