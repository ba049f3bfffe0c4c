import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from provserver.core import ids
from provserver.core.authorization import OPERATOR, Permission, Principal
from provserver.core.search import Span
from provserver.errors import Forbidden, NotFound, TooManyRequests, Unavailable
from provserver.services import events
from provserver.services.events import Activity, Feed, Happening, Reader, Wanted
from provserver.store import audit
from provserver.store import events as store
from tests.conftest import Space
from tests.services.conftest import Fleet


@pytest.fixture
async def feed(space: Space) -> AsyncIterator[Feed]:
    running = Feed(space.database, interval=0.01)
    yield running
    running.close()


@pytest.fixture
def operator(space: Space) -> Principal:
    return Principal(OPERATOR, space.organization_id)


async def child_of(space: Space, name: str) -> Principal:
    id_ = await space.value(
        "INSERT INTO organization (id, parent_id, name, path) SELECT i, $1, $2, ARRAY[$1, i]"
        " FROM gen_random_uuid() AS i RETURNING id",
        space.organization_id,
        name,
    )
    return Principal(f"key:{name}", id_)


async def record(space: Space, organization_id: UUID, action: str, age: float = 0) -> UUID:
    id_ = ids.uuid7(time.time() - age, os.urandom)
    async with space.database.connection() as connection:
        await audit.record(connection, id_, organization_id, "operator", action, "subject", fact=1)
    return id_


async def heard(reader: Reader, number: int = 1) -> list[Happening]:
    found: list[Happening] = []
    while len(found) < number:
        told = await reader.next(60)
        assert told is not None
        found += told
    return found


async def test_what_happens_is_heard_by_who_is_above(space: Space, feed: Feed, operator: Principal) -> None:
    a, b = await child_of(space, "a"), await child_of(space, "b")
    async with feed.read(operator) as above, feed.read(a) as own, feed.read(b) as beside:
        id_ = await record(space, a.organization_id, "static_token.claimed")
        last = await record(space, b.organization_id, "device.claimed")
        assert [each.id for each in await heard(above, 2)] == [id_, last]
        (happening,) = await heard(own)
        assert (happening.id, happening.kind, happening.facts["action"]) == (id_, "audit", "static_token.claimed")
        assert [each.id for each in await heard(beside)] == [last]


async def test_one_that_is_committed_late_is_heard_and_none_twice(
    space: Space, feed: Feed, operator: Principal
) -> None:
    async with feed.read(operator) as reader:
        early = await record(space, space.organization_id, "first")
        assert [each.id for each in await heard(reader)] == [early]
        late = await record(space, space.organization_id, "second", age=-0.001)
        assert [each.id for each in await heard(reader)] == [late]
        third = await record(space, space.organization_id, "third")
        assert [each.id for each in await heard(reader)] == [third]


async def test_who_comes_back_hears_what_was_missed(space: Space, feed: Feed, operator: Principal) -> None:
    first = await record(space, space.organization_id, "first", age=60)
    missed = await record(space, space.organization_id, "second", age=50)
    async with feed.read(operator, since=first) as reader:
        assert [each.id for each in await heard(reader)] == [missed]


async def test_one_that_is_committed_after_who_comes_back_has_looked_is_heard(
    space: Space, feed: Feed, operator: Principal
) -> None:
    first = await record(space, space.organization_id, "first", age=60)
    missed = await record(space, space.organization_id, "second", age=1)
    async with feed.read(operator, since=first) as reader:
        late = await record(space, space.organization_id, "third", age=0.5)
        assert [each.id for each in await heard(reader, 2)] == [missed, late]
        last = await record(space, space.organization_id, "last")
        assert [each.id for each in await heard(reader)] == [last]


async def test_what_was_there_before_is_not_heard_however_much_it_is(
    space: Space, feed: Feed, operator: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BATCH", 3)
    for n in range(10):
        await record(space, space.organization_id, f"before {n}", age=5 - n / 10)
    async with feed.read(operator) as reader:
        after = await record(space, space.organization_id, "after")
        assert [each.id for each in await heard(reader)] == [after]


async def test_attempts_are_heard_and_those_of_nobodys_key_at_the_top(
    space: Space, fleet: Fleet, feed: Feed, operator: Principal
) -> None:
    below = await child_of(space, "below")
    async with feed.read(operator) as reader, feed.read(below) as other:
        await fleet.ask("sensor-1")
        await fleet.ask("sensor-2", provisionDeviceKey="unknown")
        await space.provisioning.drain()
        found: list[Happening] = []
        while len(found) < 2:  # that the profile was made may be heard too, if it was within the millisecond
            found += [each for each in await heard(reader) if each.kind == "attempt"]
        assert {each.facts["outcome"] for each in found} == {"success", "not_found"}
        await record(space, below.organization_id, "only this")
        assert [each.kind for each in await heard(other)] == ["audit"]


async def test_devices_that_come_and_go_are_heard_of(
    space: Space, fleet: Fleet, feed: Feed, operator: Principal
) -> None:
    reply = await fleet.ask("sensor-1")
    few = Principal("user:1", space.organization_id, frozenset({Permission.DEVICES_VIEW}))
    async with feed.read(operator) as begun, feed.read(few) as reader:
        await record(space, space.organization_id, "begun")
        await heard(begun)  # it has looked for the first time: who comes or goes after that is heard of
        await space.rows(
            "INSERT INTO presence (device_id, online_until, last_seen_at)"
            " SELECT $1, now() + interval '1 hour', now() + interval '0.2 s'",
            UUID(reply["deviceId"]),
        )
        (happening,) = await heard(reader)
        assert (happening.kind, happening.facts["deviceName"], happening.facts["online"]) == (
            "presence",
            "sensor-1",
            True,
        )
        await space.rows("UPDATE presence SET online_until = now() + interval '0.2 s'")
        (happening,) = await heard(reader)
        assert happening.facts["online"] is False
    with pytest.raises(Forbidden):
        async with feed.read(Principal("user:1", operator.organization_id, frozenset())):
            pass


async def test_a_device_whose_coming_is_committed_late_is_heard_of_once(
    space: Space, fleet: Fleet, feed: Feed, operator: Principal
) -> None:
    reply = await fleet.ask("sensor-1")
    few = Principal("user:1", space.organization_id, frozenset({Permission.DEVICES_VIEW}))

    async def look_at_presence() -> None:
        for n in range(2 * events.PRESENCE_ROUNDS):  # what is heard was found by another round
            await record(space, space.organization_id, f"round {n}")
            await heard(rounds)

    async with feed.read(operator) as rounds, feed.read(few) as reader:
        await look_at_presence()
        async with space.database.connection() as connection, connection.transaction():
            await connection.execute(
                "INSERT INTO presence (device_id, online_until, last_seen_at)"
                " SELECT $1, now() + interval '1 hour', now()",
                UUID(reply["deviceId"]),
            )
            await look_at_presence()
        (happening,) = await heard(reader)
        assert (happening.facts["deviceName"], happening.facts["online"]) == ("sensor-1", True)
        await look_at_presence()
        assert await reader.next(0) == []


async def test_feeds_are_bounded_and_end(feed: Feed, operator: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_FEEDS", 1)
    async with feed.read(operator) as reader:
        with pytest.raises(TooManyRequests):
            async with feed.read(operator):
                pass
        assert await reader.next(0) == []
        waiting = asyncio.create_task(reader.next(60))
        await asyncio.sleep(0)
        feed.close()
        assert await waiting is None
    with pytest.raises(Unavailable):
        async with feed.read(operator):
            pass


async def test_a_slow_reader_keeps_the_newest(
    space: Space, operator: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_HELD", 2)
    reader = Reader(operator.organization_id, frozenset({"audit"}))
    for id_ in (await record(space, space.organization_id, "x"), *(UUID(int=n) for n in range(3))):
        reader.tell([Happening(id_, "audit", None, [operator.organization_id], {})])  # type: ignore[arg-type]
    assert [each.id for each in await reader.next(0) or ()] == [UUID(int=1), UUID(int=2)]


async def test_attempts_are_listed_down_the_tree(space: Space, fleet: Fleet, operator: Principal) -> None:
    activity, below = Activity(space.database), await child_of(space, "below")
    for number in range(3):
        await fleet.ask(f"sensor-{number}")
    await fleet.ask("sensor-0")
    await space.provisioning.drain()
    found = (await activity.attempts(operator)).rows
    assert [each.device for each in found] == ["sensor-0", "sensor-2", "sensor-1", "sensor-0"]
    before = Wanted(Span.of(None, None, found[1].id))
    page = await activity.attempts(operator, before, limit=1)
    assert ([each.id for each in page.rows], page.cursor) == ([found[2].id], found[2].id)
    assert [each.id for each in (await activity.attempts(operator, Wanted(refused=True))).rows] == [found[0].id]
    of_one = await activity.attempts(operator, Wanted(device="sensor-0"), profile=fleet.profile.name)
    assert len(of_one.rows) == 2
    assert (await activity.attempts(below)).rows == []
    with pytest.raises(NotFound):
        await activity.attempts(below, profile=fleet.profile.name)


async def attempt(space: Space, at: float, **columns: object) -> UUID:
    row = {"transport": "HTTP", "address": "192.0.2.7", "outcome": "failure", "reason": "KEY_EXPIRED"} | columns
    id_ = ids.uuid7(at, os.urandom)
    places = ", ".join(f"${number}" for number in range(2, len(row) + 2))
    await space.rows(f"INSERT INTO attempt (id, {', '.join(row)}) VALUES ($1, {places})", id_, *row.values())
    return id_


NOON = 1_800_000_000.0


async def test_attempts_are_found_by_what_is_known_of_them(space: Space, operator: Principal) -> None:
    activity, device = Activity(space.database), ids.uuid7(NOON, os.urandom)
    others = [await attempt(space, NOON + number) for number in range(3)]
    wanted = {
        "outcome": await attempt(space, NOON + 10, outcome="limited"),
        "reason": await attempt(space, NOON + 11, reason="SECRET_WRONG"),
        "transport": await attempt(space, NOON + 12, transport="COAP"),
        "address": await attempt(space, NOON + 13, address="2001:db8::7"),
        "device": await attempt(space, NOON + 14, device_id=device),
    }
    values = {
        "outcome": "limited",
        "reason": "SECRET_WRONG",
        "transport": "COAP",
        "address": "2001:db8::7",
        "device": str(device),
    }
    for name, id_ in wanted.items():
        found = await activity.attempts(operator, Wanted(**{name: values[name]}))  # type: ignore[arg-type]
        assert [each.id for each in found.rows] == [id_], name
        assert (found.cursor, found.searched_to) == (None, None)
    early = datetime.fromtimestamp(NOON + 1, UTC), datetime.fromtimestamp(NOON + 10, UTC)
    found = await activity.attempts(operator, Wanted(Span.of(*early)))
    assert [each.id for each in found.rows] == [others[2], others[1]]
    assert (await activity.attempt(operator, others[0])).reason == "KEY_EXPIRED"
    with pytest.raises(NotFound):
        await activity.attempt(await child_of(space, "below"), others[0])


async def test_a_search_that_finds_little_stops_and_is_gone_on_with(
    space: Space, operator: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOOKED", 4)
    activity, rare = Activity(space.database), Wanted(reason="SECRET_WRONG")
    oldest = await attempt(space, NOON, reason="SECRET_WRONG")
    others = [await attempt(space, NOON + number) for number in range(1, 7)]

    first = await activity.attempts(operator, rare)
    assert (first.rows, first.cursor) == ([], others[2])
    assert first.searched_to == datetime.fromtimestamp(NOON + 3, UTC)

    rest = await activity.attempts(operator, replace(rare, span=Span.of(None, None, first.cursor)))
    assert ([each.id for each in rest.rows], rest.cursor, rest.searched_to) == ([oldest], None, None)


async def test_attempts_of_a_tree_beside_are_nobodys_business(space: Space, fleet: Fleet, operator: Principal) -> None:
    """Of a profile that is gone, and of keys that nobody knows, the top is told; of another tree it is not."""
    activity = Activity(space.database)
    beside = await space.value(
        "INSERT INTO organization (id, name, path, parent_id) SELECT i, 'Beside', ARRAY[i], NULL"
        " FROM gen_random_uuid() AS i RETURNING id"
    )
    profile = await space.value(
        "INSERT INTO device_profile (id, organization_id, name, template_id, strategy, reprovision_policy)"
        " VALUES (gen_random_uuid(), $1, 'x', 'TMPLx', 'DISABLED', 'deny') RETURNING id",
        beside,
    )
    nobodys, gone = await attempt(space, NOON), await attempt(space, NOON + 1, profile_id=UUID(int=7))
    theirs = await attempt(space, NOON + 2, profile_id=profile)
    ours = await attempt(space, NOON + 3, profile_id=fleet.profile.id)

    assert [each.id for each in (await activity.attempts(operator)).rows] == [ours, gone, nobodys]
    found = await activity.attempts(Principal("key:beside", beside))
    assert [each.id for each in found.rows] == [theirs]
    with pytest.raises(NotFound):
        await activity.attempt(operator, theirs)
