"""A session against a link that a script plays."""

import asyncio
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from firmware_sim.errors import BadReply, FlashError, NoAnswer, SimulatorError, Unauthorized, Untrusted
from firmware_sim.links import Link
from firmware_sim.log import SerialLog
from firmware_sim.retry import Retry
from firmware_sim.session import REFUSALS, Session


class FakeServer:
    """outcomes: what each connection in turn meets; a number lets so many messages through and then cuts it."""

    def __init__(self, *outcomes: SimulatorError | int | None) -> None:
        self.outcomes = list(outcomes)
        self.connections = 0
        self.open = 0
        self.messages: list[dict[str, Any]] = []
        self.pushes: asyncio.Queue[Mapping[str, Any] | SimulatorError] = asyncio.Queue()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        self.connections += 1
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, SimulatorError):
            raise outcome
        self.open += 1
        try:
            yield FakeLink(self, outcome)
        finally:
            self.open -= 1


class FakeLink:
    def __init__(self, server: FakeServer, messages: int | None) -> None:
        self.server = server
        self.left = messages

    async def telemetry(self, body: bytes) -> None:
        if self.left == 0:
            raise NoAnswer("cut off")
        if self.left is not None:
            self.left -= 1
        self.server.messages.append(json.loads(body))

    async def rotate(self, body: bytes) -> bytes:
        raise NotImplementedError

    async def updates(self) -> AsyncGenerator[Mapping[str, Any], None]:
        while True:
            push = await self.server.pushes.get()
            if isinstance(push, SimulatorError):
                raise push
            yield push


class Bench:
    """A session, and what it waited for and said."""

    def __init__(self, server: FakeServer, **options: Any) -> None:
        self.waits: list[float] = []
        self.output = io.StringIO()

        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        options = {"telemetry": 3, "interval": 0.001} | options
        retry = Retry(attempts=4, base=1.0, cap=8.0, sleep=sleep, uniform=lambda _, high: high)
        connect: Callable[[], AbstractAsyncContextManager[Link]] = server.connect
        self.session = Session(connect, "mqtt", SerialLog(Console(file=self.output)), retry, **options)

    @property
    def log(self) -> str:
        return self.output.getvalue()


async def test_sends_its_telemetry_and_ends() -> None:
    server = FakeServer()
    bench = Bench(server)
    await bench.session.run()
    assert [message["sequence"] for message in server.messages] == [1, 2, 3]
    assert all(isinstance(message["temperature"], float) for message in server.messages)
    assert (server.connections, server.open, bench.waits) == (1, 0, [])


async def test_without_telemetry_it_connects_and_leaves() -> None:
    server = FakeServer()
    bench = Bench(server, telemetry=0)
    await bench.session.run()
    assert (server.connections, server.open, server.messages) == (1, 0, [])


async def test_comes_back_when_cut_off_and_repeats_what_was_not_acknowledged() -> None:
    server = FakeServer(1, NoAnswer("away"), NoAnswer("away"), 1)
    bench = Bench(server, telemetry=4)
    await bench.session.run()
    assert [message["sequence"] for message in server.messages] == [1, 2, 3, 4]
    assert server.connections == 5
    assert bench.waits == [1.0, 2.0, 4.0, 1.0]  # back-off grows, until a connection was of use
    assert "connection lost: cut off; connecting again in 1.0 s" in bench.log
    assert "no connection: away; connecting again in 2.0 s" in bench.log


async def test_a_connection_that_lasted_was_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without a message: the next try comes as soon as after a first failure."""
    now = 0.0
    monkeypatch.setattr("firmware_sim.session.time", SimpleNamespace(monotonic=lambda: now))  # not the loop's clock
    server = FakeServer(NoAnswer("away"), NoAnswer("away"))
    bench = Bench(server, telemetry=0, stay=True)
    task = asyncio.create_task(bench.session.run())
    await until(lambda: server.open == 1)
    now = 100.0
    server.pushes.put_nowait(NoAnswer("cut off"))
    await until(lambda: server.connections == 4)
    assert bench.waits == [1.0, 2.0, 1.0]
    await cancel(task)


async def test_waits_as_long_as_the_server_says() -> None:
    bench = Bench(FakeServer(NoAnswer("busy", 30.0)))
    await bench.session.run()
    assert bench.waits == [31.0]


async def test_a_server_that_is_gone_is_given_up() -> None:
    server = FakeServer(*[NoAnswer("away")] * 9)
    with pytest.raises(NoAnswer):
        await Bench(server).session.run()
    assert server.connections == 4


async def test_a_server_that_says_to_come_back_tomorrow_is_gone() -> None:
    with pytest.raises(NoAnswer):
        await Bench(FakeServer(NoAnswer("busy", 86_400.0))).session.run()


async def test_one_that_stays_does_not_give_up() -> None:
    server = FakeServer(*[NoAnswer("away")] * 20)
    bench = Bench(server, stay=True, telemetry=1)
    task = asyncio.create_task(bench.session.run())
    await until(lambda: bool(server.messages))
    assert server.connections == 21
    assert max(bench.waits) == 8.0
    await cancel(task)
    assert server.open == 0


async def test_a_refusal_costs_neither_credentials_nor_the_will_to_try_again() -> None:
    server = FakeServer(Unauthorized("MQTT 0x87"), Unauthorized("MQTT 0x87"))
    bench = Bench(server)
    await bench.session.run()
    assert bench.waits == [1.0, 2.0]
    assert bench.log.count("MQTT 0x87; credentials kept, trying again in") == 2
    assert len(server.messages) == 3


async def test_refusals_in_a_row_are_for_a_person() -> None:
    server = FakeServer(*[Unauthorized("HTTP 401")] * REFUSALS)
    bench = Bench(server, stay=True)
    with pytest.raises(Unauthorized) as caught:
        await bench.session.run()
    assert caught.value.exit_code == 6
    assert "HTTP 401, 3 times in a row; credentials kept, giving up" in bench.log


async def test_refusals_with_something_between_are_not_in_a_row() -> None:
    refused = Unauthorized("HTTP 401")
    server = FakeServer(refused, refused, 1, refused, NoAnswer("away"), refused, 9)
    await Bench(server).session.run()
    assert len(server.messages) == 3


@pytest.mark.parametrize("error", [Untrusted("?"), BadReply("?"), FlashError("?")])
async def test_what_asking_again_does_not_mend_is_not_asked_again(error: SimulatorError) -> None:
    server = FakeServer(error)
    with pytest.raises(type(error)):
        await Bench(server).session.run()
    assert server.connections == 1


async def test_a_connection_that_ends_while_it_listens_is_lost() -> None:
    server = FakeServer()
    bench = Bench(server, telemetry=0, stay=True)
    task = asyncio.create_task(bench.session.run())
    server.pushes.put_nowait(NoAnswer("the server closed the connection"))
    await until(lambda: server.connections == 2)
    assert "connected again" in bench.log
    await cancel(task)


async def test_follows_its_attributes() -> None:
    server = FakeServer()
    bench = Bench(server, telemetry=0, stay=True)
    task = asyncio.create_task(bench.session.run())
    for push in ({"mode": "eco", "limit": 7}, {"mode": "eco"}, {"mode": {"a": 1}}, {"deleted": ["limit", "other"]}):
        server.pushes.put_nowait(push)
    await until(lambda: "deleted" in bench.log)
    assert bench.session.attributes == {"mode": {"a": 1}}
    lines = [line.partition(": ")[2] for line in bench.log.splitlines() if " attributes: " in line]
    assert lines == ['mode = "eco"', "limit = 7", 'mode = {"a":1}', "limit deleted"]
    await cancel(task)


async def test_an_attribute_changes_the_interval_at_once() -> None:
    """With an hour between two messages the test would never end."""
    server = FakeServer()
    bench = Bench(server, telemetry=3, interval=3600.0)
    task = asyncio.create_task(bench.session.run())
    await until(lambda: len(server.messages) == 1)
    server.pushes.put_nowait({"telemetryInterval": 0.01})
    await task
    assert len(server.messages) == 3
    assert "every 0.01 s from now on" in bench.log


@pytest.mark.parametrize("value", ["soon", None, True, [1], {}])
async def test_an_interval_that_is_no_number_changes_nothing(value: object) -> None:
    server = FakeServer()
    bench = Bench(server, telemetry=0, stay=True, interval=7.0)
    task = asyncio.create_task(bench.session.run())
    server.pushes.put_nowait({"telemetryInterval": value})
    await until(lambda: "7 s kept" in bench.log or not value)
    if value is not None:
        assert bench.session.interval == 7.0
    await cancel(task)


@pytest.mark.parametrize(("value", "interval"), [(0, 0.01), (-1, 0.01), (1e9, 86_400.0), (2, 2.0)])
async def test_an_interval_has_bounds(value: float, interval: float) -> None:
    server = FakeServer()
    bench = Bench(server, telemetry=0, stay=True)
    task = asyncio.create_task(bench.session.run())
    server.pushes.put_nowait({"telemetryInterval": value})
    await until(lambda: "from now on" in bench.log)
    assert bench.session.interval == interval
    await cancel(task)


async def test_tells_of_each_connection_and_how_long_it_took() -> None:
    seconds: list[float] = []
    bench = Bench(FakeServer(1, 9))
    bench.session.accepted = seconds.append
    await bench.session.run()
    assert len(seconds) == 2
    assert (bench.session.attempts, bench.session.connections) == (2, 2)


async def test_holds_the_room_while_it_connects_and_no_longer() -> None:
    room = asyncio.Semaphore(1)
    server = FakeServer()
    bench = Bench(server, telemetry=0, stay=True, room=room)
    task = asyncio.create_task(bench.session.run())
    await until(lambda: server.open == 1)
    assert not room.locked()
    await cancel(task)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - whatever the condition is about
        await asyncio.sleep(0)


async def cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
