import asyncio
from collections import Counter

import asyncpg
import pytest

from provserver.core.model import ReprovisionPolicy
from provserver.services.access import Access
from tests.conftest import Space
from tests.services.conftest import Fleet, Locking


@pytest.fixture
def access(space: Space) -> Access:
    return Access(space.database, space.keys)


async def test_a_first_use_is_recorded_once(fleet: Fleet, access: Access) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]

    assert await access.used(token)
    at = await fleet.space.value("SELECT first_used_at FROM credentials")

    assert at is not None
    assert not await access.used(token)
    assert await fleet.space.value("SELECT first_used_at FROM credentials") == at


async def test_of_many_first_uses_at_once_one_is_the_first(fleet: Fleet, access: Access) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]

    firsts = await asyncio.gather(*(access.used(token) for _ in range(20)))

    assert Counter(firsts) == {True: 1, False: 19}


async def test_unknown_credentials_are_no_first_use(access: Access) -> None:
    assert not await access.used("no such token")
    assert not await access.used("")


async def test_the_use_of_one_device_is_not_that_of_another(fleet: Fleet, access: Access) -> None:
    used, unused = [(await fleet.ask(name))["credentialsValue"] for name in ("sensor-1", "sensor-2")]
    await access.used(used)

    assert await access.used(unused)
    assert (await fleet.counts())["credentials"] == 2


async def test_a_first_use_changes_the_revision_that_writes_are_guarded_by(fleet: Fleet, access: Access) -> None:
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    before = await fleet.space.value("SELECT revision FROM device")

    await access.used(token)

    assert await fleet.space.value("SELECT revision FROM device") == before + 1


async def test_old_and_new_credentials_used_at_once_leave_the_new(space: Space, access: Access) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)
    for n in range(20):
        old, new = [(await fleet.ask(f"sensor-{n}"))["credentialsValue"] for _ in range(2)]

        await asyncio.gather(access.used(old), access.used(new))

        assert [each.id for each in await fleet.stored(f"sensor-{n}")] == [new]


async def test_a_first_use_takes_the_device_before_its_credentials_as_provisioning_does(
    fleet: Fleet, access: Access, lock: Locking
) -> None:
    """In another order, the two would wait for each other."""
    token = (await fleet.ask("sensor-1"))["credentialsValue"]
    async with lock("SELECT FROM device FOR UPDATE") as held:
        task = asyncio.create_task(access.used(token))
        await held.until_waiting()
        try:
            await held.connection.execute("SELECT FROM credentials FOR UPDATE NOWAIT")
        except asyncpg.LockNotAvailableError:
            pytest.fail("the credentials are taken first")

    assert await task
