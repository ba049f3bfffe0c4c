"""The button on a device: how long it was held, and what that means. Seconds are the device's."""

from enum import StrEnum

from firmware_sim.board import Generation


class Hold(StrEnum):
    """How far a held button is. PREVIEW: the LED shows that it is noticed; ARMED: letting go resets."""

    UP = "up"
    DOWN = "down"
    PREVIEW = "preview"
    ARMED = "armed"
    TOO_LONG = "too long"


_STEPS = {
    Generation.CLASSIC: ((10.0, Hold.ARMED), (3.0, Hold.PREVIEW)),
    Generation.EDGENT: ((20.0, Hold.TOO_LONG), (10.0, Hold.ARMED), (4.0, Hold.PREVIEW)),
}


class Button:
    """One button. What it was held for counts when it is let go."""

    def __init__(self, generation: Generation) -> None:
        self._steps = _STEPS[generation]
        self._since: float | None = None

    @property
    def pressed(self) -> bool:
        """Whether a finger is on it."""
        return self._since is not None

    def press(self, now: float) -> None:
        """Begin to hold it."""
        if self._since is None:
            self._since = now

    def hold(self, now: float) -> Hold:
        """How far it is."""
        if self._since is None:
            return Hold.UP
        # Not `now - since`, which rounding puts below what it was held for.
        return next((step for since, step in self._steps if now >= self._since + since), Hold.DOWN)

    def next_step(self, now: float) -> float | None:
        """When that changes, if the finger stays; None if it does not change any more."""
        if self._since is None:
            return None
        later = [self._since + since for since, _ in self._steps if self._since + since > now]
        return min(later, default=None)

    def release(self, now: float) -> bool:
        """Let it go: whether the device is to be reset."""
        reset = self.hold(now) is Hold.ARMED
        self._since = None
        return reset
