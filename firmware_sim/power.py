"""Where a device can lose its power: every step that leaves a trace in its flash, on the wire or at the server."""

from collections.abc import Callable
from contextvars import ContextVar


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
