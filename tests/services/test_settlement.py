import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import pytest

from provserver.core import credentials as building
from provserver.core.model import ProvisionStrategy, ReprovisionPolicy
from provserver.errors import RENDERINGS, Outcome
from provserver.services import settlement
from provserver.services.access import Access
from provserver.services.provisioning import Provisioning
from provserver.services.settlement import ROUNDS
from provserver.store import provisions
from tests.conftest import Space
from tests.services.conftest import NONCE, Fleet, Locking, Outage, connections, until, use
from tests.services.provisioned import successes, whole

CHECK = ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES
BOTH = pytest.mark.parametrize("strategy", [ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES, CHECK])
IN_THE_WAY = "LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE"
"""Every write of a success meets it, no look does."""

ONE = {"device": 1, "credentials": 1, "attribute": 1, "attempt": 1, "outbox": 1}


def statuses(replies: list[dict[str, Any]]) -> Counter[str]:
    return Counter(reply["status"] for reply in replies)


# --- one name, many who ask


@pytest.mark.parametrize("processes", [1, 2])
async def test_of_many_who_ask_for_one_name_one_gets_it(fleet: Fleet, other: Provisioning, processes: int) -> None:
    turns = cycle([fleet.space.provisioning, other][:processes])

    replies = await asyncio.gather(*(fleet.ask("sensor-1", of=next(turns)) for _ in range(200)))

    assert statuses(replies) == {"SUCCESS": 1, "FAILURE": 199}
    (winner,) = [reply for reply in replies if reply["status"] == "SUCCESS"]
    assert await fleet.stored("sensor-1") == [building.access_token(winner["credentialsValue"])]
    for provisioning in (fleet.space.provisioning, other):
        await provisioning.drain()
    assert await fleet.counts() == ONE | {"attempt": 200}
    rows = await fleet.space.rows("SELECT outcome, reason FROM attempt")
    assert Counter(map(tuple, rows)) == {("success", None): 1, ("failure", "ALREADY_PROVISIONED"): 199}


@pytest.mark.parametrize("processes", [1, 2])
async def test_of_many_who_ask_for_a_pre_provisioned_device_one_gets_it(
    space: Space, other: Provisioning, processes: int
) -> None:
    fleet = await Fleet.make(space, CHECK)
    await fleet.import_("sensor-1")
    turns = cycle([space.provisioning, other][:processes])

    replies = await asyncio.gather(*(fleet.ask("sensor-1", of=next(turns)) for _ in range(200)))

    assert statuses(replies) == {"SUCCESS": 1, "FAILURE": 199}
    for provisioning in (space.provisioning, other):
        await provisioning.drain()
    assert await fleet.counts() == ONE | {"attempt": 200}


@BOTH
async def test_a_rearming_is_used_up_once(space: Space, other: Provisioning, strategy: ProvisionStrategy) -> None:
    fleet = await Fleet.make(space, strategy)
    if strategy is CHECK:
        await fleet.import_("sensor-1")
    await fleet.ask("sensor-1")
    await space.devices.rearm("sensor-1")
    turns = cycle([space.provisioning, other])

    replies = await asyncio.gather(*(fleet.ask("sensor-1", of=next(turns)) for _ in range(50)))

    assert statuses(replies) == {"SUCCESS": 1, "FAILURE": 49}
    (winner,) = [reply for reply in replies if reply["status"] == "SUCCESS"]
    assert [each.id for each in await fleet.stored("sensor-1")] == [winner["credentialsValue"]]


@BOTH
async def test_many_who_may_have_the_same_all_get_it(
    space: Space, other: Provisioning, strategy: ProvisionStrategy
) -> None:
    fleet = await Fleet.make(space, strategy, ReprovisionPolicy.RETURN_SAME)
    if strategy is CHECK:
        await fleet.import_("sensor-1")
    turns = cycle([space.provisioning, other])

    replies = await asyncio.gather(*(fleet.ask("sensor-1", of=next(turns)) for _ in range(50)))

    assert statuses(replies) == {"SUCCESS": 50}
    assert len({reply["credentialsValue"] for reply in replies}) == 1
    await whole(space)


async def test_many_names_are_served_by_two_processes_at_once(fleet: Fleet, other: Provisioning) -> None:
    asks = [fleet.ask(f"sensor-{n % 300}", of=of) for n in range(600) for of in (fleet.space.provisioning, other)]

    replies = await asyncio.gather(*asks)

    assert statuses(replies) == {"SUCCESS": 300, "FAILURE": 900}
    assert set((await successes(fleet.space)).values()) == {1}
    await whole(fleet.space)


# --- one group


async def test_different_names_of_one_group_all_get_theirs(fleet: Fleet, lock: Locking) -> None:
    replies = await fleet.as_one_group(lock, *(fleet.ask(f"sensor-{n}") for n in range(100)))

    assert statuses(replies) == {"SUCCESS": 100}
    assert [reply["deviceName"] for reply in replies] == [f"sensor-{n}" for n in range(100)]
    for reply in replies:
        assert await fleet.stored(reply["deviceName"]) == [building.access_token(reply["credentialsValue"])]
    await whole(fleet.space)


async def test_of_equal_names_in_one_group_the_first_in_line_gets_it(fleet: Fleet, lock: Locking) -> None:
    replies = await fleet.as_one_group(lock, *(fleet.ask("sensor-1") for _ in range(20)))

    assert [reply["status"] for reply in replies] == ["SUCCESS"] + ["FAILURE"] * 19


async def test_of_equal_credentials_in_one_group_the_first_in_line_gets_them(fleet: Fleet, lock: Locking) -> None:
    replies = await fleet.as_one_group(lock, *(fleet.ask(f"sensor-{n}", token="same") for n in range(20)))

    assert [reply["status"] for reply in replies] == ["SUCCESS"] + ["FAILURE"] * 19
    assert [each.id for each in await fleet.stored("sensor-0")] == ["same"]
    await whole(fleet.space)


async def test_those_refused_do_not_cost_their_group(space: Space, fleet: Fleet, lock: Locking) -> None:
    """Names and credentials that are taken, a pre-provisioned device, a repeat: each gets its own answer."""
    meters = await Fleet.make(space, CHECK, ReprovisionPolicy.RETURN_SAME, name="meters")
    await meters.import_("meter-1")
    await meters.import_("meter-2")
    await meters.ask("meter-2")
    await fleet.ask("taken", token="taken", requestNonce=NONCE)

    replies = await fleet.as_one_group(
        lock,
        fleet.ask("sensor-1"),
        fleet.ask("taken"),
        fleet.ask("sensor-2", token="taken"),
        meters.ask("meter-1", token="brought"),
        meters.ask("meter-2"),
        meters.ask("meter-3"),
        fleet.ask("taken", token="taken", requestNonce=NONCE),
        fleet.ask("other", requestNonce=NONCE),
        fleet.ask("meter-1"),
        fleet.ask(),
    )

    assert [reply["status"] for reply in replies] == [
        "SUCCESS",
        "FAILURE",
        "FAILURE",
        "SUCCESS",
        "SUCCESS",
        "FAILURE",
        "SUCCESS",
        "FAILURE",
        "FAILURE",
        "SUCCESS",
    ]
    assert replies[3]["credentialsValue"] == "brought"
    assert replies[6]["credentialsValue"] == "taken"


@pytest.mark.parametrize("name", ["sensor-1", None])
async def test_twins_with_one_nonce_in_one_group_share_the_answer(
    fleet: Fleet, lock: Locking, name: str | None
) -> None:
    replies = await fleet.as_one_group(lock, *(fleet.ask(name, requestNonce=NONCE) for _ in range(5)))

    assert replies[0]["status"] == "SUCCESS"
    assert replies == [replies[0]] * 5
    rows = await fleet.space.rows("SELECT id FROM device WHERE name = $1", replies[0]["deviceName"])
    assert len(rows) == 1
    assert await fleet.space.value("SELECT count(*) FROM device") == 2  # one was under way before the group


@pytest.mark.parametrize("name", ["sensor-1", None])
async def test_twins_with_one_nonce_at_two_processes_share_the_answer(
    fleet: Fleet, other: Provisioning, name: str | None
) -> None:
    turns = cycle([fleet.space.provisioning, other])

    replies = await asyncio.gather(*(fleet.ask(name, of=next(turns), requestNonce=NONCE) for _ in range(40)))

    assert replies[0]["status"] == "SUCCESS"
    assert replies == [replies[0]] * 40
    assert await fleet.space.value("SELECT count(*) FROM device") == 1
    assert await fleet.space.value("SELECT count(*) FROM outbox") == 1


async def test_one_nonce_in_two_different_requests_of_a_group_is_for_the_first(fleet: Fleet, lock: Locking) -> None:
    replies = await fleet.as_one_group(
        lock, fleet.ask("sensor-1", requestNonce=NONCE), fleet.ask("sensor-2", requestNonce=NONCE)
    )

    assert [reply["status"] for reply in replies] == ["SUCCESS", "FAILURE"]


async def test_devices_that_rotate_in_one_group_all_get_new_credentials(space: Space, lock: Locking) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)
    old = [await fleet.ask(f"sensor-{n}") for n in range(5)]

    new = await fleet.as_one_group(lock, *(fleet.ask(f"sensor-{n}") for n in range(5)))

    for n, (before, after) in enumerate(zip(old, new, strict=True)):
        held = [each.id for each in await fleet.stored(f"sensor-{n}")]
        assert held == [after["credentialsValue"], before["credentialsValue"]]


async def test_of_many_rotations_of_one_device_the_last_answer_is_good(space: Space, lock: Locking) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)
    old = (await fleet.ask("sensor-1"))["credentialsValue"]

    replies = await fleet.as_one_group(lock, *(fleet.ask("sensor-1") for _ in range(ROUNDS - 1)))

    assert statuses(replies) == {"SUCCESS": ROUNDS - 1}
    told = [reply["credentialsValue"] for reply in replies]
    assert len(set(told)) == len(told)
    new, kept = [each.id for each in await fleet.stored("sensor-1")]
    assert (new in told, kept) == (True, old)
    await use(Access(space.database, space.keys), new)
    assert [each.id for each in await fleet.stored("sensor-1")] == [new]


# --- races for credentials between processes


async def test_of_two_processes_one_gets_a_token_for_its_device(fleet: Fleet, other: Provisioning) -> None:
    asks = [
        fleet.ask(f"{prefix}-{n}", of=of, token=f"token-{n}")
        for n in range(40)
        for prefix, of in (("a", fleet.space.provisioning), ("b", other))
    ]

    replies = await asyncio.gather(*asks)

    assert statuses(replies) == {"SUCCESS": 40, "FAILURE": 40}
    for a, b in zip(replies[::2], replies[1::2], strict=True):
        assert {a["status"], b["status"]} == {"SUCCESS", "FAILURE"}
    await other.drain()
    await fleet.space.provisioning.drain()
    refused = await fleet.space.rows("SELECT DISTINCT reason FROM attempt WHERE outcome = 'failure'")
    assert [row["reason"] for row in refused] == ["CREDENTIALS_TAKEN"]
    await whole(fleet.space)


async def test_a_token_that_is_taken_while_the_write_is_under_way_is_refused(fleet: Fleet, lock: Locking) -> None:
    """The other transaction has the token but is not committed when our statement looks whether it is free."""
    taken = fleet.space.keys.digest("credentials", "same")
    await fleet.ask("cached")
    async with lock(
        "INSERT INTO credentials (id_digest, device_id, type, origin, sealed)"
        " VALUES ($1, gen_random_uuid(), 'ACCESS_TOKEN', 'imported', '')",
        taken,
    ) as held:
        asks = [fleet.ask("sensor-1", token="same"), fleet.ask("sensor-2")]
        task = asyncio.gather(*asks)
        await held.until_waiting()
        await held.commit()
        replies = await task

    assert [reply["status"] for reply in replies] == ["FAILURE", "SUCCESS"]
    assert await fleet.space.value("SELECT count(*) FROM device WHERE name = 'sensor-1'") == 0


async def test_a_name_that_is_freed_while_the_write_waits_for_it_is_given(fleet: Fleet, lock: Locking) -> None:
    async with lock(
        "INSERT INTO device (id, organization_id, profile_id, name) VALUES (gen_random_uuid(), $1, $2, 'sensor-1')",
        fleet.space.organization_id,
        fleet.profile.id,
    ) as held:
        task = asyncio.create_task(fleet.ask("sensor-1"))
        await held.until_waiting()

    assert (await task)["status"] == "SUCCESS"
    await whole(fleet.space)


async def test_names_in_opposite_order_at_two_processes_are_all_given(
    fleet: Fleet, other: Provisioning, lock: Locking
) -> None:
    """Each statement has the next name of the other one in hand, for as long as a trigger makes it slow."""
    await fleet.space.rows("""
        CREATE FUNCTION obstacle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$""")
    names = [f"sensor-{n}" for n in range(10)]
    for of in (fleet.space.provisioning, other):
        await fleet.ask(f"cached by {id(of)}", of=of)
    await fleet.space.rows("CREATE TRIGGER slow BEFORE INSERT ON device FOR EACH ROW EXECUTE FUNCTION obstacle()")
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = await fleet.space.value(deadlocks)
    asks: list[Awaitable[dict[str, Any]]] = []
    async with lock(IN_THE_WAY) as held:
        under_way = [
            asyncio.create_task(fleet.ask(f"under way {n}", of=of))
            for n, of in enumerate((fleet.space.provisioning, other))
        ]
        await held.until_waiting(2)
        asks += [asyncio.create_task(fleet.ask(name)) for name in names]
        asks += [asyncio.create_task(fleet.ask(name, of=other)) for name in reversed(names)]
        await until(lambda: other._tickets._waiting == len(names))

    replies = await asyncio.gather(*asks, *under_way)

    assert statuses(replies) == {"SUCCESS": 12, "FAILURE": 10}
    await whole(fleet.space)
    assert await fleet.space.value(deadlocks) == before


# --- a fault of ours


FAULTS: dict[str, Callable[..., bool]] = {
    "decide": lambda intent, *_: intent.name == "poison",
    "seal_credentials": lambda _keys, _id, credentials, _random: credentials.id == "poison",
    "provisions.create": lambda _connection, writes: any(write.name == "poison" for write in writes),
}
"""What may fail in the middle of settling, and when it is the poisoned request's."""


@pytest.mark.parametrize("where", FAULTS)
async def test_a_fault_of_ours_is_one_requests_alone(
    fleet: Fleet, lock: Locking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    *module, function = where.split(".")
    place = getattr(settlement, module[0]) if module else settlement
    real = getattr(place, function)

    def failing(*arguments: Any) -> Any:
        if FAULTS[where](*arguments):
            raise ValueError("planted")
        return real(*arguments)

    monkeypatch.setattr(place, function, failing)
    asks = [fleet.ask("sensor-1"), fleet.ask("poison", token="poison"), *(fleet.ask(f"meter-{n}") for n in range(20))]

    replies = await fleet.as_one_group(lock, *asks)

    assert [reply["status"] for reply in replies] == ["SUCCESS", "FAILURE"] + ["SUCCESS"] * 20
    assert replies[1]["errorMsg"] == RENDERINGS[Outcome.UNAVAILABLE].error
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "ValueError" in errors[0]
    assert "planted" not in caplog.text
    await whole(fleet.space)


async def test_what_is_settled_stays_so_whatever_fails_behind_it(
    space: Space, lock: Locking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.RETURN_SAME)
    first = await fleet.ask("repeated")

    async def record(*_: object) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(provisions, "record", record)

    replies = await fleet.as_one_group(lock, fleet.ask("sensor-1"), fleet.ask("repeated"), fleet.ask("sensor-2"))

    assert [reply["status"] for reply in replies] == ["SUCCESS"] * 3
    assert replies[1] == first
    assert "planted" not in caplog.text


async def test_a_record_that_fails_spares_what_is_settled(
    space: Space, lock: Locking, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.RETURN_SAME)
    first = await fleet.ask("repeated")
    await space.rows("""
        CREATE FUNCTION obstacle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF NEW.reason = 'REPEATED' THEN RAISE 'planted-in-postgres'; END IF; RETURN NEW; END $$""")
    await space.rows("CREATE TRIGGER poison BEFORE INSERT ON attempt FOR EACH ROW EXECUTE FUNCTION obstacle()")

    replies = await fleet.as_one_group(lock, fleet.ask("sensor-1"), fleet.ask("repeated"), fleet.ask("sensor-2"))

    assert [reply["status"] for reply in replies] == ["SUCCESS"] * 3
    assert replies[1] == first
    assert "provision statement failed" in caplog.text
    assert "planted" not in caplog.text


# --- connections that break


@BOTH
async def test_a_connection_killed_under_way_costs_nobody_anything(
    space: Space, lock: Locking, strategy: ProvisionStrategy
) -> None:
    fleet = await Fleet.make(space, strategy)
    names = [f"sensor-{n}" for n in range(10)]
    for name in names:
        if strategy is CHECK:
            await fleet.import_(name)
    async with lock(IN_THE_WAY) as held:
        tasks = [asyncio.create_task(fleet.ask(name)) for name in names]
        (first,) = await held.until_waiting()
        await held.terminate(first)
        await held.until_waiting_other_than({first})
        assert not any(task.done() for task in tasks)

    replies = await asyncio.gather(*tasks)

    assert statuses(replies) == {"SUCCESS": 10}
    for reply in replies:
        assert await fleet.stored(reply["deviceName"]) == [building.access_token(reply["credentialsValue"])]
    assert set((await successes(space)).values()) == {1}
    await whole(space)


@dataclass
class Lossy:
    """A process whose one connection breaks under way, while Postgres goes on with the statement it has."""

    fleet: Fleet
    outage: Outage
    provisioning: Provisioning
    lock: Locking

    async def warm_up(self) -> None:
        """Have both statements prepared on the connection, so that what is sent under way is all Postgres needs."""
        await self.fleet.ask("warm-up", of=self.provisioning)
        await self.fleet.space.devices.rearm("warm-up")
        await self.fleet.ask("warm-up", of=self.provisioning)
        await self.fleet.space.devices.delete("warm-up")
        await self.fleet.space.rows("TRUNCATE attempt, outbox")

    async def ask(self, name: str | None, **members: object) -> dict[str, Any]:
        """The reply to a request whose answer is lost, and that is asked about once it is committed."""
        count = "SELECT count(*) FROM outbox"
        before = await self.fleet.space.value(count)
        async with self.lock(IN_THE_WAY) as held:
            task = asyncio.create_task(self.fleet.ask(name, of=self.provisioning, **members))
            await held.until_waiting()
            self.outage.take_away()
            self.outage.cut()
            await until(lambda: not connections(self.outage.database))
        while await self.fleet.space.value(count) == before:
            assert not task.done()
        self.outage.end()
        return await task

    async def ask_again_at_once(self, name: str | None, **members: object) -> dict[str, Any]:
        """The reply to a request that is sent again while the lost one is still under way."""
        async with self.lock(IN_THE_WAY) as held:
            task = asyncio.create_task(self.fleet.ask(name, of=self.provisioning, **members))
            (first,) = await held.until_waiting()
            self.outage.cut()
            await held.until_waiting(2)
            assert first in await held.waiters()
        return await task


@pytest.fixture
async def lossy(fleet: Fleet, outage: Outage, lock: Locking) -> AsyncIterator[Lossy]:
    provisioning = Provisioning(outage.database, fleet.space.keys, wait_limit=60)
    made = Lossy(fleet, outage, provisioning, lock)
    await made.warm_up()
    yield made
    await provisioning.drain()


LOST = pytest.mark.parametrize("lost", [Lossy.ask, Lossy.ask_again_at_once])


@LOST
@pytest.mark.parametrize(
    "members",
    [
        {"name": "sensor-1"},
        {"name": None},
        {"name": "sensor-1", "token": "brought"},
        {"name": "sensor-1", "requestNonce": NONCE},
        {"name": None, "requestNonce": NONCE},
    ],
    ids=str,
)
async def test_an_answer_of_postgres_that_was_lost_is_found_again(
    lossy: Lossy, lost: Callable[..., Awaitable[dict[str, Any]]], members: dict[str, Any]
) -> None:
    reply = await lost(lossy, **members)

    assert reply["status"] == "SUCCESS"
    assert await lossy.fleet.stored(reply["deviceName"]) == [building.access_token(reply["credentialsValue"])]
    assert reply["credentialsValue"] == members.get("token", reply["credentialsValue"])
    assert await lossy.fleet.counts() == ONE


@LOST
async def test_a_pre_provisioned_device_gets_the_answer_that_was_lost(
    lossy: Lossy, lost: Callable[..., Awaitable[dict[str, Any]]]
) -> None:
    lossy.fleet = await Fleet.make(lossy.fleet.space, CHECK, name="meters")
    await lossy.fleet.import_("meter-1")

    reply = await lost(lossy, "meter-1", token="brought")

    assert (reply["status"], reply["credentialsValue"]) == ("SUCCESS", "brought")
    assert [each.id for each in await lossy.fleet.stored("meter-1")] == ["brought"]
    assert await lossy.fleet.counts() == ONE


@LOST
async def test_a_rotation_whose_answer_was_lost_is_found_again(
    lossy: Lossy, lost: Callable[..., Awaitable[dict[str, Any]]]
) -> None:
    fleet = lossy.fleet = await Fleet.make(lossy.fleet.space, CHECK, ReprovisionPolicy.ROTATE, name="rotating")
    await fleet.import_("sensor-1")
    old = (await fleet.ask("sensor-1"))["credentialsValue"]

    new = (await lost(lossy, "sensor-1"))["credentialsValue"]

    assert [each.id for each in await fleet.stored("sensor-1")] == [new, old]
    assert await successes(fleet.space) == {"sensor-1": 2}


async def test_two_who_ask_for_one_name_while_an_answer_is_lost_are_told_apart(lossy: Lossy) -> None:
    fleet = lossy.fleet
    async with lossy.lock(IN_THE_WAY) as held:
        lost = asyncio.create_task(fleet.ask("sensor-1", of=lossy.provisioning))
        await held.until_waiting()
        neighbour = asyncio.create_task(fleet.ask("sensor-1"))
        await held.until_waiting(2)
        lossy.outage.cut()
        await held.until_waiting(3)

    replies = [await lost, await neighbour]

    assert statuses(replies) == {"SUCCESS": 1, "FAILURE": 1}
    (winner,) = [reply for reply in replies if reply["status"] == "SUCCESS"]
    assert await fleet.stored("sensor-1") == [building.access_token(winner["credentialsValue"])]
    await whole(fleet.space)


async def test_nobody_is_told_success_before_the_commit(fleet: Fleet, lock: Locking) -> None:
    async with lock(IN_THE_WAY) as held:
        task = asyncio.create_task(fleet.ask("sensor-1"))
        await held.until_waiting()
        assert not task.done()
        assert await fleet.space.value("SELECT count(*) FROM device") == 0

    assert (await task)["status"] == "SUCCESS"
