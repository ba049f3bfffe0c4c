"""The seed's WiFi story, with three processes: the server, a device in its own network, and the phone's side."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import pytest

from tests import processes
from tests.server import Server

LIMIT = 120.0
"""Seconds after which a device is taken to hang."""

RIGHT, WRONG = "correct horse", "wrong horse"
NETWORKS = f'[[network]]\nssid = "Home"\npassword = "{RIGHT}"\n[[network]]\nssid = "Bob\'s \\"attic\\""\nrssi = -80\n'


class Device:
    """A simulated device, its button and what is to be seen of it. mac: it makes the end of its name."""

    def __init__(self, directory: Path, server: Server, template: str, generation: str, mac: str, **more: str) -> None:
        networks, self._ready_file = directory / "networks.toml", directory / "ready.json"
        networks.write_text(NETWORKS)
        self.log_file = directory / "device.log"
        options = {
            "softap": "127.0.0.1:0",
            "control": "127.0.0.1:0",
            "generation": generation,
            "mac": mac,
            "template": template,
            "template-name": "Thermostat",
            "networks": str(networks),
            "flash": str(directory / "flash.bin"),
            "time-scale": "0.001",
            "transport": "mqtt",
            "server": server.mqtt,
            "ready-file": str(self._ready_file),
            **more,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value) if word]
        self._words = ["wifi", *words]

    def __enter__(self) -> Self:
        with self.log_file.open("ab") as log:
            self._process = processes.firmware_sim().start(self._words, os.environ, log.fileno(), log.fileno())
        end = time.monotonic() + LIMIT
        while not self._ready_file.exists():
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended with {self._process.wait(0.02)}: {self.log_file.read_text()}")
            if time.monotonic() > end:
                self._process.kill()
                self._process.wait()
                pytest.fail(f"it cannot be reached: {self.log_file.read_text()}")
        ready = json.loads(self._ready_file.read_text())
        self.ready, self.access_point, self.name = ready, ready["softap"], ready["name"]
        host, _, port = ready["control"].partition(":")
        self._control = socket.create_connection((host, int(port)), timeout=LIMIT)
        self._answers = self._control.makefile("r")
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._control.close()
        self._process.terminate()
        self._process.wait(LIMIT)

    def ask(self, line: str) -> dict[str, Any]:
        """What the device says to a line on its control."""
        self._control.sendall(line.encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._answers.readline())
        assert "error" not in answer, answer
        return answer

    def resolved(self, name: bytes) -> bytes:
        """What its name server, beside its open access point, says of a name."""
        host, _, port = self.ready["dns"].partition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
            phone.settimeout(LIMIT)
            phone.connect((host, int(port)))
            phone.send(bytes([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]) + name + bytes([0, 1, 0, 1]))
            return phone.recv(512)

    def becomes(self, state: str) -> dict[str, Any]:
        """The device, once it is in a state."""
        return self.ask(f"wait {state}")


Start = Callable[..., Device]


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda *given, **more: stack.enter_context(Device(tmp_path, server, *given, **more))


class Phone:
    """The phone's side, in processes of its own."""

    def __init__(self, server: Server, directory: Path) -> None:
        self._server = server
        self._directory = directory

    def inject(self, device: Device, password: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Hand a device its WiFi."""
        file = self._directory / "password"
        file.write_text(password)
        file.chmod(0o600)
        host, _, port = self._server.mqtt.partition(":")
        by_air = () if {"ble", "improv"} & set(options) else ("--access-point", device.access_point)
        where = (*by_air, "--host", host, "--port", port)
        wifi = ("--ssid", "Home", "--password-file", str(file))
        return self._server.run("inject", *where, *wifi, *options)

    def injected(self, device: Device, *options: str) -> dict[str, Any]:
        """What is said of a device that came online."""
        done = self.inject(device, RIGHT, *options, "--json")
        assert done.returncode == 0, done.stderr + device.log_file.read_text()
        result: dict[str, Any] = json.loads(done.stdout)
        return result


@pytest.fixture
def phone(server: Server, tmp_path: Path) -> Phone:
    return Phone(server, tmp_path)


class Operator:
    """Asks the admin API, which is quicker than a command."""

    def __init__(self, server: Server) -> None:
        self._root = f"http://{server.admin}/api/admin"
        self._key = server.cli("key", "create", "wifi")["secret"]

    def ask(self, path: str, body: object = None) -> Any:
        """GET; or POST, with a body."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self._root + path, data, headers), timeout=LIMIT) as answer:
            return json.load(answer)

    def template(self, name: str) -> str:
        """The template id of a new profile."""
        return str(self.ask("/profiles", {"name": name})["templateId"])

    def token(self, device: str) -> str:
        """A device's token."""
        (credentials,) = self.ask(f"/devices/{device}?credentials=true")["credentials"]
        return str(credentials["credentialsValue"])


@pytest.fixture(scope="module")
def operator(server: Server) -> Operator:
    return Operator(server)


def test_from_the_access_point_to_the_cloud_and_back(
    server: Server, operator: Operator, phone: Phone, start: Start
) -> None:
    template = operator.template("Thermostat")
    device = start(template, "classic", "FF:EE:DD:CC:BB:AA")
    device.becomes("WAIT_CONFIG")

    # The network does not take the password: the access point comes back, and says so.
    done = phone.inject(device, WRONG, "--name", "Hall")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Found {device.name!r}" in done.stderr
    assert "could not join the WiFi network. Check the network's name and its password" in done.stderr
    assert device.ask("state")["lastError"] == 701

    # The right one, and it is there, under the name that it was given.
    first = phone.injected(device, "--name", "Hall")
    assert (first["deviceName"], first["accessPoint"], first["templateId"]) == ("Hall", device.name, template)
    assert device.becomes("RUNNING")["accessPoint"] is False
    sessions = {each["id"]: each for each in operator.ask("/wifi-sessions")["items"]}
    assert sessions[first["wifiSession"]]["state"] == "SUCCESS"
    assert {each["lastError"] for each in sessions.values() if each["deviceName"] == "Hall"} >= {"wifi_not_connected"}

    # What it has sent stays when it gets new WiFi, and so does its id.
    before = operator.token("Hall")
    request = urllib.request.Request(f"http://{server.http}/api/v1/{before}/telemetry", b'{"temperature": 21.5}')
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=LIMIT) as answer:
        assert answer.status == 200
    again = phone.injected(device, "--reconfigure", "Hall")
    assert again["deviceId"] == first["deviceId"]
    device.becomes("RUNNING")
    shown = operator.ask("/devices/Hall")
    assert {each["key"]: each["value"] for each in shown["telemetry"]}["temperature"] == 21.5
    assert operator.token("Hall") != before

    # The button: it forgets its WiFi, and is set up once more.
    device.ask("press 11")
    device.becomes("WAIT_CONFIG")
    assert phone.injected(device, "--device", "Hall")["deviceId"] == first["deviceId"]
    device.becomes("RUNNING")

    # One that is deleted learns it from the server, and opens its access point.
    deleted = server.run("inject", "--delete", "Hall")
    assert "opens its access point again" in deleted.stderr
    device.becomes("WAIT_CONFIG,CONFIGURING")
    told = server.log + device.log_file.read_text() + str(sessions) + done.stderr
    for secret in (RIGHT, WRONG, before):
        assert secret not in told


def test_new_firmware_says_that_the_password_was_wrong(operator: Operator, phone: Phone, start: Start) -> None:
    template = operator.template("Thermostat 2")
    device = start(template, "edgent", "FF:EE:DD:CC:BB:AB", dns="127.0.0.1:0")
    device.becomes("WAIT_CONFIG")
    done = phone.inject(device, WRONG)
    assert done.returncode == 1
    assert "did not take that password. Type it anew" in done.stderr
    assert device.resolved(b"\x05blynk\x05setup\x00").endswith(bytes([192, 168, 4, 1]))
    assert phone.injected(device)["accessPoint"] == device.name
    assert device.becomes("RUNNING")["lastError"] == 0


def test_esp_idf_s_way_where_nothing_is_in_clear(
    server: Server, operator: Operator, phone: Phone, start: Start, tmp_path: Path
) -> None:
    label = tmp_path / "label.json"
    label.write_text('{"ver":"v1","name":"PROV_8DCF","username":"wifiprov","pop":"abcd1234","transport":"softap"}')
    label.chmod(0o600)
    template = operator.template("Thermostat 3")
    device = start(template, "classic", "FF:EE:DD:CC:BB:AC", **{"esp": "127.0.0.1:0", "esp-proof": str(label)})
    device.becomes("WAIT_CONFIG")
    device.access_point = device.ready["esp"]
    way = ("--way", "esp", "--proof-file", str(label))
    done = phone.inject(device, WRONG, *way)
    assert done.returncode == 1
    assert "could not join the WiFi network" in done.stderr
    made = phone.injected(device, *way)
    assert made["templateId"] == template
    assert device.becomes("RUNNING")["lastError"] == 0
    told = server.log + device.log_file.read_text() + done.stderr
    for secret in (RIGHT, WRONG, "abcd1234", operator.token(made["deviceId"])):
        assert secret not in told


def test_the_other_ways(server: Server, operator: Operator, phone: Phone, start: Start) -> None:
    template = operator.template("Thermostat 4")
    device = start(template, "classic", "FF:EE:DD:CC:BB:AD", ble="127.0.0.1:0", improv="")
    for option, way in (("bridge", "ble"), ("serial", "improv")):
        device.becomes("WAIT_CONFIG")
        made = phone.injected(device, "--way", way, f"--{option}", device.ready[way])
        assert (made["templateId"], made["accessPoint"]) == (template, device.name)
        assert device.becomes("RUNNING")["lastError"] == 0
        device.ask("press 11")
    log = server.log + device.log_file.read_text()
    for secret in (RIGHT, operator.token(made["deviceId"])):
        assert secret not in log
