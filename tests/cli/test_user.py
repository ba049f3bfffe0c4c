import re

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


@pytest.fixture
def email(name: str) -> str:
    return f"{name}@example.com"


def test_a_user_is_invited_by_a_link_that_is_shown_once(cli: Cli, name: str, email: str) -> None:
    organization = cli.json("organization", "create", name)
    invited = cli.json("user", "invite", email, "--role", "staff", "--name", "Ada", "--organization", name)

    link = invited.pop("link")
    assert re.fullmatch(r"[\w-]{20,}", link)
    assert invited.pop("page").endswith(f"/invitation#{link}")
    assert (invited["email"], invited["name"], invited["role"]) == (email, "Ada", "staff")
    assert (invited["organizationId"], invited["accepted"]) == (organization["id"], False)
    assert cli.json("user", "show", email) == invited
    assert cli.json("user", "list", "--organization", name) == [invited]

    again = cli.run("user", "link", email)
    assert again.code == 0
    assert re.match(r"link +[\w-]{20,}\npage +\S*/invitation#[\w-]{20,}\n", again.out)
    assert "shown this once" in again.err


def test_people_get_a_table(cli: Cli, name: str, email: str) -> None:
    cli.json("organization", "create", name)
    cli.json("user", "invite", email, "--organization", name)

    head, line = cli.run("user", "list", "--organization", name).out.splitlines()

    assert head.startswith("E-MAIL")
    assert line.split()[0] == email
    assert "user" in line.split()


def test_a_user_is_changed_and_deleted(cli: Cli, email: str) -> None:
    invited = cli.json("user", "invite", email)

    assert cli.json("user", "update", email, "--role", "admin", "--name", "B")["role"] == "admin"
    assert cli.json("user", "show", invited["id"])["name"] == "B"
    assert cli.run("user", "delete", email).err == f"Deleted user {email}.\n"
    cli.refused("user", "show", email)


@pytest.mark.parametrize("command", ["show", "update", "delete", "link"])
def test_a_user_who_is_not_there_is_refused(cli: Cli, command: str) -> None:
    more = ("--name", "x") if command == "update" else ()
    cli.refused("user", command, "nobody@example.com", *more)


def test_what_cannot_be_is_refused(cli: Cli, email: str) -> None:
    cli.json("user", "invite", email)

    cli.refused("user", "invite", email)
    assert "e-mail" in cli.refused("user", "invite", "a b@c")
    assert "--role" in cli.refused("user", "invite", "b@example.com", "--role", "king", code=2)
