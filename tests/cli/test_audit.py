import asyncio
import json
from pathlib import Path

import asyncpg

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


def test_the_chain_is_verified_against_a_head_that_was_kept(everywhere: Cli, name: str, tmp_path: Path) -> None:
    everywhere.json("organization", "create", name)
    head = everywhere.json("audit", "head")
    kept = tmp_path / "head.json"
    kept.write_text(json.dumps(head))

    found = everywhere.json("audit", "verify", "--head", str(kept))
    assert found["broken"] is None
    assert found["entries"] >= head["seq"]
    assert f"{head['seq']} entries, and the head of" in everywhere.run("audit", "verify", "--head", str(kept)).out

    kept.write_text(json.dumps(head | {"seq": head["seq"] + 1}))
    assert "not signed by this server" in everywhere.refused("audit", "verify", "--head", str(kept))
    kept.write_text("{}")
    assert "seq" in everywhere.refused("audit", "verify", "--head", str(kept))
    kept.write_text("no JSON")
    assert "audit head --json" in everywhere.refused("audit", "verify", "--head", str(kept), code=3)


def test_it_is_exported_and_says_so(everywhere: Cli, name: str, tmp_path: Path) -> None:
    made = everywhere.json("organization", "create", name)
    file = tmp_path / "audit.jsonl"

    report = everywhere.json("audit", "export", str(file), "--organization", name)
    assert report == {"file": str(file), "bytes": file.stat().st_size}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["action"], line["subjectId"]) for line in lines] == [
        ("organization.created", made["id"]),
        ("audit.exported", made["id"]),
    ]
    assert lines[0]["detail"] == {"name": name}

    everywhere.json("audit", "head")
    done = everywhere.run("audit", "export", "-", "--organization", name)
    assert all(line["mac"][:2] == "01" for line in map(json.loads, done.out.splitlines()[:2]))


def test_what_is_broken_is_named(tmp_path: Path, postgres: str) -> None:
    async def sql(url: str, *statements: str) -> None:
        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(sql(postgres, "CREATE DATABASE tampered TEMPLATE template"))
    url = postgres.replace("/provserver?", "/tampered?")
    cli = Cli("--data-dir", str(tmp_path / "data"), "--database-url", url)
    cli.json("profile", "create", "a")
    cli.json("profile", "create", "b")
    assert cli.json("audit", "head")["seq"] >= 2
    asyncio.run(
        sql(
            url,
            "ALTER TABLE audit DISABLE TRIGGER USER",
            "UPDATE audit SET actor = 'user:somebody' WHERE seq = 2",
            "ALTER TABLE audit ENABLE TRIGGER USER",
        )
    )

    done = cli.run("audit", "verify")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("broken at entry 2, ")
    assert "altered" in done.err
    done = cli.run("audit", "verify", "--json")
    assert (done.code, json.loads(done.out)["entries"]) == (1, 1)
