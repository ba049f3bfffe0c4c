import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from provserver.core import credentials
from provserver.core.authentication import Denial, certificate_id
from provserver.core.model import Authenticated, ProvisionStrategy, ReprovisionPolicy
from provserver.errors import Unavailable
from provserver.services.access import Access
from provserver.services.profiles import ProfileChange
from provserver.services.sessions import Cause, LiveSession, Presented, Sessions
from provserver.store import access as store
from provserver.store import wifi_sessions
from provserver.store.database import Database
from tests.chains import FACTORY
from tests.conftest import Space
from tests.pki import days
from tests.services.conftest import PEER, Fleet, Locking, Outage, use
from tests.services.test_enrollment import Factory, factory, peer

__all__ = ["factory"]


class Connection:
    """A transport's end of a session, that notes what it is told."""

    def __init__(self, address: str = "192.0.2.1") -> None:
        self.address = address
        self.ended: asyncio.Future[Cause] = asyncio.get_running_loop().create_future()
        self.changes: asyncio.Queue[tuple[str, ...] | None] = asyncio.Queue()
        self.welcome: bool | Exception = True
        self.judged = 0
        self.reconfigured = asyncio.Event()

    def end(self, cause: Cause) -> None:
        self.ended.set_result(cause)

    def attributes_changed(self, keys: tuple[str, ...] | None) -> None:
        self.changes.put_nowait(keys)

    def reconfigure(self) -> None:
        self.reconfigured.set()

    async def still_welcome(self) -> bool:
        self.judged += 1
        if isinstance(self.welcome, Exception):
            raise self.welcome
        return self.welcome


@asynccontextmanager
async def process(url: str) -> AsyncIterator[Sessions]:
    """The sessions of one server process."""
    database = Database(url, size=2, serving=True)
    await database.open()
    sessions = Sessions(database)
    await sessions.start()
    try:
        yield sessions
    finally:
        await sessions.stop()
        await database.close()


@pytest.fixture
async def here(database_url: str) -> AsyncIterator[Sessions]:
    async with process(database_url) as sessions:
        yield sessions


@pytest.fixture
async def elsewhere(database_url: str) -> AsyncIterator[Sessions]:
    async with process(database_url) as sessions:
        yield sessions


@pytest.fixture
def access(space: Space) -> Access:
    return Access(space.database, space.keys)


async def come_back(fleet: Fleet, access: Access, name: str = "sensor-1") -> Authenticated:
    """A device that was provisioned and has authenticated."""
    device = await access.with_token((await fleet.ask(name))["credentialsValue"], PEER)
    assert isinstance(device, Authenticated)
    return device


class Entering:
    """A connection that comes with a token, and what it hears."""

    def __init__(self, sessions: Sessions, presented: Presented) -> None:
        self.verdict: asyncio.Future[bool | Exception] = asyncio.get_running_loop().create_future()
        self.connection = Connection()
        self.session = sessions.enter(presented, self.connection, self.verdict.set_result)


def token_in(access: Access, token: str, client_id: str = "client") -> Presented:
    presented = access.token_in(client_id, token, None)
    assert presented is not None
    return presented


class Obstructed(Sessions):
    """Has something happen once its statement is committed, and before its result is known."""

    def __init__(self, database: Database, *happenings: Callable[[], Awaitable[object]]) -> None:
        super().__init__(database)
        self.happenings = list(happenings)

    async def _write(self, sessions: list[LiveSession]) -> set[LiveSession]:
        inner = store.open_sessions

        async def opened(*arguments: Any) -> Any:
            rows = await inner(*arguments)
            if self.happenings:
                await self.happenings.pop(0)()
            return rows

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "open_sessions", opened)
            return await super()._write(sessions)


@asynccontextmanager
async def obstructed(url: str, *happenings: Callable[[], Awaitable[object]]) -> AsyncIterator[Obstructed]:
    database = Database(url, size=2, serving=True)
    await database.open()
    sessions = Obstructed(database, *happenings)
    await sessions.start()
    try:
        yield sessions
    finally:
        await sessions.stop()
        await database.close()


async def presence(space: Space) -> list[tuple[object, ...]]:
    return [
        tuple(row)
        for row in await space.rows("SELECT device_id, session_id, online_until > now() FROM presence ORDER BY 1")
    ]


async def eventually(look: Callable[[], object]) -> None:
    while not look():  # noqa: ASYNC110 - another process' state
        await asyncio.sleep(0.001)


async def test_a_session_is_recorded_as_long_as_it_lives(
    fleet: Fleet, access: Access, here: Sessions, space: Space
) -> None:
    device = await come_back(fleet, access)
    connection = Connection()

    session = await here.open(device, connection)
    assert await presence(space) == [(device.device_id, session.id, True)]
    assert len(here) == 1

    session.close()
    session.close()
    await here.stop()
    assert await presence(space) == [(device.device_id, None, False)]
    assert (len(here), session.closed, connection.ended.done()) == (0, True, False)


async def test_the_newer_session_wins(fleet: Fleet, access: Access, here: Sessions, space: Space) -> None:
    device = await come_back(fleet, access)
    old, new = Connection(), Connection()
    await here.open(device, old)

    session = await here.open(device, new)

    assert await old.ended is Cause.TAKEN_OVER
    assert await presence(space) == [(device.device_id, session.id, True)]
    assert not new.ended.done()
    await here.stop()
    assert await presence(space) == [(device.device_id, session.id, True)]


async def test_the_newer_session_wins_across_processes(
    fleet: Fleet, access: Access, here: Sessions, elsewhere: Sessions, space: Space
) -> None:
    device = await come_back(fleet, access)
    places = [here, elsewhere]
    connection = Connection()
    await here.open(device, connection)
    for n in range(1, 12):
        newer = Connection()
        session = await places[n % 2].open(device, newer)
        assert await connection.ended is Cause.TAKEN_OVER
        assert await presence(space) == [(device.device_id, session.id, True)]
        connection = newer


async def test_of_many_sessions_at_once_one_is_left(
    fleet: Fleet, access: Access, here: Sessions, elsewhere: Sessions, space: Space
) -> None:
    device = await come_back(fleet, access)
    connections = [Connection() for _ in range(40)]

    opened = await asyncio.gather(
        *((here, elsewhere)[n % 2].open(device, connection) for n, connection in enumerate(connections))
    )
    await eventually(lambda: sum(not connection.ended.done() for connection in connections) == 1)

    (left,) = [session for session in opened if not session.closed]
    assert await presence(space) == [(device.device_id, left.id, True)]
    assert {connection.ended.result() for connection in connections if connection.ended.done()} == {Cause.TAKEN_OVER}


async def test_sessions_of_different_devices_leave_each_other_alone(
    fleet: Fleet, access: Access, here: Sessions, elsewhere: Sessions, space: Space
) -> None:
    devices = [await come_back(fleet, access, f"sensor-{n}") for n in range(200)]
    connections = [Connection() for _ in devices]

    await asyncio.gather(
        *(
            (here, elsewhere)[n % 2].open(device, connection)
            for n, (device, connection) in enumerate(zip(devices, connections, strict=True))
        )
    )

    assert (len(here), len(elsewhere)) == (100, 100)
    assert not any(connection.ended.done() for connection in connections)
    assert len(await presence(space)) == 200


@pytest.mark.parametrize("way", ["delete", "sql", "rearm"])
async def test_a_revoked_device_is_cut_everywhere(
    fleet: Fleet, access: Access, here: Sessions, elsewhere: Sessions, space: Space, way: str
) -> None:
    devices = [await come_back(fleet, access, name) for name in ("sensor-1", "sensor-2")]
    connections = [Connection() for _ in devices]
    for sessions, device, connection in zip((here, elsewhere), devices, connections, strict=True):
        await sessions.open(device, connection)

    for device in devices:
        match way:
            case "delete":
                await space.devices.delete(device.name)
            case "sql":
                async with space.database.connection() as operator:
                    await operator.execute("DELETE FROM credentials WHERE device_id = $1", device.device_id)
            case "rearm":
                await space.devices.rearm(device.name)
                await fleet.ask(device.name)

    for connection in connections:
        assert await connection.ended is Cause.REVOKED


async def test_rotated_credentials_cut_the_session_of_the_old_ones(
    space: Space, access: Access, here: Sessions
) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)
    device = await come_back(fleet, access)
    connection = Connection()
    await here.open(device, connection)
    new = (await fleet.ask("sensor-1"))["credentialsValue"]
    assert not connection.ended.done()

    assert await use(access, new)

    assert await connection.ended is Cause.REVOKED


async def test_a_session_on_credentials_that_went_meanwhile_is_none(
    fleet: Fleet, access: Access, here: Sessions, space: Space
) -> None:
    device = await come_back(fleet, access)
    await space.devices.delete("sensor-1")
    connection = Connection()

    session = await here.open(device, connection)

    assert connection.ended.result() is Cause.REVOKED
    assert session.closed
    assert await presence(space) == []


async def test_a_session_on_a_password_that_was_changed_meanwhile_is_none(
    space: Space, access: Access, here: Sessions
) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.DENY)
    await fleet.ask("sensor-1", credentialsType="MQTT_BASIC", username="user", password="old")
    old = await access.with_mqtt("", "user", b"old", PEER)
    assert isinstance(old, Authenticated)
    connection = Connection()
    await here.open(old, connection)
    await space.devices.rearm("sensor-1")
    await fleet.ask("sensor-1", credentialsType="MQTT_BASIC", username="user", password="new")

    assert await connection.ended is Cause.REVOKED
    late = Connection()
    assert (await here.open(old, late)).closed
    assert late.ended.result() is Cause.REVOKED
    assert await access.with_mqtt("", "user", b"old", PEER) is Denial.CREDENTIALS


async def test_what_was_not_heard_is_caught_up_with(
    fleet: Fleet, access: Access, database_url: str, elsewhere: Sessions, space: Space
) -> None:
    revoked, taken, kept, unwelcome = [await come_back(fleet, access, f"sensor-{n}") for n in range(4)]
    connections = [Connection() for _ in range(4)]
    connections[3].welcome = False
    async with Outage.prepare(database_url) as outage:
        here = Sessions(outage.database)
        await here.start()
        for device, connection in zip((revoked, taken, kept, unwelcome), connections, strict=True):
            await here.open(device, connection)
        await outage.begin()
        await space.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query = 'SELECT'"
        )
        await space.devices.delete(revoked.name)
        await elsewhere.open(taken, Connection())
        assert not any(connection.ended.done() for connection in connections)
        outage.end()

        assert await connections[0].ended is Cause.REVOKED
        assert await connections[1].ended is Cause.TAKEN_OVER
        assert await connections[2].changes.get() == ()  # it may have missed some
        assert await connections[3].ended is Cause.REVOKED
        assert not connections[2].ended.done()
        await here.stop()


async def test_a_device_is_reconfigured_by_whatever_process_has_it(
    fleet: Fleet, access: Access, here: Sessions, elsewhere: Sessions, space: Space
) -> None:
    device, another = await come_back(fleet, access), await come_back(fleet, access, "sensor-2")
    told, left_alone = Connection(), Connection()
    await here.open(another, left_alone)
    await elsewhere.open(device, told)
    async with space.database.connection() as connection:
        assert await wifi_sessions.reconfigure(connection, device.device_id)
    await told.reconfigured.wait()
    assert not left_alone.reconfigured.is_set()


async def test_a_change_of_attributes_reaches_whom_it_concerns(
    fleet: Fleet, access: Access, here: Sessions, elsewhere: Sessions, space: Space
) -> None:
    device, other = [await come_back(fleet, access, name) for name in ("sensor-1", "sensor-2")]
    mine, others, watched = Connection(), Connection(), Connection()
    await here.open(device, mine)
    await here.open(other, others)
    unwatch = elsewhere.watch(device.device_id, watched.attributes_changed)

    await space.rows(f"""SELECT pg_notify('attributes', '{device.device_id} ["a","b c"]')""")
    await space.rows(f"SELECT pg_notify('attributes', '{device.device_id}')")

    for connection in (mine, watched):
        assert await connection.changes.get() == ("a", "b c")
        assert await connection.changes.get() == ()
    assert others.changes.empty()
    unwatch()
    unwatch()
    await space.rows(f"SELECT pg_notify('attributes', '{device.device_id}')")
    assert await mine.changes.get() == ()
    await eventually(lambda: not elsewhere._watchers)
    assert watched.changes.empty()


async def test_what_is_kept_for_a_device_goes_to_the_process_that_takes_it_over(
    fleet: Fleet, access: Access, here: Sessions, elsewhere: Sessions
) -> None:
    device = (await come_back(fleet, access, "sensor-1")).device_id
    kept: dict[object, tuple[str, ...]] = {device: ("a", "b c")}
    forget = elsewhere.keep(lambda device_id: kept.pop(device_id, None))
    here.keep(lambda _: pytest.fail("it is not asked for what it does itself"))
    connection = Connection()
    here.watch(device, connection.attributes_changed)

    here.take_over(device)
    assert await connection.changes.get() == ("a", "b c")
    for too_many in (("k" * 9_000,), ()):
        kept[device] = too_many
        here.take_over(device)
        assert await connection.changes.get() == ()
    forget()
    kept[device] = ("a",)
    here.take_over(device)
    await here._telling.drain()
    assert kept


@pytest.mark.parametrize("rearmed", [False, True])
async def test_who_watches_a_device_hears_that_credentials_went(
    fleet: Fleet, access: Access, elsewhere: Sessions, space: Space, rearmed: bool
) -> None:
    device, other = [await come_back(fleet, access, name) for name in ("sensor-1", "sensor-2")]
    mine, others = Connection(), Connection()
    for each, connection in ((device, mine), (other, others)):
        elsewhere.watch(each.device_id, connection.attributes_changed)

    if rearmed:
        await space.devices.rearm("sensor-1")
        await fleet.ask("sensor-1")
    else:
        await space.devices.delete("sensor-1")

    assert await mine.changes.get() is None
    assert others.changes.empty()


async def test_sessions_of_a_profile_whose_cas_change_are_judged_again(
    space: Space, access: Access, here: Sessions, elsewhere: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    chain = ProfileChange(name="chain", strategy=ProvisionStrategy.X509_CERTIFICATE_CHAIN, authorities=[FACTORY.der])
    profile = await space.profiles.create_keyless(chain)
    fleet = await Fleet.make(space)
    devices = [await come_back(fleet, access, f"sensor-{n}") for n in range(4)]
    await space.rows("UPDATE device SET profile_id = $1 WHERE name <> 'sensor-3'", profile.id)
    welcome, unwelcome, failing, foreign = connections = [Connection() for _ in devices]
    for device, connection in zip(devices, connections, strict=True):
        await (elsewhere if connection is unwelcome else here).open(device, connection)
    unwelcome.welcome = foreign.welcome = False
    failing.welcome = RuntimeError("pl4nted")
    watched = Connection()
    here.watch(devices[0].device_id, watched.attributes_changed)

    await space.profiles.update("chain", ProfileChange(crls=[FACTORY.crl()]))

    assert await unwelcome.ended is Cause.REVOKED
    assert await watched.changes.get() is None
    await eventually(lambda: welcome.judged and failing.judged and here._reviewing and here._reviewing.done())
    assert (welcome.ended.done(), failing.ended.done(), foreign.judged) == (False, False, 0)
    assert "pl4nted" not in caplog.text


async def test_many_sessions_are_judged_again(fleet: Fleet, access: Access, here: Sessions, space: Space) -> None:
    devices = [await come_back(fleet, access, f"sensor-{n}") for n in range(120)]
    connections = [Connection() for _ in devices]
    await asyncio.gather(*map(here.open, devices, connections))
    for connection in connections:
        connection.welcome = False

    await space.rows(f"SELECT pg_notify('profile', '{fleet.profile.id}')")

    assert {await connection.ended for connection in connections} == {Cause.REVOKED}
    assert not len(here)


async def test_a_notification_that_is_not_ours_ends_nothing(
    fleet: Fleet, access: Access, here: Sessions, space: Space
) -> None:
    device = await come_back(fleet, access)
    connection = Connection()
    await here.open(device, connection)
    for channel in ("session", "revoked", "profile", "attributes"):
        await space.rows(f"SELECT pg_notify('{channel}', 'nonsense')")

    await space.devices.delete("sensor-1")

    assert await connection.ended is Cause.REVOKED
    assert isinstance(device.issued_at, datetime)
    assert device.issued_at.tzinfo is not None
    assert device.issued_at <= datetime.now(UTC)


async def test_a_token_that_was_used_opens_a_session_by_itself(
    fleet: Fleet, access: Access, here: Sessions, space: Space
) -> None:
    token = (await fleet.ask("sensor-1", gateway=True))["credentialsValue"]
    device = await access.with_token(token, PEER)

    came = Entering(here, token_in(access, token))

    assert await came.verdict is True
    assert came.session.device == device
    assert await presence(space) == [(came.session.device.device_id, came.session.id, True)]


async def test_what_must_be_judged_opens_nothing(fleet: Fleet, access: Access, here: Sessions, space: Space) -> None:
    unused = (await fleet.ask("unused"))["credentialsValue"]
    await fleet.import_("basic", credentials.mqtt_basic("", "user"))
    await fleet.import_("certificate", credentials.certificate("AAAA"))
    await space.rows("UPDATE credentials SET first_used_at = now() WHERE type <> 'ACCESS_TOKEN'")

    for token in (unused, "user", credentials.certificate("AAAA").id, "nobody's"):
        came = Entering(here, token_in(access, token))
        assert await came.verdict is False
        assert came.session.closed
        assert not came.connection.ended.done()

    assert await presence(space) == []
    assert len(here) == 0


async def test_basic_credentials_come_before_a_token(
    fleet: Fleet, access: Access, here: Sessions, space: Space
) -> None:
    await fleet.import_("token", credentials.access_token("a-token"))
    await fleet.import_("basic", credentials.mqtt_basic("its client", "a-token"))
    await space.rows("UPDATE credentials SET first_used_at = now()")

    assert await Entering(here, token_in(access, "a-token", "its client")).verdict is False
    assert await Entering(here, token_in(access, "a-token", "another")).verdict is True


async def test_a_token_in_doubt_is_not_used_until_it_is_judged(space: Space, access: Access, here: Sessions) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)
    old, new = [(await fleet.ask("sensor-1"))["credentialsValue"] for _ in range(2)]
    assert await Entering(here, token_in(access, new)).verdict is False
    assert await use(access, old)
    came = Entering(here, token_in(access, old))
    assert await came.verdict is True

    assert await use(access, new)

    assert await came.connection.ended is Cause.REVOKED
    assert await Entering(here, token_in(access, old)).verdict is False
    assert await Entering(here, token_in(access, new)).verdict is True


async def test_a_token_that_is_to_be_used_for_the_first_time_again_is_judged(
    space: Space, access: Access, here: Sessions
) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.UNTIL_FIRST_USE)
    token = (await fleet.ask("sensor-1", token="its own"))["credentialsValue"]
    assert await use(access, token)
    await space.devices.rearm("sensor-1")
    assert (await fleet.ask("sensor-1", token="its own"))["credentialsValue"] == token

    assert await Entering(here, token_in(access, token)).verdict is False


async def test_a_changed_profile_is_seen_by_who_comes_next(fleet: Fleet, access: Access, here: Sessions) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    assert await use(access, token)
    first = Entering(here, token_in(access, token))
    assert await first.verdict is True

    await fleet.space.profiles.update("sensors", ProfileChange(strategy=ProvisionStrategy.DISABLED))

    second = Entering(here, token_in(access, token))
    assert await second.verdict is True
    assert second.session.device.profile_revision > first.session.device.profile_revision


async def test_of_those_with_one_token_in_a_group_the_last_stays(
    fleet: Fleet, access: Access, here: Sessions, space: Space
) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    unused = (await fleet.ask("sensor-2"))["credentialsValue"]
    assert await use(access, token)

    came = [Entering(here, token_in(access, token)) for _ in range(5)]
    judged = [Entering(here, token_in(access, unused)) for _ in range(3)]

    assert [await each.verdict for each in came] == [True] * 5
    assert [await each.connection.ended for each in came[:4]] == [Cause.TAKEN_OVER] * 4
    assert [await each.verdict for each in judged] == [False] * 3
    assert not any(each.connection.ended.done() for each in (came[4], *judged))
    assert await presence(space) == [(came[4].session.device.device_id, came[4].session.id, True)]


async def test_a_device_with_two_tokens_at_once_has_one_session(space: Space, access: Access, here: Sessions) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)
    old, new = [(await fleet.ask("sensor-1"))["credentialsValue"] for _ in range(2)]
    other = (await fleet.ask("sensor-2"))["credentialsValue"]
    await space.rows("UPDATE credentials SET first_used_at = now()")

    came = [Entering(here, token_in(access, token)) for token in (other, old, new)]

    assert [await each.verdict for each in came] == [True] * 3
    assert await came[1].connection.ended is Cause.TAKEN_OVER
    assert len(here) == 2
    assert {row[1] for row in await presence(space)} == {came[0].session.id, came[2].session.id}


async def test_who_has_left_before_it_is_let_in_opens_nothing(
    fleet: Fleet, access: Access, here: Sessions, space: Space
) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    assert await use(access, token)

    came = Entering(here, token_in(access, token))
    came.session.close()
    await here.stop()

    assert not came.verdict.done()
    assert await presence(space) == []


async def test_who_leaves_while_it_is_let_in_is_offline(
    fleet: Fleet, access: Access, database_url: str, space: Space
) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    assert await use(access, token)
    came: list[Entering] = []

    async def leave() -> None:
        came[0].session.close()

    async with obstructed(database_url, leave) as sessions:
        came.append(Entering(sessions, token_in(access, token)))
        await eventually(lambda: not sessions.happenings)

    assert not came[0].verdict.done()
    assert [(row[1], row[2]) for row in await presence(space)] == [(None, False)]


async def test_what_is_revoked_before_the_result_is_known_lets_nobody_in(
    fleet: Fleet, access: Access, database_url: str, space: Space
) -> None:
    tokens = [(await fleet.ask(name))["credentialsValue"] for name in ("sensor-1", "sensor-2")]
    for token in tokens:
        assert await use(access, token)

    async def revoke() -> None:
        (row,) = await space.rows("SELECT id FROM device WHERE name = 'sensor-1'")
        heard = asyncio.Event()
        sessions.watch(row["id"], lambda _: heard.set())
        await space.rows("DELETE FROM credentials WHERE device_id = $1", row["id"])
        await heard.wait()

    async with obstructed(database_url, revoke) as sessions:
        came = [Entering(sessions, token_in(access, token)) for token in tokens]
        assert [await each.verdict for each in came] == [False, True]
        assert not any(each.connection.ended.done() for each in came)

    assert [(row[1], row[2]) for row in await presence(space)] == [(None, False), (came[1].session.id, True)]


async def test_what_is_taken_over_before_the_result_is_known_is_ended(
    fleet: Fleet, access: Access, database_url: str, elsewhere: Sessions, space: Space
) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    assert await use(access, token)
    newer: list[Entering] = []

    async def take() -> None:
        assert sessions._under_way is not None
        group = sessions._under_way
        newer.append(Entering(elsewhere, token_in(access, token)))
        assert await newer[0].verdict is True
        await eventually(lambda: group.taken)

    async with obstructed(database_url, take) as sessions:
        came = Entering(sessions, token_in(access, token))
        assert await came.verdict is True
        assert await came.connection.ended is Cause.TAKEN_OVER
        assert len(sessions) == 0

    assert not newer[0].connection.ended.done()
    assert await presence(space) == [(newer[0].session.device.device_id, newer[0].session.id, True)]


async def test_a_group_that_did_not_hear_of_itself_is_opened_again(
    fleet: Fleet, access: Access, database_url: str, elsewhere: Sessions
) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    assert await use(access, token)

    async def be_deaf() -> None:
        await sessions._catch_up()

    async with obstructed(database_url, be_deaf) as sessions:
        came = Entering(sessions, token_in(access, token))
        assert await came.verdict is True
        newer = Entering(elsewhere, token_in(access, token))
        assert await came.connection.ended is Cause.TAKEN_OVER
        assert await newer.verdict is True
        assert not newer.connection.ended.done()


async def test_what_is_done_again_does_not_take_back_what_was_taken_over(
    fleet: Fleet, access: Access, database_url: str, elsewhere: Sessions, space: Space
) -> None:
    tokens = [(await fleet.ask(name))["credentialsValue"] for name in ("sensor-1", "sensor-2")]
    for token in tokens:
        assert await use(access, token)
    newer: list[Entering] = []

    async def take_one_and_revoke_the_other() -> None:
        assert sessions._under_way is not None
        group = sessions._under_way
        newer.append(Entering(elsewhere, token_in(access, tokens[0])))
        assert await newer[0].verdict is True
        await eventually(lambda: group.taken)
        await space.rows("DELETE FROM credentials WHERE device_id = (SELECT id FROM device WHERE name = 'sensor-2')")
        await eventually(lambda: group.revoked)

    async with obstructed(database_url, take_one_and_revoke_the_other) as sessions:
        came = [Entering(sessions, token_in(access, token)) for token in tokens]
        assert [await each.verdict for each in came] == [True, False]
        assert await came[0].connection.ended is Cause.TAKEN_OVER
        assert len(sessions) == 0

    assert not newer[0].connection.ended.done()
    assert (newer[0].session.device.device_id, newer[0].session.id, True) in await presence(space)


async def test_who_is_told_to_come_back_after_it_was_written_is_no_ghost(
    fleet: Fleet, access: Access, here: Sessions, space: Space
) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    assert await use(access, token)
    came = Entering(here, token_in(access, token))
    assert await came.verdict is True
    session = came.session
    session._entered = lambda _verdict: None  # as if its group had others that are still to be opened

    session.decide(Unavailable("too late"))

    assert session.closed
    assert len(here) == 0
    await here.stop()
    assert [(row[1], row[2]) for row in await presence(space)] == [(None, False)]


async def test_away_is_not_wrong(fleet: Fleet, access: Access, database_url: str) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    assert await use(access, token)
    async with Outage.prepare(database_url) as outage:
        sessions = Sessions(outage.database)
        await sessions.start()
        await outage.begin()

        came = Entering(sessions, token_in(access, token))

        assert isinstance(await came.verdict, Unavailable)
        assert came.session.closed
        outage.end()
        assert await Entering(sessions, token_in(access, token)).verdict is True
        await sessions.stop()


async def test_who_waits_too_long_is_told_to_come_back(
    fleet: Fleet, access: Access, database: Database, monkeypatch: pytest.MonkeyPatch, lock: Locking
) -> None:
    monkeypatch.setattr("provserver.services.sessions._SWEEP", 0)
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    assert await use(access, token)
    sessions = Sessions(database, wait_limit=0)
    async with lock("LOCK TABLE presence"):
        came = Entering(sessions, token_in(access, token))
        assert isinstance(await came.verdict, Unavailable)
    await sessions.stop()

    assert (len(sessions), sessions._entering) == (0, {})
    assert not came.connection.ended.done()


async def test_too_many_that_wait_are_told_to_come_back(fleet: Fleet, access: Access, here: Sessions) -> None:
    here._opening._max_waiting = 1
    presented = token_in(access, "a-token")

    came = [Entering(here, presented) for _ in range(2)]

    verdicts = [await each.verdict for each in came]
    assert sorted(isinstance(verdict, Unavailable) for verdict in verdicts) == [False, True]
    assert isinstance(fleet, Fleet)


async def test_many_that_end_are_recorded_together(fleet: Fleet, access: Access, here: Sessions, space: Space) -> None:
    tokens = [reply["credentialsValue"] for reply in await asyncio.gather(*(fleet.ask() for _ in range(300)))]
    assert all(await asyncio.gather(*(use(access, token) for token in tokens)))
    came = [Entering(here, token_in(access, token)) for token in tokens]
    assert {await each.verdict for each in came} == {True}

    for each in came:
        each.session.close()
    back = Entering(here, token_in(access, tokens[0]))
    assert await back.verdict is True
    await eventually(lambda: not here._ended and not here._closing._running)

    assert [row[1] for row in await presence(space) if row[2]] == [back.session.id]
    assert len(here) == 1


# Certificates that are yet to be looked up


async def test_a_certificate_that_was_used_lets_in(factory: Factory, here: Sessions) -> None:
    await factory.trust(FACTORY)
    known, stranger = FACTORY.leaf("sensor-1"), FACTORY.leaf("sensor-2")
    presented = factory.access.certificate_in(peer(*known.chain))
    assert presented is not None
    assert await Entering(here, presented).verdict is False

    made = await factory.admitted(known)
    assert await Entering(here, presented).verdict is False  # its first use, which `Access` records
    assert await factory.comes_back(known)
    came = Entering(here, presented)
    assert await came.verdict is True
    assert came.session.device == made
    other = factory.access.certificate_in(peer(*stranger.chain))
    assert other is not None
    assert await Entering(here, other).verdict is False


async def test_a_certificate_out_of_date_is_judged(factory: Factory) -> None:
    await factory.trust(FACTORY)
    device = FACTORY.leaf("sensor-1", not_after=days(2))
    await factory.admitted(device)
    assert factory.access.certificate_in(peer(*device.chain)) is not None
    factory.clock_offset = days(3).timestamp() - days(0).timestamp()
    assert factory.access.certificate_in(peer(*device.chain)) is None
    assert factory.access.certificate_in(peer(b"no certificate")) is None
    assert Access(factory.space.database, factory.space.keys).certificate_in(peer(*device.chain)) is None


async def test_a_certificate_and_a_token_of_one_id_are_not_the_same(
    factory: Factory, fleet: Fleet, access: Access, here: Sessions
) -> None:
    own, others = FACTORY.leaf("sensor-1"), FACTORY.leaf("sensor-2")
    await factory.trust(FACTORY, name="factory")
    await factory.admitted(own)
    assert await factory.comes_back(own)
    assert await Entering(here, token_in(access, certificate_id(own.der))).verdict is False

    token = certificate_id(others.der)
    await fleet.ask("sensor-2", credentialsType="ACCESS_TOKEN", token=token)
    await use(access, token)
    assert await Entering(here, token_in(access, token)).verdict is True
    presented = factory.access.certificate_in(peer(*others.chain))
    assert presented is not None
    assert presented.id_digest == token_in(access, token).id_digest
    assert await Entering(here, presented).verdict is False


async def test_where_certificates_are_revoked_each_is_judged(factory: Factory, here: Sessions) -> None:
    revoked, device = FACTORY.leaf("revoked"), FACTORY.leaf("sensor-1")
    await factory.trust(FACTORY)
    await factory.admitted(device)
    assert await factory.comes_back(device)
    presented = factory.access.certificate_in(peer(*device.chain))
    assert presented is not None
    assert await Entering(here, presented).verdict is True

    await factory.change(crls=[FACTORY.crl(revoked)])

    assert await Entering(here, presented).verdict is False
    judged = await factory.access.with_channel(peer(*device.chain))
    assert isinstance(judged, Authenticated)
    assert not (await here.open(judged, Connection())).closed


async def test_a_revocation_list_that_comes_before_the_result_is_known_counts(
    factory: Factory, database_url: str, space: Space
) -> None:
    revoked, device = FACTORY.leaf("revoked"), FACTORY.leaf("sensor-1")
    await factory.trust(FACTORY)
    for each in (revoked, device):
        await factory.admitted(each)
        assert await factory.comes_back(each)
    presented = factory.access.certificate_in(peer(*revoked.chain))
    judged = await factory.access.with_channel(peer(*device.chain))
    assert presented is not None
    assert isinstance(judged, Authenticated)

    async def revoke() -> None:
        heard = asyncio.Event()
        sessions.watch(judged.device_id, lambda _: heard.set())
        await factory.change(crls=[FACTORY.crl(revoked)])
        await heard.wait()

    async with obstructed(database_url, revoke) as sessions:
        assert await Entering(sessions, presented).verdict is False
        await eventually(lambda: not sessions._ended)
    assert [row[1:] for row in await presence(space)] == [(None, False)]


async def test_who_was_judged_before_a_revocation_list_came_is_judged_again(
    factory: Factory, database_url: str
) -> None:
    revoked, device = FACTORY.leaf("revoked"), FACTORY.leaf("sensor-1")
    await factory.trust(FACTORY)
    judged = await factory.admitted(revoked)
    connection = Connection()
    connection.welcome = False

    async def revoke() -> None:
        await factory.change(crls=[FACTORY.crl(device)])
        await connection.ended

    async with obstructed(database_url, revoke) as sessions:
        assert (await sessions.open(judged, connection)).closed
    assert (connection.ended.result(), connection.judged) == (Cause.REVOKED, 1)
