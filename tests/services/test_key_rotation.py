"""Rotations of the server's keys, on a database of each test's own: they leave triggers on its tables."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from provserver.core.authentication import Denial
from provserver.core.authorization import OPERATOR, Permission, Principal
from provserver.core.credentials import access_token
from provserver.core.csvfile import DeviceRow
from provserver.core.model import Authenticated, ReprovisionPolicy
from provserver.core.secrets import ServerKeys
from provserver.errors import Conflict, Misconfigured, Unavailable
from provserver.services import credentials, integrations, particle, request_keys, webhooks
from provserver.services.access import Access
from provserver.services.api_keys import ApiKeys
from provserver.services.audit_chain import AuditChain
from provserver.services.claiming import Claiming
from provserver.services.idempotency import Idempotency, Kept
from provserver.services.key_rotation import KeyRotation
from provserver.services.key_watch import KeyWatch
from provserver.services.organizations import Organizations
from provserver.services.provisioning import Provisioning
from provserver.services.sealed_columns import COLUMNS
from provserver.services.sessions import Cause, Sessions
from provserver.store import keyfile, server_keys
from provserver.store.database import Connection, Database
from provserver.store.headfile import HeadFile
from provserver.store.keyfile import KeySource
from tests.conftest import Space
from tests.services.accounts import ADDRESS, PASSWORD, Accounts
from tests.services.conftest import NONCE, PEER, Fleet, until, use
from tests.services.ownership import Estate
from tests.services.wifi import Wifi


@pytest.fixture
async def database_url(own_database_url: str) -> str:
    """A rotation leaves triggers behind."""
    return own_database_url


@pytest.fixture
def source(tmp_path: Path) -> KeySource:
    """Where the space has its keys from."""
    return KeySource(tmp_path / "keys.json")


class Process:
    """A serving process: its own keys and connections."""

    def __init__(self, database: Database, keys: ServerKeys, source: KeySource) -> None:
        self.database = database
        self.keys = keys
        self.watch = KeyWatch(database, keys, source)
        self.provisioning = Provisioning(database, keys)
        self.access = Access(database, keys)
        self.sessions = Sessions(database, told={server_keys.CHANNEL: self.watch.heard})


Serve = Callable[[KeySource], Any]


@pytest.fixture
def serve(database_url: str) -> Serve:
    @asynccontextmanager
    async def running(source: KeySource) -> AsyncIterator[Process]:
        database = Database(database_url, size=4, serving=True)
        await database.open()
        keys = source.load()
        await keyfile.prove(database, keys)
        process = Process(database, keys, source)
        await process.watch.start()
        await process.sessions.start()
        try:
            yield process
        finally:
            await process.sessions.stop()
            await process.provisioning.drain()
            await process.access.drain()
            await process.watch.stop()
            await database.close()

    return running


def rotation(space: Space, source: KeySource, **changes: Any) -> KeyRotation:
    """A command of its own: it loads the keys itself."""
    keys = ServerKeys(space.keys.digest_keys, space.keys.sealing_keys, space.keys.current)
    return KeyRotation(space.database, keys, source, **changes)


def ignored(_done: int, _total: int | None) -> None:
    """Progress."""


async def under(space: Space) -> dict[str, set[int | None]]:
    """The versions under which there is something sealed, by column."""
    found = {}
    for column in COLUMNS:
        where = column.where
        rows = await space.rows(f"SELECT DISTINCT get_byte({where.column}, 0) FROM {where.table}")
        found[where.name] = {row[0] for row in rows}
    return found


async def test_every_sealed_column_of_the_schema_is_made_anew(space: Space) -> None:
    rows = await space.rows(
        "SELECT table_name || '.' || column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND data_type = 'bytea' AND column_name ~ '(^|_)sealed$'"
    )
    registered = {column.where.name for column in COLUMNS}
    assert {name for (name,) in rows} == registered - {"idempotency_key.answer"}
    keyed = await space.rows(
        "SELECT c.relname, array_agg(a.attname::text ORDER BY a.attname) FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indrelid"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey) WHERE i.indisprimary GROUP BY 1"
    )
    keys = {row[0]: row[1] for row in keyed}
    for column in COLUMNS:
        assert sorted(column.where.key) == keys[column.where.table]


async def test_devices_go_on_while_the_keys_are_rotated_and_the_old_version_is_taken_away(
    space: Space, source: KeySource, serve: Serve
) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.RETURN_SAME)
    api_keys = ApiKeys(space.database, space.keys)
    async with serve(source) as one, serve(source) as two:
        processes = (one, two)
        tokens = []
        for n in range(8):
            reply = await fleet.ask(f"before {n}", of=processes[n % 2].provisioning)
            tokens.append(reply["credentialsValue"])
        assert all([await use(one.access, token) for token in tokens[:4]])
        _, secret = await api_keys.create(Principal(OPERATOR, space.organization_id), "ci", [Permission.DEVICES_VIEW])
        stop = False
        denied: list[str] = []

        async def live(n: int) -> None:
            for number in itertools.count():
                if stop:
                    return
                reply = await fleet.ask(f"device {n} {number}", of=processes[(n + number) % 2].provisioning)
                assert reply["status"] == "SUCCESS", reply
                tokens.append(reply["credentialsValue"])
                access = processes[number % 2].access
                denied.extend([token for token in tokens[-3:] if not await use(access, token)])

        lives = [asyncio.create_task(live(n)) for n in range(3)]
        rotated = await rotation(space, source).rotate(ignored)
        stop = True
        await asyncio.gather(*lives)

        assert (rotated.version, rotated.old) == (2, [1])
        assert rotated.converted >= 9
        assert not denied
        assert {frozenset(each) for each in (await under(space)).values()} <= {frozenset({2}), frozenset()}
        assert {one.keys.current, two.keys.current} == {2}
        assert not one.keys.unsettled
        assert all([await use(two.access, token) for token in tokens])
        assert (await fleet.ask("after", of=one.provisioning))["status"] == "SUCCESS"

        command = rotation(space, source)
        assert (await command.remains(1)).api_keys == ["ci"]
        with pytest.raises(Conflict, match=r"not used since version 1 was current: ci\. Use each once"):
            await command.retire(1)
        await ApiKeys(space.database, two.keys).authenticate(secret)
        assert await command.retire(1)

        assert list(one.keys.digest_keys) == list(two.keys.sealing_keys) == [2]
        assert list(source.load().digest_keys) == [2]
        assert all([await use(one.access, token) for token in tokens])
        assert (await fleet.ask("last", of=one.provisioning))["status"] == "SUCCESS"
        await ApiKeys(space.database, one.keys).authenticate(secret)
        rows = await space.rows("SELECT action, subject_id FROM audit WHERE action LIKE 'keys.%' ORDER BY at, id")
        assert [tuple(row) for row in rows] == [("keys.rotated", "keys:2"), ("keys.retired", "keys:1")]


class Killed(Exception):  # noqa: N818
    """The command is no more."""


class Dying(Database):
    """Takes the command with it, at its n-th use of the database."""

    left = 0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        if not self.left:
            raise Killed
        self.left -= 1
        async with super().connection() as connection:
            yield connection


async def test_a_rotation_that_is_killed_anywhere_is_gone_on_with(
    space: Space, source: KeySource, database_url: str
) -> None:
    fleet = await Fleet.make(space)
    tokens = [(await fleet.ask(f"device {n}"))["credentialsValue"] for n in range(3)]
    dying = Dying(database_url, size=2)
    await dying.open()
    for uses in itertools.count():
        dying.left = uses
        before = max(source.load().digest_keys)
        try:
            rotated = await KeyRotation(dying, source.load(), source).rotate(ignored)
        except Killed:
            # Whoever starts now works, whatever the state is.
            keys = source.load()
            await keyfile.prove(space.database, keys)
            access = Access(space.database, keys)
            assert all([await use(access, token) for token in tokens])
            await KeyRotation(space.database, keys, source).rotate(ignored)
            continue_ = True
        else:
            assert rotated.version == before + 1
            continue_ = False
        keys = source.load()
        await keyfile.prove(space.database, keys)
        assert keys.current == max(keys.digest_keys)
        assert not keys.unsettled
        assert {frozenset(each) for each in (await under(space)).values()} <= {frozenset({keys.current}), frozenset()}
        access = Access(space.database, keys)
        assert all([await use(access, token) for token in tokens])
        if not continue_:
            break
    await dying.close()
    assert uses > 15


async def half_way(space: Space, source: KeySource, version: int = 2) -> None:
    """The moment at which a new version became the current one, and nothing is converted."""
    command = rotation(space, source)
    await command._bring(version, None)
    await command._activate(version)


async def test_ids_and_nonces_are_unique_across_versions(space: Space, source: KeySource, serve: Serve) -> None:
    fleet = await Fleet.make(space)
    supplied = {"credentialsType": "ACCESS_TOKEN", "token": "supplied-token"}
    async with serve(source) as one:
        first = await fleet.ask("first", of=one.provisioning, **supplied)
        unnamed = await fleet.ask(None, of=one.provisioning, requestNonce=NONCE)
        assert first["status"] == unnamed["status"] == "SUCCESS"
        await half_way(space, source)
        await until(lambda: one.keys.current == 2)

        assert await fleet.ask(None, of=one.provisioning, requestNonce=NONCE) == unnamed
        other = {"requestNonce": NONCE, "gateway": True}
        assert await fleet.refused(None, of=one.provisioning, **other) == "NONCE_REUSED"
        assert await fleet.refused("second", of=one.provisioning, **supplied) == "CREDENTIALS_TAKEN"
        loaded = source.load()
        space.keys.take_up(loaded.digest_keys, loaded.sealing_keys)
        await keyfile.prove(space.database, space.keys)
        with pytest.raises(Exception, match="credentials are in use"):
            await space.devices.create(
                DeviceRow(1, "third", access_token("supplied-token"), False),
                fleet.profile.name,
            )
        assert (await fleet.ask("fourth", of=one.provisioning, requestNonce=NONCE[::-1]))["status"] == "SUCCESS"
        assert await use(one.access, "supplied-token")


async def test_who_writes_with_the_version_before_is_told_to_come_again(
    space: Space, source: KeySource, serve: Serve
) -> None:
    fleet = await Fleet.make(space)
    await half_way(space, source)
    with pytest.raises(Unavailable, match="keys were rotated meanwhile"):  # a command that began before
        await fleet.import_("late")
    waiting = asyncio.create_task(fleet.ask("patient"))  # a process that has not heard yet
    async with serve(source) as late:
        assert (await fleet.ask("new", of=late.provisioning))["status"] == "SUCCESS"
    loaded = source.load()
    space.keys.take_up(loaded.digest_keys, loaded.sealing_keys)
    reply = await waiting
    assert reply["status"] == "SUCCESS"
    assert await space.value("SELECT count(*) FROM credentials WHERE get_byte(sealed, 0) = 1") == 0


class Line:
    """What a transport would keep open."""

    address = "192.0.2.7"

    def __init__(self) -> None:
        self.ended: list[Cause] = []

    def end(self, cause: Cause) -> None:
        self.ended.append(cause)

    def attributes_changed(self, keys: tuple[str, ...]) -> None:
        """Nothing."""

    def reconfigure(self) -> None:
        """Nothing."""

    async def still_welcome(self) -> bool:
        return True


async def test_live_sessions_outlive_a_rotation_and_are_cut_when_their_credentials_go(
    space: Space, source: KeySource, serve: Serve
) -> None:
    fleet = await Fleet.make(space)
    async with serve(source) as one:
        token = (await fleet.ask("device", of=one.provisioning))["credentialsValue"]
        before = await one.access.with_token(token, PEER)
        assert isinstance(before, Authenticated)
        line = Line()
        live = await one.sessions.open(before, line)

        await rotation(space, source).rotate(ignored)

        await one.sessions._catch_up()
        assert not live.closed
        late = Line()
        again = await one.sessions.open(before, late)  # judged before, opened after
        assert not again.closed
        assert (line.ended, late.ended) == ([Cause.TAKEN_OVER], [])
        await space.rows("DELETE FROM credentials")
        await until(lambda: again.closed)
        assert late.ended == [Cause.REVOKED]


async def test_processes_that_lack_the_new_version_hold_a_rotation_up_until_they_are_dead(
    space: Space, source: KeySource, serve: Serve, tmp_path: Path
) -> None:
    elsewhere = KeySource(tmp_path / "elsewhere.json")
    keyfile.write_new(elsewhere.path, source.load())
    async with serve(elsewhere):
        with pytest.raises(Conflict, match=r"do not know version 2 of the keys\. Put it where.*\(pid \d+\)\. Then run"):
            await rotation(space, source, patience=0.2).rotate(ignored)
        assert {row[0] for row in await space.rows("SELECT DISTINCT state FROM server_key")} == {"current", "new"}
        keyfile.replace(elsewhere.path, source.load())
        assert (await rotation(space, source).rotate(ignored)).version == 2
    await space.rows(
        "INSERT INTO server_process (id, host, pid, known, writes, settled, seen_at)"
        " VALUES (gen_random_uuid(), 'gone', 1, '{1, 2}', 2, true, now() - interval '1 minute')"
    )
    assert (await rotation(space, source, grace=0.0).rotate(ignored)).version == 3


async def test_keys_of_the_environment_are_rotated_by_restarts(
    space: Space, source: KeySource, serve: Serve, tmp_path: Path
) -> None:
    given = KeySource(tmp_path / "unused.json", keyfile.text_of(source.load()))
    new = tmp_path / "new.json"
    with pytest.raises(Misconfigured, match="--write FILE"):
        await rotation(space, given).rotate(ignored)
    with pytest.raises(Conflict, match=r"with version 2 are in .*new\.json\. Set PROVSERVER_KEYS"):
        await rotation(space, given).rotate(ignored, new)
    assert new.stat().st_mode & 0o777 == 0o600
    both = KeySource(given.path, new.read_text())
    async with serve(both) as restarted:
        assert restarted.keys.current == 1
        assert (await rotation(space, both).rotate(ignored)).version == 2
        assert restarted.keys.current == 2
        assert not await rotation(space, both).retire(1)
        assert list(restarted.keys.digest_keys) == [2]


async def test_one_at_a_time(space: Space, source: KeySource) -> None:
    first = rotation(space, source)
    async with first._alone():
        with pytest.raises(Conflict, match="at work"):
            await rotation(space, source).rotate(ignored)


async def test_who_may_have_been_left_out_says_of_no_credentials_that_they_are_unknown(
    space: Space, source: KeySource, serve: Serve
) -> None:
    fleet = await Fleet.make(space)
    async with serve(source) as one:
        token = (await fleet.ask("device", of=one.provisioning))["credentialsValue"]
        assert not await use(one.access, "unknown")
        one.keys.good_until = 0.0
        assert await use(one.access, token)
        with pytest.raises(Unavailable):
            await one.access.with_token("unknown", PEER)


@pytest.mark.parametrize("moment", ["before the rows are converted", "after"])
async def test_whatever_is_kept_is_found(space: Space, source: KeySource, tmp_path: Path, moment: str) -> None:
    """Of each kind one that is looked at between, or after; in the end nothing is under the old version."""
    fleet = await Fleet.make(space)
    estate = await Estate.make(space.database, space.keys, space.organization_id)
    accounts = Accounts(space, tmp_path)
    generated = (await fleet.ask("generated"))["credentialsValue"]
    basic: dict[str, Any] = {"credentialsType": "MQTT_BASIC", "clientId": "c", "username": "u", "password": "p"}
    assert (await fleet.ask("basic", **basic))["status"] == "SUCCESS"
    unclaimed, unused, ready = [await estate.token() for _ in range(3)]
    wifi = Wifi.of(estate)
    bound, again, last = [(await wifi.request(template=await wifi.template())).token for _ in range(3)]
    unbound = (await wifi.request()).token
    device = await wifi.let_in(again)
    pending = (await wifi.request(device=device.name)).token
    user, _ = await accounts.user("someone@root.example")
    session, csrf, _ = await accounts.sign_in.password("someone@root.example", PASSWORD, ADDRESS)
    link = await accounts.users.reset_password(accounts.operator, user.id)
    _, api_key = await accounts.api_keys.create(accounts.operator, "ci", [Permission.DEVICES_VIEW])
    once = Idempotency(space.database, space.keys)
    kept = Kept(201, {}, b"shown once")
    async with once.once(accounts.operator, "key", ["POST"]) as turn:
        await turn.keep(kept)

    if moment == "after":
        await rotation(space, source).rotate(ignored)
    else:
        await half_way(space, source)
    loaded = source.load()
    space.keys.take_up(loaded.digest_keys, loaded.sealing_keys)
    await keyfile.prove(space.database, space.keys)
    assert space.keys.unsettled == (moment != "after")

    access = Access(space.database, space.keys)
    for token in (generated, unused.auth, ready.auth):
        assert await use(access, token)
    assert not await use(access, "unknown")
    wifi = Wifi.of(estate)
    assert await wifi.login(unbound) is Denial.UNBOUND
    assert (await wifi.let_in(pending)).device_id == device.device_id
    given = [pending, bound, unbound]
    assert (await wifi.let_in(bound)).device_id != (await wifi.report(unbound)).device_id
    assert isinstance(await access.with_mqtt("c", "u", b"p", PEER), Authenticated)
    assert (await Claiming(space.database, space.keys).claim(estate.who("anna"), unclaimed.qr)).id == unclaimed.id
    assert (await fleet.ask("later"))["status"] == "SUCCESS"
    assert (await accounts.sign_in.authenticate(session)).user_id == user.id
    accounts.sign_in.check_csrf(session, csrf)
    accounts.sign_in.check_csrf(session, accounts.sign_in.csrf_token(session))
    assert (await accounts.api_keys.authenticate(api_key)).permissions == {Permission.DEVICES_VIEW}
    assert (await accounts.sign_in.choose_password(link, "another plum 8", ADDRESS)).id == user.id
    async with once.once(accounts.operator, "key", ["POST"]) as turn:
        assert turn.kept == kept

    await rotation(space, source).rotate(ignored)  # from half way to the end; or once more
    assert all(len(each - {None}) <= 1 for each in (await under(space)).values())
    keys = source.load()
    await keyfile.prove(space.database, keys)
    access = Access(space.database, keys)
    for token in (generated, unclaimed.auth, unused.auth, ready.auth, *given, last):
        assert await use(access, token)


async def test_rows_of_every_column_are_opened_as_their_services_seal_them() -> None:
    keys = ServerKeys({1: bytes(32)}, {1: bytes(32)})
    by_name = {column.where.name: column for column in COLUMNS}
    id_ = uuid4()
    for name, key, context in (
        ("webhook.sealed", id_, webhooks._context(id_)),
        ("integration.key_sealed", id_, integrations.key_context(id_)),
        ("integration.webhook_sealed", id_, integrations.webhook_context(id_)),
        ("particle_product.token_sealed", id_, particle.token_context(id_)),
        ("issuing_ca.key_sealed", id_, credentials.issuer_context(id_)),
        ("request_key.sealed", id_, request_keys.key_context(id_)),
        ("audit_key.sealed", 7, b"audit-key:\x07"),
    ):
        sealed = keys.seal(b"pl4nted", context, bytes(12))
        changed, anew, digests = by_name[name].anew(keys, (key, sealed), bytes(range(12)))
        assert (changed, digests) == ((key,), ())
        assert keys.unseal(anew, context) == b"pl4nted"


async def test_a_process_that_listens_for_itself_hears_at_once(space: Space, source: KeySource) -> None:
    keys = source.load()
    await keyfile.prove(space.database, keys)
    watch = KeyWatch(space.database, keys, source, listens=True)
    await watch.start()
    await half_way(space, source)
    await until(lambda: keys.current == 2)
    await watch.stop()
    assert await space.rows("SELECT FROM server_process") == []


async def test_the_audit_is_signed_anew_before_an_old_version_goes(
    space: Space, source: KeySource, tmp_path: Path
) -> None:
    file = HeadFile(tmp_path / "audit-head.json")
    await Organizations(space.database).create(Principal(OPERATOR, space.organization_id), "a")
    await AuditChain(space.database, space.keys, file=file).advance()
    command = rotation(space, source, file=file)
    assert (await command.rotate(ignored)).old == [1]  # with no server that would chain what it did
    await command.retire(1)

    kept = file.read()
    assert kept is not None
    assert kept.mac[0] == 2
    chain = AuditChain(space.database, source.load(), file=file)
    assert await chain.advance() > 0
    assert (await chain.verify()).broken is None
