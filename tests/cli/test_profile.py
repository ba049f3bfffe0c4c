import re
from pathlib import Path
from uuid import UUID

import pytest

from provserver.core.profilechange import UNPROVEN
from tests import pki
from tests.cli.conftest import Cli
from tests.pki import Authority

EXAMPLES = sorted((Path(__file__).parents[2] / "config/profiles").glob("*.toml"))
PLAIN = {"reprovisionPolicy": "deny", "metadataFields": [], "datastreams": []}


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


def test_a_profile_is_made_with_a_key_whose_secret_is_shown(cli: Cli, name: str) -> None:
    made = cli.json("profile", "create", name)

    assert UUID(made.pop("id"))
    assert re.fullmatch(r"TMPL\w{9}", made.pop("templateId"))
    assert re.fullmatch(r"\w{20}", made.pop("provisionDeviceKey"))
    assert re.fullmatch(r"\w{32}", made.pop("provisionDeviceSecret"))
    assert made.pop("createdAt").endswith("Z")
    assert made == PLAIN | {"name": name, "strategy": "ALLOW_CREATE_NEW_DEVICES"}


def test_a_profile_is_made_as_it_is_told(cli: Cli, name: str) -> None:
    made = cli.json(
        *("profile", "create", name, "--strategy", "check-pre-provisioned", "--key", f"key {name}", "--secret", "s"),
        *("--reprovision-policy", "rotate", "--accept-unproven-repeats"),
        *("--metadata-field", "serial", "--metadata-field", "rack:number"),
        *("--datastream", "temperature:V1:double:-40:125.5", "--datastream", "state:V2:string", "--datastream", "x:V3"),
    )

    assert (made["provisionDeviceKey"], made["provisionDeviceSecret"]) == (f"key {name}", "s")
    assert made["strategy"] == "CHECK_PRE_PROVISIONED_DEVICES"
    assert made["reprovisionPolicy"] == "rotate"
    assert made["metadataFields"] == [{"name": "serial", "type": "text"}, {"name": "rack", "type": "number"}]
    assert made["datastreams"] == [
        {"name": "temperature", "pin": "V1", "type": "double", "minimum": -40.0, "maximum": 125.5},
        {"name": "state", "pin": "V2", "type": "string", "minimum": None, "maximum": None},
        {"name": "x", "pin": "V3", "type": "double", "minimum": None, "maximum": None},
    ]


@pytest.mark.parametrize(
    ("given", "strategy"),
    [
        ("allow-create", "ALLOW_CREATE_NEW_DEVICES"),
        ("Check-Pre-Provisioned", "CHECK_PRE_PROVISIONED_DEVICES"),
        ("x509-chain", "X509_CERTIFICATE_CHAIN"),
        ("disabled", "DISABLED"),
        ("allow_create_new_devices", "ALLOW_CREATE_NEW_DEVICES"),
        ("X509_CERTIFICATE_CHAIN", "X509_CERTIFICATE_CHAIN"),
    ],
)
def test_a_strategy_goes_by_its_short_or_its_thingsboard_name(cli: Cli, name: str, given: str, strategy: str) -> None:
    assert cli.json("profile", "create", name, "--strategy", given)["strategy"] == strategy


def test_text_is_for_people(cli: Cli, name: str) -> None:
    made = cli.run("profile", "create", name, "--secret", "pl4nted", "--metadata-field", "serial")
    assert made.code == 0
    assert re.search(rf"^name +{re.escape(name)}$", made.out, re.MULTILINE)
    assert re.search(r"^provisionDeviceSecret +pl4nted$", made.out, re.MULTILINE)
    assert "shown this once" in made.err

    shown = cli.run("profile", "show", name)
    assert "pl4nted" not in shown.out + shown.err
    listed = cli.run("profile", "list")
    assert re.search(rf"^{re.escape(name)} +TMPL\w{{9}} +ALLOW_CREATE_NEW_DEVICES +deny *$", listed.out, re.MULTILINE)
    assert re.match(r"NAME +TEMPLATE ID +STRATEGY +REPROVISION POLICY", listed.out)
    assert (cli.run("profile", "delete", name).err) == f"Deleted profile {name}.\n"


def test_a_profile_is_shown_without_its_secret(cli: Cli, name: str) -> None:
    made = cli.json("profile", "create", name, "--key", f"key {name}", "--secret", "pl4nted")

    for reference in (name, made["templateId"], made["id"]):
        shown = cli.json("profile", "show", reference)
        assert shown["id"] == made["id"]
        assert (shown["provisionDeviceKeys"], shown["deviceCount"], shown["warnings"]) == ([f"key {name}"], 0, [])
        assert "pl4nted" not in str(shown)
    assert made["id"] in [profile["id"] for profile in cli.json("profile", "list")]


@pytest.mark.parametrize("policy", ["until_first_use", "return_same", "rotate"])
def test_unproven_repeats_are_accepted_in_so_many_words_and_warned_of(cli: Cli, name: str, policy: str) -> None:
    refused = cli.refused("profile", "create", name, "--reprovision-policy", policy)
    assert "--accept-unproven-repeats" in refused

    cli.json("profile", "create", name, "--reprovision-policy", policy, "--accept-unproven-repeats")

    assert cli.json("profile", "show", name)["warnings"] == [UNPROVEN]
    assert f"warning: {UNPROVEN}" in cli.run("profile", "show", name).err


def test_names_too_long_for_an_access_point_are_warned_of_as_they_are_saved(cli: Cli, name: str) -> None:
    long = f"{name} of a name too long for phones"
    done = cli.run("profile", "create", long)
    assert done.code == 0
    assert "warning: The name is too long for WiFi devices: their access points would be called 'Blynk " in done.err
    assert "warnings" not in done.out
    for command in (["clone", long, f"{long} 2"], ["update", long, "--strategy", "disabled"]):
        (warning,) = cli.json("profile", *command)["warnings"]
        assert "no more than 18 bytes" in warning
    assert "warnings" not in cli.json("profile", "update", long, "--name", name)


def test_a_profile_is_changed(cli: Cli, name: str) -> None:
    made = cli.json("profile", "create", name, "--metadata-field", "serial", "--datastream", "t:V1")

    changed = cli.json("profile", "update", name, "--strategy", "disabled", "--datastream", "u:V2")
    renamed = cli.json("profile", "update", name, "--name", f"{name} new")

    assert (changed["name"], changed["strategy"]) == (name, "DISABLED")
    assert changed["metadataFields"] == made["metadataFields"]
    assert [stream["name"] for stream in changed["datastreams"]] == ["u"]
    assert renamed == changed | {"name": f"{name} new"}
    refused = cli.refused("profile", "update", made["id"], "--reprovision-policy", "return_same")
    assert "--accept-unproven-repeats" in refused


def test_metadata_fields_say_what_they_hold(cli: Cli, name: str) -> None:
    made = cli.json(
        *("profile", "create", name, "--two-sided-claim", "--metadata-field", "Serial:unique"),
        *("--metadata-field", "MAC Address:MAC:unique", "--metadata-field", "Model:list:A, B,C=B"),
        *("--metadata-field", "Server:url=https://example.com/a=b"),
    )

    assert made["metadataFields"] == [
        {"name": "Serial", "type": "text", "unique": True},
        {"name": "MAC Address", "type": "mac", "unique": True},
        {"name": "Model", "type": "list", "options": ["A", "B", "C"], "default": "B"},
        {"name": "Server", "type": "url", "default": "https://example.com/a=b"},
    ]
    assert made["twoSidedClaim"] is True
    assert "twoSidedClaim" not in cli.json("profile", "update", name, "--no-two-sided-claim")
    refused = cli.refused("profile", "update", name, "--metadata-field", "Model:list:A,B=C")
    assert "The metadata field 'Model': its default is no list" in refused
    shown = cli.run("profile", "show", name).out
    assert "options=A, B, C" in shown


@pytest.mark.parametrize("given", ["a:nmuber", "a:text:b:unique:unique"])
def test_a_metadata_field_that_cannot_be_is_refused(cli: Cli, given: str) -> None:
    assert "--metadata-field" in cli.refused("profile", "create", "a", "--metadata-field", given, code=2)


def test_a_profile_is_cloned(cli: Cli, name: str) -> None:
    made = cli.json("profile", "create", name, "--metadata-field", "serial", "--datastream", "t:V1")

    copy = cli.json("profile", "clone", name, f"{name} 2")

    own = ("id", "name", "templateId", "createdAt")
    assert {key: value for key, value in copy.items() if key not in own} == {
        key: value for key, value in made.items() if key not in (*own, "provisionDeviceKey", "provisionDeviceSecret")
    }
    assert cli.json("profile", "show", f"{name} 2")["provisionDeviceKeys"] == []
    said = cli.run("profile", "clone", name, f"{name} 3").err
    assert said == f"It has no provision key yet: provserver profile key add '{name} 3'\n"
    assert "Choose another name" in cli.refused("profile", "clone", name, name)


def test_a_profile_goes_through_a_file(cli: Cli, name: str, tmp_path: Path) -> None:
    made = cli.json("profile", "create", name, "--secret", "pl4nted", "--metadata-field", "Model:list:Ä,B=Ä")
    file = tmp_path / "profile.toml"

    written = cli.run("profile", "export", name, str(file))
    printed = cli.run("profile", "export", name)

    assert (written.code, written.out, written.err) == (0, "", f"Wrote {file}.\n")
    assert printed.out == file.read_text(encoding="utf-8")
    assert not {"pl4nted", made["provisionDeviceKey"], made["templateId"], made["id"]} & set(printed.out.split('"'))
    assert "Choose another name" in cli.refused("profile", "import", str(file))
    tried = cli.json("profile", "import", str(file), "--name", f"{name} 2", "--dry-run")
    assert "There is no profile" in cli.refused("profile", "show", f"{name} 2")
    said = cli.run("profile", "import", str(file), "--name", f"{name} 2", "--dry-run").err
    assert said == "Nothing was kept: this was a dry run.\n"
    imported = cli.json("profile", "import", str(file), "--name", f"{name} 2")
    assert imported["metadataFields"] == tried["metadataFields"] == made["metadataFields"]
    assert cli.run("profile", "export", f"{name} 2").out == printed.out.replace(name, f"{name} 2")


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_examples_are_imported(cli: Cli, name: str, file: Path) -> None:
    done = cli.run("profile", "import", str(file), "--name", name)

    assert done.code == 0
    assert ("trusts no CA yet" if "x509" in file.stem else "no provision key yet") in done.err
    assert cli.json("profile", "show", name)["metadataFields"]


def test_a_file_that_is_no_profile_is_told_what_is_wrong(cli: Cli, name: str, tmp_path: Path) -> None:
    file = tmp_path / "profile.toml"
    for content, said in (
        (f'name = "{name}"\nstrategy = "disabled"\nkey = "k"', "The file is no profile: object contains unknown field"),
        (f'name = "{name}"\nstrategy = "disabled"\nreprovision_policy = "rotate"', "--accept-unproven-repeats"),
        ("= 1", "not valid TOML"),
    ):
        file.write_text(content)
        assert said in cli.refused("profile", "import", str(file))
    assert "cannot be read: No such file" in cli.refused("profile", "import", str(tmp_path / "none"), code=2)
    cli.json("profile", "create", name)
    assert "cannot be written: Is a directory" in cli.refused("profile", "export", name, str(tmp_path))
    assert "cannot be written" in cli.refused("profile", "export", name, "a\0b")


def test_a_profile_is_deleted(cli: Cli, name: str) -> None:
    made = cli.json("profile", "create", name)

    assert cli.json("profile", "delete", made["templateId"])["id"] == made["id"]

    assert "Look in the list of profiles" in cli.refused("profile", "show", name)


def test_a_profile_with_devices_is_not_deleted(cli: Cli, profile: str) -> None:
    cli.json("device", "create", f"{profile} device", "--profile", profile)

    assert "Delete them first" in cli.refused("profile", "delete", profile)


def test_a_name_is_taken_once(cli: Cli, profile: str) -> None:
    assert "Choose another name" in cli.refused("profile", "create", profile)


@pytest.mark.parametrize(
    ("option", "value", "fix"),
    [
        ("--strategy", "allow", "allow-create, check-pre-provisioned, x509-chain, disabled"),
        ("--metadata-field", ":text", "NAME[:TYPE][:unique][=DEFAULT]"),
        ("--metadata-field", "\udcff", "NAME:list:OPTION,OPTION"),
        ("--metadata-field", "a:b:c:d", "NAME[:TYPE][:unique][=DEFAULT]"),
        ("--datastream", "temperature", "NAME:PIN"),
        ("--datastream", "\udcff:V1", "NAME:PIN"),
        ("--datastream", ":V1", "NAME:PIN"),
        ("--datastream", "t:V1:double:low:high", "NAME:PIN"),
        ("--datastream", "t:V1:double:1:2:3", "NAME:PIN"),
        ("--datastream", "t:V1:double:nan:1", "finite numbers"),
        ("--datastream", "t:V1:double:0:inf", "finite numbers"),
    ],
)
@pytest.mark.parametrize("command", ["create", "update"])
def test_a_malformed_option_is_told_with_its_form(
    cli: Cli, name: str, command: str, option: str, value: str, fix: str
) -> None:
    said = cli.refused("profile", command, name, option, value, code=2)

    assert option in said
    assert fix in said
    assert repr(value) in said
    assert "Usage:" in said


@pytest.mark.parametrize(
    "command", [("show",), ("update",), ("delete",), ("clone",), ("export",), ("key", "add"), ("key", "remove")]
)
@pytest.mark.parametrize("odd", ["\udcff\udcfe", "a\nb", "\x7f"], ids=ascii)
def test_what_cannot_be_a_name_is_nobodys(cli: Cli, command: tuple[str, ...], odd: str) -> None:
    more = ("k",) if {"remove", "clone"} & {*command} else ()

    assert f"There is no profile {odd!r}. `provserver profile list`" in cli.refused("profile", *command, odd, *more)


@pytest.mark.parametrize(
    "arguments",
    [
        ("create",),
        ("create", "a", "b"),
        ("create", "a", "--nonsense"),
        ("create", "a", "--reprovision-policy", "nonsense"),
        ("show",),
        ("key", "remove", "a"),
        ("clone", "a"),
        ("import",),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_told(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert "Usage:" in cli.refused("profile", *arguments, code=2)


# Certificate chains


@pytest.fixture
def root() -> Authority:
    """A CA that no other profile has."""
    return Authority.root("Root", organization="Acme")


def test_a_chain_profile_is_made_from_files(cli: Cli, name: str, root: Authority, tmp_path: Path) -> None:
    ca, crl = tmp_path / "ca.pem", tmp_path / "ca.crl"
    ca.write_text(root.pem)
    crl.write_bytes(root.crl(root.leaf()))

    made = cli.json(
        *("profile", "create", name, "--strategy", "x509-chain", "--ca", str(ca), "--crl", str(crl)),
        *("--name-from", "san-dns", "--name-pattern", r"^([^.]+)\.", "--no-allow-create"),
    )

    assert (made["nameFrom"], made["namePattern"], made["allowCreate"]) == ("san-dns", r"^([^.]+)\.", False)
    assert "provisionDeviceSecret" not in made
    shown = cli.json("profile", "show", name)
    assert shown["provisionDeviceKeys"] == []
    assert shown["warnings"] == []
    (authority,) = shown["certificateAuthorities"]
    assert authority["subject"] == "CN=Root,O=Acme"
    assert authority["fingerprint"] == root.certificate.fingerprint(pki.SHA256).hex()
    assert authority["notAfter"] == f"{root.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    assert (authority["crl"]["revoked"], set(authority["crl"])) == (1, {"thisUpdate", "nextUpdate", "revoked"})
    text = cli.run("profile", "show", name).out
    assert "CN=Root,O=Acme" in text
    assert authority["fingerprint"] in text


def test_a_chain_profile_has_the_usual_rules_and_a_key_on_request(
    cli: Cli, name: str, root: Authority, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.der"
    ca.write_bytes(root.der)

    made = cli.json("profile", "create", name, "--strategy", "x509-chain", "--ca", str(ca), "--key", f"key {name}")

    assert (made["nameFrom"], made["namePattern"], made["allowCreate"]) == ("cn", "(.*)", True)
    assert made["provisionDeviceKey"] == f"key {name}"


def test_a_chain_profile_is_changed(cli: Cli, name: str, root: Authority, tmp_path: Path) -> None:
    files = [tmp_path / "old.pem", tmp_path / "new.pem", tmp_path / "new.crl"]
    new = Authority.root("New", not_after=pki.days(9))
    for file, content in zip(files, (root.der, new.der, new.crl()), strict=True):
        file.write_bytes(content)
    old_pem, new_pem, new_crl = map(str, files)
    cli.json("profile", "create", name, "--strategy", "x509-chain")  # the CA comes later
    assert "trusts no CA yet" in cli.run("profile", "show", name).err

    def authorities() -> list[tuple[str, bool]]:
        shown = cli.json("profile", "show", name)["certificateAuthorities"]
        return sorted((each["subject"], "crl" in each) for each in shown)

    cli.json("profile", "update", name, "--ca", old_pem)
    assert authorities() == [("CN=Root,O=Acme", False)]
    cli.json("profile", "update", name, "--ca", old_pem, "--ca", new_pem, "--crl", new_crl)
    assert authorities() == [("CN=New", True), ("CN=Root,O=Acme", False)]
    changed = cli.json("profile", "update", name, "--name-pattern", "^(x)", "--name-from", "san-uri")
    assert (changed["namePattern"], changed["nameFrom"], changed["allowCreate"]) == ("^(x)", "san-uri", True)
    cli.json("profile", "update", name, "--forget-crls", "--no-allow-create")
    assert authorities() == [("CN=New", False), ("CN=Root,O=Acme", False)]
    assert "CN=New expires on" in cli.run("profile", "show", name).err


def test_a_ca_that_is_not_accepted_is_told_with_the_fix(cli: Cli, name: str, tmp_path: Path) -> None:
    create = ("profile", "create", name, "--strategy", "x509-chain")
    for content, fix in (
        (pki.self_signed().pem, "no CA's"),
        (Authority.root(key="ed25519").pem, "Ed25519"),
        ("garbage", "neither as PEM nor as DER"),
    ):
        file = tmp_path / "ca.pem"
        file.write_text(content)
        assert fix in cli.refused(*create, "--ca", str(file))
    assert "is not valid: missing ]" in cli.refused(*create, "--name-pattern", "[")
    assert "--strategy x509-chain" in cli.refused("profile", "create", name, "--name-from", "cn")
    assert "cannot be read: No such file" in cli.refused(*create, "--ca", str(tmp_path / "none"), code=2)
    assert "cannot be read: Is a directory" in cli.refused(*create, "--crl", str(tmp_path), code=2)
    assert "cannot be read" in cli.refused(*create, "--ca", "a\0b", code=2)
    assert "san-email" in cli.refused(*create, "--name-from", "nonsense", code=2)
    assert "There is no profile" in cli.refused("profile", "show", name)


@pytest.mark.parametrize(("given", "said"), [("t:6", "'6' is no pin"), ("t:V256", "no pin"), ("t:V1:dobule", "double")])
def test_a_datastream_must_have_a_pin_and_a_type_that_exist(cli: Cli, given: str, said: str) -> None:
    assert said in cli.refused("profile", "create", "a", "--datastream", given, code=2)


def test_profiles_of_an_organization_below(cli: Cli, name: str) -> None:
    made = cli.json("organization", "create", f"of {name}")
    for reference in (made["id"], str(made["number"]), made["name"]):
        own = ("--organization", reference)
        profile = cli.json("profile", "create", name, *own)
        assert [each["name"] for each in cli.json("profile", "list", *own)] == [name]
        assert cli.json("profile", "show", name, *own)["id"] == profile["id"]
        assert cli.json("profile", "show", profile["templateId"])["id"] == profile["id"]
        assert "together with that organization" in cli.refused("profile", "show", name)
        assert cli.json("profile", "update", name, "--two-sided-claim", *own)["twoSidedClaim"]
        key = cli.json("profile", "key", "add", name, *own)["provisionDeviceKey"]
        cli.json("profile", "key", "update", name, key, "--max-uses", "3", *own)
        cli.json("profile", "key", "remove", name, key, *own)
        cli.json("profile", "ca", "create", name, *own)
        cli.json("profile", "ca", "show", name, *own)
        cli.json("profile", "clone", name, f"{name}-2", *own)
        assert name in cli.run("profile", "export", name, *own).out
        for each in (name, f"{name}-2"):
            cli.json("profile", "delete", each, *own)
