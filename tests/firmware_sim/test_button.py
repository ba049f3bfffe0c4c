import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firmware_sim.board import Generation
from firmware_sim.button import Button, Hold


@pytest.mark.parametrize(
    ("generation", "seconds", "hold", "reset"),
    [
        (Generation.CLASSIC, 0.1, Hold.DOWN, False),
        (Generation.CLASSIC, 3, Hold.PREVIEW, False),
        (Generation.CLASSIC, 9.9, Hold.PREVIEW, False),
        (Generation.CLASSIC, 10, Hold.ARMED, True),
        (Generation.CLASSIC, 60, Hold.ARMED, True),
        (Generation.EDGENT, 3, Hold.DOWN, False),
        (Generation.EDGENT, 4, Hold.PREVIEW, False),
        (Generation.EDGENT, 10, Hold.ARMED, True),
        (Generation.EDGENT, 20, Hold.TOO_LONG, False),
    ],
)
def test_what_holding_it_means(generation: Generation, seconds: float, hold: Hold, reset: bool) -> None:
    button = Button(generation)
    button.press(100)
    assert button.pressed
    assert button.hold(100 + seconds) is hold
    assert button.release(100 + seconds) is reset
    assert button.hold(200) is Hold.UP


@example(13.4, Generation.CLASSIC)  # 13.4 + 10 - 13.4 is less than 10
@given(st.floats(0, 1e9), st.sampled_from(Generation))
def test_holding_it_for_just_as_long_is_enough_at_any_time(since: float, generation: Generation) -> None:
    button = Button(generation)
    button.press(since)
    assert button.release(since + 10)


def test_when_it_means_something_else() -> None:
    button = Button(Generation.EDGENT)
    assert button.next_step(0) is None
    button.press(1)
    assert [button.next_step(moment) for moment in (1, 5, 11, 21)] == [5, 11, 21, None]
