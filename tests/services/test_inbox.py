"""The inbox: walked maker by maker, counted to a bound, and signs forgotten in batches."""

from uuid import UUID

import pytest

from provserver.core.authorization import OPERATOR, PERMISSIONS, Principal, Role
from provserver.errors import Forbidden, NotFound
from provserver.services import inbox as service
from provserver.services.inbox import Inbox, Page
from tests.conftest import Space
from tests.services.conftest import Fleet


@pytest.fixture
def inbox(space: Space) -> Inbox:
    return Inbox(space.database)


@pytest.fixture
def operator(space: Space) -> Principal:
    return Principal(OPERATOR, space.organization_id)


async def suspect(space: Space, *names: str) -> list[UUID]:
    """Devices with two signs each, in order of their ids."""
    rows = await space.rows(
        "INSERT INTO clone_sign (device_id, organization_id, kind, count)"
        " SELECT d.id, d.organization_id, k, 1 FROM device d, unnest(ARRAY['name', 'nonce']) AS k"
        " WHERE d.name = ANY($1) RETURNING device_id",
        list(names),
    )
    return sorted({row["device_id"] for row in rows})


async def test_devices_with_signs_are_listed_once_and_in_pages(fleet: Fleet, inbox: Inbox, operator: Principal) -> None:
    names = [f"sensor-{n}" for n in range(5)]
    for name in names:
        await fleet.import_(name)
    devices = await suspect(fleet.space, *names)

    first = await inbox.suspects(operator, Page(limit=3))
    rest = await inbox.suspects(operator, Page(first[-1].id, 3))

    assert [each.id for each in first + rest] == devices
    assert [len(each.signs) for each in first + rest] == [2] * 5
    assert (await inbox.counts(operator)).clone_signs == 5


async def test_what_is_in_quarantine_is_listed_there_alone(fleet: Fleet, inbox: Inbox, operator: Principal) -> None:
    await fleet.import_("sensor-1")
    await suspect(fleet.space, "sensor-1")
    await fleet.space.devices.quarantine("sensor-1", "seen twice")

    (held,) = await inbox.quarantined(operator)

    assert (held.name, held.reason, len(held.signs)) == ("sensor-1", "seen twice", 2)
    assert await inbox.suspects(operator) == []
    counts = await inbox.counts(operator)
    assert (counts.quarantined, counts.clone_signs) == (1, 0)


async def test_all_signs_are_forgotten_in_batches(
    fleet: Fleet, inbox: Inbox, operator: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "AT_ONCE", 2)
    names = [f"sensor-{n}" for n in range(5)]
    for name in names:
        await fleet.import_(name)
    devices = await suspect(fleet.space, *names)

    assert await inbox.dismiss_all(operator, fleet.profile.name) == 5
    assert await inbox.dismiss_all(operator) == 0

    assert await inbox.suspects(operator) == []
    audited = await fleet.space.rows("SELECT subject_id FROM audit WHERE action = 'device.clone_signs_dismissed'")
    assert sorted(row["subject_id"] for row in audited) == sorted(map(str, devices))
    with pytest.raises(NotFound):
        await inbox.dismiss_all(operator, "unknown")
    with pytest.raises(NotFound):
        await inbox.dismiss(operator, "sensor-9")


async def test_signs_that_are_forgotten_are_counted_anew(fleet: Fleet, inbox: Inbox, operator: Principal) -> None:
    await fleet.import_("sensor-1")
    await suspect(fleet.space, "sensor-1")
    assert await inbox.dismiss(operator, "sensor-1") == 1
    await suspect(fleet.space, "sensor-1")

    assert [len(each.signs) for each in await inbox.suspects(operator)] == [2]


async def test_who_may_not(inbox: Inbox, space: Space) -> None:
    user = Principal("user:1", space.organization_id, PERMISSIONS[Role.USER])
    nobody = Principal("key:1", space.organization_id, frozenset())

    with pytest.raises(Forbidden):
        await inbox.dismiss_all(user)
    with pytest.raises(Forbidden):
        await inbox.failed_jobs(user)
    with pytest.raises(Forbidden):
        await inbox.counts(nobody)
    assert set(await inbox.ending_keys(user)) == set()
