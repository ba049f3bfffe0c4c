import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver import metrics
from provserver.metrics import Cell, Distribution, Gauge, Page

GRANTED = metrics.PROVISIONS.cell("HTTP", "success")
SESSIONS = metrics.SESSIONS.cell()
SECONDS = metrics.GROUP_SECONDS.cell("provision")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """What other tests have counted is put back."""
    cells = [cell for family in metrics.FAMILIES for cell in family.cells.values()]
    before = [cell.numbers() for cell in cells]
    yield
    for cell, numbers in zip(cells, before, strict=True):
        if not isinstance(cell, Gauge):
            cell.resume(numbers)


def forked(work: Callable[[], None]) -> int:
    """Run it in a process of its own; returns the pid, which has ended."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    return pid


def everybody(_pid: int) -> bool:
    return True


def test_what_processes_count_is_added_up_and_outlives_them() -> None:
    page = Page(["worker 1", "worker 2"])

    def count(name: str, granted: int) -> None:
        slot = page.join(name)
        GRANTED.value += granted
        SECONDS.observe(0.004)
        slot.publish()

    first = forked(lambda: count("worker 1", 3))
    forked(lambda: count("worker 2", 4))

    totals = page.totals()
    assert totals.value(metrics.PROVISIONS, "HTTP", "success") == 7
    assert totals.value(metrics.PROVISIONS, "MQTT", "success") == 0
    seconds = totals.values[metrics.FAMILIES.index(metrics.GROUP_SECONDS)]["provision",]
    assert seconds == (*(2.0 if bound == 0.005 else 0.0 for bound in metrics.BOUNDS), 0.0, pytest.approx(0.008))
    assert totals.processes[0] == ("worker 1", first)

    forked(lambda: count("worker 1", 5))

    assert page.totals().value(metrics.PROVISIONS, "HTTP", "success") == 12


def test_a_successor_does_not_count_what_was_counted_before_the_fork() -> None:
    page = Page(["worker 1"])
    GRANTED.value += 100

    forked(lambda: page.join("worker 1").publish())

    assert page.totals().value(metrics.PROVISIONS, "HTTP", "success") == 0


def test_a_gauge_of_a_process_that_is_dead_counts_no_more() -> None:
    page = Page(["worker 1", "worker 2"])

    def stand(name: str, at: int) -> None:
        slot = page.join(name)
        SESSIONS.value = at
        slot.publish()

    dead = forked(lambda: stand("worker 1", 3))
    other = forked(lambda: stand("worker 2", 4))

    assert page.totals(everybody).value(metrics.SESSIONS) == 7
    assert page.totals(lambda pid: pid == other).value(metrics.SESSIONS) == 4
    assert page.totals().value(metrics.SESSIONS) == 0
    assert dead != other


def test_a_successor_begins_with_its_own_gauges() -> None:
    page = Page(["worker 1"])

    def stand() -> None:
        slot = page.join("worker 1")
        SESSIONS.value += 3
        slot.publish()

    forked(stand)
    forked(lambda: page.join("worker 1").publish())

    assert page.totals(everybody).value(metrics.SESSIONS) == SESSIONS.value


def test_of_what_all_processes_tell_the_same_of_the_largest_is_shown() -> None:
    page = Page(["worker 1", "worker 2"])

    def stand(name: str, at: int) -> None:
        slot = page.join(name)
        metrics.OUTBOX_LAG.cell().value = at
        slot.publish()

    forked(lambda: stand("worker 1", 5))
    forked(lambda: stand("worker 2", 3))

    assert page.totals(everybody).value(metrics.OUTBOX_LAG) == 5


def test_a_gauge_follows_what_it_is_told_to() -> None:
    gauge = Gauge()
    stop = gauge.follow(lambda: 3)
    gauge.follow(lambda: 4)
    assert gauge.numbers() == (7,)

    stop()
    stop()

    assert gauge.numbers() == (4,)


async def test_the_numbers_are_written_once_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "PERIOD", 0.001)
    page = Page(["server"])
    slot = page.join("server")
    slot.start()
    GRANTED.value += 1
    while page.totals().value(metrics.PROVISIONS, "HTTP", "success") != 1:  # noqa: ASYNC110 - another process' memory
        await asyncio.sleep(0.001)

    slot.stop()
    GRANTED.value += 1
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert page.totals().value(metrics.PROVISIONS, "HTTP", "success") == 1

    slot.stop()
    assert page.totals().value(metrics.PROVISIONS, "HTTP", "success") == 2


def test_who_looks_while_the_numbers_are_written_sees_no_counter_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(["server"])
    slot = page.join("server")
    delivered = metrics.WEBHOOKS.cell("delivered")  # written after the one that looks
    delivered.value += 3
    slot.publish()
    seen: list[float] = []

    class Looking:
        """A number that looks at the page as it is being written."""

        def __float__(self) -> float:
            seen.append(page.totals(everybody).value(metrics.WEBHOOKS, "delivered"))
            return 0.0

    monkeypatch.setattr(GRANTED, "value", Looking())
    slot.publish()

    assert seen == [3]


def test_a_page_that_nobody_has_joined_shows_nothing() -> None:
    totals = Page(["worker 1"]).totals()

    assert totals.processes == (("worker 1", 0),)
    assert all(not any(numbers) for values in totals.values for numbers in values.values())


@given(st.lists(st.floats(min_value=0, max_value=1e4)))
def test_each_value_falls_into_the_first_bucket_whose_bound_it_does_not_pass(values: list[float]) -> None:
    bounds = (1.0, 2.0, 5.0)
    distribution = Distribution(bounds)

    for value in values:
        distribution.observe(value)

    *counts, total = distribution.numbers()
    edges = [float("-inf"), *bounds, float("inf")]
    assert counts == [sum(low < value <= high for value in values) for low, high in pairwise(edges)]
    assert total == pytest.approx(sum(values))


@given(st.lists(st.integers(0, 2**53), min_size=1))
def test_counts_survive_being_written(counts: list[int]) -> None:
    cell, successor = Cell(), Cell()
    cell.value = sum(counts) % 2**53

    successor.resume([float(number) for number in cell.numbers()])

    assert successor.value == cell.value


def test_labels_are_few_and_none_is_free() -> None:
    """Whatever a peer sends, there is no further series."""
    assert sum(len(family.cells) for family in metrics.FAMILIES) < 400
    with pytest.raises(KeyError):
        metrics.PROVISIONS.cell("HTTP", "whatever a peer sent")


def test_names_are_as_prometheus_has_them() -> None:
    names = [family.name for family in metrics.FAMILIES]
    assert len(set(names)) == len(names)
    for family in metrics.FAMILIES:
        assert family.name.startswith("provserver_")
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert family.help.endswith(".")
