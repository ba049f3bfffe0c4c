from pathlib import Path

import pytest

from provserver.cli.target import KEY_VARIABLE
from tests.cli.conftest import Cli
from tests.server import Server


@pytest.mark.parametrize(
    "url",
    ["nonsense", "ftp://host", "https://", "https://host:99999", "https://u:p@host", "https://host/?q", "https://h\n"],
)
def test_a_server_that_is_no_url_is_a_wrong_command_line(url: str) -> None:
    assert "--server" in Cli().refused("job", "list", "--server", url, code=2)


def test_a_server_goes_without_a_database(tmp_path: Path) -> None:
    for option in ("--data-dir", "--config", "--database-url"):
        said = Cli(option, str(tmp_path)).refused("job", "list", "--server", "http://localhost:1", code=2)
        assert "--data-dir" in said
    assert "needs --server" in Cli().refused("job", "list", "--api-key", "k", code=2)


def test_a_server_needs_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cli = Cli("--server", "http://localhost:1")

    assert "provserver key create" in cli.refused("job", "list", code=3)
    assert "provserver key create" in cli.refused("job", "list", "--api-key", "pl4nted\n", code=3)
    monkeypatch.setenv(f"{KEY_VARIABLE}_FILE", str(tmp_path / "none"))
    assert "cannot be read" in cli.refused("job", "list", code=3)
    (tmp_path / "key").write_bytes(b"\xff")
    monkeypatch.setenv(f"{KEY_VARIABLE}_FILE", str(tmp_path / "key"))
    assert "not UTF-8" in cli.refused("job", "list", code=3)


def test_a_key_comes_from_the_environment_or_a_file(
    remote: Cli, administered: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, key = f"http://{administered.admin}", remote.options[-1]
    cli = Cli("--server", url)

    monkeypatch.setenv(KEY_VARIABLE, key)
    cli.json("job", "list")
    monkeypatch.delenv(KEY_VARIABLE)
    (tmp_path / "key").write_text(f"{key}\n")
    monkeypatch.setenv(f"{KEY_VARIABLE}_FILE", str(tmp_path / "key"))
    cli.json("job", "list")


def test_a_key_in_the_environment_is_no_option_of_the_database(local: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "k")
    local.json("job", "list")


def test_a_key_that_is_not_good_is_told(administered: Server) -> None:
    cli = Cli("--server", f"http://{administered.admin}", "--api-key", "psk_pl4nted")

    said = cli.refused("job", "list")

    assert "error: " in said
    assert "pl4nted" not in said


def test_a_key_that_may_not_is_told(local: Cli, administered: Server, name: str) -> None:
    made = local.json("key", "create", name, "--permission", "devices:view")
    cli = Cli("--server", f"http://{administered.admin}", "--api-key", made["secret"])

    cli.json("device", "list")
    assert "tokens:manage" in cli.refused("token", "list")


def test_a_server_that_is_not_there_ends_with_4() -> None:
    said = Cli("--server", "http://127.0.0.1:1", "--api-key", "k").refused("job", "list", code=4)

    assert "http://127.0.0.1:1 cannot be reached" in said


def test_what_is_no_admin_api_is_told(administered: Server) -> None:
    cli = Cli("--server", f"http://{administered.http}", "--api-key", "k")

    assert "no admin API" in cli.refused("job", "list", code=3)


def test_a_key_in_clear_is_warned_of() -> None:
    cli = Cli("--server", "http://host.invalid:1", "--api-key", "pl4nted")

    said = cli.refused("job", "list", code=4)

    assert "in clear" in said
    assert "pl4nted" not in said


def test_server_attributes_and_a_server_go_together(local: Cli, remote: Cli, profile: str) -> None:
    """`device update --server KEY=VALUE` was there before `--server URL`."""
    local.json("device", "create", profile, "--profile", profile)

    remote.json("device", "update", profile, "--server", "a=1", "--server", "b=http://h/")

    shown = local.json("device", "show", profile)
    assert {a["key"]: a["value"] for a in shown["attributes"] if a["scope"] == "SERVER"} == {"a": 1, "b": "http://h/"}
    assert "one server" in remote.refused("device", "update", profile, "--server", "https://h", code=2)
