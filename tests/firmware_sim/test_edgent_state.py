"""The firmware's states and their times, without a second passing."""

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.config_store import Config, from_values, pack, to_values, unpack
from firmware_sim.edgent_state import (
    Board,
    CloseAccessPoint,
    Dial,
    Edgent,
    Entered,
    Generation,
    OpenAccessPoint,
    Restart,
    Save,
    State,
    Tell,
    firmware,
    leading_number,
)
from firmware_sim.wifi_networks import Fault, LastError, Network, Networks

MAC = bytes.fromhex("FFEEDDCCBBAA")
TOKEN, OTHER = "a" * 32, "b" * 32
GOOD = {"if": "wifi", "ssid": "Home", "pass": "p", "blynk": TOKEN, "host": "h", "port_ssl": "9443"}
AROUND = Networks(
    [Network("Home", password="p"), *(Network(fault, password="p", fault=fault) for fault in Fault if fault != "none")]
)


def board(generation: Generation) -> Board:
    return Board(MAC, "TMPL1", "Garage", generation)


def booted(generation: Generation, flash: Config | None = None) -> Edgent:
    return firmware(board(generation), flash or Config(), AROUND)


def is_in(edgent: Edgent, state: State) -> bool:
    return edgent.state is state


def passed(edgent: Edgent, until: float) -> list[tuple[float, State]]:
    """The states that were entered, and when, if nobody does anything."""
    entered: list[tuple[float, State]] = []
    edgent.effects = [effect for effect in edgent.effects if not isinstance(effect, Entered)]
    while edgent.due is not None and edgent.due <= until:
        due = edgent.due
        edgent.tick(due)
        entered += [(round(due, 3), effect.state) for effect in edgent.effects if isinstance(effect, Entered)]
        if any(isinstance(effect, Restart) for effect in edgent.effects):
            break
        edgent.effects = [effect for effect in edgent.effects if not isinstance(effect, Entered)]
    return entered


def test_classic_firmware_is_provisioned() -> None:
    edgent = booted(Generation.CLASSIC)
    assert is_in(edgent, State.WAIT_CONFIG)
    edgent.tick(2.5)
    assert not edgent.access_point
    edgent.tick(2.6)
    assert edgent.access_point
    edgent.joined(5)
    edgent.asked(5)
    assert is_in(edgent, State.CONFIGURING)
    edgent.effects.clear()
    assert edgent.configure(GOOD, 10) == "Trying to connect..."
    assert edgent.effects == [CloseAccessPoint(), Entered(State.SWITCH_TO_STA)]
    assert passed(edgent, 20) == [(11.1, State.CONNECTING_NET), (14.1, State.CONNECTING_CLOUD)]
    assert Dial(TOKEN, "h", 9443) in edgent.effects
    edgent.effects.clear()
    edgent.logged_in(15)
    saved = edgent.config
    assert edgent.effects == [Entered(State.RUNNING), Save(saved), Tell("Hotspot Name", "Blynk Garage-8DCF")]
    assert saved.valid
    assert unpack(pack(saved)).valid


def test_classic_firmware_forgets_what_did_not_work_and_says_why() -> None:
    edgent = booted(Generation.CLASSIC)
    edgent.configure(GOOD | {"pass": "wrong"}, 10)
    assert passed(edgent, 200) == [(11.1, State.CONNECTING_NET), (61.1, State.ERROR)]
    assert edgent.effects[-1] == Restart()
    assert edgent.due is None
    assert [effect.config.last_error for effect in edgent.effects if isinstance(effect, Save)] == [701]
    again = booted(Generation.CLASSIC, edgent.config)
    assert (again.state, again.last_error) == (State.WAIT_CONFIG, 701)


def test_nobody_on_the_access_point_ends_configuring() -> None:
    edgent = booted(Generation.CLASSIC)
    edgent.tick(3)
    edgent.joined(4)
    edgent.asked(4)
    edgent.left(5)
    assert is_in(edgent, State.WAIT_CONFIG)
    assert edgent.access_point


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


@pytest.mark.parametrize(
    ("ssid", "password", "error"),
    [
        ("Nowhere", "p", 720),
        ("Home", "wrong", 722),
        ("no-ip", "p", 723),
        ("no-internet", "p", 702),
        ("captive-portal", "p", 712),
        ("bad-certificate", "p", 711),
        ("wrong-clock", "p", 711),
    ],
)
def test_new_firmware_says_what_exactly_went_wrong(ssid: str, password: str, error: int) -> None:
    edgent = booted(Generation.EDGENT)
    edgent.tick(1)
    edgent.joined(2)
    edgent.asked(2)
    edgent.configure(GOOD | {"ssid": ssid, "pass": password}, 3)
    assert edgent.last_error == 0
    edgent.effects.clear()
    while edgent.state is not State.WAIT_CONFIG:
        assert edgent.due is not None
        edgent.tick(edgent.due)
    assert edgent.last_error == error
    assert edgent.access_point


def test_new_firmware_keeps_its_access_point_until_the_phone_leaves() -> None:
    edgent = booted(Generation.EDGENT)
    edgent.tick(1)
    edgent.joined(2)
    edgent.asked(2)
    edgent.configure(GOOD, 3)
    edgent.tick(7)
    edgent.logged_in(7)
    assert edgent.access_point
    assert {effect for effect in edgent.effects if isinstance(effect, Tell)} == {
        Tell("Device UID", ""),
        Tell("Hotspot Name", "Blynk Garage-8DCF"),
    }
    edgent.left(10)
    edgent.tick(10.9)
    assert edgent.access_point
    edgent.tick(11)
    assert not edgent.access_point


def test_new_firmware_waits_ten_minutes_and_ten_boots() -> None:
    flash = Config()
    for boot in range(10):
        edgent = booted(Generation.EDGENT, flash)
        assert is_in(edgent, State.WAIT_CONFIG)
        edgent.tick(600)
        assert is_in(edgent, State.IDLE)
        flash = from_values(to_values(edgent.config))
        assert flash.skipped == boot + 1
    edgent = booted(Generation.EDGENT, flash)
    assert is_in(edgent, State.IDLE)
    edgent.button_reset(5)
    assert is_in(edgent, State.WAIT_CONFIG)
    assert booted(Generation.EDGENT, edgent.config).state is State.WAIT_CONFIG


def test_saving_keeps_what_was_not_tried_yet() -> None:
    for generation in Generation:
        edgent = booted(generation)
        edgent.configure(GOOD | {"save": "1"}, 5)
        flash = [effect.config for effect in edgent.effects if isinstance(effect, Save)][-1]
        assert booted(generation, flash).state is State.CONNECTING_NET


def test_a_new_firmwares_page_forgets_the_networks_alone() -> None:
    edgent = booted(Generation.EDGENT)
    edgent.configure(GOOD | {"save": "1"}, 5)
    edgent.reset_asked(6)
    assert edgent.config.networks == ()
    assert edgent.config.token == TOKEN


@pytest.mark.parametrize("generation", Generation)
def test_the_server_can_have_it_configured_anew(generation: Generation) -> None:
    edgent = booted(generation)
    edgent.configure(GOOD, 5)
    passed(edgent, 20)
    edgent.logged_in(20)
    edgent.reconfigure_asked(30)
    assert is_in(edgent, State.WAIT_CONFIG)
    assert edgent.config.token == TOKEN


@pytest.mark.parametrize(
    "wrong", [{"blynk": "short"}, {"ssid": ""}, {"blynk": ""}], ids=["short token", "no network", "no token"]
)
@pytest.mark.parametrize("generation", Generation)
def test_what_is_of_no_use_changes_nothing(generation: Generation, wrong: Mapping[str, str]) -> None:
    edgent = booted(generation)
    before = edgent.config
    assert edgent.configure({**GOOD, **wrong}, 5) is None
    assert (edgent.config, edgent.state) == (before, State.WAIT_CONFIG)
    assert booted(Generation.EDGENT).configure({**GOOD, "if": ""}, 5) is None


def test_addresses_that_are_none_are_ignored() -> None:
    edgent = booted(Generation.CLASSIC)
    edgent.configure(GOOD | {"ip": "10.0.0.300", "mask": "255.0.0.0"}, 5)
    assert (edgent.config.uses_static, edgent.config.static.mask) == (False, "255.0.0.0")


def test_numbers_are_read_as_c_reads_them() -> None:
    assert [leading_number(text) for text in ("12", "12x", "x", "", "-3", " 7 ")] == [12, 12, 0, 0, -3, 7]


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
