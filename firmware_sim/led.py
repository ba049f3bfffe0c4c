"""The LED on a device: which light stands for which state."""

from dataclasses import dataclass
from typing import Final

from firmware_sim.board import Generation
from firmware_sim.button import Hold
from firmware_sim.edgent_state import State

BLUE, WHITE, RED, MAGENTA, GREEN, YELLOW = "#0d36ff", "#ffffe7", "#ff1008", "#a700ff", "#00ff00", "#ffd400"
TEAL: Final = "#2effb9"
DARK: Final = "#000000"

_NAMES = {
    BLUE: "blue",
    WHITE: "white",
    RED: "red",
    MAGENTA: "magenta",
    GREEN: "green",
    YELLOW: "yellow",
    TEAL: "teal",
    DARK: "off",
}


@dataclass(frozen=True, slots=True)
class Light:
    """A colour, and its rhythm: milliseconds on, off, on, off, …; a single number is a breath, up and down."""

    colour: str
    rhythm: tuple[int, ...]

    def __str__(self) -> str:
        """`blue 50/500`, `teal breathing 5000`."""
        if self.colour == DARK:
            return "off"
        rhythm = "/".join(str(part) for part in self.rhythm)
        return f"{_NAMES[self.colour]} {'breathing ' if len(self.rhythm) == 1 else ''}{rhythm}"

    def brightness(self, seconds: float) -> float:
        """From 0 to 1, so long after it began."""
        moment = seconds * 1000 % sum(self.rhythm)
        if len(self.rhythm) == 1:
            return 1 - abs(2 * moment / self.rhythm[0] - 1)
        for position, part in enumerate(self.rhythm):
            if moment < part:
                return float(position % 2 == 0)
            moment -= part
        return 0.0


_HEARTBEAT = Light(RED, (80, 100, 80, 1000))
_OFF = Light(DARK, (1000,))

_CLASSIC = {
    State.WAIT_CONFIG: Light(BLUE, (50, 500)),
    State.RESET_CONFIG: Light(BLUE, (50, 500)),
    State.CONFIGURING: Light(BLUE, (200, 200)),
    State.CONNECTING_NET: Light(TEAL, (50, 500)),
    State.CONNECTING_CLOUD: Light(TEAL, (100, 100)),
    State.RUNNING: Light(TEAL, (5000,)),
    State.OTA_UPGRADE: Light(MAGENTA, (50, 50)),
    State.OFF: _OFF,
}
_EDGENT = {
    State.IDLE: Light(YELLOW, (50, 2000)),
    State.WAIT_CONFIG: Light(BLUE, (50, 500)),
    State.CONNECTING_NET: Light(GREEN, (50, 500)),
    State.CONNECTING_CLOUD: Light(GREEN, (50, 500)),
    State.RUNNING: Light(TEAL, (5000,)),
    State.OTA_UPGRADE: Light(MAGENTA, (5000,)),
    State.ERROR: _HEARTBEAT,
}

_HELD = {
    Generation.CLASSIC: {Hold.PREVIEW: Light(WHITE, (1000,)), Hold.ARMED: Light(WHITE, (100, 100))},
    Generation.EDGENT: {Hold.PREVIEW: Light(WHITE, (1000,)), Hold.ARMED: Light(WHITE, (50, 200))},
}


def light(generation: Generation, state: State, hold: Hold) -> Light:
    """What the LED does."""
    if state is not State.OFF and (shown := _HELD[generation].get(hold)):
        return shown
    if generation is Generation.CLASSIC:
        return _CLASSIC.get(state, _HEARTBEAT)  # as for an error, whatever has no light of its own
    return _EDGENT.get(state, _OFF)
