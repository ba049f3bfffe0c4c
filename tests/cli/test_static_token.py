import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.cli.conftest import Cli
from tests.server import Server

SEED = """Serial Number,MAC address,Device Name
SN000001,2C:54:91:88:C9:E3,{0} AGHJ
SN000002,5C:62:91:82:C9:E8,{0} KJGF
SN000003,4A:33:54:68:K9:F1,{0} CVBN
"""


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


@pytest.fixture
def nodes(local: Cli, name: str) -> str:
    """A profile with metadata fields."""
    fields = ("--metadata-field", "Serial Number:text:unique", "--metadata-field", "MAC address")
    local.json("profile", "create", name, *fields)
    return name


@pytest.fixture
def file(tmp_path: Path, nodes: str) -> Path:
    """The seed's CSV."""
    path = tmp_path / "nodes.csv"
    path.write_text(SEED.format(nodes))
    return path


@pytest.fixture
def customer(local: Cli, administered: Server, name: str) -> Cli:
    """Commands of a customer right below the manufacturer."""
    local.json("organization", "create", f"{name} customer")
    key = local.json("key", "create", f"{name} customer", "--organization", f"{name} customer")
    return Cli("--server", f"http://{administered.admin}", "--api-key", key["secret"])


def opened(cli: Cli, number: int) -> Any:
    return cli.json("token", "show", str(number), "--open")


# --- make


@pytest.mark.parametrize("count", [1, 3, 1200])
def test_tokens_are_made(cli: Cli, nodes: str, count: int) -> None:
    batch = cli.json("token", "create", "--profile", nodes, "--count", str(count))

    assert UUID(batch["id"])
    assert (batch["count"], batch["lastNumber"] - batch["firstNumber"] + 1) == (count, count)
    tokens = cli.json("token", "list", "--profile", nodes)
    assert [token["number"] for token in tokens] == list(range(batch["firstNumber"], batch["lastNumber"] + 1))
    assert {(token["status"], token["profile"]) for token in tokens} == {("UNCLAIMED", nodes)}
    assert cli.json("token", "list", "--batch", batch["id"], "--limit", "2") == tokens[:2]
    assert cli.json("token", "list", "--profile", nodes, "--status", "claimed") == []


def test_people_are_told_what_was_made(cli: Cli, nodes: str) -> None:
    made = cli.run("token", "create", "--profile", nodes, "--count", "2")

    assert (made.code, made.out) == (0, "")
    numbers = re.search(r"Made 2 static tokens, numbers (\d+) to (\d+)", made.err)
    assert numbers is not None
    head, first, _ = cli.run("token", "list", "--profile", nodes).out.splitlines()
    assert head.split() == ["NUMBER", "NAME", "PROFILE", "STATUS", "METADATA", "UNIT", "MADE"]
    assert first.split()[0] == numbers[1]


def test_secrets_are_shown_to_who_asks_for_them_alone(cli: Cli, nodes: str) -> None:
    number = cli.json("token", "create", "--profile", nodes)["firstNumber"]

    shown, secrets = cli.json("token", "show", str(number)), opened(cli, number)

    assert re.fullmatch(r"[A-Za-z0-9]{32}", secrets["authToken"])
    assert re.fullmatch(r"sqr_[A-Za-z0-9]{32}", secrets["qrToken"])
    assert secrets["authToken"] not in str(shown)
    assert secrets["qrToken"] not in str(shown) + str(cli.json("token", "list", "--profile", nodes))
    assert cli.json("token", "show", shown["id"])["number"] == number


@pytest.mark.parametrize("arguments", [("create",), ("import", "/dev/null"), ("list",)], ids=lambda a: a[0])
def test_a_profile_that_is_not_there_is_refused(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert "Look in the list of profiles" in cli.refused("token", *arguments, "--profile", "no such profile")


@pytest.mark.parametrize("command", ["show", "delete", "unclaim", "disclaim"])
def test_a_token_that_is_not_there_is_refused(cli: Cli, command: str) -> None:
    for reference in ("999999999", "nonsense", "01a20143-c9e8-78ff-bcb8-47a0e6b10c00"):
        cli.refused("token", command, reference)


# --- import


def test_the_seeds_file_is_imported(cli: Cli, nodes: str, file: Path) -> None:
    tried = cli.json("token", "import", str(file), "--profile", nodes, "--dry-run")
    assert (tried["rows"], tried["errorCount"], tried["batch"]) == (3, 0, None)
    assert cli.json("token", "list", "--profile", nodes) == []

    done = cli.json("token", "import", str(file), "--profile", nodes)

    assert (done["rows"], done["errorCount"], done["batch"]["count"]) == (3, 0, 3)
    tokens = cli.json("token", "list", "--profile", nodes)
    assert [token["name"] for token in tokens] == [f"{nodes} {suffix}" for suffix in ("AGHJ", "KJGF", "CVBN")]
    assert tokens[2]["metadata"] == {"Serial Number": "SN000003", "MAC address": "4A:33:54:68:K9:F1"}


def test_each_error_is_told_with_its_place(cli: Cli, nodes: str, file: Path) -> None:
    """The seed's third address is none."""
    cli.json(
        "profile", "update", nodes, *("--metadata-field", "Serial Number"), *("--metadata-field", "MAC address:mac")
    )

    done = cli.run("token", "import", str(file), "--profile", nodes, "--json")
    (error,) = json.loads(done.out)["errors"]

    assert done.code == 1
    assert (error["row"], error["line"], error["column"], error["header"]) == (3, 4, 2, "MAC address")
    assert "not a hexadecimal digit" in error["reason"]
    text = cli.run("token", "import", str(file), "--profile", nodes, "--dry-run")
    assert (text.code, text.out) == (1, "")
    assert "line 4, column MAC address: not a MAC address" in text.err
    assert "1 errors in 3 rows; no static token was made." in text.err
    assert cli.json("token", "list", "--profile", nodes) == []


def test_columns_are_mapped(cli: Cli, nodes: str, file: Path) -> None:
    file.write_text("serial number;Remark\nSN1;x\n")

    said = cli.run("token", "import", str(file), "--profile", nodes)
    assert said.code == 1
    assert "differs by case from 'Serial Number'" in said.err

    mapped = ("--map", "serial number=Serial Number", "--map", "Remark=")
    assert cli.json("token", "import", str(file), "--profile", nodes, *mapped)["batch"]["count"] == 1
    assert cli.json("token", "list", "--profile", nodes)[0]["metadata"] == {"Serial Number": "SN1"}
    assert "COLUMN=FIELD" in cli.refused("token", "import", str(file), "--profile", nodes, "--map", "x", code=2)


def test_a_file_that_is_not_there_is_refused(cli: Cli, nodes: str, tmp_path: Path) -> None:
    said = cli.refused("token", "import", str(tmp_path / "none"), "--profile", nodes)
    assert "cannot be read: No such file" in said


# --- export


def test_tokens_are_exported(cli: Cli, nodes: str, file: Path, tmp_path: Path) -> None:
    batch = cli.json("token", "import", str(file), "--profile", nodes)["batch"]
    cli.json("token", "create", "--profile", nodes)
    files = {option: tmp_path / f"out.{option}" for option in ("csv", "zip", "labels")}

    chosen = ("--batch", batch["id"], "--name-by", "Serial Number", "--label-field", "Serial Number")
    written = cli.json("token", "export", *chosen, *(each for k, v in files.items() for each in (f"--{k}", str(v))))

    assert {Path(each["file"]): each["bytes"] for each in written} == {
        path: path.stat().st_size for path in files.values()
    }
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert next(iter(rows[0])) == "Device Token"
    assert [row["Serial Number"] for row in rows] == ["SN000001", "SN000002", "SN000003"]
    assert rows[0]["Device Token"] == opened(cli, batch["firstNumber"])["authToken"]
    assert set(zipfile.ZipFile(files["zip"]).namelist()) == {"tokens.csv", *(f"qr/SN00000{n}.png" for n in (1, 2, 3))}
    assert files["labels"].read_bytes().startswith(b"%PDF")


def test_images_are_named_and_drawn_as_is_asked(cli: Cli, nodes: str, tmp_path: Path) -> None:
    number = cli.json("token", "create", "--profile", nodes)["firstNumber"]
    file = tmp_path / "t.zip"

    cli.json("token", "export", "--zip", str(file), "--profile", nodes, "--format", "svg")
    assert f"qr/{number}.svg" in zipfile.ZipFile(file).namelist()
    cli.json("token", "export", "--zip", str(file), "--profile", nodes, "--name-by", "auth-token")
    assert f"qr/{opened(cli, number)['authToken']}.png" in zipfile.ZipFile(file).namelist()


def test_what_cannot_be_exported_leaves_no_file(cli: Cli, nodes: str, tmp_path: Path) -> None:
    file = str(tmp_path / "t.zip")

    assert "--csv" in cli.refused("token", "export", "--profile", nodes, code=2)
    cli.refused("token", "export", "--zip", file, "--profile", nodes, "--name-by", "Nothing")
    cli.refused("token", "export", "--zip", file, "--profile", "no such profile")
    assert "cannot be written" in cli.refused("token", "export", "--csv", str(tmp_path / "no" / "f"), code=3)
    assert list(tmp_path.iterdir()) == []


def test_people_are_told_what_was_written(cli: Cli, nodes: str, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"

    done = cli.run("token", "export", "--csv", str(file), "--profile", nodes)

    assert (done.code, done.out, done.err) == (0, "", f"Wrote {file}: it holds secrets.\n")


# --- claim


def test_a_customer_claims_and_the_maker_takes_back(cli: Cli, nodes: str, customer: Cli) -> None:
    number = cli.json("token", "create", "--profile", nodes)["firstNumber"]
    qr = opened(cli, number)["qrToken"]

    claimed = customer.json("token", "claim", f"{qr}+1")["device"]

    assert claimed["name"]
    assert cli.json("token", "list", "--profile", nodes, "--status", "claimed")[0]["number"] == number
    assert [device["name"] for device in customer.json("device", "list")] == [claimed["name"]]
    assert "cannot be claimed" in cli.refused("token", "claim", qr)
    customer.refused("token", "disclaim", str(number))
    assert cli.run("token", "disclaim", str(number)).err == f"Static token {number} is unclaimed.\n"
    assert customer.json("device", "list") == []
    customer.json("token", "claim", qr)
    assert cli.json("token", "unclaim", str(number)) == {"token": str(number), "status": "UNCLAIMED"}


@pytest.mark.parametrize("qr", ["sqr_nonsense", "x", "sqr_" + "a" * 32, "sqr_" + "a" * 32 + "+1"])
def test_a_code_that_is_none_is_refused(cli: Cli, qr: str) -> None:
    cli.refused("token", "claim", qr)


def test_a_token_is_deleted(cli: Cli, nodes: str, customer: Cli) -> None:
    batch = cli.json("token", "create", "--profile", nodes, "--count", "2")
    first, second = (str(batch[each]) for each in ("firstNumber", "lastNumber"))
    customer.json("token", "claim", opened(cli, batch["lastNumber"])["qrToken"])

    assert cli.run("token", "delete", first).err == f"Deleted static token {first}.\n"
    cli.refused("token", "delete", second)
    assert len(customer.json("device", "list")) == 1
    assert str(cli.json("token", "delete", second, "--yes")["number"]) == second
    assert cli.json("token", "list", "--profile", nodes) == []
    assert customer.json("device", "list") == []


def test_a_device_is_transferred(cli: Cli, local: Cli, nodes: str, customer: Cli, name: str) -> None:
    other = f"{name} other"
    local.json("organization", "create", other)
    number = cli.json("token", "create", "--profile", nodes)["firstNumber"]
    device = customer.json("token", "claim", opened(cli, number)["qrToken"])["device"]
    customer.json("device", "update", device["id"], "--shared", "home=here")

    moved = cli.run("device", "transfer", device["id"], "--to-organization", other)

    assert (moved.code, moved.err) == (0, f"{device['name']} is with {other} now.\n")
    assert customer.json("device", "list") == []
    assert "--to-organization" in cli.refused("device", "transfer", device["id"], code=2)
    cli.refused("device", "transfer", device["id"], "--to-user", "nobody@example.com")
    assert "home" not in str(cli.json("device", "update", device["id"], "--shared", "kept=so"))
    cli.json("device", "transfer", device["id"], "--to-organization", f"{name} customer", "--keep-data")
    assert "kept" in str(customer.json("device", "show", device["id"])["attributes"])


def test_people_are_told_what_came_of_a_claim(cli: Cli, nodes: str, customer: Cli) -> None:
    batch = cli.json("token", "create", "--profile", nodes, "--count", "2")
    first, second = (opened(cli, batch[each]) for each in ("firstNumber", "lastNumber"))

    claimed = customer.run("token", "claim", first["qrPayload"])
    assert (claimed.code, claimed.err) == (0, "")
    assert re.search(r"^staticToken +CLAIMED$", claimed.out, re.MULTILINE)
    assert first["authToken"] not in customer.run("device", "show", first["id"]).out

    cli.json("profile", "update", nodes, "--two-sided-claim")
    waiting = customer.run("token", "claim", second["qrToken"])
    assert (waiting.code, waiting.out) == (0, "")
    assert "to agree" in waiting.err
