from uuid import UUID

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


def test_an_organization_is_made_below_another(cli: Cli, name: str) -> None:
    made = cli.json("organization", "create", name, "--device-quota", "5", "--sign-up")
    below = cli.json("organization", "create", f"{name} below", "--parent", name)

    assert UUID(made["id"])
    assert (made["name"], made["deviceQuota"], made["tokenQuota"], made["signUp"]) == (name, 5, None, True)
    assert below["parentId"] == made["id"]
    assert below["path"] == [*made["path"], below["id"]]
    for reference in (name, str(made["number"]), made["id"]):
        assert cli.json("organization", "show", reference) == made
    assert [each["id"] for each in cli.json("organization", "list", "--parent", name)] == [below["id"]]
    assert {made["id"], below["id"]} <= {each["id"] for each in cli.json("organization", "list")}


def test_people_get_a_table(cli: Cli, name: str) -> None:
    cli.json("organization", "create", name)
    cli.json("organization", "create", f"{name}-below", "--parent", name)

    head, line = cli.run("organization", "list", "--parent", name).out.splitlines()

    assert head.split() == ["NUMBER", "NAME", "LEVEL", "SIGN-UP", "MADE"]
    assert line.split()[1:4] == [f"{name}-below", "3", "no"]


def test_an_organization_is_changed(cli: Cli, name: str) -> None:
    made = cli.json("organization", "create", name, "--device-quota", "5", "--token-quota", "6")

    changed = cli.json("organization", "update", name, "--name", f"{name} new", "--no-device-quota", "--sign-up")

    assert (changed["id"], changed["name"]) == (made["id"], f"{name} new")
    assert (changed["deviceQuota"], changed["tokenQuota"], changed["signUp"]) == (None, 6, True)
    assert not cli.json("organization", "update", made["id"], "--no-sign-up")["signUp"]


def test_an_organization_is_deleted(cli: Cli, name: str) -> None:
    made = cli.json("organization", "create", name)
    cli.json("organization", "create", f"{name} below", "--parent", name)

    cli.refused("organization", "delete", name)
    assert cli.json("organization", "delete", f"{name} below")["name"] == f"{name} below"
    assert cli.run("organization", "delete", made["id"]).err == f"Deleted organization {name}.\n"
    assert name in cli.refused("organization", "show", name)


@pytest.mark.parametrize("command", ["show", "update", "delete"])
def test_an_organization_that_is_not_there_is_refused(cli: Cli, command: str) -> None:
    more = ("--name", "x") if command == "update" else ()
    assert "no such organization" in cli.refused("organization", command, "no such organization", *more)
    assert "organization list" in cli.refused("organization", command, "\udcff", *more)


def test_a_name_that_is_taken_is_refused(cli: Cli, name: str) -> None:
    cli.json("organization", "create", name)
    assert "Choose another name" in cli.refused("organization", "create", name)
