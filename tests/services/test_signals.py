import logging
from uuid import UUID

import pytest

from provserver.core.events import EventType
from provserver.core.model import Peer, Transport
from provserver.services import signals as module
from provserver.services.signals import Signals
from tests.conftest import Space
from tests.services.conftest import NONCE, Fleet, Locking, Outage, until

FAILED = EventType.PROVISION_FAILED


async def told(space: Space) -> list[tuple[object, object]]:
    """What `n` and which count the events have, in order."""
    rows = await space.rows("SELECT payload FROM outbox ORDER BY created_at, id")
    return [(row[0].get("n"), row[0]["count"]) for row in rows]


async def test_the_first_is_told_at_once_and_the_others_together(space: Space) -> None:
    signals = Signals(space.database)
    for n in range(1000):
        signals.note(FAILED, "one", {"n": n})
    signals.note(FAILED, "other", {"n": -1}, device_id=UUID(int=1), organization_id=UUID(int=2))
    await signals._events.drain()
    assert await told(space) == [(0, 1), (-1, 1)]
    row = (await space.rows("SELECT type, device_id, organization_id FROM outbox ORDER BY created_at DESC, id DESC"))[0]
    assert tuple(row) == ("provision.failed", UUID(int=1), UUID(int=2))
    await signals.drain()
    assert await told(space) == [(0, 1), (-1, 1), (999, 999)]


async def test_after_its_time_what_was_counted_is_told_and_what_was_not_is_forgotten(space: Space) -> None:
    signals = Signals(space.database, period=0.01)
    signals.note(FAILED, "one", {"n": 1})
    signals.note(FAILED, "one", {"n": 2})
    signals.note(FAILED, "other", {"n": 3})
    await until(lambda: not signals._windows)
    await signals._events.drain()
    assert await told(space) == [(1, 1), (3, 1), (2, 1)]
    signals.note(FAILED, "one", {"n": 4})
    await signals.drain()
    assert (await told(space))[-1] == (4, 1)


async def test_a_flood_of_subjects_is_bounded(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SUBJECTS", 3)
    signals = Signals(space.database)
    for n in range(10):
        signals.note(FAILED, n, {"n": n})
    await signals.drain()
    assert await told(space) == [(0, 1), (1, 1), (2, 1)]


async def test_what_cannot_be_written_is_said(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    signals = Signals(outage.database)
    await outage.begin()
    with caplog.at_level(logging.WARNING):
        signals.note(FAILED, "one", {"name": "pl4nted"})
        await signals.drain()
    assert "1 events were not recorded" in caplog.text
    assert "pl4nted" not in caplog.text
    outage.end()


async def test_what_postgres_cannot_hold_spares_its_neighbours(
    space: Space, lock: Locking, caplog: pytest.LogCaptureFixture
) -> None:
    signals = Signals(space.database)
    async with lock("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE") as held:
        signals.note(FAILED, "first", {"n": 1})
        await held.until_waiting()
        for n, text in enumerate(("good", "pl4nted\0", "good"), 2):
            signals.note(FAILED, n, {"n": n, "text": text})
    await signals.drain()

    assert await told(space) == [(1, 1), (2, 1), (4, 1)]
    assert "1 events were not recorded" in caplog.text
    assert "pl4nted" not in caplog.text


async def test_refusals_are_told_by_profile_and_reason(space: Space) -> None:
    fleet = await Fleet.make(space)
    for _ in range(5):
        await fleet.ask("sensor", provisionDeviceSecret="pl4nted")
        await fleet.ask("sensor", provisionDeviceKey="pl4nted")
        await fleet.ask("sensor", requestNonce=NONCE[:5])
    await space.provisioning.drain()
    rows = await space.rows("SELECT payload FROM outbox WHERE type = 'provision.failed'")
    counted: dict[tuple[object, object], int] = {}
    for (payload,) in rows:
        place = (payload.get("profileId"), payload["reason"])
        counted[place] = counted.get(place, 0) + payload["count"]
    profile = str(fleet.profile.id)
    assert counted == {(profile, "SECRET_WRONG"): 5, (None, "KEY_UNKNOWN"): 5, (profile, "NONCE_MALFORMED"): 5}
    assert "pl4nted" not in str(rows)
    assert Peer(Transport.HTTP, "192.0.2.7").address not in str(rows)
