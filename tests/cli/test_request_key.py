import pytest

from provserver.core import sealed
from tests.cli.conftest import Cli


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


def test_a_request_key_is_made_listed_and_deleted(cli: Cli) -> None:
    made = cli.json("request-key", "create")
    assert set(made) == {"id", "organizationId", "keyId", "publicKey", "createdAt"}
    assert sealed.key_id(sealed.public_key(made["publicKey"])) == made["keyId"]
    assert made in cli.json("request-key", "list")
    assert made["publicKey"] in cli.run("request-key", "list").out

    assert cli.run("request-key", "delete", made["keyId"]).err == f"Deleted request key {made['keyId']}.\n"
    assert made not in cli.json("request-key", "list")
    assert "Look in the list" in cli.refused("request-key", "delete", made["id"])
