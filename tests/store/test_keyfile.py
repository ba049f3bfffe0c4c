import asyncio
import base64
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from provserver.core.secrets import ServerKeys
from provserver.errors import Misconfigured
from provserver.store import keyfile
from provserver.store.database import Database

KEY = base64.b64encode(bytes(range(32))).decode()


def written(path: Path, content: str, mode: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


def test_keys_are_made_at_the_first_start_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deeper" / "keys.json"
    before = os.umask(0)
    try:
        keys = keyfile.load_or_create(path)
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [len(key) for key in (keys.digest_keys[1], keys.sealing_keys[1])] == [32, 32]
    assert keys.digest_keys[1] != keys.sealing_keys[1]
    assert list(path.parent.iterdir()) == [path]  # nothing unfinished is left


def test_keys_stay_the_same(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"

    first = keyfile.load_or_create(path)

    assert keyfile.load_or_create(path) == first
    assert keyfile.load_or_create(tmp_path / "others.json") != first


def test_several_versions_are_read(tmp_path: Path) -> None:
    other = base64.b64encode(bytes(32)).decode()
    path = written(tmp_path / "keys.json", json.dumps({each: {"1": KEY, "7": other} for each in ("digest", "sealing")}))

    keys = keyfile.load_or_create(path)

    assert keys == ServerKeys({1: bytes(range(32)), 7: bytes(32)}, {1: bytes(range(32)), 7: bytes(32)})


async def test_of_many_who_make_the_keys_at_once_all_have_the_same(tmp_path: Path) -> None:
    """Processes that wait for each other before they begin."""
    path = tmp_path / "keys.json"
    code = (
        "import sys; from pathlib import Path; from provserver.store import keyfile\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"keys = keyfile.load_or_create(Path({str(path)!r}))\n"
        "print(keys.digest_keys[1].hex(), keys.sealing_keys[1].hex())"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"

    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))

    assert [process.returncode for process in processes] == [0] * 4
    assert len({output for output, _ in outputs}) == 1
    assert list(tmp_path.iterdir()) == [path]  # noqa: ASYNC240


async def test_threads_that_make_the_keys_at_once_have_the_same(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"

    keys = await asyncio.gather(*(asyncio.to_thread(keyfile.load_or_create, path) for _ in range(8)))

    assert all(each == keys[0] for each in keys)


def test_what_a_crash_left_of_the_same_process_id_is_not_in_the_way(tmp_path: Path) -> None:
    """In a container every start may have the same one."""
    for name in (f"keys.{os.getpid()}", f".keys.json.{os.getpid()}"):
        (tmp_path / name).write_text('{"digest"')

    keyfile.load_or_create(tmp_path / "keys.json")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o610, 0o601])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.json"
    keys = keyfile.load_or_create(path)
    path.chmod(mode)

    with pytest.raises(Misconfigured, match=f"chmod 600 {path}"):
        keyfile.load_or_create(path)

    path.chmod(0o400)
    assert keyfile.load_or_create(path) == keys


def test_a_credential_of_systemd_is_taken_as_systemd_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may read it says an ACL, whose mask looks like a group's right."""
    directory = tmp_path / "credentials"
    path = directory / "keys.json"
    keys = keyfile.load_or_create(path)
    path.chmod(0o440)
    with pytest.raises(Misconfigured, match="chmod 600"):
        keyfile.load_or_create(path)

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))
    assert keyfile.load_or_create(path) == keys
    for elsewhere in (tmp_path / "keys.json", tmp_path / "credentials-of-others" / "keys.json"):
        keyfile.load_or_create(elsewhere).digest_keys  # noqa: B018
        elsewhere.chmod(0o440)
        with pytest.raises(Misconfigured, match="chmod 600"):
            keyfile.load_or_create(elsewhere)
    path.chmod(0o444)
    with pytest.raises(Misconfigured, match="chmod 600"):
        keyfile.load_or_create(path)


def test_what_is_no_regular_file_is_not_to_be_changed() -> None:
    with pytest.raises(Misconfigured, match=r"/dev/null is not a regular file\.$"):
        keyfile.load_or_create(Path("/dev/null"))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "pl4nted",
        '"pl4nted"',
        "[]",
        "null",
        "{}",
        '{"digest": {"1": "pl4nted"}}',
        json.dumps({"digest": {"1": KEY}}),
        json.dumps({"digest": {"1": KEY}, "sealing": "pl4nted"}),
        json.dumps({"digest": {"1": KEY}, "sealing": {}}),
        json.dumps({"digest": {"1": KEY}, "sealing": {"1": "pl4nted"}}),
        json.dumps({"digest": {"1": KEY}, "sealing": {"1": base64.b64encode(b"pl4nted").decode()}}),
        json.dumps({"digest": {"1": KEY}, "sealing": {"1": KEY + "\n*"}}),
        json.dumps({"digest": {"1": KEY}, "sealing": {"1": 1}}),
        json.dumps({"digest": {"1": KEY}, "sealing": {"1": None}}),
        json.dumps({"digest": {"1": KEY}, "sealing": {"pl4nted": KEY}}),
        json.dumps({"digest": {"1": KEY}, "sealing": {"0": KEY}}),
        json.dumps({"digest": {"1": KEY}, "sealing": {"256": KEY}}),
        json.dumps({"digest": {"1": KEY}, "sealing": {"1": KEY, "2": KEY}}),
    ],
)
def test_a_malformed_file_is_refused_without_quoting_it(tmp_path: Path, content: str) -> None:
    path = written(tmp_path / "keys.json", content)

    with pytest.raises(Misconfigured, match="Restore it from your backup") as raised:
        keyfile.load_or_create(path)

    assert str(path) in str(raised.value)
    assert "pl4nted" not in str(raised.value)
    assert KEY not in str(raised.value)
    assert raised.value.__cause__ is None
    assert path.read_text() == content


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)

    with pytest.raises(Misconfigured, match="must be"):
        keyfile.load_or_create(path)


def test_a_place_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(Misconfigured, match=r"keys\.json cannot be"):
        keyfile.load_or_create(tmp_path / "file" / "keys.json")


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.json").mkdir(mode=0o700)

    with pytest.raises(Misconfigured, match="cannot be read"):
        keyfile.load_or_create(tmp_path / "keys.json")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user for a while")
@pytest.mark.parametrize("made", [True, False])
def test_a_file_out_of_reach_is_refused(tmp_path: Path, made: bool) -> None:
    path = tmp_path / "private" / "keys.json"
    path.parent.mkdir(mode=0o700)
    if made:
        keyfile.load_or_create(path)
    os.seteuid(65534)
    try:
        with pytest.raises(Misconfigured, match="cannot be read: Permission denied"):
            keyfile.load_or_create(path)
    finally:
        os.seteuid(0)


async def test_the_keys_of_a_database_are_proven(database: Database, tmp_path: Path) -> None:
    keys = keyfile.load_or_create(tmp_path / "keys.json")
    await keyfile.prove(database, keys)

    await keyfile.prove(database, keys)

    async with database.connection() as connection:
        proofs = [row["proof"] for row in await connection.fetch("SELECT proof FROM server_key")]
    assert len(proofs) == 2
    assert not set(proofs) & {*keys.digest_keys.values(), *keys.sealing_keys.values()}
    others = keyfile.load_or_create(tmp_path / "others.json")
    mixed = (
        others,
        ServerKeys(keys.digest_keys, others.sealing_keys),
        ServerKeys(others.digest_keys, keys.sealing_keys),
        ServerKeys(keys.sealing_keys, keys.digest_keys),
    )
    for strangers in mixed:
        with pytest.raises(Misconfigured, match=r"is not the one this database was written with.*keys_file"):
            await keyfile.prove(database, strangers)
    await keyfile.prove(database, keys)


async def test_none_are_made_for_a_database_whose_keys_are_missing(database: Database, tmp_path: Path) -> None:
    source = keyfile.KeySource(tmp_path / "data" / "keys.json")
    keys = await keyfile.of_database(database, source)
    assert await keyfile.of_database(database, source) == keys
    source.path.unlink()

    with pytest.raises(
        Misconfigured, match=r"no keys at .*keys\.json.* keys file that belongs to it .*provserver restore"
    ):
        await keyfile.of_database(database, source)

    assert list(source.path.parent.iterdir()) == []
    keyfile.write_new(source.path, keys)
    assert await keyfile.of_database(database, source) == keys


async def test_two_servers_that_prove_different_keys_at_once_are_told_apart(database: Database, tmp_path: Path) -> None:
    keys = [keyfile.load_or_create(tmp_path / f"{n}.json") for n in range(2)]

    outcomes = await asyncio.gather(*(keyfile.prove(database, each) for each in keys), return_exceptions=True)

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Misconfigured", "NoneType"]


async def test_a_new_version_joins_those_that_are_proven_and_is_not_written_with(
    database: Database, tmp_path: Path
) -> None:
    keys = keyfile.load_or_create(tmp_path / "keys.json")
    await keyfile.prove(database, keys)
    one = keys.digest("p")
    rotated = ServerKeys({**keys.digest_keys, 2: bytes(32)}, {**keys.sealing_keys, 2: bytes(32)})

    await keyfile.prove(database, rotated)

    assert (rotated.current, rotated.digest("p"), len(rotated.digests("p"))) == (1, one, 2)
    wrong = ServerKeys({**keys.digest_keys, 2: bytes(31) + b"1"}, {**keys.sealing_keys, 2: bytes(32)})
    with pytest.raises(Misconfigured, match="digest key 2"):
        await keyfile.prove(database, wrong)
    await keyfile.prove(database, keys)  # who does not have it yet


async def test_keys_without_the_current_version_are_refused_and_retired_ones_are_forgotten(
    database: Database, tmp_path: Path
) -> None:
    first = keyfile.load_or_create(tmp_path / "keys.json")
    await keyfile.prove(database, first)
    second = {2: bytes(32)}
    both = ServerKeys({**first.digest_keys, **second}, {**first.sealing_keys, **second})
    await keyfile.prove(database, both)
    async with database.connection() as connection:
        await connection.execute("UPDATE server_key SET state = CASE version WHEN 2 THEN 'current' ELSE 'retired' END")

    with pytest.raises(Misconfigured, match="Version 2 of the keys is missing"):
        await keyfile.prove(database, first)
    await keyfile.prove(database, both)

    assert both.digest_keys == second


def test_keys_may_be_a_text_of_the_environment(tmp_path: Path) -> None:
    made = keyfile.load_or_create(tmp_path / "keys.json")
    source = keyfile.KeySource(tmp_path / "none.json", keyfile.text_of(made))

    assert source.load() == source.load_or_create() == made
    assert source.present
    assert source.text not in repr(source)
    assert not source.path.exists()
    with pytest.raises(Misconfigured, match="PROVSERVER_KEYS must be"):
        keyfile.KeySource(tmp_path / "none.json", "pl4nted").load()


def test_a_file_is_replaced_whole_and_stays_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = keyfile.load_or_create(path)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    added = ServerKeys({**keys.digest_keys, 2: bytes(32)}, {**keys.sealing_keys, 2: bytes(32)})

    keyfile.replace(link, added)

    assert keyfile.load_or_create(path) == added
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(tmp_path.iterdir()) == [path, link]
    with pytest.raises(Misconfigured, match="exists already"):
        keyfile.write_new(path, keys)
