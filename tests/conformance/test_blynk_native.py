"""Blynk's own Python clients, as they come from the package index, by the native protocol; and our simulated device.

On a server of two workers, so that two connections of a token meet in different processes.
"""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conformance.test_blynk import LIMIT, provision
from tests.conformance.test_sdk import SDK
from tests.server import Server
from tests.test_wifi import Device, Phone
from tests.transports.blynk.wire import HARDWARE, LOGIN, PING, SYNC, message, response, whole

BLYNK_LIBRARY = """
import sys, time
import BlynkLib
port, token, pin, value = sys.argv[1:]
blynk = BlynkLib.Blynk(token, server="127.0.0.1", port=int(port), log=print)
seen = []
@blynk.ON("connected")
def connected(ping):
    blynk.virtual_write(int(pin), value)
    blynk.sync_virtual(int(pin))
@blynk.ON("V" + pin)
def written(texts):
    seen.extend(texts)
while blynk.state != BlynkLib.DISCONNECTED and not seen:
    blynk.run()
print("SEEN", seen)
"""

BLYNKLIB = """
import sys
import blynklib
port, token, pin, value, *rest = sys.argv[1:]
said = []
secure = dict(ssl_cert=rest[0]) if rest else {}
blynk = blynklib.Blynk(token, server="127.0.0.1", port=int(port), log=said.append, **secure)
seen = []
@blynk.handle_event("write V" + pin)
def written(number, texts):
    seen.extend(texts)
if not blynk.connect(timeout=1 if token.startswith("wrong") else 60):
    print("REFUSED", said)
else:
    blynk.virtual_write(int(pin), value)
    blynk.virtual_sync(int(pin))
    while not seen:
        blynk.run()
    print("SEEN", seen)
"""


@dataclass
class Site:
    """A server with a profile."""

    server: Server
    profile: dict[str, str]

    @property
    def port(self) -> int:
        return int(self.server.addresses["blynk"].split(":")[1])

    def device(self, name: str) -> str:
        """The token of a new one."""
        return provision(self.server, self.profile, name).token

    def values(self, token: str) -> Any:
        """What its pins have."""
        url = f"http://{self.server.http}/external/api/getAll?token={token}"
        with urllib.request.urlopen(url, timeout=LIMIT) as answer:
            return json.load(answer)

    def connect(self) -> "Raw":
        return Raw(socket.create_connection(("127.0.0.1", self.port), LIMIT))


@dataclass
class Raw:
    """A device that says what it is told to."""

    sock: socket.socket
    received: bytes = field(default=b"", repr=False)

    def says(self, data: bytes) -> bytes:
        """Send, and take one message."""
        self.sock.sendall(data)
        return self.message()

    def message(self) -> bytes:
        while (size := whole(self.received)) is None:
            data = self.sock.recv(4096)
            assert data, "closed"
            self.received += data
        found, self.received = self.received[:size], self.received[size:]
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    listeners = ("--blynk", "127.0.0.1:0", "--blynks", "127.0.0.1:0")
    with Server(tmp_path_factory.mktemp("blynk") / "data", "--workers", "2", *listeners, tls=True) as running:
        streams = ("temperature:V0:double:0:50", "sequence:V1:int", "state:V5:string")
        options = [part for stream in streams for part in ("--datastream", stream)]
        yield Site(running, running.cli("profile", "create", "heaters", *options))


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if not SDK.exists():
        text = "Blynk's clients are not installed: make sdk"
        pytest.fail(text) if os.environ.get("PROVSERVER_TEST_REQUIRE_TOOLS") else pytest.skip(text)
    command = [str(SDK), "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.parametrize("program", [BLYNK_LIBRARY, BLYNKLIB], ids=["blynk-library-python", "blynklib"])
def test_a_client_logs_in_and_writes_a_pin(site: Site, program: str, request: pytest.FixtureRequest) -> None:
    token = site.device(request.node.callspec.id)
    done = run(program, str(site.port), token, "5", "hello")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "SEEN ['hello']"
    assert site.values(token) == {"v5": "hello"}


def test_blynk_library_python_is_refused_with_a_wrong_token(site: Site) -> None:
    done = run(BLYNK_LIBRARY, str(site.port), "wrong", "5", "hello")
    assert "Invalid auth token" in done.stdout
    assert done.stdout.splitlines()[-1] == "SEEN []"


def test_blynklib_is_refused_with_a_wrong_token(site: Site) -> None:
    done = run(BLYNKLIB, str(site.port), "wrong", "5", "hello")
    assert "Invalid Auth Token" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("REFUSED")


def test_blynklib_over_tls(site: Site) -> None:
    port = site.server.addresses["blynks"].split(":")[1]
    token = site.device("over-tls")
    done = run(BLYNKLIB, port, token, "5", "hello", str(site.server.ca))
    assert done.stdout.splitlines()[-1] == "SEEN ['hello']", done.stderr
    assert site.values(token) == {"v5": "hello"}


def test_a_simulated_device(site: Site) -> None:
    for transport, options in (("blynk", ()), ("blynks", ("--ca", str(site.server.ca)))):
        command = [sys.executable, "-m", "firmware_sim", "device", "--transport", transport, "--credentials", "static"]
        command += ["--server", site.server.addresses[transport], "--telemetry", "2", "--interval", "0.01", "--json"]
        token = site.device(f"sim-{transport}")
        environment = os.environ | {"FIRMWARE_SIM_TOKEN": token}
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=180, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["connection"]["messages"] == 2
        assert site.values(token)["v1"] == 2
        assert token not in done.stderr + done.stdout


def test_the_newest_connection_stays_whichever_worker_has_it(site: Site) -> None:
    token = site.device("taken-over")
    connections = []
    for _ in range(8):
        connections.append(site.connect())
        assert connections[-1].says(message(LOGIN, 1, token)) == response(1, 200)
    *older, newest = connections
    for each in older:
        assert each.sock.recv(4096) == b""
        each.sock.close()
    assert newest.says(message(PING, 2)) == response(2, 200)
    site.server.cli("device", "delete", "taken-over")
    assert newest.sock.recv(4096) == b""
    newest.sock.close()
    again = site.connect()
    assert again.says(message(LOGIN, 1, token)) == response(1, 9)
    again.sock.close()


def test_an_operator_writes_a_pin(site: Site) -> None:
    raw = site.connect()
    assert raw.says(message(LOGIN, 1, site.device("operated"))) == response(1, 200)
    site.server.cli("device", "update", "operated", "--shared", 'state="on"')
    assert raw.message() == message(HARDWARE, 1, "vw", "5", "on")
    assert raw.says(message(SYNC, 2, "vr", "5")) == message(HARDWARE, 2, "vw", "5", "on")
    raw.sock.close()


def test_a_wifi_device_comes_online_with_the_token_that_the_phone_gave_it(site: Site, tmp_path: Path) -> None:
    native: Any = SimpleNamespace(mqtt=site.server.addresses["blynk"])
    mac = "FF:EE:DD:CC:BB:01"
    with Device(tmp_path, native, site.profile["templateId"], "classic", mac, transport="blynk") as device:
        device.becomes("WAIT_CONFIG")
        done = Phone(site.server, tmp_path).injected(device, "--name", "Hall")
        assert (done["deviceName"], done["templateId"]) == ("Hall", site.profile["templateId"])
        device.becomes("RUNNING")
        assert site.server.cli("device", "reconfigure", "Hall") == {"deviceIsOffline": False}
        device.becomes("WAIT_CONFIG")
    shown = site.server.cli("device", "show", "Hall")
    assert {each["key"]: each["value"] for each in shown["attributes"]}["mcu.tmpl"] == site.profile["templateId"]
