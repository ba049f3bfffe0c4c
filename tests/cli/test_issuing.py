from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.pki import Authority


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


def test_a_ca_is_made_and_shown(cli: Cli, profile: str) -> None:
    assert "profile ca create" in cli.refused("profile", "ca", "show", profile)
    made = cli.json("profile", "ca", "create", profile, "--name", "Sensors CA", "--days", "30")
    assert made["subject"] == "CN=Sensors CA"
    assert cli.json("profile", "ca", "show", profile) == made
    shown = cli.run("profile", "ca", "show", profile).out
    assert made["certificates"] in shown
    assert "PRIVATE" not in shown
    assert "--replace" in cli.refused("profile", "ca", "create", profile)
    cli.json("profile", "ca", "create", profile, "--replace")


def test_a_ca_is_imported(cli: Cli, profile: str, tmp_path: Path) -> None:
    certificate, key = Authority.root("Ours").write(tmp_path, "ca")
    imported = cli.json("profile", "ca", "import", profile, "--certificate", str(certificate), "--key", str(key))
    assert imported["subject"] == "CN=Ours"
    _, other = Authority.root("Other").write(tmp_path, "other")
    files = ("--certificate", str(certificate), "--key", str(other), "--replace")
    assert "first certificate" in cli.refused("profile", "ca", "import", profile, *files)


def test_a_lifetime_is_set_in_days_or_hours(cli: Cli, profile: str) -> None:
    cli.json("profile", "update", profile, "--credentials-lifetime", "90d")
    assert cli.json("profile", "show", profile)["credentialsLifetime"] == "90d"
    cli.json("profile", "update", profile, "--credentials-lifetime", "36h")
    assert "credentialsLifetime = 129600" not in cli.run("profile", "export", profile).out
    assert "credentials_lifetime = 129600" in cli.run("profile", "export", profile).out
    cli.json("profile", "update", profile, "--credentials-lifetime", "0")
    assert "credentialsLifetime" not in cli.json("profile", "show", profile)
    for wrong in ("90", "-1d", "1w", "d", "1.5h"):
        assert "as 90d" in cli.refused("profile", "update", profile, "--credentials-lifetime", wrong, code=2)


def test_a_devices_credentials_give_way(cli: Cli, profile: str) -> None:
    cli.json("device", "create", f"{profile}-1", "--profile", profile)
    rotated = cli.json("device", "rotate", f"{profile}-1", "--overlap", "12h")
    assert cli.json("device", "rotate", f"{profile}-1")["credentialsValue"] == rotated["credentialsValue"]
    shown = cli.run("device", "rotate", f"{profile}-1")
    assert rotated["credentialsValue"] in shown.out
    cli.json("device", "create", f"{profile}-2", "--profile", profile, "--username", f"{profile}-user")
    told = cli.run("device", "rotate", f"{profile}-2")
    assert "credentialsExpireAt" in told.err + told.out
