import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


def test_a_key_has_a_budget(cli: Cli, name: str) -> None:
    cli.json("profile", "create", name)
    key = f"key {name}"

    added = cli.json(
        *("profile", "key", "add", name, "--key", key, "--secret", "s", "--not-before", "2026-01-31"),
        *("--not-after", "2126-01-31T12:00:00+02:00", "--network", "192.0.2.0/24", "--network", "2001:db8::1"),
    )

    budget = {
        "notBefore": "2026-01-31T00:00:00Z",
        "notAfter": "2126-01-31T10:00:00Z",
        "networks": ["192.0.2.0/24", "2001:db8::1/128"],
    }
    assert cli.json("profile", "show", name)["keyBudgets"] == [{"provisionDeviceKey": key} | budget]
    assert added == {"provisionDeviceKey": key, "provisionDeviceSecret": "s"} | budget
    assert key in cli.run("profile", "show", name).out
    refused = cli.refused("profile", "key", "add", name, "--not-before", "2027-01-01", "--not-after", "2026-01-01")
    assert "become valid before it expires" in refused
    cli.json("profile", "key", "add", name, "--key", f"old {name}", "--not-after", "2020-01-01")
    assert f"The provision key old {name} expired on 2020-01-01" in cli.run("profile", "show", name).err


def test_a_key_is_bounded_anew(cli: Cli, name: str) -> None:
    cli.json("profile", "create", name, "--key", f"key {name}", "--secret", "s")
    update = ("profile", "key", "update", name, f"key {name}")

    shown = cli.json(*update, "--max-uses", "10", "--per-minute", "3")
    assert shown["keyBudgets"] == [{"provisionDeviceKey": f"key {name}", "maxUses": 10, "perMinute": 3, "uses": 0}]
    assert "counted from now on" in cli.run(*update, "--max-uses", "10", "--per-minute", "3").err
    assert "counted" not in cli.run(*update, "--per-minute", "3").err
    shown = cli.json(*update, "--max-uses", "10", "--per-minute", "3")
    assert cli.json("profile", "show", name)["keyBudgets"] == shown["keyBudgets"]
    assert "keyBudgets" not in cli.json(*update)
    added = cli.json("profile", "key", "add", name, "--max-uses", "5")
    assert added["maxUses"] == 5
    assert "no such provision key" in cli.refused("profile", "key", "update", name, "another")
    assert "--max-uses" in cli.refused(*update, "--max-uses", "0", code=2)


@pytest.mark.parametrize(
    ("option", "value", "fix"),
    [
        ("--not-before", "tomorrow", "2027-01-31"),
        ("--not-after", "2027-01-31T12:00:00", "2027-01-31T12:00:00Z"),
        ("--network", "192.0.2.7/24", "192.0.2.0/24"),
        ("--network", "localhost", "192.0.2.0/24"),
    ],
)
def test_a_malformed_budget_is_told_with_its_form(cli: Cli, name: str, option: str, value: str, fix: str) -> None:
    said = cli.refused("profile", "key", "add", name, option, value, code=2)

    assert option in said
    assert fix in said
    assert repr(value) in said


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
    assert "Look at those that it has" in cli.refused("profile", "key", "remove", name, first)
    assert "Choose another" in cli.refused("profile", "key", "add", name, "--key", f"key {name}")


def test_what_cannot_be_a_provision_key_is_none(cli: Cli, name: str) -> None:
    assert "no provision key '\\udcff'. `provserver profile show`" in cli.refused(
        "profile", "key", "remove", name, "\udcff"
    )
