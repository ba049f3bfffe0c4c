import asyncio
from uuid import UUID, uuid4

import pytest

from provserver.errors import Unavailable
from provserver.services.figures import Figures
from tests.services.conftest import until

FOREVER = 1e6
"""Seconds of patience, where the test says when something is found."""


class Source:
    """Finds as slowly as the test wants, and remembers for whom."""

    def __init__(self) -> None:
        self.asked: list[tuple[UUID, int | None]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None
        self.now = 0.0
        self.cost = 0.0

    async def find(self, organization_id: UUID, last: int | None) -> int:
        self.asked.append((organization_id, last))
        await self.gate.wait()
        self.now += self.cost
        if self.fault is not None:
            raise self.fault
        return len(self.asked)

    def figures(
        self, turns: int = 1, patience: float = FOREVER, first: float = FOREVER, keep: int = 64
    ) -> Figures[int]:
        return Figures(
            self.find,
            asyncio.Semaphore(turns),
            patience=patience,
            first=first,
            keep=keep,
            monotonic=lambda: self.now,
        )


async def test_figures_that_are_new_are_not_found_again() -> None:
    source, one = Source(), uuid4()
    figures = source.figures()
    assert [await figures.of(one) for _ in range(3)] == [1, 1, 1]
    source.now += 1.0
    assert await figures.of(one) == 2
    assert source.asked == [(one, None), (one, 1)]


async def test_what_costs_much_is_found_the_more_seldom() -> None:
    source, one = Source(), uuid4()
    source.cost = 3.0
    figures = source.figures()
    assert await figures.of(one) == 1
    source.now += 59.0
    assert await figures.of(one) == 1
    source.now += 1.0
    assert await figures.of(one) == 2


async def test_who_asks_at_once_is_told_the_same() -> None:
    source, one = Source(), uuid4()
    figures = source.figures()
    assert await asyncio.gather(*(figures.of(one) for _ in range(20))) == [1] * 20
    assert len(source.asked) == 1


async def test_nobody_waits_for_newer_figures_and_not_long_for_the_first() -> None:
    source, one = Source(), uuid4()
    figures = source.figures(patience=0.0, first=0.0)
    source.gate.clear()
    assert await figures.of(one) is None
    source.gate.set()
    while (found := await figures.of(one)) is None:
        pass
    assert found == 1
    source.now += 1.0
    source.gate.clear()
    assert await figures.of(one) == 1
    source.gate.set()
    while (found := await figures.of(one)) == 1:
        pass
    assert (found, len(source.asked)) == (2, 2)


async def test_so_many_are_found_at_once_and_no_more() -> None:
    source, organizations = Source(), [uuid4() for _ in range(5)]
    figures = source.figures(turns=2)
    source.gate.clear()
    waiting = [asyncio.create_task(figures.of(each)) for each in organizations]
    await until(lambda: len(source.asked) >= 2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(source.asked) == 2
    source.gate.set()
    await asyncio.gather(*waiting)
    assert {each for each, _ in source.asked} == set(organizations)


async def test_the_last_ones_are_told_while_newer_ones_cannot_be_found(caplog: pytest.LogCaptureFixture) -> None:
    source, one = Source(), uuid4()
    figures = source.figures()
    source.fault = Unavailable("away")
    with pytest.raises(Unavailable, match="away"):
        await figures.of(one)
    source.fault = None
    assert await figures.of(one) == 2
    source.now += 1.0
    source.fault = Unavailable("away")
    assert await figures.of(one) == 2
    assert len(caplog.records) == 2
    source.fault = None
    assert await figures.of(one) == 4


async def test_only_so_many_organizations_are_kept() -> None:
    source, (one, other, third) = Source(), [uuid4() for _ in range(3)]
    figures = source.figures(keep=2)
    for each in (one, other, one, third):
        await figures.of(each)
    assert [each for each, _ in source.asked] == [one, other, third]
    await figures.of(one)
    await figures.of(other)
    assert [each for each, _ in source.asked] == [one, other, third, other]


async def test_a_stop_ends_what_is_under_way() -> None:
    source, one = Source(), uuid4()
    figures = source.figures()
    source.gate.clear()
    waiting = asyncio.create_task(figures.of(one))
    await until(lambda: bool(source.asked))
    await figures.stop()
    with pytest.raises(Unavailable):
        await waiting
