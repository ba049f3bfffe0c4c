import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from provserver.core.authentication import Denial
from provserver.core.model import Authenticated, ProvisionStrategy, ReprovisionPolicy
from provserver.services.access import Access
from provserver.services.profiles import ProfileChange
from provserver.services.sessions import Cause, Sessions
from provserver.store.database import Database
from tests.chains import FACTORY
from tests.conftest import Space
from tests.services.conftest import PEER, Fleet, Outage, use


class Connection:
    """A transport's end of a session, that notes what it is told."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[Cause] = asyncio.get_running_loop().create_future()
        self.changes: asyncio.Queue[tuple[str, ...] | None] = asyncio.Queue()
        self.welcome: bool | Exception = True
        self.judged = 0

    def end(self, cause: Cause) -> None:
        self.ended.set_result(cause)

    def attributes_changed(self, keys: tuple[str, ...] | None) -> None:
        self.changes.put_nowait(keys)

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
    came = [await come_back(fleet, access, f"sensor-{n}") for n in range(4)]
    devices = [replace(device, profile_id=profile.id) for device in came[:3]] + came[3:]
    welcome, unwelcome, failing, foreign = connections = [Connection() for _ in devices]
    for device, connection in zip(devices, connections, strict=True):
        await (elsewhere if connection is unwelcome else here).open(device, connection)
    unwelcome.welcome = foreign.welcome = False
    failing.welcome = RuntimeError("pl4nted")
    watched = Connection()
    here.watch(came[0].device_id, watched.attributes_changed)

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
