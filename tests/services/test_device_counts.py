from uuid import UUID

from provserver.core.csvfile import DeviceRow
from provserver.services.device_counts import KEPT, DeviceCounts
from provserver.services.profiles import ProfileChange, Profiles
from tests.conftest import Space


async def profile(space: Space, name: str, devices: int) -> UUID:
    made = await space.profiles.create_keyless(ProfileChange(name=name))
    for number in range(devices):
        await space.devices.create(DeviceRow(1, f"{name} {number}", None, False), name)
    return made.id


async def test_every_profile_is_counted(space: Space) -> None:
    three, one, _ = await profile(space, "three", 3), await profile(space, "one", 1), await profile(space, "none", 0)

    assert await DeviceCounts(space.database).get() == {three: 3, one: 1}


async def test_few_devices_are_counted_each_time(space: Space) -> None:
    counts = DeviceCounts(space.database, lambda: 0.0, large=10)
    one = await profile(space, "one", 1)
    await counts.get()
    await profile(space, "two", 2)

    assert sorted((await counts.get()).values()) == [1, 2]
    assert (await counts.get())[one] == 1


async def test_many_are_counted_once_a_minute(space: Space) -> None:
    now = 1000.0
    counts = DeviceCounts(space.database, lambda: now, large=3)
    three = await profile(space, "three", 3)
    assert await counts.get() == {three: 3}
    await profile(space, "two", 2)

    now += KEPT - 1
    assert await counts.get() == {three: 3}
    now += 1
    assert sum((await counts.get()).values()) == 5


async def test_a_profile_that_is_shown_is_counted_by_itself(space: Space) -> None:
    counts = DeviceCounts(space.database, lambda: 1000.0, large=1)
    profiles = Profiles(space.database, space.keys, space.organization_id, counts=counts)
    await profile(space, "three", 3)
    assert sum((await counts.get()).values()) == 3
    await profile(space, "two", 2)

    assert (await profiles.show("two")).device_count == 2
