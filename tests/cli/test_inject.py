import socket
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from tests.cli.conftest import Cli
from tests.support.access_point import FakeAccessPoint

PASSWORD = "c0rrect horse "  # with the blank


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody answers, and that nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def arguments(address: str, password: Path) -> list[str]:
    given = {"access-point": address, "host": "10.0.0.1", "ssid": "Home", "password-file": str(password)}
    return [word for name, value in given.items() for word in (f"--{name}", value)]


def test_a_password_that_the_network_does_not_take_is_said(local: Cli, name: str, password: Path) -> None:
    template = local.json("profile", "create", name)["templateId"]
    with FakeAccessPoint.of(template=template, errors=(0, 722)) as fake:
        done = local.run("inject", *arguments(fake.address, password), "--name", f"{name}-1")
    assert (done.code, done.out) == (1, "")
    assert f"Found 'Blynk Thermostat-8DCF', template {template}, firmware 1.2.0." in done.err
    assert "did not take that password. Type it anew" in done.err
    (config,) = (each for each in fake.targets if each.startswith("/config"))
    assert "pass=c0rrect%20horse%20&" in config
    token = config.partition("&blynk=")[2][:32]
    assert len(token) == 32
    session = local.json("wifi-session", "list")[0]
    assert (session["state"], session["lastError"], session["templateId"]) == (
        "FAILED",
        "wifi_wrong_password",
        template,
    )
    events = [each["event"] for each in local.json("wifi-session", "show", session["id"])["log"]]
    assert "config_sent" in events
    for secret in (token, PASSWORD.strip()):
        assert secret not in done.err + str(session)


def test_a_template_that_there_is_none_of_is_said_before_anything_is_sent(local: Cli, password: Path) -> None:
    with FakeAccessPoint.of(template="TMPLnowhere") as fake:
        assert "TMPLnowhere" in local.run("inject", *arguments(fake.address, password)).err
    assert not [each for each in fake.targets if each.startswith("/config")]


def test_the_wrong_device_gets_nothing(local: Cli, profile: str, name: str, password: Path) -> None:
    local.json("device", "create", name, "--profile", profile)
    with FakeAccessPoint.of(template="TMPLother") as fake:
        said = local.run("inject", *arguments(fake.address, password), "--device", name).err
        assert "This is the wrong device" in said
        said = local.run("inject", *arguments(fake.address, password), "--template", profile).err
        assert "This is the wrong device" in said
    assert not [each for each in fake.targets if each.startswith("/config")]


def test_nobody_there_is_said_with_what_to_do(local: Cli, password: Path, nobody: str) -> None:
    said = local.refused("inject", *arguments(nobody, password))
    assert f"No device answers at {nobody}. Join its access point" in said


def test_what_firmware_would_cut_is_refused_first(local: Cli, password: Path) -> None:
    with FakeAccessPoint.of() as fake:
        said = local.refused("inject", *arguments(fake.address, password), "--host", "h" * 34)
    assert "33 characters. Firmware would cut it" in said
    assert fake.targets == []


def test_a_device_is_erased_or_deleted(local: Cli, profile: str, name: str) -> None:
    made = local.json("device", "create", name, "--profile", profile)
    assert local.json("inject", "--erase", name)["id"] == made["id"]
    assert "goes on as it is" in local.run("inject", "--erase", name).err
    assert "hold the button" in local.run("inject", "--delete", name).err
    assert "There is no device" in local.refused("device", "show", name)


def test_a_person_is_asked_and_may_try_again(local: Cli, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = local.json("profile", "create", name)["templateId"]
    answers = ["10.0.0.1", "2", "wrong", f"{name}-1", "Cafe", "nowhere", ""]
    asked = []

    def prompt(text: str, **_: object) -> str:
        asked.append(text)
        return answers.pop(0)

    confirmed = [True, True, False]
    monkeypatch.setattr("sys.stdin", mock.Mock(isatty=lambda: True))
    monkeypatch.setattr("typer.prompt", prompt)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: confirmed.pop(0))
    with FakeAccessPoint.of(template=template, errors=(0, 722)) as fake:
        done = local.run("inject", "--access-point", fake.address)
    assert (done.code, done.out) == (1, "")
    assert '2  Bob"s "attic"  (-70 dBm, WPA2)' in done.err
    assert done.err.count("error:") == 3
    tried = [each.partition("&blynk")[0] for each in fake.targets if each.startswith("/config")]
    assert tried == [
        "/config?ssid=Bob%22s%20%22attic%22&pass=wrong",
        "/config?ssid=Cafe&pass=",
        "/config?ssid=nowhere&pass=",
    ]
    network, password = "WiFi network, its number or name", "Password (empty: none)"
    assert asked[1:] == [network, password, "Name of the device", network, network, password]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--erase", "a", "--delete", "b"],
        ["--device", "a", "--name", "b", "--host", "h"],
        ["--ssid", "Home"],  # no host
        ["--host", "h", "--bridge", "127.0.0.1:1"],
        ["--host", "h", "--way", "ble"],
        ["--host", "h", "--way", "ble", "--bridge", "nonsense"],
        ["--host", "h", "--way", "improv"],
        ["--host", "h", "--way", "esp"],
        ["--host", "h", "--way", "esp", "--serial", "/dev/null"],
    ],
)
def test_options_that_do_not_go_together_are_refused(local: Cli, wrong: list[str]) -> None:
    local.refused("inject", *wrong, code=2)


def test_a_password_that_others_can_read_is_refused(local: Cli, password: Path) -> None:
    password.chmod(0o644)
    said = local.refused("inject", "--host", "h", "--ssid", "Home", "--password-file", str(password), code=3)
    assert "chmod 600" in said


@pytest.mark.parametrize("way", ["ble", "improv", "esp"])
def test_other_ways_say_that_nobody_is_there(local: Cli, password: Path, tmp_path: Path, nobody: str, way: str) -> None:
    proof = tmp_path / "proof"
    proof.write_text("wifiprov\nabcd1234\n")
    proof.chmod(0o600)
    where = {
        "ble": ["--bridge", nobody],
        "improv": ["--serial", str(tmp_path / "tty")],
        "esp": ["--access-point", nobody, "--proof-file", str(proof)],
    }
    wifi = ("--host", "10.0.0.1", "--ssid", "Home", "--password-file", str(password))
    said = local.refused("inject", "--way", way, *where[way], *wifi)
    assert str(tmp_path / "tty") in said if way == "improv" else nobody in said
