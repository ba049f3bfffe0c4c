import asyncio
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from provserver.services.sessions import Keeper, Sessions
from provserver.transports import attributes
from provserver.transports.attributes import Changes, Polls, watching
from tests.transports.devices import until

Wake = Callable[[tuple[str, ...]], None]


class Watched:
    """What `Sessions` does of watching."""

    def __init__(self) -> None:
        self.watchers: dict[UUID, list[Wake]] = {}
        self.keepers: list[Keeper] = []
        self.taken_over: list[UUID] = []

    def watch(self, device_id: UUID, wake: Wake) -> Callable[[], None]:
        self.watchers.setdefault(device_id, []).append(wake)

        def unwatch() -> None:
            self.watchers[device_id].remove(wake)
            if not self.watchers[device_id]:
                del self.watchers[device_id]

        return unwatch

    def keep(self, keeper: Keeper) -> Callable[[], None]:
        self.keepers.append(keeper)
        return lambda: self.keepers.remove(keeper)

    def take_over(self, device_id: UUID) -> None:
        self.taken_over.append(device_id)

    def change(self, device_id: UUID, *keys: str) -> None:
        for wake in self.watchers.get(device_id, ()):
            wake(keys)


@pytest.fixture
def sessions() -> Any:
    return Watched()


async def test_changes_are_taken_once_and_together() -> None:
    changes = Changes()
    changes.add(("a", "b"))
    changes.add(("b", "c"))

    assert await changes.take() == ("a", "b", "c")
    taking = asyncio.create_task(changes.take())
    await asyncio.sleep(0)
    assert not taking.done()
    changes.add(("d",))
    assert await taking == ("d",)


async def test_when_any_may_have_changed_no_key_is_named() -> None:
    changes = Changes()
    changes.add(("a",))
    changes.add(())
    changes.add(("b",))

    assert await changes.take() == ()
    changes.add(("c",))
    assert await changes.take() == ("c",)


async def test_who_is_to_authenticate_again_has_no_changes_to_tell() -> None:
    changes = Changes()
    changes.add(None)
    assert await changes.take() is None
    assert not changes.closed
    changes.add(("a",))
    changes.add(None)
    assert await changes.take() == ("a",)


async def test_changes_that_are_closed_end() -> None:
    changes = Changes()
    taking = asyncio.create_task(changes.take())
    await asyncio.sleep(0)
    changes.close()

    assert await taking is None
    changes.add(("a",))
    assert await changes.take() is None


async def test_who_gives_up_waiting_loses_nothing() -> None:
    changes = Changes()
    taking = asyncio.create_task(changes.take())
    await asyncio.sleep(0)
    changes.add(("a",))
    taking.cancel()
    await asyncio.wait([taking])

    assert await changes.take() == ("a",)


async def test_watching_ends(sessions: Any) -> None:
    device = uuid4()
    with watching(cast("Sessions", sessions), device) as changes:
        sessions.change(device, "a")
        sessions.change(uuid4(), "b")
        assert await changes.take() == ("a",)

    assert sessions.watchers == {}


async def test_nothing_is_missed_between_polls(sessions: Any) -> None:
    device, polls = uuid4(), Polls(sessions)
    with polls.poll(device):
        sessions.change(device, "a")
    sessions.change(device, "b")

    with polls.poll(device) as changes:
        assert len(sessions.watchers[device]) == 1
        assert await changes.take() == ("a", "b")
    polls.close()
    assert sessions.watchers == {}


async def test_what_was_kept_is_given_up_when_another_process_is_polled(sessions: Any) -> None:
    device, polls = uuid4(), Polls(sessions)
    (keeper,) = sessions.keepers
    with polls.poll(device):
        assert keeper(device) is None  # who is polled here still goes on
    sessions.change(device, "a", "b")

    assert keeper(device) == ("a", "b")
    assert keeper(device) is None
    assert sessions.watchers == {}
    with polls.poll(device):
        assert sessions.taken_over == [device, device]
    with polls.poll(device):
        assert len(sessions.taken_over) == 2  # not where the last poll was here
    polls.close()
    polls.close()
    assert sessions.keepers == []


async def test_polls_at_once_both_hear(sessions: Any) -> None:
    device, polls = uuid4(), Polls(sessions)
    with polls.poll(device) as first:
        with polls.poll(device) as second:
            sessions.change(device, "a")
            assert await first.take() == await second.take() == ("a",)
        assert len(sessions.watchers[device]) == 2
    assert len(sessions.watchers[device]) == 1
    polls.close()
    assert sessions.watchers == {}


async def test_a_poll_that_outlives_the_rest_leaves_nothing(sessions: Any) -> None:
    device, polls = uuid4(), Polls(sessions)
    with polls.poll(device):
        polls.close()

    assert sessions.watchers == {}


async def test_who_does_not_come_back_is_forgotten(sessions: Any) -> None:
    polls = Polls(sessions, linger=0)
    with polls.poll(uuid4()):
        pass

    await until(lambda: not sessions.watchers)


async def test_only_so_many_are_remembered(sessions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "MAX_LINGERING", 3)
    polls, devices = Polls(sessions), [uuid4() for _ in range(5)]
    for device in devices:
        with polls.poll(device):
            pass

    assert list(sessions.watchers) == devices[2:]
    polls.close()
