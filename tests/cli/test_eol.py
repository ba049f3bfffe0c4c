import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from provserver import config
from provserver.core import firmware_tag, nvs
from provserver.core.authorization import OPERATOR, Principal
from provserver.services.static_tokens import StaticTokens
from provserver.workspace import Workspace, workspace
from tests import qrcodes
from tests.adapters.edgent_unit import EdgentUnit, Failure
from tests.cli.conftest import Cli
from tests.core.firmware import INFO, TAG, esp8266

HOST = ("--host", "iot.example.com")
Result = TypeVar("Result")
On = Callable[[Callable[[Workspace], Awaitable[Result]]], Result]


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


@pytest.fixture
def on(cli_data_dir: Path, url: str) -> On[Any]:
    """Does something on the database of the commands, in a thread of its own as they do."""

    def run(work: Callable[[Workspace], Awaitable[Any]]) -> Any:
        async def act() -> Any:
            async with workspace(config.load(None, overrides={"data_dir": cli_data_dir, "database_url": url})) as space:
                return await work(space)

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: asyncio.run(act())).result()

    return run


@pytest.fixture
def line(on: On[Any], profile: str) -> str:
    """A profile with three tokens."""

    async def make(space: Workspace) -> None:
        tokens = StaticTokens(space.database, space.keys)
        await tokens.make(Principal(OPERATOR, space.organization_id), profile, 3)

    on(make)
    return profile


def write(cli: Cli, line: str, unit: str, *options: str) -> Any:
    return cli.json("eol", "write", "--profile", line, "--unit", unit, *options)


def auth(partition: Path) -> str:
    return str(nvs.read(partition.read_bytes())[0].value)


def template(cli: Cli, line: str) -> str:
    return str(cli.json("profile", "show", line)["templateId"])


def test_a_unit_gets_a_partition_and_its_label(cli: Cli, line: str, on: On[Any], tmp_path: Path) -> None:
    async def look(space: Workspace) -> tuple[Any, list[str]]:
        tokens = StaticTokens(space.database, space.keys)
        async with space.database.connection() as connection:
            statement = "SELECT action FROM audit WHERE subject_id = $1 ORDER BY at, id"
            rows = await connection.fetch(statement, done["tokenId"])
        shown = await tokens.show(Principal(OPERATOR, space.organization_id), done["tokenId"], open_=True)
        return shown, [row["action"] for row in rows]

    out, label = tmp_path / "SN-1.bin", tmp_path / "SN-1.png"

    done = write(cli, line, "SN-1", "--nvs", str(out), *HOST, "--label", str(label))

    assert (done["unit"], done["state"], done["profile"], done["resumed"]) == ("SN-1", "written", line, False)
    assert done["at"].endswith("Z")
    shown, actions = on(look)
    assert shown.auth_token == auth(out)
    (read,) = qrcodes.read_png(label.read_bytes())
    assert read.startswith(shown.qr_token + "+")
    assert [stat.S_IMODE(file.stat().st_mode) for file in (out, label)] == [0o600, 0o600]
    assert actions == ["static_token.reserved", "static_token.written"]


def test_a_unit_gets_a_firmware_of_its_own(cli: Cli, line: str, tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(esp8266(TAG + INFO.replace(b"TMPL2feLBENZh", template(cli, line).encode())))
    out = tmp_path / "out.bin"

    write(cli, line, "SN-1", "--firmware", str(tmp_path / "in.bin"), str(out), "--ssid", "Line 3", "--pass", "secret")

    values = firmware_tag.find(out.read_bytes(), firmware_tag.OPTIONS).values
    assert (values["ssid"], values["pass"], values["host"]) == ("Line 3", "secret", "blynk.cloud")
    assert len(values["auth"]) == 32


def test_a_unit_is_told_on_its_port(cli: Cli, line: str) -> None:
    with EdgentUnit(template(cli, line)) as unit:
        done = write(cli, line, "SN-1", "--serial", str(unit.path), *HOST)

    assert (done["state"], done["board"], done["firmwareVersion"]) == ("written", "Meter", "1.2.3")
    assert [words[1:] for words in unit.told] == [["iot.example.com"]]
    assert unit.faults == []


def test_no_secret_is_printed(cli: Cli, line: str, tmp_path: Path) -> None:
    out = tmp_path / "out.bin"
    commands_ = [
        ("write", "--unit", "SN-1", "--nvs", str(out), *HOST, "--ssid", "a", "--pass", "pl4nted"),
        ("write", "--unit", "SN-1", "--nvs", str(out), *HOST),
        ("status",),
        ("fail", "--unit", "SN-1"),
    ]

    printed = [cli.run("eol", *command, "--profile", line) for command in commands_]

    assert [done.code for done in printed] == [0, 1, 0, 0]
    for done in printed:
        assert auth(out) not in done.out + done.err
        assert "pl4nted" not in done.out + done.err
        assert "sqr_" not in done.out + done.err


def test_the_password_may_come_from_the_environment(
    cli: Cli, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EOL_WIFI_PASSWORD", "pl4nted")
    out = tmp_path / "out.bin"

    write(cli, line, "SN-1", "--nvs", str(out), *HOST, "--ssid", "a")

    config = nvs.read(out.read_bytes())[-1].value
    assert isinstance(config, bytes)
    assert b"pl4nted" in config


def test_the_status_says_who_has_what(cli: Cli, line: str, tmp_path: Path) -> None:
    done = write(cli, line, "SN-1", "--nvs", str(tmp_path / "out.bin"))

    status = cli.json("eol", "status", "--profile", line)
    said = cli.run("eol", "status", "--profile", line, "--state", "written")

    unit = {name: done[name] for name in ("unit", "state", "token", "tokenId", "at", "connectedAt")}
    assert status == {"profile": line, "free": 2, "reserved": 0, "written": 1, "failed": 0, "units": [unit]}
    assert unit["connectedAt"] is None
    assert "SN-1" in said.out
    assert f"{line}: 2 tokens free, 0 reserved, 1 written, 0 failed." in said.err


def test_a_unit_whose_token_is_given_up_gets_another(cli: Cli, line: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first.bin", tmp_path / "second.bin"
    write(cli, line, "SN-1", "--nvs", str(first))

    failed = cli.json("eol", "fail", "--profile", line, "--unit", "SN-1", "--reason", "a dead board")
    write(cli, line, "SN-1", "--nvs", str(second))

    assert failed["state"] == "failed"
    assert auth(first) != auth(second)
    assert "is given up" in cli.run("eol", "fail", "--profile", line, "--unit", "SN-1").err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give one of them"),
        (("--nvs", "{}/a", "--serial", "/dev/null"), "give one of them"),
        (("--nvs", "{}/a", "--nvs-size", "much"), "number of bytes"),
    ],
)
def test_a_wrong_command_line_is_told(cli: Cli, line: str, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    given = [option.replace("{}", str(tmp_path)) for option in options]

    assert said in " ".join(cli.refused("eol", "write", "--profile", line, "--unit", "SN", *given, code=2).split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "a b"), "The host must be a name"),
        (("--pass", "pl4nted"), "There is a WiFi password, but no SSID"),
        (("--ssid", "a"), "With an SSID there must be a host"),
        (("--nvs-size", "0x2000"), "The size of a partition is a multiple"),
        (("--label", "{}/label.gif"), "A label is a file with one of the endings"),
        (("--match", "Serial"), "whose Serial is 'SN'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    cli: Cli, line: str, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    given = [option.replace("{}", str(tmp_path)) for option in ("--nvs", "{}/out.bin", *options)]

    message = cli.refused("eol", "write", "--profile", line, "--unit", "SN", *given)

    assert said in message
    assert "pl4nted" not in message
    assert cli.json("eol", "status", "--profile", line)["free"] == 3


def test_tokens_that_were_exported_are_not_for_the_line(cli: Cli, line: str, tmp_path: Path) -> None:
    cli.json("token", "export", "--profile", line, "--csv", str(tmp_path / "tokens.csv"))

    said = cli.refused("eol", "write", "--profile", line, "--unit", "SN-1", "--nvs", str(tmp_path / "out.bin"))

    assert "3 may be in units already: they were exported" in said
    assert not (tmp_path / "out.bin").exists()


@pytest.mark.parametrize("command", [("write", "--unit", "a", "--nvs", "/tmp/a"), ("status",), ("fail", "--unit", "a")])
def test_a_profile_that_is_not_there_is_told(cli: Cli, command: tuple[str, ...]) -> None:
    assert "Look in the list of profiles" in cli.refused("eol", *command, "--profile", "no such profile")


def test_a_station_that_is_killed_leaves_the_token_with_its_unit(cli: Cli, line: str, tmp_path: Path) -> None:
    """The unit has got its token, and nobody has written that down: the next run gives it the same one."""
    target = template(cli, line)
    command = [sys.executable, "-m", "provserver", "eol", "write"]
    with EdgentUnit(target, Failure.SILENT_AFTER_CONNECT) as unit:
        station = subprocess.Popen(
            [*command, "--profile", line, "--unit", "SN-1", "--serial", str(unit.path), *cli.options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            asked = unit.asked_to_connect.wait(120)
        finally:
            os.kill(station.pid, signal.SIGKILL)
            printed, _ = station.communicate()
        assert asked, printed
    assert printed == b""
    between = cli.json("eol", "status", "--profile", line, "--unit", "SN-1")["units"]
    other = tmp_path / "other.bin"
    write(cli, line, "SN-2", "--nvs", str(other))
    with EdgentUnit(target) as again:
        done = write(cli, line, "SN-1", "--serial", str(again.path))

    assert [each["state"] for each in between] == ["reserved"]
    assert (done["resumed"], done["tokenId"]) == (True, between[0]["tokenId"])
    assert set(again.tokens) == set(unit.tokens)
    assert auth(other) not in unit.tokens
