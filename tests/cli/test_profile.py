import re
from uuid import UUID

import pytest

from provserver.services.profiles import UNPROVEN
from tests.cli.conftest import Cli

PLAIN = {"reprovisionPolicy": "deny", "metadataFields": [], "datastreams": []}


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


def test_a_profile_is_changed(cli: Cli, name: str) -> None:
    made = cli.json("profile", "create", name, "--metadata-field", "serial", "--datastream", "t:V1")

    changed = cli.json("profile", "update", name, "--strategy", "disabled", "--datastream", "u:V2")
    renamed = cli.json("profile", "update", name, "--name", f"{name} renamed")

    assert (changed["name"], changed["strategy"]) == (name, "DISABLED")
    assert changed["metadataFields"] == made["metadataFields"]
    assert [stream["name"] for stream in changed["datastreams"]] == ["u"]
    assert renamed == changed | {"name": f"{name} renamed"}
    refused = cli.refused("profile", "update", made["id"], "--reprovision-policy", "return_same")
    assert "--accept-unproven-repeats" in refused


def test_keys_are_added_and_removed(cli: Cli, name: str) -> None:
    first = cli.json("profile", "create", name)["provisionDeviceKey"]

    added = cli.json("profile", "key", "add", name)
    given = cli.json("profile", "key", "add", name, "--key", f"key {name}", "--secret", "s")

    assert set(added) == {"provisionDeviceKey", "provisionDeviceSecret"}
    assert given == {"provisionDeviceKey": f"key {name}", "provisionDeviceSecret": "s"}
    keys = [first, added["provisionDeviceKey"], f"key {name}"]
    assert cli.json("profile", "show", name)["provisionDeviceKeys"] == keys
    assert cli.json("profile", "key", "remove", name, first) == {"provisionDeviceKey": first}
    assert cli.json("profile", "show", name)["provisionDeviceKeys"] == keys[1:]
    assert "provserver profile show" in cli.refused("profile", "key", "remove", name, first)
    assert "Choose another" in cli.refused("profile", "key", "add", name, "--key", f"key {name}")


def test_a_profile_is_deleted(cli: Cli, name: str) -> None:
    made = cli.json("profile", "create", name)

    assert cli.json("profile", "delete", made["templateId"])["id"] == made["id"]

    assert "provserver profile list" in cli.refused("profile", "show", name)


def test_a_profile_with_devices_is_not_deleted(cli: Cli, profile: str) -> None:
    cli.json("device", "create", f"{profile} device", "--profile", profile)

    assert "Delete them first" in cli.refused("profile", "delete", profile)


def test_a_name_is_taken_once(cli: Cli, profile: str) -> None:
    assert "Choose another name" in cli.refused("profile", "create", profile)


@pytest.mark.parametrize(
    ("option", "value", "fix"),
    [
        ("--strategy", "allow", "allow-create, check-pre-provisioned, x509-chain, disabled"),
        ("--metadata-field", ":text", "NAME:TYPE"),
        ("--metadata-field", "\udcff", "NAME:TYPE"),
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


@pytest.mark.parametrize("command", [("show",), ("update",), ("delete",), ("key", "add"), ("key", "remove")])
@pytest.mark.parametrize("odd", ["\udcff\udcfe", "a\nb", "\x7f"], ids=ascii)
def test_what_cannot_be_a_name_is_nobodys(cli: Cli, command: tuple[str, ...], odd: str) -> None:
    more = ("k",) if "remove" in command else ()

    assert f"There is no profile {odd!r}. `provserver profile list`" in cli.refused("profile", *command, odd, *more)


def test_what_cannot_be_a_provision_key_is_none(cli: Cli, name: str) -> None:
    assert "no provision key '\\udcff'. `provserver profile show`" in cli.refused(
        "profile", "key", "remove", name, "\udcff"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("create",),
        ("create", "a", "b"),
        ("create", "a", "--nonsense"),
        ("create", "a", "--reprovision-policy", "nonsense"),
        ("show",),
        ("key", "remove", "a"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_told(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert "Usage:" in cli.refused("profile", *arguments, code=2)
