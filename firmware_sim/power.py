"""Where a device can lose its power: every step that leaves a trace in its flash, on the wire or at the server."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")


def _go_on(_: str) -> None:
    """Power is there."""


_hook: ContextVar[Callable[[str], None]] = ContextVar("firmware_sim.power", default=_go_on)


def reached(step: str) -> None:
    """A device has done a step; raises what `watch`'s hook raises."""
    _hook.get()(step)


def watch(hook: Callable[[str], None]) -> None:
    """Have each step of the devices that this task boots told, as soon as it is done.

    To cut the power, hook raises an exception that is nobody's to handle.
    """
    _hook.set(hook)


class PowerCut(Exception):  # noqa: N818 - reads as what it says
    """What a device did has ended with its power, wherever it was."""


class Outlet:
    """What one device is plugged in to."""

    def __init__(self) -> None:
        self._on = asyncio.Event()
        self._on.set()
        self._life: asyncio.Future[Any] | None = None
        self._struck = False

    async def run(self, life: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the device does while there is power. Raises PowerCut."""
        if not self._on.is_set():
            raise PowerCut
        self._struck = False
        self._life = living = asyncio.ensure_future(life())
        try:
            return await living
        except BaseException:
            # Some libraries answer a cancellation with an error of their own, and may take longer than the cut.
            task = asyncio.current_task()
            if not self._struck or (task is not None and task.cancelling()):
                raise
            raise PowerCut from None
        finally:
            self._life = None

    async def restored(self) -> None:
        """Wait for power."""
        await self._on.wait()

    def cut(self) -> bool:
        """Take the power away; whether the device was doing something."""
        self._on.clear()
        self._struck = True
        return self._life is not None and self._life.cancel()

    def restore(self) -> None:
        """Give it back."""
        self._on.set()


class Grid:
    """What all devices of a place are plugged in to. cuts: how many lost power while they did something."""

    def __init__(self) -> None:
        self.cuts = 0
        self._outlets: set[Outlet] = set()

    def plug_in(self) -> Outlet:
        """For one more device."""
        outlet = Outlet()
        self._outlets.add(outlet)
        return outlet

    def unplug(self, outlet: Outlet) -> None:
        """For a device that has ended."""
        self._outlets.discard(outlet)

    async def cut(self, seconds: float, share: float, spread: float, chance: Random) -> None:
        """Take power from a share (0 to 1) of the devices that are plugged in, for so many seconds.

        spread: seconds over which they get it back, each at a time of its own; 0: all at once.
        """
        dark = [outlet for outlet in self._outlets if chance.random() < share]
        for outlet in dark:
            self.cuts += outlet.cut()
        try:
            await asyncio.sleep(seconds)
            if spread:
                async with asyncio.TaskGroup() as streets:
                    for outlet in dark:
                        streets.create_task(_restore(outlet, chance.uniform(0.0, spread)))
        finally:
            for outlet in dark:
                outlet.restore()


async def _restore(outlet: Outlet, after: float) -> None:
    await asyncio.sleep(after)
    outlet.restore()
