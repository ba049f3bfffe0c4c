import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


def test_a_profile_with_approval_says_so(cli: Cli, name: str) -> None:
    made = cli.json("profile", "create", name, "--approval", "--clone-policy", "quarantine")
    assert (made["approval"], made["clonePolicy"]) == (True, "quarantine")

    changed = cli.json("profile", "update", name, "--no-approval", "--clone-policy", "report")

    assert {"approval", "clonePolicy"}.isdisjoint(changed)


def test_nothing_waits(cli: Cli, name: str) -> None:
    cli.json("profile", "create", name, "--approval")

    assert cli.json("approval", "list", "--profile", name) == []
    assert cli.json("approval", "accept", "--all", "--profile", name) == {"count": 0}
    assert cli.run("approval", "reject", "--all", "--profile", name).err == "0 requests rejected.\n"
    cli.refused("approval", "accept", "nobody")
    cli.refused("approval", "list", "--profile", "unknown")


@pytest.mark.parametrize("arguments", [(), ("sensor-1", "--all"), ("sensor-1", "--profile", "x")])
def test_which_requests_must_be_said(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli.run("approval", "accept", *arguments).code == 2


def test_a_device_is_put_into_quarantine_and_released(cli: Cli, name: str) -> None:
    cli.json("profile", "create", name)
    cli.json("device", "create", f"{name}-1", "--profile", name)

    assert "is in quarantine" in cli.run("device", "quarantine", f"{name}-1", "--reason", "seen twice").err
    held = cli.json("device", "show", f"{name}-1")["quarantine"]
    assert (held["reason"], held["actor"].partition(":")[0]) == ("seen twice", held["actor"].partition(":")[0])
    cli.refused("device", "quarantine", f"{name}-1", "--reason", "seen twice")
    assert cli.json("device", "release", f"{name}-1")["accessToken"] is None
    cli.refused("device", "release", f"{name}-1")

    cli.json("device", "quarantine", f"{name}-1", "--reason", "seen twice")
    released = cli.json("device", "release", f"{name}-1", "--rotate")
    (credentials,) = cli.json("device", "show", f"{name}-1", "--credentials")["credentials"]
    assert credentials["credentialsValue"] == released["accessToken"]
