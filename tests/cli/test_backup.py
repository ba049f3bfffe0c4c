"""`provserver backup` of a server under load, and `provserver restore` elsewhere."""

import json
import os
from pathlib import Path

import asyncpg
import pytest

from provserver.core import backupfile
from provserver.errors import Refused
from provserver.services import backup
from tests.cli.conftest import Cli
from tests.cli.test_keys import Factory, post
from tests.server import CommandFailed, Server, until

PASSPHRASE = "a pl4nted passphrase"


@pytest.fixture(scope="module")
def passphrase(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "passphrase"
    file.touch(mode=0o600)
    file.write_text(PASSPHRASE + "\n")
    return file


def test_a_served_database_is_backed_up_and_goes_on_elsewhere(tmp_path: Path, passphrase: Path) -> None:
    file = tmp_path / "backup"
    given = ("--passphrase-file", str(passphrase))
    with Server(tmp_path / "data") as server:
        factory = Factory(server, server.cli("profile", "create", "sensors"))
        for n in range(20):
            factory.make(f"before {n}")
        known = list(factory.tokens)
        until((server.data_dir / "audit-head.json").exists, "the audit is chained")  # a little later
        with factory:
            made = server.cli("backup", str(file), *given)
        assert factory.faults == []
        kept = (server.data_dir / "keys.json").read_text()
    content = file.read_bytes()
    assert made == {"file": str(file), "bytes": len(content)}
    assert file.stat().st_mode & 0o777 == 0o600
    for secret in (PASSPHRASE, *(key for versions in json.loads(kept).values() for key in versions.values()), *known):
        assert secret.encode() not in content

    other = Server(tmp_path / "elsewhere")
    restored = other.cli("restore", str(file), *given)
    assert restored["applied"] == []
    assert json.loads((other.data_dir / "keys.json").read_text()) == json.loads(kept)
    assert (other.data_dir / "audit-head.json").stat().st_mode & 0o777 == 0o600
    with other:
        for token in known:
            assert post(other.http, f"/api/v1/{token}/telemetry", {"t": 1})[0] == 200
        other.cli("audit", "verify")
        with pytest.raises(CommandFailed, match="not empty"):
            other.cli("restore", str(file), *given)


def test_a_backup_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "backup"
    seal, start = backupfile.begin(
        PASSPHRASE, "{}", [(9999, "future", "ab")], created_at="", release="9.9", postgres=18, random=os.urandom
    )
    file.write_bytes(start + seal.finish())
    with pytest.raises(Refused, match=r"migration 9999_future, which this release does not know so\. Install .* 9\.9"):
        backup.examine(file, PASSPHRASE, lambda _done, _total: None)


async def killed(*_: object) -> int:
    raise SystemExit(137)


@pytest.fixture
async def empty(postgres: str, name: str) -> str:
    """The DSN of a database that nothing was done to."""
    connection = await asyncpg.connect(postgres)
    await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    await connection.close()
    return postgres.replace("/provserver?", f"/{name}?")


def test_what_is_no_whole_backup_of_this_passphrase_is_refused_before_anything_is_done(
    local: Cli, empty: str, tmp_path: Path, passphrase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "backup"
    given = ("--passphrase-file", str(passphrase))
    webhook = local.json("webhook", "create", "https://hooks.example.com/pl4nted")
    local.json("profile", "create", "chained")
    local.json("audit", "head")
    local.json("backup", str(file), *given)
    assert "--force replaces it" in local.refused("backup", str(file), *given, code=2)
    another = tmp_path / "another"
    another.write_bytes(file.read_bytes())
    assert local.json("backup", str(file), *given, "--force")["bytes"] > 0
    local.json("webhook", "delete", webhook["id"])
    target = Cli("--data-dir", str(tmp_path / "new"), "--database-url", empty)
    content = file.read_bytes()
    damaged = tmp_path / "damaged"
    flipped = bytes((content[9000] ^ 1,))
    for wrong in (content[:-1], content[:-5000], content[:9000] + flipped + content[9001:], content + b"x"):
        damaged.write_bytes(wrong)
        assert "is not whole, or was changed" in target.refused("restore", str(damaged), *given)
    for wrong in (b"", content[:100], b"PGDMP" + content):
        damaged.write_bytes(wrong)
        assert "is no backup" in target.refused("restore", str(damaged), *given)
    other = tmp_path / "other"
    other.touch(mode=0o600)
    other.write_text("another passphrase")
    assert "The passphrase is not the one" in target.refused("restore", str(file), "--passphrase-file", str(other))
    other.chmod(0o640)
    assert "chmod 600" in target.refused("restore", str(file), "--passphrase-file", str(other), code=3)
    nothing = target.refused("restore", str(file), "--passphrase-file", "/dev/null", code=3)
    assert "/dev/null is not a regular file" in nothing
    assert "chmod" not in nothing
    assert "cannot be read" in target.refused("restore", str(tmp_path / "none"), *given)
    assert not (tmp_path / "new").exists()

    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "keys.json").touch(mode=0o600)
    others = {purpose: {"1": "A" * 43 + "="} for purpose in ("digest", "sealing")}
    (tmp_path / "new" / "keys.json").write_text(json.dumps(others))
    assert "has keys already" in target.refused("restore", str(file), *given)
    (tmp_path / "new" / "keys.json").unlink()
    head_file = tmp_path / "new" / "audit-head.json"
    head_file.write_text("of a chain that has gone on")
    with monkeypatch.context() as interrupted:  # after the database was filled, before it was made to tell nobody
        interrupted.setattr(backup, "_silence", killed)
        assert target.run("restore", str(file), *given, "--webhooks-off").code == 137
    assert "Run the same `provserver restore` again" in target.refused("webhook", "list", code=3)
    assert "Run the same `provserver restore` again" in target.refused("db", "upgrade", code=3)
    assert "of another backup" in target.refused("restore", str(another), *given)
    restored = target.json("restore", str(file), *given, "--webhooks-off")
    webhooks = target.json("webhook", "list")
    assert restored["applied"] == []
    assert 1 <= restored["webhooksDisabled"] <= len(webhooks)
    assert {each["enabled"] for each in webhooks} == {False}
    told = [each["detail"] for each in target.json("audit", "list") if each["action"] == "webhook.updated"]
    assert {"host": "hooks.example.com", "enabled": False} in told
    assert target.json("audit", "verify", "--head", str(head_file))["broken"] is None
    assert [each["name"] for each in target.json("profile", "list")] == [
        each["name"] for each in local.json("profile", "list")
    ]
    assert "not empty" in target.refused("restore", str(file), *given)
