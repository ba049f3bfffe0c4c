"""What each generation of firmware does, and when, without a second passing."""

from collections.abc import Mapping

import pytest

from firmware_sim.board import Generation
from firmware_sim.config_store import Config, from_values, pack, to_values, unpack
from firmware_sim.edgent_state import CloseAccessPoint, Dial, Entered, Restart, Save, State, Tell
from firmware_sim.generations import leading_number
from tests.firmware_sim.boots import GOOD, TOKEN, booted, is_in, passed


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
