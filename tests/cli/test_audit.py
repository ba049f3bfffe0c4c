from tests.cli.conftest import Cli


def test_the_newest_is_first(everywhere: Cli, name: str) -> None:
    made = everywhere.json("organization", "create", name)
    everywhere.json("organization", "update", name, "--sign-up")

    entries = everywhere.json("audit", "list", "--subject", made["id"])

    assert [entry["action"] for entry in entries] == ["organization.updated", "organization.created"]
    assert {entry["subjectId"] for entry in entries} == {made["id"]}
    assert len(everywhere.json("audit", "list", "--limit", "1")) == 1
    table = everywhere.run("audit", "list", "--subject", made["id"]).out
    assert table.startswith("TIME")
    assert "organization.updated" in table


def test_the_operator_is_told_from_a_key(local: Cli, remote: Cli, name: str) -> None:
    first = local.json("organization", "create", name)
    second = remote.json("organization", "create", f"{name} b")

    (by_operator,) = local.json("audit", "list", "--subject", first["id"])
    (by_key,) = local.json("audit", "list", "--subject", second["id"])

    assert by_operator["actor"] == "operator"
    assert by_key["actor"].startswith("key:")
