import asyncio
import json
import re
import shlex
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from tests.cli.conftest import Cli
from tests.server import Server


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "devices.csv"


def test_a_device_is_made_with_a_generated_token(cli: Cli, profile: str) -> None:
    made = cli.json("device", "create", f"{profile} device", "--profile", profile)

    assert UUID(made.pop("id"))
    assert UUID(made.pop("profileId"))
    assert made.pop("createdAt").endswith("Z")
    assert made.pop("holderId") == made.pop("makerId")
    assert re.fullmatch("[A-Za-z0-9]{32}", made.pop("accessToken"))
    assert made == {
        "name": f"{profile} device",
        "profile": profile,
        "gateway": False,
        "provisionState": None,
        "rearmed": False,
        "credentialsType": "ACCESS_TOKEN",
        "revision": 1,
        "maker": "Manufacturer",
        "holder": "Manufacturer",
        "ownerId": None,
        "owner": None,
        "staticToken": None,
        "online": False,
        "lastSeenAt": None,
        "quarantined": False,
        "suspected": False,
    }


@pytest.mark.parametrize(
    ("options", "type_", "value"),
    [
        (("--token", "pl4nted {}"), "ACCESS_TOKEN", "pl4nted {}"),
        (
            ("--client-id", "c {}", "--username", "u", "--password", "pl4nted"),
            "MQTT_BASIC",
            {"clientId": "c {}", "userName": "u", "password": "pl4nted"},
        ),
        (("--certificate", "pem", "--gateway"), "X509_CERTIFICATE", "certificate of {}"),
    ],
)
def test_credentials_are_shown_to_who_asks_for_them_alone(
    cli: Cli, profile: str, tmp_path: Path, options: tuple[str, ...], type_: str, value: object
) -> None:
    device = f"{profile} device"
    body = b64encode(f"certificate of {device}".encode()).decode()
    (tmp_path / "pem").write_text(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    given = [option.format(device).replace("pem", str(tmp_path / "pem")) for option in options]

    made = cli.run("device", "create", device, "--profile", profile, *given, "--json")
    shown = cli.json("device", "show", device)
    opened = cli.json("device", "show", device, "--credentials")

    assert "pl4nted" not in made.out + made.err + str(shown)
    assert json.loads(made.out)["credentialsType"] == type_
    assert json.loads(made.out)["gateway"] == ("--gateway" in options)
    (credentials,) = opened["credentials"]
    expected = body if "certificate" in str(value) else json.loads(json.dumps(value).replace("{}", device))
    assert credentials.pop("credentialsValue") == expected
    assert credentials == shown["credentials"][0]
    assert (credentials["credentialsType"], credentials["origin"]) == (type_, "imported")
    assert (credentials["pending"], credentials["firstUsedAt"]) == (False, None)


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        (("",), "the device name is empty"),
        (("<b>",), "markup"),
        (("x" * 256,), "longer than 255"),
        (("{} new", "--token", "provision"), "reserved"),
        (("{} new", "--token", "t", "--username", "u"), "one kind of credentials"),
        (("{} new", "--password", "pl4nted"), "both MQTT client id and user name are empty"),
        (("{}",), "Choose another name"),
        (("{} new", "--token", "{}"), "Choose others, or leave them out"),
    ],
)
def test_a_device_that_cannot_be_made_is_refused_with_the_fix(
    cli: Cli, profile: str, options: tuple[str, ...], fix: str
) -> None:
    cli.json("device", "create", profile, "--profile", profile, "--token", profile)

    given = [option.replace("{}", profile) for option in options]
    said = cli.refused("device", "create", "--profile", profile, *given)

    assert fix in said
    assert "pl4nted" not in said


def test_a_certificate_that_is_not_there_is_told(cli: Cli, profile: str, tmp_path: Path) -> None:
    said = cli.refused(
        "device", "create", "d", "--profile", profile, "--certificate", str(tmp_path / "none.pem"), code=3
    )

    assert "none.pem cannot be read" in said


@pytest.mark.parametrize("command", ["show", "rearm", "revoke", "delete"])
def test_a_device_that_is_not_there_is_refused_with_the_fix(cli: Cli, command: str) -> None:
    assert "Look in the list of devices" in cli.refused("device", command, "no such device")


@pytest.mark.parametrize("command", ["show", "rearm", "delete"])
@pytest.mark.parametrize("odd", ["\udcff\udcfe", "a\nb", "\x7f"], ids=ascii)
def test_what_cannot_be_a_name_is_nobodys(cli: Cli, command: str, odd: str) -> None:
    assert f"There is no device {odd!r}. `provserver device list`" in cli.refused("device", command, odd)


@pytest.mark.parametrize(
    "command", [("create", "d"), ("import", "/dev/null"), ("list",)], ids=lambda command: command[0]
)
def test_what_cannot_be_a_profile_is_none(cli: Cli, command: tuple[str, ...]) -> None:
    assert "There is no profile '\\udcff'." in cli.refused("device", *command, "--profile", "\udcff")


@pytest.mark.parametrize("command", [("create", "d"), ("import", "-"), ("list",)], ids=lambda command: command[0])
def test_a_profile_that_is_not_there_is_refused_with_the_fix(cli: Cli, command: tuple[str, ...], csv: Path) -> None:
    csv.write_text("name\na\n")
    arguments = [str(csv) if argument == "-" else argument for argument in command]

    assert "Look in the list of profiles" in cli.refused("device", *arguments, "--profile", "no such profile")


def test_a_device_is_rearmed_and_deleted(cli: Cli, profile: str) -> None:
    device = f"{profile} device"
    made = cli.json("device", "create", device, "--profile", profile)

    assert cli.json("device", "rearm", device)["id"] == made["id"]
    assert cli.json("device", "show", made["id"])["rearmed"]
    assert "may provision itself once more" in cli.run("device", "rearm", device).err
    assert cli.refused("device", "delete", device, "--from-network") == "error: This device is in no network.\n"
    assert cli.json("device", "delete", made["id"])["name"] == device

    cli.refused("device", "show", device)
    cli.json("device", "create", device, "--profile", profile)
    assert cli.run("device", "delete", device).err == f"Deleted {device}.\n"


def test_what_a_device_has_sent_is_erased(cli: Cli, profile: str) -> None:
    device = f"{profile} device"
    made = cli.json("device", "create", device, "--profile", profile)
    assert cli.json("device", "erase-data", device)["id"] == made["id"]
    assert cli.run("device", "erase-data", device).err == f"What {device} had sent is erased.\n"


def test_devices_are_listed_by_profile(cli: Cli, profile: str, csv: Path) -> None:
    csv.write_text("name,gateway\n" + "".join(f"{profile} {n},{n % 2 == 0}\n" for n in range(3)))
    cli.json("device", "import", str(csv), "--profile", profile)

    listed = cli.json("device", "list", "--profile", profile)

    assert [(device["name"], device["gateway"]) for device in listed] == [
        (f"{profile} {n}", n % 2 == 0) for n in range(3)
    ]
    names = [device["name"] for device in cli.json("device", "list")]
    assert set(names) >= {device["name"] for device in listed}
    text = cli.run("device", "list", "--profile", profile).out
    assert re.match(r"NAME +PROFILE +CREDENTIALS +PROVISION STATE +MADE", text)
    assert len(text.splitlines()) == 4


def test_no_devices_are_an_empty_list(cli: Cli, profile: str) -> None:
    assert cli.json("device", "list", "--profile", profile) == []
    assert len(cli.run("device", "list", "--profile", profile).out.splitlines()) == 1


@pytest.mark.parametrize(
    "odd", ["[red]", "[/red]", "[/]", ":warning:", "a:smile:b", "[bold]x[/bold]", "\\[x]", "{x}", "Ünï-传感器", "%s"]
)
def test_names_that_devices_chose_are_printed_as_they_are(cli: Cli, profile: str, odd: str, csv: Path) -> None:
    """A device that may create itself must not be able to break or forge what an operator sees."""
    device = f"{profile} {odd}"
    csv.write_text(f'name,attribute:{odd}\n"{device}","{odd}"\n')
    assert cli.run("device", "import", str(csv), "--profile", profile).code == 0

    for command in (("list", "--profile", profile), ("show", device)):
        done = cli.run("device", *command)
        assert (done.code, done.err) == (0, "")
        assert device in done.out
    assert device in cli.run("device", "rearm", device).err
    assert odd.replace("\\", "\\\\") in cli.refused("device", "create", "x", "--profile", odd)  # quoted as Python does


def test_a_table_that_is_not_for_a_terminal_has_a_line_for_each_device(
    cli: Cli, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    device = f"{profile} {'x' * 150}"
    cli.json("device", "create", device, "--profile", profile)

    listed = cli.run("device", "list", "--profile", profile).out

    assert device in listed
    assert len(listed.splitlines()) == 2


# --- import


def test_an_import_tells_what_it_did(cli: Cli, profile: str, csv: Path) -> None:
    csv.write_text(f"name,token\n{profile} a,\n{profile} b,pl4nted {profile}\n")

    report = cli.json("device", "import", str(csv), "--profile", profile)

    assert report == {"imported": 2, "dryRun": False, "errorCount": 0, "errors": []}
    assert cli.json("device", "show", f"{profile} b", "--credentials")["credentials"][0]["credentialsValue"] == (
        f"pl4nted {profile}"
    )


@pytest.mark.parametrize(
    ("options", "imported", "kept"),
    [((), 0, 0), (("--partial",), 2, 2), (("--dry-run",), 2, 0), (("--dry-run", "--partial"), 2, 0)],
)
def test_rows_that_are_wrong_end_an_import_with_1(
    cli: Cli, profile: str, csv: Path, options: tuple[str, ...], imported: int, kept: int
) -> None:
    csv.write_text(f"name,token\n{profile} a,\n{profile} b,provision\n{profile} a,pl4nted\n{profile} c,\n")

    done = cli.run("device", "import", str(csv), "--profile", profile, *options, "--json")

    assert (done.code, done.err) == (1, "")
    report = json.loads(done.out)
    assert (report["imported"], report["errorCount"]) == (imported, 2)
    assert report["dryRun"] == ("--dry-run" in options)
    assert [(error["line"], error["column"]) for error in report["errors"]] == [(3, "token"), (4, "name")]
    assert "pl4nted" not in done.out
    assert len(cli.json("device", "list", "--profile", profile)) == kept

    text = cli.run("device", "import", str(csv), "--profile", profile, "--dry-run")
    assert (text.code, text.out) == (1, "")
    assert "line 3, column token: the token is a reserved id" in text.err


def test_text_tells_what_an_import_did(cli: Cli, profile: str, csv: Path) -> None:
    csv.write_text(f"name\n{profile} a\n")

    dry = cli.run("device", "import", str(csv), "--profile", profile, "--dry-run")
    assert (dry.code, dry.out) == (0, "")
    assert "1 devices would be imported, 0 rows refused." in dry.err
    assert "1 devices imported, 0 rows refused." in cli.run("device", "import", str(csv), "--profile", profile).err


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        (b"", "first row must name the columns"),
        (b"nmae,token\n", "Did you mean 'name'?"),
        (b"token\n", "The column 'name' is missing"),
        (b"name,name\n", "is there twice"),
        (b"name,attribute:gr\xf6\xdfe\na,1\n", "is not UTF-8"),
        ("name\nü\n".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_fix(
    cli: Cli, profile: str, csv: Path, content: bytes, fix: str
) -> None:
    csv.write_bytes(content)

    done = cli.run("device", "import", str(csv), "--profile", profile, "--json")

    assert (done.code, done.out) == (1, "")
    assert fix in done.err
    assert cli.json("device", "list", "--profile", profile) == []


def test_a_row_that_is_not_utf8_is_an_error_of_that_row(cli: Cli, profile: str, csv: Path) -> None:
    rows = (f"{profile} a,1", f"{profile} b,gr\xfcn", f"{profile} c,2")
    csv.write_bytes(b"name,attribute:k\n" + "\n".join(rows).encode("latin-1"))

    done = cli.run("device", "import", str(csv), "--profile", profile, "--partial", "--json")

    assert (done.code, done.err) == (1, "")
    assert json.loads(done.out) == {
        "imported": 2,
        "dryRun": False,
        "errorCount": 1,
        "errors": [{"line": 3, "column": "attribute:k", "reason": "not UTF-8"}],
    }


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=ascii)
def test_lines_end_as_on_any_machine(cli: Cli, profile: str, csv: Path, end: str) -> None:
    csv.write_bytes(end.join(["name", f"{profile} a", "<b>", f"{profile} ü", ""]).encode())

    report = json.loads(cli.run("device", "import", str(csv), "--profile", profile, "--partial", "--json").out)

    assert report["imported"] == 2
    assert [error["line"] for error in report["errors"]] == [3]


def test_a_file_that_is_not_there_is_refused(cli: Cli, profile: str, csv: Path, tmp_path: Path) -> None:
    assert "cannot be read: No such file" in cli.refused("device", "import", str(csv), "--profile", profile)
    assert "cannot be read: Is a directory" in cli.refused("device", "import", str(tmp_path), "--profile", profile)


def test_a_spreadsheets_byte_order_mark_is_no_part_of_the_header(cli: Cli, profile: str, csv: Path) -> None:
    csv.write_text(f"name;x\n{profile} a;1\n".replace(";x", "").replace(";1", ""), encoding="utf-8-sig")

    assert cli.json("device", "import", str(csv), "--profile", profile)["imported"] == 1


def test_devices_are_imported_from_standard_input(cli: Cli, profile: str) -> None:
    command = [sys.executable, "-m", "provserver", "device", "import", "-", "--profile", profile, "--json"]

    done = subprocess.run(
        [*command, *cli.options], input=f"name\n{profile} a\n", capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["imported"] == 1


def test_who_reads_a_list_may_stop_reading(cli: Cli, profile: str, csv: Path) -> None:
    """`provserver device list | head -1` has nothing to tell anybody."""
    csv.write_text("name\n" + "".join(f"{profile} {n}\n" for n in range(3_000)))
    cli.json("device", "import", str(csv), "--profile", profile)
    command = [sys.executable, "-m", "provserver", "device", "list", "--profile", profile, "--json", *cli.options]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "[\n"
        process.stdout.close()
        said = process.stderr.read()

    assert (process.returncode, said) == (1, "")


def test_a_hundred_thousand_rows_are_imported_beside_a_server(server: Server, csv: Path) -> None:
    count = 100_000
    server.cli("profile", "create", "many", "--strategy", "check-pre-provisioned")
    with csv.open("w") as file:
        file.write("name,token,gateway,attribute:serial,shared:unit\n")
        for n in range(count):
            file.write(f"many-{n},{f'token-of-many-{n}' if n % 2 else ''},false,{n},°C\n")
    bad = csv.with_name("bad.csv")
    bad.write_text(csv.read_text() + "many-7,,,,\n,,,,\nmany-new,provision,,,\nmany-other,token-of-many-9,,,\n")

    tried = server.run("device", "import", str(bad), "--profile", "many", "--dry-run", "--json")
    done = server.cli("device", "import", str(csv), "--profile", "many")

    assert (tried.returncode, tried.stderr) == (1, "")
    report = json.loads(tried.stdout)
    assert (report["imported"], report["dryRun"], report["errorCount"]) == (count, True, 3)
    assert [(error["line"], error["column"]) for error in report["errors"]] == [
        (count + 2, "name"),
        (count + 4, "token"),
        (count + 5, None),
    ]
    assert (done["imported"], done["errorCount"]) == (count, 0)
    assert server.cli("profile", "show", "many")["deviceCount"] == count
    last = server.cli("device", "show", f"many-{count - 1}", "--credentials")
    assert last["credentials"][0]["credentialsValue"] == f"token-of-many-{count - 1}"
    assert {(a["scope"], a["key"]): a["value"] for a in last["attributes"]} == {
        ("SERVER", "serial"): count - 1,
        ("SHARED", "unit"): "°C",
    }


def test_attributes_are_changed(cli: Cli, profile: str) -> None:
    device = f"{profile} device"
    cli.json("device", "create", device, "--profile", profile)

    shared = ("--shared", "interval=30", "--shared", "url=http://h/?a=b", "--shared", "empty=")
    changed = cli.json("device", "update", device, *shared, "--server", 'rack={"row":1}', "--server", "note=true story")
    assert {(a["scope"], a["key"]): a["value"] for a in changed["attributes"]} == {
        ("SHARED", "interval"): 30,
        ("SHARED", "url"): "http://h/?a=b",
        ("SHARED", "empty"): "",
        ("SERVER", "rack"): {"row": 1},
        ("SERVER", "note"): "true story",
    }
    assert changed == cli.json("device", "show", device)

    deleted = ("--delete-shared", "url", "--delete-shared", "empty", "--delete-server", "rack")
    shown = cli.run("device", "update", device, *deleted, "--server", "note=x")
    assert (shown.code, shown.err) == (0, "")
    assert "key=interval" in shown.out
    assert "rack" not in shown.out


@pytest.mark.parametrize(
    ("options", "code", "fix"),
    [
        ((), 1, "--shared KEY=VALUE"),
        (("--shared", "interval"), 2, "must be KEY=VALUE"),
        (("--shared", "a=1", "--delete-shared", "a"), 1, "cannot be both"),
        (("--server", "=1"), 1, "A key must have"),
    ],
)
def test_attributes_that_cannot_be_changed_are_refused_with_the_fix(
    cli: Cli, profile: str, options: tuple[str, ...], code: int, fix: str
) -> None:
    cli.json("device", "create", f"{profile} device", "--profile", profile)
    assert fix in cli.refused("device", "update", f"{profile} device", *options, code=code)


def test_a_key_is_read_from_a_file(cli: Cli, profile: str, tmp_path: Path) -> None:
    cli.json("device", "create", profile, "--profile", profile)
    key, file = "000102030405060708090A0B0C0D0E0F", tmp_path / "app-key"
    file.write_text(f"{key}\n")
    file.chmod(0o644)
    update = ("device", "update", profile)
    assert "chmod 600" in cli.refused(*update, "--key-file", f"Application Key={file}", code=3)
    file.chmod(0o600)
    changed = cli.json(*update, "--key-file", f"Application Key={file}")
    assert [(each["key"], each["value"]) for each in changed["attributes"] if each["key"].startswith("meta.")] == [
        ("meta.Application Key", key)
    ]
    assert "--key-file" in cli.run(*update, "--server", f"meta.Application Key={key}").err
    assert "--key-file" not in cli.run(*update, "--server", "meta.Room=Kitchen").err


def test_a_device_is_revoked(cli: Cli, profile: str) -> None:
    device = f"{profile}'s device"
    cli.json("device", "create", device, "--profile", profile)

    assert f"provserver device rearm {shlex.quote(device)}" in cli.run("device", "revoke", device).err

    assert cli.json("device", "show", device)["credentials"] == []
    assert cli.json("device", "revoke", device)["credentialsType"] is None


def test_what_a_device_last_sent_is_shown(cli: Cli, profile: str, url: str) -> None:
    device = cli.json("device", "create", f"{profile} device", "--profile", profile)

    async def send() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(
            "INSERT INTO telemetry SELECT $1, 'key-' || n, 1700000000000 + n, to_jsonb(n), 1"
            " FROM generate_series(10, 35) AS n",
            UUID(device["id"]),
        )
        await connection.close()

    assert cli.json("device", "show", device["id"])["telemetry"] == []
    asyncio.run(send())
    telemetry = cli.json("device", "show", device["id"])["telemetry"]
    assert (len(telemetry), telemetry[0]) == (26, {"key": "key-10", "ts": 1700000000010, "value": 10})
    shown = cli.run("device", "show", device["id"]).out
    assert "key-10=10, key-11=11," in shown
    assert "key-29=29, … and 6 more" in shown


@pytest.mark.parametrize(("rows", "code"), [("{0} a\n{0} b\n", 0), ("{0} a\n{0} a\n", 1)], ids=["right", "wrong"])
def test_who_watches_sees_how_far_an_import_is(
    cli: Cli, profile: str, csv: Path, rows: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    csv.write_text("name\n" + rows.format(profile))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")

    done = cli.run("device", "import", str(csv), "--profile", profile)

    assert (done.code, done.out) == (code, "")
    assert "rows" in done.err
    assert f"{2 - 2 * code} devices imported, {code} rows refused." in done.err
    csv.write_text("nmae\n")
    assert "Did you mean 'name'?" in cli.run("device", "import", str(csv), "--profile", profile).err
