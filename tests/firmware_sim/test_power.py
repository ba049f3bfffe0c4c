import asyncio
from random import Random

import pytest

from firmware_sim.power import Grid, Outlet, PowerCut


async def running(outlet: Outlet, ends: list[str]) -> tuple[asyncio.Task[str], asyncio.Event]:
    """A device that lives for ever."""
    alive = asyncio.Event()

    async def life() -> str:
        alive.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ends.append("dark")
        raise AssertionError

    task = asyncio.create_task(outlet.run(life))
    await alive.wait()
    return task, alive


async def test_a_cut_ends_a_life_wherever_it_is() -> None:
    outlet, ends = Outlet(), list[str]()
    task, _ = await running(outlet, ends)
    assert outlet.cut()
    with pytest.raises(PowerCut):
        await task
    assert ends == ["dark"]


async def test_without_power_no_life_begins() -> None:
    outlet, ends = Outlet(), list[str]()
    assert not outlet.cut()  # nothing was under way

    async def life() -> None:
        ends.append("lived")

    with pytest.raises(PowerCut):
        await outlet.run(life)
    assert ends == []
    outlet.restore()
    await outlet.restored()
    await outlet.run(life)
    assert ends == ["lived"]


async def test_what_a_library_makes_of_the_cut_is_a_cut() -> None:
    outlet, alive = Outlet(), asyncio.Event()

    async def life() -> None:
        try:
            alive.set()
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            raise ConnectionError from None

    task = asyncio.create_task(outlet.run(life))
    await alive.wait()
    outlet.cut()
    with pytest.raises(PowerCut):
        await task


async def test_a_life_that_takes_longer_to_end_than_the_cut() -> None:
    outlet, alive, over = Outlet(), asyncio.Event(), asyncio.Event()

    async def life() -> None:
        alive.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await over.wait()

    task = asyncio.create_task(outlet.run(life))
    await alive.wait()
    outlet.cut()
    outlet.restore()
    over.set()
    with pytest.raises(PowerCut):
        await task


async def test_who_ends_the_fleet_cuts_no_power() -> None:
    task, _ = await running(Outlet(), [])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_with_power_is_the_device_s_own() -> None:
    async def life() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await Outlet().run(life)


@pytest.mark.parametrize("spread", [0.0, 0.01])
async def test_a_grid_takes_power_from_a_share_and_gives_it_back(spread: float) -> None:
    grid, ends = Grid(), list[str]()
    outlets = [grid.plug_in() for _ in range(40)]
    gone = grid.plug_in()
    grid.unplug(gone)
    lives = [(await running(outlet, ends))[0] for outlet in outlets]
    await grid.cut(0.001, 0.5, spread, Random(1))
    assert 5 < grid.cuts < 35
    assert len(ends) == grid.cuts
    for outlet in outlets:
        await outlet.restored()
    for life in lives:
        life.cancel()
    results = await asyncio.gather(*lives, return_exceptions=True)
    assert sum(isinstance(result, PowerCut) for result in results) == grid.cuts
