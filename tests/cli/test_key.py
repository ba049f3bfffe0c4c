import re

import pytest

from provserver.core.authorization import Permission
from tests.cli.conftest import Cli
from tests.server import Server


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


def test_a_key_is_made_with_a_secret_that_is_shown_once(cli: Cli, name: str, administered: Server) -> None:
    made = cli.json("key", "create", name, "--permission", "devices:view", "--expires", "2100-01-01")

    secret = made.pop("secret")
    assert re.fullmatch(r"psk_\w{40}", secret)
    assert (made["name"], made["permissions"], made["expiresAt"][:10]) == (name, ["devices:view"], "2100-01-01")
    listed = cli.run("key", "list", "--json").out
    assert secret not in listed
    assert made["id"] in listed
    Cli("--server", f"http://{administered.admin}", "--api-key", secret).json("device", "list")


def test_a_key_may_do_everything_unless_it_is_told(cli: Cli, name: str) -> None:
    assert set(cli.json("key", "create", name)["permissions"]) == set(Permission)
    assert "--permission" in cli.refused("key", "create", "k", "--permission", "nonsense", code=2)


def test_people_get_a_table_and_a_warning(cli: Cli, name: str) -> None:
    made = cli.run("key", "create", name)
    assert re.search(r"^secret +psk_", made.out, re.MULTILINE)
    assert "shown this once" in made.err

    assert cli.run("key", "list").out.startswith("NAME")
    assert name in cli.run("key", "list").out


def test_a_key_is_deleted(cli: Cli, name: str, administered: Server) -> None:
    made = cli.json("key", "create", name)

    assert cli.run("key", "delete", name).err == f"Deleted API key {name}.\n"
    Cli("--server", f"http://{administered.admin}", "--api-key", made["secret"]).refused("device", "list")
    cli.refused("key", "delete", made["id"])


def test_a_key_gives_what_it_has(local: Cli, name: str, administered: Server) -> None:
    given = ("--permission", "keys:manage", "--permission", "devices:view")
    secret = local.json("key", "create", name, *given)["secret"]
    cli = Cli("--server", f"http://{administered.admin}", "--api-key", secret)

    assert set(cli.json("key", "create", f"{name} b")["permissions"]) == {"keys:manage", "devices:view"}
    assert "tokens:manage" in cli.refused("key", "create", f"{name} c", "--permission", "tokens:manage")
