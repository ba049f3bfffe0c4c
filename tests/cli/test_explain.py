import io
import json
import sys
from pathlib import Path
from unittest import mock

import pytest

from tests.cli.conftest import Cli
from tests.cli.test_attempt import device_id

__all__ = ["device_id"]


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    file = tmp_path / "request.json"
    file.write_text('{"deviceName": "DHT11-0001"}')
    return file


@pytest.mark.usefixtures("device_id")
def test_an_attempt_is_explained(cli: Cli, profile: str) -> None:
    *_, refused = cli.json("attempts", "list", "--profile", profile)

    found = cli.json("explain", refused["id"])
    assert found["attempt"] == refused["id"]
    assert found["why"].endswith("(why it was)")
    assert found["told"] == {
        "status": "FAILURE",
        "message": "Failed to provision device!",
        "http": 200,
        "coap": "4.00",
        "mqtt": "a reply on /provision/response",
    }
    lines = cli.run("explain", refused["id"]).out.splitlines()
    assert lines[0] == f"what     The device '{profile} a' was refused with the profile '{profile}'."
    assert lines[-1].strip() == f"provserver profile update {profile} --strategy check-pre-provisioned"


def test_a_request_is_rehearsed(cli: Cli, profile: str, request_file: Path) -> None:
    found = cli.json("explain", "--request", str(request_file), "--profile", profile)
    assert (found["attempt"], found["reason"]) == (None, "NOT_PRE_PROVISIONED")
    assert f"provserver device create DHT11-0001 --profile {profile}" in found["commands"]

    text = cli.run("explain", "--request", str(request_file), "--profile", profile, "--transport", "mqtt").out
    assert "would be refused" in text
    assert "\nassumed  the right provision secret\n" in text
    assert cli.json("attempt", "list", "--profile", profile) == []

    cli.json("profile", "update", profile, "--strategy", "allow-create")
    found = cli.json("explain", "--request", str(request_file), "--profile", profile)
    assert (found["outcome"], found["credentialsType"]) == ("success", "ACCESS_TOKEN")
    text = cli.run("explain", "--request", str(request_file), "--profile", profile).out
    assert "\ngets     credentials of type ACCESS_TOKEN\n" in text


def test_a_request_comes_by_standard_input(cli: Cli, profile: str) -> None:
    body = json.dumps({"deviceName": "d", "provisionDeviceSecret": "wrong"})
    with mock.patch.object(sys, "stdin", io.StringIO(body)):
        found = cli.json("explain", "--request", "-", "--profile", profile)
    assert found["reason"] == "SECRET_WRONG"


def test_the_address_counts(cli: Cli, profile: str, request_file: Path) -> None:
    cli.json("profile", "key", "add", profile, "--network", "198.51.100.0/24")
    explain = ("explain", "--request", str(request_file), "--profile", profile)
    assert cli.json(*explain, "--address", "192.0.2.1")["reason"] == "NETWORK_EXCLUDED"
    assert cli.json(*explain, "--address", "198.51.100.9")["reason"] == "NOT_PRE_PROVISIONED"
    assert cli.json(*explain)["reason"] == "NOT_PRE_PROVISIONED"


def test_what_cannot_be_is_refused(cli: Cli, profile: str, request_file: Path) -> None:
    assert "There is no such attempt" in cli.refused("explain", "01890000-0000-7000-8000-000000000000")
    assert "such id" in cli.refused("explain", "no-id")
    assert "name an attempt, or" in cli.refused("explain", code=2)
    assert "name an attempt, or" in cli.refused("explain", "--request", str(request_file), code=2)
    assert "There is no profile" in cli.refused("explain", "--request", str(request_file), "--profile", "nothing")
    assert "--transport" in cli.refused(
        "explain", "--request", str(request_file), "--profile", profile, "--transport", "x", code=2
    )
    assert "cannot be read" in cli.refused("explain", "--request", "/nowhere", "--profile", profile, code=3)
    assert "an IP address" in cli.refused(
        "explain", "--request", str(request_file), "--profile", profile, "--address", "nowhere"
    )
