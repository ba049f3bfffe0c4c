"""What `serve --demo` prints can be pasted into a shell, and provisions."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from provserver.cli import welcome
from provserver.cli.welcome import PROFILE
from provserver.config import Config
from provserver.services.profiles import ProfileChange
from tests.conftest import Space
from tests.server import Server

READY = f"Profile “{PROFILE}” is ready"


def printed(text: str) -> list[str]:
    """The lines to paste: what is neither empty nor a comment, nor the log."""
    return [line for line in text.splitlines() if line and line[0] not in "#{"]


def pasted(line: str, directory: Path) -> str:
    """What a line prints in a shell that was just opened, elsewhere."""
    shell = ["env", "-i", "PATH=/usr/bin:/bin", "sh", "-c", line]
    done = subprocess.run(shell, cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (line, done)
    return done.stdout


@pytest.mark.parametrize("own", [False, True], ids=["embedded", "own database"])
def test_every_line_works_in_a_fresh_shell(
    tmp_path: Path, tool: Callable[..., str], database_url: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("curl", "mosquitto_rr", "mosquitto_pub"):
        tool(program)
    tool("coap-client-notls", "coap-client")
    (tmp_path / "a b").mkdir()
    (tmp_path / "elsewhere").mkdir()
    if own:
        monkeypatch.setenv("PROVSERVER_KEYS_FILE", str(tmp_path / "my keys.json"))
    options = ["--database-url", database_url] if own else []
    with Server(tmp_path / "a b" / "data", "--demo", *options).start(restartable=True) as server:
        lines = printed(server.log)
        out = {line: pasted(line, tmp_path / "elsewhere") for line in lines}

        for program in ("curl", "mosquitto_rr", "coap-client"):
            (answer,) = (text for line, text in out.items() if line.startswith(program))
            assert json.loads(answer)["status"] == "SUCCESS"
        (shown,) = (text for line, text in out.items() if " device show " in line)
        assert re.search(r"^name +sensor-pub$", shown, re.MULTILINE)
        assert "credentialsValue" in shown
        devices = server.cli("device", "list", *options)
        assert {device["name"] for device in devices} == {
            *(f"sensor-{by}" for by in ("http", "mqtt", "pub", "coap")),
            *(f"sim-{by}" for by in ("http", "mqtt", "coap")),
        }
        server.stop()
        server.start()
        assert server.log.count(READY) == 2
        assert set(printed(server.log)) >= set(lines)


async def test_only_listeners_that_are_on_are_shown(space: Space, capsys: pytest.CaptureFixture[str]) -> None:
    await welcome.greet(space.profiles, {"mqtt": "127.0.0.1:1883"}, Config())

    out = capsys.readouterr().out
    assert "mosquitto_rr" in out
    assert "device --transport mqtt --server 127.0.0.1:1883" in out
    assert "curl" not in out
    assert "http" not in out
    assert "coap" not in out


async def test_a_demo_profile_without_keys_has_nothing_to_paste(
    space: Space, capsys: pytest.CaptureFixture[str]
) -> None:
    _, pair = await space.profiles.create(ProfileChange(name=PROFILE))
    await space.profiles.remove_key(PROFILE, pair.key)

    await welcome.greet(space.profiles, {"http": "127.0.0.1:8080"}, Config())

    assert capsys.readouterr().out == ""


async def test_no_key_can_leave_its_quotes(
    space: Space, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are an operator's choice, and so is where Python is; there, without the console scripts beside it."""
    monkeypatch.setattr(sys, "executable", "/opt/a b/python3")
    key = """a'b"c $(touch "$HOME/x") :smile: [red]"""
    await space.profiles.create(ProfileChange(name=PROFILE), key, "s")

    await welcome.greet(space.profiles, {"http": "127.0.0.1:8080"}, Config(data_dir=tmp_path))

    curl, simulator = printed(capsys.readouterr().out)
    assert json.loads(shlex.split(curl)[-1])["provisionDeviceKey"] == key
    words = shlex.split(simulator)
    assert words[:4] == ["/opt/a b/python3", "-m", "firmware_sim", "device"]
    assert words[words.index("--key") + 1] == key
