"""`provserver keys` beside a server with several processes, ended by force wherever it is."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from provserver.cli.keys import _lost
from provserver.store.server_keys import Remains
from tests.cli.conftest import Cli
from tests.server import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("keys") / "data", "--workers", "2") as running:
        yield running


def post(address: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The status and reply to a request over HTTP."""
    request = Request(f"http://{address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read() or b"{}")
    except HTTPError as fault:
        return fault.code, {}


class Factory:
    """Makes devices, and has each come back, until it is stopped; what went wrong is in `faults`."""

    def __init__(self, server: Server, profile: dict[str, Any]) -> None:
        self.server = server
        self.members = {name: profile[name] for name in ("provisionDeviceKey", "provisionDeviceSecret")}
        self.tokens: list[str] = []
        self.faults: list[object] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def make(self, name: str) -> None:
        status, reply = post(self.server.http, "/api/v1/provision", self.members | {"deviceName": name})
        if reply.get("status") == "SUCCESS":
            self.tokens.append(reply["credentialsValue"])
        else:
            self.faults.append((name, status, reply))

    def come_back(self, token: str) -> None:
        status, _ = post(self.server.http, f"/api/v1/{token}/telemetry", {"t": 1})
        if status != 200:
            self.faults.append(("telemetry", status))

    def _work(self) -> None:
        number = 0
        while not self._stop.is_set():
            self.make(f"{threading.get_ident()} {number}")
            self.come_back(self.tokens[number * 7 % len(self.tokens)])
            number += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def killed(server: Server, *arguments: str, after: int) -> bool:
    """Run a command and end it by force after so many tenths of a second, if it has not ended by then."""
    command = [sys.executable, "-m", "provserver", *arguments, "--data-dir", str(server.data_dir)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=server.env)
    try:
        process.wait(after / 10)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def test_keys_are_rotated_under_load_however_often_the_command_is_killed(server: Server) -> None:
    profile = server.cli("profile", "create", "sensors")
    factory = Factory(server, profile)
    for n in range(20):
        factory.make(f"before {n}")
    with factory:
        for after in (10, 14, 18):
            killed(server, "keys", "rotate", after=after)
        rotated = server.cli("keys", "rotate")
        listed = server.cli("keys", "list")

    assert factory.faults == []
    assert rotated["version"] >= 2
    current = next(each["version"] for each in listed["versions"] if each["state"] == "current")
    assert current == rotated["version"]
    assert [each["writes"] for each in listed["processes"] if each["alive"]] == [
        current
    ] * 3  # two workers, the admin API
    for old in rotated["old"]:
        assert server.cli("keys", "retire", str(old), "--yes") == {"version": old, "removed": True}
    for token in factory.tokens:
        factory.come_back(token)
    assert factory.faults == []
    server.cli("audit", "verify")
    assert list(json.loads((server.data_dir / "keys.json").read_text())["digest"]) == [str(current)]
    assert all(key not in server.log for key in _keys(server.data_dir))


def _keys(data_dir: Path) -> list[str]:
    content = json.loads((data_dir / "keys.json").read_text())
    return [key for versions in content.values() for key in versions.values()]


def test_what_would_be_lost_is_named() -> None:
    assert _lost(Remains([], 0, 0, 0, 0)) == ""
    assert _lost(Remains([], 2, 0, 1, 0)) == "2 sessions of people who are signed in, 1 claims that devices offer"


def test_versions_are_listed_and_unknown_ones_refused(local: Cli) -> None:
    local.json("profile", "list")
    assert local.json("keys", "list")["versions"] == [{"version": 1, "state": "current"}]
    assert "written with" in local.run("keys", "list").out
    assert "There is no version 7 of the keys" in local.refused("keys", "retire", "7")
    assert "Version 1 is in use" in local.refused("keys", "retire", "1")


def test_keys_of_the_environment_are_used_and_never_written(
    local: Cli, cli_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVSERVER_KEYS", (cli_data_dir / "keys.json").read_text())
    assert local.json("keys", "list")["versions"] == [{"version": 1, "state": "current"}]
    assert "--write FILE" in local.refused("keys", "rotate", code=3)
    monkeypatch.setenv("PROVSERVER_KEYS", "pl4nted")
    said = local.refused("keys", "list", code=3)
    assert "PROVSERVER_KEYS must be" in said
    assert "pl4nted" not in said
    options = tmp_path / "options.toml"
    options.write_text('keys = "pl4nted"')
    monkeypatch.delenv("PROVSERVER_KEYS")
    said = local.refused("keys", "list", "--config", str(options), code=3)
    assert "keys are given in the environment" in said
    assert "pl4nted" not in said
