import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from provserver.core import auditchain, ids
from provserver.core.secrets import ServerKeys
from provserver.errors import Conflict, Invalid, Misconfigured
from provserver.services import audit_chain
from provserver.services.audit_chain import AuditChain, Broken
from provserver.store import audit
from provserver.store import audit_chain as store
from provserver.store.database import Database
from provserver.store.headfile import HeadFile
from tests.conftest import Space

Chain = AuditChain


@pytest.fixture
def chain(space: Space) -> Chain:
    return AuditChain(space.database, space.keys)


@pytest.fixture
async def second(database_url: str, space: Space) -> AsyncIterator[Chain]:
    """Another process' sequencer."""
    opened = Database(database_url, size=2)
    await opened.open()
    yield AuditChain(opened, space.keys)
    await opened.close()


async def record(space: Space, count: int = 1, **detail: str | float) -> list[UUID]:
    made = [ids.uuid7(time.time(), os.urandom) for _ in range(count)]
    async with space.database.transaction() as connection:
        for id_ in made:
            await audit.record(
                connection, id_, space.organization_id, "operator", "device.revoked", id_, name="a", **detail
            )
    return made


async def tamper(space: Space, statement: str, *arguments: object) -> None:
    """As an owner of the database does who knows of the triggers."""
    async with space.database.transaction() as connection:
        await connection.execute("ALTER TABLE audit DISABLE TRIGGER USER")
        await connection.execute(statement, *arguments)
        await connection.execute("ALTER TABLE audit ENABLE TRIGGER USER")


async def places(space: Space) -> list[int | None]:
    return [row[0] for row in await space.rows("SELECT seq FROM audit ORDER BY seq")]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'nobody'",
        "UPDATE audit SET seq = 7, mac = 'm', detail = '{}'",
        "UPDATE audit SET seq = NULL, mac = NULL",
        "UPDATE audit SET seq = seq + 1",
        "DELETE FROM audit",
        "TRUNCATE audit",
    ],
)
@pytest.mark.parametrize("chained", [True, False])
async def test_an_owner_is_refused_too(space: Space, chain: Chain, statement: str, chained: bool) -> None:
    await record(space)
    if chained:
        await chain.advance()
    before = await space.rows("SELECT * FROM audit")

    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="the audit only grows"):
        await space.rows(statement)

    assert await space.rows("SELECT * FROM audit") == before


async def test_entries_get_their_places_once(space: Space, chain: Chain) -> None:
    first = await record(space, 3, number=1e300, text="\N{SNOWMAN} \\ \" '")
    assert await chain.advance() == 3
    second = await record(space, 2)
    assert await chain.advance() == 2
    assert await chain.advance() == 0

    rows = await space.rows("SELECT id FROM audit ORDER BY seq")
    assert [row[0] for row in rows][:3] == sorted(first)
    assert {row[0] for row in rows[3:]} == set(second)
    assert await places(space) == [1, 2, 3, 4, 5]
    assert await chain.verify() == audit_chain.Verification(5, 0, None)


async def test_what_waits_is_counted_and_not_verified(space: Space, chain: Chain) -> None:
    await record(space, 2)
    assert await chain.verify() == audit_chain.Verification(0, 2, None)


async def test_more_than_a_batch_is_chained(space: Space, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_chain, "BATCH", 3)
    await record(space, 10)
    assert await chain.advance() == 10
    assert (await chain.verify()).entries == 10


@pytest.mark.parametrize(
    ("statement", "seq", "named", "text"),
    [
        ('UPDATE audit SET detail = \'{"name": "b"}\' WHERE seq = 3', 3, True, "altered"),
        ("UPDATE audit SET at = at + interval '1 microsecond' WHERE seq = 3", 3, True, "altered"),
        ("DELETE FROM audit WHERE seq IN (2, 3)", 2, False, "there is no entry 2 to 3"),
        ("DELETE FROM audit WHERE seq = 5", 5, False, "cut off"),
        ("UPDATE audit SET seq = NULL, mac = NULL WHERE seq = 5", 5, False, "cut off"),
        ("DELETE FROM audit", 1, False, "cut off"),
        ("UPDATE audit SET mac = '\\x01' WHERE seq = 4", 4, True, "altered"),
        ("UPDATE audit SET mac = '' WHERE seq = 4", 4, True, "key 0"),
        ("DELETE FROM audit_head", 5, False, "no signed head"),
        ("UPDATE audit_head SET seq = 4, mac = (SELECT mac FROM audit WHERE seq = 4)", 4, False, "not signed"),
        (
            "UPDATE audit a SET subject_id = b.subject_id FROM audit b WHERE b.seq = 5 - a.seq AND a.seq IN (2, 3)",
            2,
            True,
            "altered, or put here from another place",
        ),
    ],
)
async def test_the_first_that_is_wrong_is_named(
    space: Space, chain: Chain, statement: str, seq: int, named: bool, text: str
) -> None:
    await record(space, 5)
    await chain.advance()

    await tamper(space, statement)
    broken = (await chain.verify()).broken

    assert broken is not None
    assert (broken.seq, broken.id is not None) == (seq, named)
    assert text in broken.text
    if named:
        assert broken.id == await space.value("SELECT id FROM audit WHERE seq = $1", seq)


async def test_an_exported_head_finds_what_the_database_cannot_know(space: Space, chain: Chain) -> None:
    await record(space, 3)
    early = await chain.head()
    snapshot = await space.rows("SELECT seq, mac, at, signature FROM audit_head")
    await record(space, 2)
    late = await chain.head()
    assert (early.seq, late.seq) == (3, 5)

    # Who has the database's older head as well can take it back to then.
    await tamper(space, "DELETE FROM audit WHERE seq > 3")
    await tamper(space, "UPDATE audit_head SET seq = $1, mac = $2, at = $3, signature = $4", *snapshot[0])

    assert (await chain.verify()).broken is None
    assert (await chain.verify(early)).broken is None
    broken = (await chain.verify(late)).broken
    assert broken is not None
    assert broken.seq == 4
    assert "cut off: the head of the file has seen 5 entries, and there are 3" in broken.text

    await record(space, 4)  # and grow it anew
    await chain.advance()
    assert (await chain.verify()).broken is None
    broken = (await chain.verify(late)).broken
    assert broken is not None
    assert broken.seq == 5


async def test_a_head_of_another_server_is_refused(space: Space, chain: Chain) -> None:
    await record(space)
    head = await chain.head()
    with pytest.raises(Invalid, match="not signed by this server"):
        await chain.verify(head._replace(seq=2))


async def test_nothing_is_not_signed(chain: Chain) -> None:
    with pytest.raises(Conflict, match="empty"):
        await chain.head()


@pytest.mark.parametrize("statement", ["DELETE FROM audit WHERE seq = 3", "DELETE FROM audit_head"])
async def test_a_chain_that_was_cut_is_not_grown_over(space: Space, chain: Chain, statement: str) -> None:
    await record(space, 3)
    await chain.advance()
    await tamper(space, statement)
    await record(space, 2)

    with pytest.raises(Broken, match="audit verify"):
        await chain.advance()
    with pytest.raises(Conflict, match="audit verify"):
        await chain.head()

    found = await chain.verify()
    assert found.waiting == 2
    assert found.broken is not None


async def test_an_end_that_is_cut_off_is_found_though_nothing_waits(
    space: Space, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_chain, "LOOK_PERIOD", 0.0)
    await record(space, 3)
    await chain.advance()
    await tamper(space, "DELETE FROM audit WHERE seq = 3")
    for _ in range(2):
        with pytest.raises(Broken):
            await chain.advance()


async def test_what_is_broken_stays_so_when_nothing_waits_any_more(space: Space, chain: Chain) -> None:
    await record(space, 3)
    await chain.advance()
    await tamper(space, "DELETE FROM audit WHERE seq = 3")
    await record(space)
    with pytest.raises(Broken):
        await chain.advance()
    await tamper(space, "DELETE FROM audit WHERE seq IS NULL")
    with pytest.raises(Broken):
        await chain.advance()


async def test_two_sequencers_make_one_chain(space: Space, chain: Chain, second: Chain) -> None:
    async def write() -> None:
        for _ in range(20):
            await record(space)

    async def run(one: Chain, writers: "asyncio.Future[list[None]]") -> None:
        while not writers.done():
            await one.advance()

    writers = asyncio.gather(*(write() for _ in range(2)))
    await asyncio.gather(writers, run(chain, writers), run(second, writers))
    await chain.advance(wait=True)

    assert await places(space) == list(range(1, 41))
    assert await chain.verify() == audit_chain.Verification(40, 0, None)


async def test_who_commits_late_comes_late(space: Space, chain: Chain) -> None:
    early = ids.uuid7(0, os.urandom)
    async with space.database.transaction() as connection:
        await audit.record(connection, early, space.organization_id, "operator", "device.revoked", "late")
        await record(space, 2)
        assert await chain.advance() == 2

    assert await chain.advance() == 1
    assert await space.value("SELECT seq FROM audit WHERE id = $1", early) == 3
    assert (await chain.verify()).broken is None


_DYING = """
import asyncio, sys
import asyncpg, msgspec
from provserver.services.audit_chain import AuditChain
from provserver.store import audit_chain as store, keyfile
from provserver.store.database import Database
from pathlib import Path

async def main():
    database = Database(sys.argv[1], size=2)
    await database.open()
    place = store.place
    async def placed(connection, links):
        await place(connection, links)
        print("placed", flush=True)
        await asyncio.Event().wait()
    store.place = placed
    await AuditChain(database, keyfile.load_or_create(Path(sys.argv[2]))).advance()

asyncio.run(main())
"""


async def test_a_sequencer_that_is_killed_loses_nothing(
    space: Space, chain: Chain, database_url: str, tmp_path: Path
) -> None:
    """Entries are committed; who gives them places is killed while it does."""
    await record(space, 3)
    dying = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DYING, database_url, str(tmp_path / "keys.json"), stdout=asyncio.subprocess.PIPE
    )
    assert dying.stdout is not None
    assert await dying.stdout.readline() == b"placed\n"
    assert await chain.advance() == 0  # the other one has the lock
    dying.kill()
    await dying.wait()

    assert await chain.advance(wait=True) == 3
    assert await chain.verify() == audit_chain.Verification(3, 0, None)


async def test_the_chain_survives_a_rotation_and_the_old_key(space: Space) -> None:
    first, second_key = dict(space.keys.digest_keys), {2: b"2" * 32}
    await record(space, 2)
    await AuditChain(space.database, space.keys).advance()
    both = ServerKeys(first | second_key, space.keys.sealing_keys)
    await record(space, 2)
    await AuditChain(space.database, both).advance()
    later = ServerKeys(second_key, space.keys.sealing_keys)
    await record(space, 1)
    chain = AuditChain(space.database, later)
    head = await chain.head()

    assert [row[0][0] for row in await space.rows("SELECT mac FROM audit ORDER BY seq")] == [1, 1, 2, 2, 2]
    assert await chain.verify(head) == audit_chain.Verification(5, 0, None)
    await record(space)
    with pytest.raises(Broken, match="digest key 2, which this process does not have"):
        await AuditChain(space.database, space.keys).advance()


async def test_other_keys_verify_nothing(space: Space, chain: Chain) -> None:
    await record(space)
    await chain.advance()
    stranger = AuditChain(space.database, replace(space.keys, digest_keys={1: b"x" * 32}))
    assert (await stranger.verify()).broken is not None


@pytest.fixture
def file(tmp_path: Path) -> HeadFile:
    """Where the server keeps the newest head."""
    return HeadFile(tmp_path / "audit-head.json")


@pytest.fixture
def keeping(space: Space, file: HeadFile) -> Chain:
    return AuditChain(space.database, space.keys, file=file)


async def refused(space: Space, *, keys: ServerKeys | None = None, file: HeadFile) -> str:
    """A process that starts now neither goes on with the chain nor verifies it; what it says is wrong."""
    chain = AuditChain(space.database, keys or space.keys, file=file)
    with pytest.raises(Broken, match="audit verify"):
        await chain.advance()
    await record(space)
    before = await places(space)
    with pytest.raises(Broken, match="audit verify"):
        await chain.advance()
    assert await places(space) == before
    broken = (await chain.verify()).broken
    assert broken is not None
    return broken.text


async def test_the_newest_head_is_kept_in_a_file(space: Space, keeping: Chain, file: HeadFile) -> None:
    await record(space, 2)
    await keeping.advance()
    first = file.read()
    assert first is not None
    assert first.seq == 2  # the first one at once
    assert file.path.stat().st_mode & 0o777 == 0o600

    await record(space)
    await keeping.advance()
    assert file.read() == first  # not so soon
    await keeping.keep(now=True)
    kept = file.read()
    assert kept is not None
    assert kept.seq == 3
    assert await keeping.verify(kept) == audit_chain.Verification(3, 0, None)


@pytest.mark.parametrize("with_keys", [True, False])
async def test_an_audit_that_was_emptied_is_found(
    space: Space, keeping: Chain, file: HeadFile, with_keys: bool
) -> None:
    await record(space, 3)
    await keeping.advance()
    await tamper(space, "DELETE FROM audit")
    await tamper(space, "DELETE FROM audit_head")
    if with_keys:
        await tamper(space, "DELETE FROM audit_key")

    text = await refused(space, file=file)

    if not with_keys:
        assert f"cut off: the head kept in {file.path} has seen 3 entries, and there are 0" in text


async def test_an_audit_that_was_emptied_is_found_without_the_file(space: Space, chain: Chain, file: HeadFile) -> None:
    await record(space, 3)
    await chain.advance()
    await tamper(space, "DELETE FROM audit")
    await tamper(space, "DELETE FROM audit_head")
    assert "no signed head" in await refused(space, file=file)


@pytest.mark.parametrize("grown", [0, 5])
async def test_an_older_copy_of_the_head_is_found(space: Space, keeping: Chain, file: HeadFile, grown: int) -> None:
    await record(space, 2)
    await keeping.advance()
    older = await space.rows("SELECT seq, mac, at, signature FROM audit_head")
    await record(space, 3)
    assert (await keeping.head()).seq == 5

    await tamper(space, "DELETE FROM audit WHERE seq > 2")
    await tamper(space, "UPDATE audit_head SET seq = $1, mac = $2, at = $3, signature = $4", *older[0])
    if grown:  # by a server that does not have the file
        await record(space, grown)
        await AuditChain(space.database, space.keys).advance()

    text = await refused(space, file=file)
    assert ("it is not the entry that" if grown else "cut off") in text


async def forge(space: Space, seq: int) -> None:
    """What can be done with key 1 alone: another chain, as long as that, and all that is signed with key 2 gone."""
    await tamper(space, "DELETE FROM audit")
    await tamper(space, "DELETE FROM audit_head")
    await tamper(space, "DELETE FROM audit_key WHERE version > 1")
    await record(space, seq, forged="yes")
    first = ServerKeys({1: space.keys.digest_keys[1]}, space.keys.sealing_keys)
    await AuditChain(space.database, first).advance()
    assert (await AuditChain(space.database, first).verify()).broken is None


async def rotated(space: Space) -> ServerKeys:
    """Keys with a second version, which the chain has come to."""
    await record(space, 2)
    await AuditChain(space.database, space.keys).advance()
    return ServerKeys({**space.keys.digest_keys, 2: b"2" * 32}, space.keys.sealing_keys)


@pytest.mark.parametrize("seq", [2, 3, 6])
async def test_what_was_forged_under_a_key_that_was_rotated_away_is_found(
    space: Space, file: HeadFile, seq: int
) -> None:
    both = await rotated(space)
    await record(space)
    await AuditChain(space.database, both, file=file).advance()
    await tamper(space, "DELETE FROM audit_key")
    await forge(space, seq)
    assert await refused(space, keys=both, file=file)


async def test_a_head_under_a_key_that_was_rotated_away_is_refused(space: Space, file: HeadFile) -> None:
    both = await rotated(space)
    await record(space)
    newer = AuditChain(space.database, both, file=file)
    await newer.advance()
    head = await newer.head()
    await record(space)  # behind the head that is kept, under the older key
    keys = auditchain.chain_keys(both)
    (entry,) = await space.rows("SELECT id FROM audit WHERE seq IS NULL")
    async with space.database.connection() as connection:
        (waiting,) = await store.waiting(connection, 1)
    mac = auditchain.mac(keys, 1, 4, head.mac, waiting)
    await space.rows("UPDATE audit SET seq = 4, mac = $1 WHERE id = $2", mac, entry[0])
    async with space.database.connection() as connection:
        await store.set_head(connection, auditchain.sign(keys, 4, mac, head.at))
    assert "key 1, which was rotated away before" in await refused(space, keys=both, file=file)


async def test_a_head_under_a_key_that_was_retired_is_refused_without_the_file(space: Space, file: HeadFile) -> None:
    both = await rotated(space)
    await record(space)
    await AuditChain(space.database, both).advance()
    await tamper(space, "DELETE FROM audit WHERE seq = 3")
    await tamper(space, "DELETE FROM audit_head")
    async with space.database.connection() as connection:
        last = await store.last(connection)
        assert last is not None
        keys = auditchain.chain_keys(space.keys)
        head = auditchain.sign(keys, *last, datetime.now(UTC))
        await store.set_head(connection, head)
    later = ServerKeys({2: b"2" * 32}, space.keys.sealing_keys)
    assert "key 1, which was rotated away" in await refused(space, keys=later, file=file)


async def test_who_was_killed_before_the_head_was_kept_goes_on(space: Space, keeping: Chain, file: HeadFile) -> None:
    await record(space, 2)
    await keeping.advance()
    await record(space, 2)
    await AuditChain(space.database, space.keys).advance()  # and dies

    late = AuditChain(space.database, space.keys, file=file)
    assert await late.verify() == audit_chain.Verification(4, 0, None)
    assert await late.advance() == 0
    kept = file.read()
    assert kept is not None
    assert kept.seq == 4  # it is caught up with
    await record(space)
    assert await late.advance() == 1


async def test_several_processes_keep_one_head_and_machines_their_own(
    space: Space, keeping: Chain, second: Chain, file: HeadFile, tmp_path: Path
) -> None:
    same = AuditChain(space.database, space.keys, file=file)
    own = HeadFile(tmp_path / "elsewhere.json")
    elsewhere = AuditChain(space.database, space.keys, file=own)
    for _ in range(4):
        for each in (keeping, same, elsewhere, second):
            await record(space)
            assert await each.advance() == 1
            await each.keep(now=True)
    for each in (keeping, same, elsewhere):
        assert await each.verify() == audit_chain.Verification(16, 0, None)
    seqs = [head.seq for head in (file.read(), own.read()) if head is not None]
    assert seqs == [14, 15]
    await keeping.keep(now=True)  # what it has seen is older
    assert [head.seq for head in (file.read(), own.read()) if head is not None] == seqs


async def test_a_file_that_cannot_be_told_stops_the_chain_and_one_that_cannot_be_written_does_not(
    space: Space, keeping: Chain, file: HeadFile, tmp_path: Path
) -> None:
    await record(space)
    nowhere = AuditChain(space.database, space.keys, file=HeadFile(tmp_path / "none" / "audit-head.json"))
    assert await nowhere.advance() == 1
    with pytest.raises(Misconfigured, match="make its directory writable"):
        await nowhere.keep()
    assert (await nowhere.head()).seq == 1

    for content in ("", "{}", "[]", '{"seq": 1, "mac": "x", "time": "", "signature": ""}'):
        file.path.write_text(content)
        with pytest.raises(Broken, match="is not what the server keeps there"):
            await keeping.advance()
        broken = (await keeping.verify()).broken
        assert broken is not None
        assert "is not what the server keeps there" in broken.text
    head = await nowhere.head()
    file.replace(head._replace(signature=bytes(32)))
    assert "kept beside the database is not signed" in await refused(space, file=file)
    file.remove()
    assert await keeping.advance() == 1
