"""What every firmware does, and when, without a second passing."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.board import Generation
from firmware_sim.config_store import Config
from firmware_sim.edgent_state import Edgent, OpenAccessPoint, Restart, Save, State
from firmware_sim.generations import firmware
from firmware_sim.wifi_networks import LastError, Networks
from tests.firmware_sim.boots import AROUND, GOOD, TOKEN, board, booted, is_in, passed


@pytest.mark.parametrize("generation", Generation)
def test_a_device_that_was_online_tries_for_ever(generation: Generation) -> None:
    edgent = booted(generation)
    edgent.configure(GOOD, 5)
    passed(edgent, 20)
    edgent.logged_in(20)
    flash = edgent.config
    edgent = firmware(board(generation), flash, Networks([]))
    edgent.effects.clear()
    states = {state for _, state in passed(edgent, 20_000)}
    assert states == {State.CONNECTING_NET}


@pytest.mark.parametrize("generation", Generation)
def test_a_rejected_token_opens_the_access_point_even_of_a_device_that_was_online(generation: Generation) -> None:
    edgent = booted(generation)
    edgent.configure(GOOD, 5)
    passed(edgent, 20)
    edgent.rejected(20)
    assert (edgent.state, edgent.last_error) == (State.WAIT_CONFIG, 703)

    edgent.configure(GOOD, 30)
    passed(edgent, 45)
    edgent.logged_in(45)
    edgent.rejected(50)
    assert is_in(edgent, State.WAIT_CONFIG)
    passed(edgent, 60)
    assert edgent.access_point


@pytest.mark.parametrize("generation", Generation)
def test_a_server_that_is_slow_is_not_given_up(generation: Generation) -> None:
    edgent = booted(generation)
    edgent.configure(GOOD, 5)
    edgent.tick(500)
    assert is_in(edgent, State.CONNECTING_CLOUD)
    edgent.logged_in(501)
    assert is_in(edgent, State.RUNNING)


@pytest.mark.parametrize("generation", Generation)
def test_a_server_that_is_away_is_dialled_again_and_then_given_up(generation: Generation) -> None:
    edgent = booted(generation)
    edgent.configure(GOOD, 5)
    passed(edgent, 15)
    for moment in range(20, 80, 5):
        edgent.tick(moment)
        edgent.not_reached(LastError.CLOUD, moment)
    edgent.tick(80)
    assert edgent.last_error == 702
    assert edgent.state is (State.ERROR if generation is Generation.CLASSIC else State.WAIT_CONFIG)


@pytest.mark.parametrize("generation", Generation)
def test_the_server_can_have_it_configured_anew(generation: Generation) -> None:
    edgent = booted(generation)
    edgent.configure(GOOD, 5)
    passed(edgent, 20)
    edgent.logged_in(20)
    edgent.reconfigure_asked(30)
    assert is_in(edgent, State.WAIT_CONFIG)
    assert edgent.config.token == TOKEN


DEEDS: list[Callable[[Edgent, float], object]] = [
    lambda edgent, now: edgent.joined(now),
    lambda edgent, now: edgent.left(now),
    lambda edgent, now: edgent.asked(now),
    lambda edgent, now: edgent.configure(GOOD, now),
    lambda edgent, now: edgent.configure(GOOD | {"pass": "wrong", "save": "1"}, now),
    lambda edgent, now: edgent.reset_asked(now),
    lambda edgent, now: edgent.logged_in(now),
    lambda edgent, now: edgent.rejected(now),
    lambda edgent, now: edgent.not_reached(LastError.CLOUD, now),
    lambda edgent, now: edgent.reconfigure_asked(now),
    lambda edgent, now: edgent.update_asked(now),
]


@pytest.mark.parametrize("generation", Generation)
@given(
    deeds=st.lists(st.tuples(st.sampled_from(range(len(DEEDS))), st.floats(0, 700)), max_size=12),
    cut=st.integers(0, 30),
)
def test_whatever_happens_and_wherever_the_power_fails_the_button_brings_the_access_point_back(
    generation: Generation, deeds: list[tuple[int, float]], cut: int
) -> None:
    edgent = booted(generation)
    now, flash, saves = 0.0, Config(), 0
    for deed, seconds in deeds:
        DEEDS[deed](edgent, now)
        now += seconds
        edgent.tick(now)
        for effect in edgent.effects:
            if isinstance(effect, Save) and saves < cut:
                saves += 1
                flash = effect.config
        if any(isinstance(effect, Restart) for effect in edgent.effects) or saves == cut:
            edgent = firmware(board(generation), flash, AROUND, now)
        edgent.effects.clear()
    edgent = firmware(board(generation), flash, AROUND)
    if edgent.state is not State.WAIT_CONFIG:
        edgent.button_reset(1)
    assert is_in(edgent, State.WAIT_CONFIG)
    edgent.tick(5)
    assert OpenAccessPoint() in edgent.effects
    assert edgent.configure(GOOD, 6)
