import pytest

from firmware_sim.board import Generation
from firmware_sim.button import Hold
from firmware_sim.edgent_state import State
from firmware_sim.led import Light, light


@pytest.mark.parametrize(
    ("generation", "state", "shown"),
    [
        (Generation.CLASSIC, State.WAIT_CONFIG, "blue 50/500"),
        (Generation.CLASSIC, State.CONFIGURING, "blue 200/200"),
        (Generation.CLASSIC, State.CONNECTING_NET, "teal 50/500"),
        (Generation.CLASSIC, State.CONNECTING_CLOUD, "teal 100/100"),
        (Generation.CLASSIC, State.RUNNING, "teal breathing 5000"),
        (Generation.CLASSIC, State.OTA_UPGRADE, "magenta 50/50"),
        (Generation.CLASSIC, State.ERROR, "red 80/100/80/1000"),
        (Generation.EDGENT, State.IDLE, "yellow 50/2000"),
        (Generation.EDGENT, State.CONNECTING_CLOUD, "green 50/500"),
        (Generation.EDGENT, State.ERROR, "red 80/100/80/1000"),
        (Generation.EDGENT, State.OFF, "off"),
        (Generation.CLASSIC, State.OFF, "off"),
    ],
)
def test_a_light_for_each_state(generation: Generation, state: State, shown: str) -> None:
    assert str(light(generation, state, Hold.UP)) == shown


def test_a_held_button_shows() -> None:
    assert str(light(Generation.CLASSIC, State.RUNNING, Hold.ARMED)) == "white 100/100"
    assert str(light(Generation.EDGENT, State.RUNNING, Hold.PREVIEW)) == "white breathing 1000"
    assert str(light(Generation.EDGENT, State.IDLE, Hold.TOO_LONG)) == "yellow 50/2000"


def test_its_rhythm() -> None:
    beat = Light("#0d36ff", (50, 500))
    assert [beat.brightness(seconds) for seconds in (0.0, 0.06, 0.54, 0.56)] == [1, 0, 0, 1]
    breath = Light("#2effb9", (5000,))
    assert [round(breath.brightness(seconds), 2) for seconds in (0.0, 1.25, 2.5, 5.0)] == [0, 0.5, 1, 0]
