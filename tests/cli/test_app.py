import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer

from provserver.cli.app import cli as application
from provserver.config import LISTENERS, Config
from provserver.store.keyfile import load_or_create
from tests.cli.conftest import Cli, Holder
from tests.server import CommandFailed, Server


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group with its words; of typer's own click, which has no types of its own."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(application)))


def test_the_commands_are_the_documented_ones() -> None:
    assert {" ".join(path) for path, command in COMMANDS.items() if not hasattr(command, "commands")} == {
        "serve",
        *(f"db {name}" for name in ("upgrade", "status")),
        *(f"profile {name}" for name in ("create", "list", "show", "update", "delete", "clone", "export", "import")),
        *(f"profile key {name}" for name in ("add", "update", "remove")),
        *(f"profile ca {name}" for name in ("create", "import", "show")),
        *(f"device {name}" for name in ("create", "import", "list", "show", "update", "transfer")),
        *(f"device {name}" for name in ("rearm", "revoke", "rotate", "quarantine", "release", "delete")),
        *("device erase-data", "device reconfigure"),
        "inject",
        *(f"device {name}" for name in ("network", "onboard", "replace-hardware", "leave-network")),
        *(f"approval {name}" for name in ("list", "accept", "reject")),
        *(f"token {name}" for name in ("create", "import", "list", "show", "delete", "export")),
        *(f"token {name}" for name in ("claim", "unclaim", "disclaim")),
        *(f"eol {name}" for name in ("write", "status", "fail")),
        *("attempt list", "attempts list", "explain"),
        *(f"organization {name}" for name in ("create", "list", "show", "update", "delete")),
        *(f"user {name}" for name in ("invite", "list", "show", "update", "delete", "link")),
        *(f"key {name}" for name in ("create", "list", "delete")),
        *(f"request-key {name}" for name in ("create", "list", "delete")),
        *(f"webhook {name}" for name in ("create", "list", "show", "update", "delete")),
        *(f"webhook {name}" for name in ("test", "deliveries", "replay")),
        *(f"wifi-session {name}" for name in ("request", "list", "show", "summary", "cancel")),
        *(f"integration {name}" for name in ("create", "list", "show", "update", "delete")),
        *(f"integration {name}" for name in ("test", "onboard", "webhook", "devices")),
        *(f"sighting {name}" for name in ("list", "import", "merge")),
        *(f"particle {name}" for name in ("connect", "list", "show", "update", "disconnect", "test")),
        *(f"particle {name}" for name in ("plan", "apply", "verify", "revoke", "csv")),
        *(f"keys {name}" for name in ("rotate", "list", "retire")),
        *("backup", "restore"),
        *(f"job {name}" for name in ("list", "show", "watch", "cancel", "retry")),
        *(f"audit {name}" for name in ("list", "export", "head", "verify")),
        "ca init",
    }


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_option_has_a_help_text(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    command = COMMANDS[path]
    assert command.help
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{parameter.name} has no help text"

    done = Cli().run(*path, "--help")

    assert (done.code, done.err) == (0, "")
    assert f"Usage: provserver {' '.join(path)}".rstrip() in done.out
    assert re.sub(r"\s+", " ", command.help.split("\n\n")[0]) in re.sub(r"\s+", " ", done.out)


@pytest.mark.parametrize("listener", LISTENERS)
def test_the_help_says_which_listeners_are_off_and_what_they_need(listener: str) -> None:
    (option,) = (each for each in COMMANDS["serve",].params if each.name == listener)

    assert ("off by default" in option.help.lower()) == (not getattr(Config(), listener))
    assert ("provserver ca init" in option.help) == listener.endswith("s")


@pytest.mark.parametrize("path", [path for path, command in COMMANDS.items() if not hasattr(command, "commands")])
def test_everything_that_prints_can_print_json(path: tuple[str, ...]) -> None:
    options = {option for parameter in COMMANDS[path].params for option in parameter.opts}

    assert {"--config"} | ({"--data-dir"} if path != ("particle", "csv") else set()) <= options  # that has no database
    assert ("--database-url" in options) == (path not in (("ca", "init"), ("particle", "csv")))
    assert ("--json" in options) == (path not in (("serve",), ("profile", "export")))


@pytest.mark.parametrize("path", [path for path, command in COMMANDS.items() if hasattr(command, "commands")])
def test_a_group_alone_shows_its_help(path: tuple[str, ...]) -> None:
    done = Cli().run(*path)

    assert done.code == 2
    assert "Usage:" in done.out + done.err


def test_the_version_is_printed() -> None:
    assert Cli().run("--version").out == f"provserver {version('provserver')}\n"


@pytest.mark.parametrize("arguments", [("nonsense",), ("--nonsense",), ("db", "nonsense")], ids=" ".join)
def test_an_unknown_command_or_option_ends_with_2(arguments: tuple[str, ...]) -> None:
    assert "nonsense" in Cli().refused(*arguments, code=2)


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (("--config", "{tmp}/none.toml"), "none.toml cannot be read"),
        (("--config", "{tmp}/bad.toml"), "is not valid TOML"),
        (("--config", "{tmp}/unknown.toml"), "Did you mean 'database_url'?"),
        (("--database-url", "nonsense:pl4nted"), "The database URL is not valid"),
    ],
)
def test_a_wrong_configuration_ends_with_3(tmp_path: Path, arguments: tuple[str, ...], fix: str) -> None:
    (tmp_path / "bad.toml").write_text("= pl4nted")
    (tmp_path / "unknown.toml").write_text('databse_url = "pl4nted"')
    options = [argument.format(tmp=tmp_path) for argument in arguments]

    said = Cli().refused("profile", "list", "--data-dir", str(tmp_path / "d"), *options, code=3)

    assert fix in said
    assert "pl4nted" not in said
    assert not (tmp_path / "d" / "keys.json").exists()


def test_a_database_that_is_not_upgraded_ends_with_3(postgres: str, tmp_path: Path) -> None:
    said = Cli().refused("profile", "list", "--data-dir", str(tmp_path), "--database-url", postgres, code=3)

    assert "provserver db upgrade --database-url" in said


def test_keys_of_another_database_end_with_3(cli: Cli, url: str, tmp_path: Path) -> None:
    cli.json("profile", "list")
    load_or_create(tmp_path / "keys.json")

    said = Cli().refused("profile", "list", "--data-dir", str(tmp_path), "--database-url", url, code=3)

    assert "Use the keys file that belongs to it" in said


WRITING = [
    ("profile", "create"),
    ("profile", "import"),
    ("db", "upgrade"),
    ("db", "status"),
    ("serve",),
    ("ca", "init"),
    ("eol", "write"),
    ("backup",),
    ("restore",),
    ("profile", "ca", "import"),
    ("particle", "csv"),
]
"""Commands that make a data directory, or want more than words that are needed."""

WORDS = {
    "name": "n",
    "device": "d",
    "profile": "p",
    "key": "k",
    "file": "/dev/null",
    "email": "a@example.com",
    "organization": "o",
    "user": "u",
    "token": "1",
    "qr": "sqr_",
    "job": "j",
    "unit": "u",
    "webhook": "w",
    "session": "s",
    "integration": "i",
    "network_device": "n",
    "device_eui": "0018B20000000101",
    "product": "x",
    "application": "my-app",
    "url": "https://example.com",
    "reason": "r",
    "version": "1",
}


def words(path: tuple[str, ...]) -> list[str]:
    """The command with what it must be given."""
    more: list[str] = []
    for parameter in COMMANDS[path].params:
        if parameter.required:
            more += [*parameter.opts[: parameter.param_type_name == "option"], WORDS[parameter.name]]
    return [*path, *more]


@pytest.mark.parametrize(
    "path", [path for path, command in COMMANDS.items() if not hasattr(command, "commands") and path not in WRITING]
)
@pytest.mark.parametrize("there", [False, True])
def test_a_command_makes_no_data_directory(url: str, tmp_path: Path, path: tuple[str, ...], there: bool) -> None:
    data_dir = tmp_path / "data"
    if there:
        data_dir.mkdir()
    cli = Cli("--data-dir", str(data_dir))

    said = cli.refused(*words(path), code=3)
    no_keys = cli.refused(*words(path), "--database-url", url, code=3)

    assert f"There is no data directory at {data_dir}. Start the server there first (provserver serve)" in said
    assert f"There are no keys at {data_dir}/keys.json." in no_keys
    assert not list(tmp_path.glob("data/*"))


def test_the_state_of_a_schema_needs_a_data_directory_or_a_database(url: str, tmp_path: Path) -> None:
    cli = Cli("--data-dir", str(tmp_path / "data"))

    assert "There is no data directory" in cli.refused("db", "status", code=3)
    assert all(migration["applied"] for migration in cli.json("db", "status", "--database-url", url))
    assert not list(tmp_path.iterdir())


def test_a_data_directory_of_which_nothing_may_be_seen_is_no_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_: Path, *__: object, **___: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    monkeypatch.setattr(Path, "mkdir", forbidden)

    assert "cannot be used" in Cli().refused("profile", "list", "--data-dir", str(tmp_path / "data"), code=3)


def test_a_database_that_cannot_be_reached_ends_with_4(tmp_path: Path) -> None:
    url = "postgresql://u:pl4nted@127.0.0.1:1/d"

    said = Cli().refused("profile", "list", "--data-dir", str(tmp_path / "d"), "--database-url", url, code=4)

    assert "Postgres cannot be reached" in said
    assert "pl4nted" not in said
    assert not (tmp_path / "d").exists()


def test_a_database_that_does_not_answer_now_ends_with_4(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, holder: Holder
) -> None:
    cli.json("profile", "list")
    with holder, monkeypatch.context() as patch:
        patch.setattr("provserver.store.database.COMMAND_TIMEOUT", 0.5)
        assert "Postgres is not available" in cli.refused("profile", "list", code=4)
    cli.json("profile", "list")


def test_options_come_from_the_environment_and_the_file(
    url: str, cli: Cli, cli_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [profile["id"] for profile in cli.json("profile", "list")]
    (tmp_path / "c.toml").write_text(f'database_url = "{url}"\ndata_dir = "{cli_data_dir}"\n')
    assert [profile["id"] for profile in Cli("--config", str(tmp_path / "c.toml")).json("profile", "list")] == ids

    monkeypatch.setenv("PROVSERVER_DATABASE_URL", url)
    monkeypatch.setenv("PROVSERVER_DATA_DIR", str(cli_data_dir))
    assert [profile["id"] for profile in Cli().json("profile", "list")] == ids


# --- as processes, beside a server and without one


def test_commands_work_while_the_server_runs(server: Server) -> None:
    made = server.cli("profile", "create", "beside", "--strategy", "check-pre-provisioned")
    device = server.cli("device", "create", "beside 1", "--profile", "beside")

    assert made["id"] == device["profileId"]
    assert server.cli("db", "status")[0]["applied"]
    with pytest.raises(CommandFailed) as raised:
        server.cli("device", "create", "beside 1", "--profile", "beside")
    assert (raised.value.code, "Traceback" in raised.value.message) == (1, False)


def test_commands_work_without_a_server(tmp_path: Path) -> None:
    """Each starts the embedded Postgres of the data directory for itself, the first one makes it."""
    alone = Server(tmp_path / "data")

    made = alone.cli("profile", "create", "sensors", "--key", "k", "--secret", "s")
    shown = alone.run("profile", "show", "sensors", "--json")

    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["id"] == made["id"]
    assert json.loads(shown.stdout)["provisionDeviceKeys"] == ["k"]


def test_the_module_runs_as_the_console_script_does() -> None:
    script = Path(sys.executable).with_name("provserver")
    for command in ([sys.executable, "-m", "provserver"], [str(script)]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"provserver {version('provserver')}\n"


@pytest.mark.parametrize("listener", ["http", "mqtt", "coap", "https", "mqtts", "coaps", "blynk", "blynks"])
def test_an_address_that_is_none_is_a_wrong_command_line(listener: str) -> None:
    assert "host:port" in Cli().refused("serve", f"--{listener}", "nonsense", code=2)


@pytest.mark.parametrize("path", [path for path, command in COMMANDS.items() if not hasattr(command, "commands")])
def test_whatever_operators_do_is_done_on_a_server_too(path: tuple[str, ...]) -> None:
    options = {option for parameter in COMMANDS[path].params for option in parameter.opts}

    alone = path[0] in ("serve", "db", "ca", "keys", "backup", "restore") or path == ("particle", "csv")
    assert ({"--server", "--api-key"} <= options) is not alone


def test_a_command_loads_no_more_than_it_needs() -> None:
    """What takes long to load is loaded where it is needed: every command pays for the rest."""
    slow = ("aiohttp", "aiocoap", "argon2", "fpdf", "segno", "uvloop", "provserver.admin.api", "provserver.transports")
    script = "import sys, provserver.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert {name for name in done.stdout.split() if name.startswith(slow)} == set()
