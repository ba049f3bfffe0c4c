import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest

from provserver.core.events import EventType
from provserver.core.secrets import ServerKeys
from provserver.services import outbox as module
from provserver.services.outbox import Outbox
from provserver.services.webhooks import WebhookChange
from provserver.store import deliveries
from provserver.store import outbox as store
from provserver.store.deliveries import Result
from provserver.store.lead import Connection
from tests.conftest import Space
from tests.services.accounts import Accounts, Tree
from tests.services.conftest import Fleet, Locking, until
from tests.services.webhooks import Flying, Subscriber, client, operator, tell

DAY = 86_400.0


@pytest.fixture
async def subscriber(space: Space) -> AsyncIterator[Subscriber]:
    async with Subscriber.listening(space) as made:
        yield made


@pytest.fixture
def accounts(space: Space, tmp_path: Path) -> Accounts:
    return Accounts(space, tmp_path)


@pytest.fixture(autouse=True)
def well(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """It begins anew after a fault of its own: which would hide it."""
    yield
    assert "has failed" not in caplog.text


async def delivered(space: Space, number: int) -> None:
    while await space.value("SELECT count(*) FROM webhook_delivery WHERE state = 'delivered'") < number:
        pass


async def test_events_are_delivered_in_order_of_each_device(space: Space, subscriber: Subscriber) -> None:
    for n in range(0, 30, 3):
        for device in (1, 2, 3):
            await tell(space, device, n, n + 1, n + 2)
    async with Flying(space).running() as outbox:
        await delivered(space, 90)
        assert (outbox.delivered, outbox.failed, outbox.dead) == (90, 0, 0)

    assert subscriber.receiver.first == {str(UUID(int=device)): list(range(30)) for device in (1, 2, 3)}
    assert set(subscriber.receiver.times.values()) == {1}
    assert await space.value("SELECT count(*) FROM outbox") == 0
    event = subscriber.receiver.events[0]
    row = (await space.rows("SELECT id, created_at FROM event WHERE id = $1", UUID(event["id"])))[0]
    assert (event["type"], event["timestamp"]) == (
        "device.claimed",
        row["created_at"].isoformat().replace("+00:00", "Z"),
    )


async def test_events_of_one_statement_are_in_its_order(space: Space) -> None:
    await tell(space, 1, *range(2_000))

    rows = await space.rows("SELECT (payload ->> 'n')::integer AS n FROM outbox ORDER BY created_at")
    assert [row["n"] for row in rows] == list(range(2_000))
    assert await space.value("SELECT count(DISTINCT created_at) FROM outbox") == 2_000


async def test_events_of_one_millisecond_stay_in_order_though_their_ids_are_not(
    space: Space, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    await tell(space, 1, *range(10))
    for n in range(10):  # ids of two milliseconds, in each of which they fall while the times rise
        id_ = UUID(bytes=(1 + n // 5).to_bytes(6) + (10 - n).to_bytes(10))
        await space.rows("UPDATE outbox SET id = $2 WHERE payload ->> 'n' = $1", str(n), id_)

    async with Flying(space).running():
        await delivered(space, 10)

    assert subscriber.receiver.first == {str(UUID(int=1)): list(range(10))}


async def test_what_is_provisioned_and_connects_is_told(space: Space, subscriber: Subscriber) -> None:
    fleet = await Fleet.make(space)
    reply = await fleet.ask("sensor-1")
    await fleet.ask("sensor-1")
    await space.provisioning.drain()
    async with Flying(space).running():
        await delivered(space, 2)

    by_type = {event["type"]: event["data"] for event in subscriber.receiver.events}
    assert by_type == {
        "device.provisioned": {
            "deviceId": reply["deviceId"],
            "deviceName": "sensor-1",
            "profileId": str(fleet.profile.id),
            "credentialsType": "ACCESS_TOKEN",
            "transport": "HTTP",
        },
        "provision.failed": {"reason": "ALREADY_PROVISIONED", "count": 1, "profileId": str(fleet.profile.id)},
    }
    assert reply["credentialsValue"] not in str(subscriber.receiver.events)


async def test_a_transaction_that_commits_late_is_not_missed(space: Space, subscriber: Subscriber) -> None:
    async with Flying(space).running():
        async with space.database.transaction() as connection:
            await store.record(connection, EventType.DEVICE_CLAIMED, UUID(int=1), space.organization_id, n=1)
            await tell(space, 2, 2)
            await delivered(space, 1)
        await delivered(space, 2)
    assert [event["data"]["n"] for event in subscriber.receiver.events] == [2, 1]


async def test_each_organization_is_told_of_its_own_tree(accounts: Accounts, space: Space) -> None:
    tree = await Tree.grow(accounts)
    subscribers: dict[str, Subscriber] = {}
    async with AsyncExitStack() as stack:
        for name, organization in tree.by_name.items():
            entered = Subscriber.listening(space, organization=organization.id)
            subscribers[name] = await stack.enter_async_context(entered)
        async with space.database.connection() as connection:
            for name, organization in tree.by_name.items():
                await store.record(connection, EventType.DEVICE_CLAIMED, None, organization.id, n=1, name=name)
        async with Flying(space).running():
            await delivered(space, sum(len(tree.sees(name)) for name in tree.by_name))
    for name, each in subscribers.items():
        assert {event["data"]["name"] for event in each.receiver.events} == tree.sees(name)


async def test_an_event_without_an_organization_is_told_to_who_has_the_device(accounts: Accounts, space: Space) -> None:
    tree = await Tree.grow(accounts)
    device = await accounts.device(tree.maker.id, holder=tree.left.id)
    profile = (await Fleet.make(space)).profile.id
    async with space.database.connection() as connection:
        await store.record(connection, EventType.DEVICE_PROVISIONED, device)
        await store.record(connection, EventType.PROVISION_FAILED, profileId=str(profile))
        await store.record(connection, EventType.PROVISION_FAILED)
    async with Subscriber.listening(space, EventType.CLONE_SUSPECTED), Flying(space).running():
        while await space.value("SELECT count(*) FROM event") < 3:
            pass
    rows = await space.rows("SELECT organization_id FROM event ORDER BY place")
    assert [row[0] for row in rows] == [tree.left.id, space.organization_id, space.organization_id]
    assert await space.value("SELECT count(*) FROM webhook_delivery") == 0  # of another type


async def test_who_cannot_be_reached_is_left_alone_for_ever_longer(
    space: Space, subscriber: Subscriber, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    subscriber.receiver.answers = lambda _: 503
    for device in range(20):
        await tell(space, device, 1, 2)
    async with Flying(space).running() as outbox:
        begun = outbox.time
        await until(lambda: outbox.time > begun + 3600)
        tries = subscriber.receiver.tries
        assert tries < module.LANES + 40
        details = await subscriber.webhooks.show(operator(space), subscriber.webhook.id)
        assert details.webhook.failing_since is not None
        assert (details.webhook.error, details.counts) == ("HTTP 503", (40, 0))
        subscriber.receiver.answers = lambda _: 200
        await delivered(space, 40)
    assert all(numbers == [1, 2] for numbers in subscriber.receiver.first.values())
    details = await subscriber.webhooks.show(operator(space), subscriber.webhook.id)
    assert (details.webhook.failing_since, details.webhook.error) == (None, None)
    told = [record.message for record in caplog.records if record.name == "provserver.outbox"]
    assert told == [
        f"webhook {subscriber.webhook.id} cannot be reached, its events wait: HTTP 503",
        f"webhook {subscriber.webhook.id} is reached again",
    ]


async def test_a_receiver_may_ask_to_be_left_alone(space: Space, subscriber: Subscriber) -> None:
    came: list[float] = []  # which does not go on while a try is under way

    def answer(_: object) -> int:
        came.append(outbox.time)
        return 429 if len(came) == 1 else 200

    subscriber.receiver.answers = answer
    subscriber.receiver.answer_headers = {"Retry-After": "1000"}
    await tell(space, 1, 1)
    async with Flying(space).running() as outbox:
        await delivered(space, 1)
    begun, again = came
    assert 1000 <= again - begun < 1100


async def test_a_slow_or_failing_receiver_holds_up_no_other(space: Space, subscriber: Subscriber) -> None:
    subscriber.receiver.free.clear()
    async with Subscriber.listening(space) as other:
        for n in range(5):
            await tell(space, 1, n)
        async with Flying(space).running():
            await subscriber.receiver.begun.wait()
            await until(lambda: len(other.receiver.events) == 5)
            subscriber.receiver.free.set()
            await delivered(space, 10)


async def test_a_refused_event_holds_up_its_device_alone_and_is_dead_in_the_end(
    space: Space, subscriber: Subscriber, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.receiver.answers = lambda event: 422 if event["data"]["n"] == 2 else 200
    await tell(space, 1, 1, 2, 3)
    await tell(space, 2, 1, 4)
    async with Flying(space, tries=4).running() as outbox:
        begun = outbox.time
        await delivered(space, 4)
        assert (outbox.delivered, outbox.failed, outbox.dead) == (4, 4, 1)
        assert outbox.time - begun > (5 + 10 + 20) / 2
    assert await subscriber.states() == {"delivered": 4, "dead": 1}
    assert subscriber.receiver.first == {str(UUID(int=1)): [1, 3], str(UUID(int=2)): [1, 4]}
    row = (await space.rows("SELECT tries, refusals, status, error FROM webhook_delivery WHERE state = 'dead'"))[0]
    assert tuple(row) == (4, 4, 422, "HTTP 422")
    assert f"refused by webhook {subscriber.webhook.id} for good: HTTP 422" in caplog.text


async def test_an_event_that_makes_the_receiver_fail_does_not_keep_others_from_it(
    space: Space, subscriber: Subscriber
) -> None:
    subscriber.receiver.answers = lambda event: 503 if event["data"]["n"] == 2 else 200
    await tell(space, 1, 2, 3)
    for device in range(2, 30):
        await tell(space, device, 1)
    async with Flying(space, tries=3).running() as outbox:

        async def more(now: float) -> None:
            await tell(space, 99, int(now))

        outbox.meanwhile = more
        while "dead" not in await subscriber.states():
            pass
        outbox.meanwhile = None
        await until(lambda: subscriber.receiver.first[str(UUID(int=1))] == [3])


async def test_what_waits_for_too_long_is_given_up(
    space: Space, subscriber: Subscriber, caplog: pytest.LogCaptureFixture
) -> None:
    subscriber.receiver.answers = lambda _: 503
    for device in range(5):
        await tell(space, device, 1, 2)
    async with Flying(space, idle=60.0, give_up=DAY).running() as outbox:
        while await subscriber.states() != {"dead": 10}:
            pass
        await until(lambda: outbox.dead >= 10)  # counted once Postgres has said that it is so
        assert outbox.dead == 10
        assert "10 events for webhook" in caplog.text
        subscriber.receiver.answers = lambda _: 200
        await tell(space, 1, 3)
        await delivered(space, 1)
    async with Flying(space).running():  # when the replay is, which the database says
        assert await subscriber.webhooks.replay(operator(space), subscriber.webhook.id, dead=True) == 10
        await delivered(space, 11)
    assert subscriber.receiver.first[str(UUID(int=1))] == [3, 1, 2]
    assert subscriber.receiver.first[str(UUID(int=2))] == [1, 2]


async def test_what_waits_for_as_long_behind_another_is_given_up_too(space: Space, subscriber: Subscriber) -> None:
    subscriber.receiver.answers = lambda event: 422 if event["data"]["n"] == 1 else 200
    await tell(space, 1, 1, 2, 3)
    await tell(space, 2, 4)
    async with Flying(space, idle=3600.0, tries=1000, give_up=DAY).running() as outbox:
        begun = outbox.time
        while await subscriber.states() != {"delivered": 1, "dead": 3}:
            pass
        assert outbox.time - begun > DAY
        await until(lambda: outbox.dead >= 3)
        assert outbox.dead == 3
    errors = await space.rows("SELECT DISTINCT error FROM webhook_delivery WHERE state = 'dead'")
    assert [row["error"] for row in errors] == ["it has waited for too long"]


async def test_a_round_ends_after_a_while(
    space: Space, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROUND", 0.0)
    settled: list[int] = []
    settle = deliveries.settle

    async def noting(connection: Connection, id_: UUID, now: datetime, results: Sequence[Result]) -> None:
        settled.append(len(results))
        await settle(connection, id_, now, results)

    monkeypatch.setattr(deliveries, "settle", noting)
    await tell(space, 1, *range(5))
    async with Flying(space).running():
        await delivered(space, 5)
    assert settled == [1] * 5
    assert subscriber.receiver.first == {str(UUID(int=1)): list(range(5))}


async def test_slow_webhooks_of_an_organization_leave_room_for_others(
    accounts: Accounts, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_AT_ONCE", module.MAX_OF_ONE + 1)
    tree = await Tree.grow(accounts)
    async with AsyncExitStack() as stack, space.database.connection() as connection:
        slow = [
            await stack.enter_async_context(Subscriber.listening(space, organization=tree.left.id))
            for _ in range(module.MAX_OF_ONE + 2)
        ]
        for each in slow:
            each.receiver.free.clear()
        other = await stack.enter_async_context(Subscriber.listening(space, organization=tree.right.id))
        for organization in (tree.left, tree.right):
            await store.record(connection, EventType.DEVICE_CLAIMED, None, organization.id, n=1)
        async with Flying(space).running():
            await until(lambda: sum(each.receiver.begun.is_set() for each in slow) == module.MAX_OF_ONE)
            await other.receiver.begun.wait()
            assert sum(each.receiver.begun.is_set() for each in slow) == module.MAX_OF_ONE
            for each in slow:
                each.receiver.free.set()
            await delivered(space, len(slow) + 1)


async def test_a_disabled_webhook_is_told_nothing(space: Space, subscriber: Subscriber) -> None:
    await subscriber.webhooks.update(operator(space), subscriber.webhook.id, WebhookChange(enabled=False))
    async with Subscriber.listening(space) as other, Flying(space).running():
        await tell(space, 1, 1)
        await until(lambda: bool(other.receiver.events))
        await subscriber.webhooks.update(operator(space), subscriber.webhook.id, WebhookChange(enabled=True))
        await tell(space, 1, 2)
        await until(lambda: bool(subscriber.receiver.events))
    assert subscriber.receiver.first == {str(UUID(int=1)): [2]}


async def test_events_that_nobody_wants_stay_until_their_time_is_over(space: Space) -> None:
    await tell(space, 1, 1)
    async with Flying(space, idle=3600.0, retention=DAY).running() as outbox:
        created = await space.value("SELECT extract(epoch FROM max(created_at))::float8 FROM outbox")
        outbox.time = created
        await until(lambda: outbox.time > created + DAY - 3 * 3600)
        left = await space.value("SELECT count(*) FROM outbox")
        assert left == 1 or outbox.time > created + DAY
        while await space.value("SELECT count(*) FROM outbox"):
            pass
        assert outbox.time > created + DAY


async def test_what_was_told_is_forgotten_with_its_deliveries_but_not_what_waits(
    space: Space, subscriber: Subscriber
) -> None:
    subscriber.receiver.answers = lambda event: 200 if event["data"]["n"] == 1 else 503
    async with Flying(space, idle=600.0, retention=2 * DAY, give_up=3 * DAY).running() as outbox:
        outbox.time = await space.value("SELECT extract(epoch FROM now())::float8")
        begun = outbox.time
        last: dict[str, float] = {}  # when each was still there

        async def look(now: float) -> None:  # the time stands still meanwhile
            last.update({row["n"]: now for row in await space.rows("SELECT payload ->> 'n' AS n FROM event")})

        outbox.meanwhile = look
        await tell(space, 1, 1)
        await delivered(space, 1)
        await tell(space, 1, 2)
        await until(lambda: "2" in last)
        while await space.value("SELECT count(*) FROM event"):
            pass
    assert begun + 2 * DAY < last["1"] < last["2"]
    assert begun + 3 * DAY < last["2"]
    assert await space.value("SELECT count(*) FROM webhook_delivery") == 0


async def test_one_process_delivers_and_the_next_goes_on(space: Space, subscriber: Subscriber) -> None:
    first = Outbox(space.database, space.keys, client(), idle=0.01)
    second = Outbox(space.database, space.keys, client(), idle=0.01)
    await first.start()
    await tell(space, 1, 1)
    await delivered(space, 1)
    await second.start()
    await tell(space, 1, 2)
    await delivered(space, 2)
    assert (first.delivered, second.delivered) == (2, 0)
    await first.stop(10)
    await tell(space, 1, 3)
    await delivered(space, 3)
    assert second.delivered == 1
    await second.stop(10)
    assert subscriber.receiver.first == {str(UUID(int=1)): [1, 2, 3]}


async def test_what_was_told_but_not_yet_written_down_is_told_again(
    space: Space, subscriber: Subscriber, lock: Locking
) -> None:
    """As after kill -9 between the receiver's word and the database's."""
    await tell(space, 1, 1, 2)
    subscriber.receiver.free.clear()
    outbox = Outbox(space.database, space.keys, client(), idle=0.01)
    await outbox.start()
    await subscriber.receiver.begun.wait()
    async with lock("SELECT FROM webhook_delivery FOR UPDATE") as held:
        subscriber.receiver.free.set()
        (pid,) = await held.until_waiting()
        await held.terminate(pid)
        await held.commit()
    await delivered(space, 2)
    await outbox.stop(10)
    assert sorted(subscriber.receiver.times.values()) == [2, 2]
    assert subscriber.receiver.first == {str(UUID(int=1)): [1, 2]}


async def test_stopping_lets_what_is_under_way_be_answered(space: Space, subscriber: Subscriber) -> None:
    subscriber.receiver.free.clear()
    await tell(space, 1, 1, 2)
    outbox = Outbox(space.database, space.keys, client(), idle=0.01)
    await outbox.start()
    await subscriber.receiver.begun.wait()
    stopping = asyncio.create_task(outbox.stop(60))
    await until(outbox._stopping.is_set)
    subscriber.receiver.free.set()
    await stopping
    assert await subscriber.states() == {"delivered": 1, "waiting": 1}


async def test_stopping_waits_no_longer_than_its_grace(space: Space, subscriber: Subscriber) -> None:
    subscriber.receiver.free.clear()
    await tell(space, 1, 1)
    outbox = Outbox(space.database, space.keys, client(), idle=0.01)
    await outbox.start()
    await subscriber.receiver.begun.wait()
    await outbox.stop(0)
    assert await subscriber.states() == {"waiting": 1}
    subscriber.receiver.free.set()


async def test_a_secret_that_cannot_be_opened_is_told_to_the_operator(space: Space, subscriber: Subscriber) -> None:
    other = ServerKeys({1: b"d" * 32}, {1: b"s" * 32})
    await tell(space, 1, 1)
    outbox = Outbox(space.database, other, client(), idle=0.01)
    await outbox.start()
    while await space.value("SELECT error FROM webhook") != "the webhook's secret cannot be opened":
        pass
    await outbox.stop(10)
    assert subscriber.receiver.tries == 0
