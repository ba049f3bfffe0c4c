import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import pytest

from provserver.core.sink import Delivery, QueuedMessage
from provserver.services import sink as module
from provserver.services.sink import BATCH, REFUSED_DELAYS, Sink
from provserver.store import sink as store
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.conftest import Locking, Outage, until


class Peer:
    """A receiver that takes everything, until it is told otherwise."""

    def __init__(self) -> None:
        self.received: list[QueuedMessage] = []
        self.fault = ""
        self.refuses: Callable[[QueuedMessage], bool] = lambda _: False
        self.attempts = 0
        self.closed = False
        self.takes = BATCH

    async def send(self, messages: Sequence[QueuedMessage]) -> Delivery:
        self.attempts += 1
        delivery = Delivery(fault=self.fault)
        held: set[UUID] = set()
        for message in messages[: self.takes]:
            if self.fault or message.device_id in held:
                continue
            if self.refuses(message):
                held.add(message.device_id)
                delivery.refused[message.id] = "as told"
            else:
                self.received.append(message)
                delivery.delivered.append(message.id)
        if self.takes < BATCH:
            delivery.fault = "only so many"
        return delivery

    async def close(self) -> None:
        self.closed = True

    @property
    def bodies(self) -> list[bytes]:
        return [message.body for message in self.received]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for long."""
    monkeypatch.setattr(module, "IDLE", 0.01)
    monkeypatch.setattr(module, "_FIRST_DELAY", 0.001)
    monkeypatch.setattr(module, "_LAST_DELAY", 0.01)
    monkeypatch.setattr(module, "REFUSED_DELAYS", (0.001, 0.001))


@pytest.fixture
def peer() -> Peer:
    return Peer()


@asynccontextmanager
async def running(database: Database, peer: Peer) -> AsyncIterator[Sink]:
    sink = Sink(database, peer)
    await sink.start()
    try:
        yield sink
    finally:
        await sink.stop(10)
    assert peer.closed


async def queue(space: Space, *bodies: str, device: int = 1) -> None:
    await space.rows(
        "INSERT INTO sink_message (device_id, device_name, kind, body)"
        " SELECT $1, 'sensor', 'telemetry', convert_to(body, 'UTF8') FROM unnest($2::text[]) AS body",
        UUID(int=device),
        bodies,
    )


async def waiting(space: Space) -> list[str]:
    return [row[0] for row in await space.rows("SELECT convert_from(body, 'UTF8') FROM sink_message ORDER BY id")]


async def test_what_is_queued_is_sent_in_order_and_gone(space: Space, peer: Peer) -> None:
    await queue(space, "a", "b")
    await queue(space, "c", device=2)
    async with running(space.database, peer) as sink:
        await until(lambda: sink.sent == 3)
        await queue(space, "d")
        sink.queued(1, 0)
        await until(lambda: sink.sent == 4)
        await until(lambda: sink.waiting == 0)

    assert peer.bodies == [b"a", b"b", b"c", b"d"]
    first = peer.received[0]
    assert (first.device_id, first.device_name, first.kind, first.refusals) == (UUID(int=1), "sensor", "telemetry", 0)
    assert await waiting(space) == []


async def test_another_process_s_messages_are_found_unasked(space: Space, peer: Peer) -> None:
    async with running(space.database, peer) as sink:
        await until(lambda: peer.attempts == 0 and sink.waiting == 0)
        await queue(space, "a")
        await until(lambda: sink.sent == 1)


async def test_more_than_a_batch_is_sent_without_a_pause(
    space: Space, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE", 3600.0)
    await queue(space, *map(str, range(2 * BATCH + 1)))
    async with running(space.database, peer) as sink:
        await until(lambda: sink.sent == 2 * BATCH + 1)
        sink.queued(1, 0)  # ends the idling
    assert peer.bodies == [str(n).encode() for n in range(2 * BATCH + 1)]


async def test_while_the_receiver_is_away_messages_wait(
    space: Space, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    peer.fault = "as told"
    await queue(space, "a", "b")
    async with running(space.database, peer) as sink:
        await until(lambda: peer.attempts >= 5)
        assert (sink.sent, sink.waiting) == (0, 2)
        assert await waiting(space) == ["a", "b"]
        peer.fault = ""
        await until(lambda: sink.sent == 2)
    assert peer.bodies == [b"a", b"b"]
    assert [record.message for record in caplog.records if record.name == "provserver.sink"] == [
        "the sink cannot be reached, messages wait for it: as told",
        "the sink is reached again",
    ]


async def test_only_what_is_acknowledged_is_gone(space: Space, peer: Peer) -> None:
    await queue(space, "a", "b", "c")
    peer.takes = 1
    async with running(space.database, peer) as sink:
        await until(lambda: sink.sent == 3)
    assert peer.bodies == [b"a", b"b", b"c"]
    assert peer.attempts == 3


async def test_the_pause_grows_and_is_random(space: Space, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    spread = {sink._backoff(3) for sink in [Sink(space.database, peer)] for _ in range(100)}
    assert len(spread) > 10
    assert all(1.0 <= delay < 2.0 for delay in spread)
    least = Sink(space.database, peer, random=lambda n: b"\0" * n)
    assert [least._backoff(n) for n in (1, 2, 3, 8, 100)] == [0.25, 0.5, 1.0, 30.0, 30.0]


async def test_the_receiver_may_ask_to_be_left_alone(space: Space, peer: Peer) -> None:
    asked = asyncio.Event()
    send = peer.send

    async def later(_: Sequence[QueuedMessage]) -> Delivery:
        asked.set()
        return Delivery(fault="busy", retry_after=3600)

    peer.send = later  # type: ignore[method-assign, assignment]
    await queue(space, "a")
    async with running(space.database, peer) as sink:
        await asked.wait()
        await until(lambda: sink.waiting == 1)
        peer.send = send  # type: ignore[method-assign]
    assert (peer.received, sink.sent) == ([], 0)  # stopping does not wait for that hour


async def test_a_refused_message_holds_up_its_device_alone_and_is_dropped_in_the_end(
    space: Space, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    peer.refuses = lambda message: message.body == b"pl4nted"
    await queue(space, "a", "pl4nted", "b")
    await queue(space, "c", device=2)
    async with running(space.database, peer) as sink:
        await until(lambda: sink.sent == 3)

    assert (sink.sent, sink.refused, sink.dropped) == (3, 1, 0)
    assert peer.bodies.index(b"a") < peer.bodies.index(b"b")
    assert peer.bodies[:2] == [b"a", b"c"]
    assert await waiting(space) == []
    assert f"refuses a message of device {UUID(int=1)} for good: as told" in caplog.text
    assert "pl4nted" not in caplog.text


async def test_how_often_a_message_was_refused_outlives_the_process(
    space: Space, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFUSED_DELAYS", (3600.0, 3600.0))
    peer.refuses = lambda message: message.body == b"a"
    await queue(space, "a", "b")
    for tries in (1, 2):
        async with running(space.database, peer):
            while await space.value("SELECT max(refusals) FROM sink_message") != tries:
                pass
        assert await waiting(space) == ["a", "b"]
        await space.rows("UPDATE sink_message SET not_before = now() WHERE not_before IS NOT NULL")
    async with running(space.database, peer) as sink:
        await until(lambda: sink.refused == 1 and sink.sent == 1)
    assert peer.bodies == [b"b"]


async def test_a_refused_message_that_is_taken_later_is_sent_once(space: Space, peer: Peer) -> None:
    peer.refuses = lambda message: message.refusals == 0
    await queue(space, "a", "b")
    async with running(space.database, peer) as sink:
        await until(lambda: sink.sent == 2)
    assert peer.bodies == [b"a", b"b"]
    assert sink.refused == 0


async def test_one_process_sends_at_a_time_and_the_next_goes_on(space: Space) -> None:
    first, second = Peer(), Peer()
    async with running(space.database, second) as heir:
        async with running(space.database, first) as leader:
            await queue(space, *map(str, range(10)))
            await until(lambda: leader.sent + heir.sent == 10)
            assert 0 in (leader.sent, heir.sent)
            stays = heir if leader.sent else leader
            was = stays.sent
        if stays is heir:
            await queue(space, "last")
            await until(lambda: heir.sent == was + 1)


async def test_who_loses_the_database_takes_it_up_again(space: Space, peer: Peer, outage: Outage) -> None:
    async with running(outage.database, peer) as sink:
        await queue(space, "a")
        await until(lambda: sink.sent == 1)
        await outage.begin()
        killed = await space.value(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        assert killed == 1
        await queue(space, "b")
        outage.end()
        await until(lambda: sink.sent == 2)
    assert peer.bodies == [b"a", b"b"]


async def test_what_was_sent_but_not_yet_deleted_is_sent_again(space: Space, peer: Peer, lock: Locking) -> None:
    """As after kill -9 between the receiver's word and the deletion."""
    await queue(space, "a")
    async with lock("SELECT FROM sink_message FOR UPDATE") as held, running(space.database, peer) as sink:
        (pid,) = await held.until_waiting()
        await held.terminate(pid)
        await held.commit()
        await until(lambda: sink.sent == 1)
    assert peer.bodies == [b"a", b"a"]
    assert await waiting(space) == []


async def test_stopping_lets_what_is_being_sent_be_acknowledged(space: Space, peer: Peer) -> None:
    begun, acknowledged = asyncio.Event(), asyncio.Event()
    send = peer.send

    async def slow(messages: Sequence[QueuedMessage]) -> Delivery:
        begun.set()
        await acknowledged.wait()
        return await send(messages)

    peer.send = slow  # type: ignore[method-assign]
    await queue(space, "a")
    sink = Sink(space.database, peer)
    await sink.start()
    await begun.wait()
    stopping = asyncio.create_task(sink.stop(60))
    await until(sink._stopping.is_set)
    acknowledged.set()
    await stopping
    assert await waiting(space) == []


async def test_stopping_waits_no_longer_than_its_grace(space: Space, peer: Peer) -> None:
    begun = asyncio.Event()

    async def stuck(_: Sequence[QueuedMessage]) -> Delivery:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    peer.send = stuck  # type: ignore[method-assign, assignment]
    await queue(space, "a")
    sink = Sink(space.database, peer)
    await sink.start()
    await begun.wait()
    await sink.stop(0)
    assert await waiting(space) == ["a"]


async def test_dropping_is_said_when_it_begins_and_when_it_ends(
    space: Space, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sink = Sink(space.database, peer, limit=7)
    for queued, dropped in ((5, 0), (2, 1), (0, 3), (1, 0), (1, 0)):
        sink.queued(queued, dropped)
    assert sink.dropped == 4
    assert [record.message for record in caplog.records] == [
        "7 messages wait for the sink: new ones are dropped until there is room",
        "messages are queued for the sink again; 4 were dropped since the start",
    ]


async def test_how_many_wait_is_exact_while_they_are_few(space: Space, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await queue(space, *map(str, range(20)))
    await space.rows("DELETE FROM sink_message WHERE body = '5'")
    assert await store.waiting(connection) == 19
    await space.rows(
        "INSERT INTO sink_message (device_id, device_name, kind, body)"
        " SELECT gen_random_uuid(), '', '', '' FROM generate_series(1, 20000)"
    )
    assert 20_019 <= await store.waiting(connection) <= 20_020
    await connection.close()


def test_a_refused_message_does_not_bound_the_queue_for_long() -> None:
    assert sum(REFUSED_DELAYS) < 60
