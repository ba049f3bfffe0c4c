"""The scenarios that are shipped, scaled down, against a real server; their limits decide."""

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests import processes
from tests.server import Server

DIRECTORY = Path(__file__).parents[1] / "config" / "scenarios"

GUARDED = {
    "PROVSERVER_GUESS_LIMIT": "5",
    "PROVSERVER_GUESS_INTERVAL": "60",
    "PROVSERVER_LOCKED_INTERVAL": "5",
    "PROVSERVER_REPEAT_INTERVAL": "10",
    "PROVSERVER_CONNECT_TIMEOUT": "1",
}
"""Limits as tight as few tries need them, however slow the machine is; who says nothing is closed soon."""


@dataclass(frozen=True)
class Played:
    """What a scenario came to."""

    code: int
    report: dict[str, Any]
    stderr: str
    picture: Path

    @property
    def limits(self) -> dict[str, Any]:
        return {limit["name"]: limit for limit in self.report["limits"]}


@dataclass(frozen=True)
class Theatre:
    """A server with a profile of its own."""

    server: Server
    profile: str
    template: str
    secrets: dict[str, str] = field(repr=False)
    directory: Path

    def play(self, name: str, scale: float, time_scale: float, *more: str) -> Played:
        picture = self.directory / f"{name}.svg"
        words = ["fleet", "--scenario", str(DIRECTORY / f"{name}.toml")]
        words += [f"--{each}={address}" for each, address in self.server.devices.items()]
        words += ["--scale", str(scale), "--time-scale", str(time_scale), "--svg", str(picture), "--json"]
        words += ["--ca", str(self.server.ca), "--api", self.server.admin, "--template", self.template, *more]
        done = processes.firmware_sim().run(words, os.environ | self.secrets, None, 300)
        assert done.stdout, done.stderr
        for secret in self.secrets.values():
            assert secret not in done.stdout + done.stderr
        return Played(done.returncode, json.loads(done.stdout), done.stderr, picture)

    def devices(self, group: str) -> list[dict[str, Any]]:
        return [each for each in self.server.cli("device", "list", "--profile", self.profile) if group in each["name"]]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("scenarios") / "data", env=GUARDED, tls=True) as running:
        yield running


@pytest.fixture
def theatre(guarded: Server, tmp_path: Path) -> Theatre:
    name = f"play-{secrets.token_hex(4)}"
    made = guarded.cli("profile", "create", name)
    given = {"FIRMWARE_SIM_KEY": made["provisionDeviceKey"], "FIRMWARE_SIM_SECRET": made["provisionDeviceSecret"]}
    return Theatre(guarded, name, made["templateId"], given, tmp_path)


def assert_met(played: Played) -> None:
    missed = [limit for limit in played.report["limits"] if not limit["met"]]
    failures = [group["failures"] | group.get("links", {}) for group in played.report["groups"].values()]
    assert (played.code, missed) == (0, []), (failures, played.stderr[-2000:])
    ElementTree.fromstring(played.picture.read_text())


def test_factory_line(theatre: Theatre) -> None:
    played = theatre.play("factory-line", 0.05, 0.05)
    assert_met(played)
    assert {
        name: sum(t["provisioned"] for t in g["transports"].values()) for name, g in played.report["groups"].items()
    } == {
        "boards": 30,
        "tested": 8,
        "gateways": 3,
        "secure": 3,
    }
    assert len(theatre.devices("secure")) == 3


def test_city_power_cut(theatre: Theatre) -> None:
    played = theatre.play("city-power-cut", 0.05, 0.1)
    assert_met(played)
    assert played.report["powerCuts"] >= played.limits["power_cuts_min"]["limit"] >= 7
    assert played.report["network"]["segments late"] > 0
    devices = theatre.devices("meters")
    assert len(devices) == len({device["name"] for device in devices}) == 22


def test_leaked_key(theatre: Theatre) -> None:
    played = theatre.play("leaked-key", 0.05, 0.1)
    assert_met(played)
    attacks = played.report["attacks"]
    assert sum(attacks["guess"].values()) == 60
    assert attacks["guess"]["turned away"] > 0  # its address was locked, and nobody else's
    assert set(attacks["impersonate"]) <= {"refused", "turned away"}
    assert attacks["slow-loris"] == {"closed by the server": 20}
    shown = (theatre.server.cli("device", "show", each["name"]) for each in theatre.devices("sensors"))
    assert any(each["cloneSigns"] for each in shown)  # of the impersonators, at least


def test_phone_onboarding(theatre: Theatre) -> None:
    made = theatre.server.cli("key", "create", f"phones-{theatre.profile}", "--permission", "devices:claim")
    theatre.secrets["FIRMWARE_SIM_API_KEY"] = made["secret"]
    played = theatre.play("phone-onboarding", 0.05, 0.02)
    assert_met(played)
    sessions = theatre.server.cli("wifi-session", "list")
    assert [each["state"] for each in sessions] == ["SUCCESS"] * 10


def test_a_limit_that_does_not_hold_is_told_by_the_exit_code(theatre: Theatre, tmp_path: Path) -> None:
    file = tmp_path / "impossible.toml"
    file.write_text('name = "x"\n[[group]]\nname = "g"\ncount = 2\n[limits]\nprovisioned_min = 3\n')
    played = theatre.play(str(file.with_suffix("")), 1, 1)
    assert played.code == 8
    assert played.limits["provisioned_min"] == {"name": "provisioned_min", "limit": 3, "measured": 2, "met": False}
