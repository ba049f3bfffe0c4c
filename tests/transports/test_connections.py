"""What listeners share whose clients stay connected, on real sockets, with the smallest protocol there is."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from math import inf
from typing import Any, cast

import pytest

from provserver.core.model import Peer, Transport
from provserver.transports import tcp
from provserver.transports.admission import Admission
from provserver.transports.connections import Connection, Listener, MakeProtocol

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture(params=["epoll", "loop"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "loop":
        monkeypatch.setattr(tcp, "AVAILABLE", False)


class Lines:
    """Every line is an event; `bye` ends it. Until a line has come, `deadline` holds."""

    def __init__(self, deadline: float) -> None:
        self.closing = self.crowded = self.left = False
        self.close_reason = ""
        self.deadline = deadline
        self.events: list[Any] = []
        self.output: list[bytes] = []
        self.reading = True
        self._received = b""

    def receive(self, data: bytes, now: float) -> None:  # noqa: ARG002
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self.deadline = inf
            self.events.append(line)
            if line == b"bye":
                self.output.append(b"bye\n")
                self.close("it said so")

    def receive_eof(self) -> None:
        self.left = True
        self.close("the client is gone")

    def expire(self, now: float) -> None:
        if self.deadline <= now:
            self.output.append(b"too late\n")
            self.close("nothing was said")

    def drain(self) -> None:
        self.reading = False
        if not self.events:
            self.shut_down()

    def shut_down(self) -> None:
        self.output.append(b"the end\n")
        self.close("the server stops")

    def close(self, reason: str) -> None:
        self.deadline = inf
        if not self.closing:
            self.closing, self.close_reason = True, reason


class Echo(Connection):
    TRANSPORT = Transport.MQTT

    __slots__ = ()

    _listener: "EchoListener"

    def handle(self, event: bytes) -> None:
        listener = self._listener
        listener.heard.put_nowait((event, self._peer(), self._session.crowded))
        if event == b"in":
            self._admit()
            self._live = cast("Any", listener.live)
        elif event == b"wait":
            listener.undecided += 1
            listener.gate.add_done_callback(lambda _: self._answered())
        elif event == b"work":
            listener.run(listener.work())
        elif event != b"bye":
            self._session.output.append(event + b"\n")

    def _answered(self) -> None:
        self._listener.decided()
        self._session.output.append(b"answer\n")
        self._advance()


class Live:
    closed = 0

    def close(self) -> None:
        self.closed += 1


class EchoListener(Listener):
    logger = logging.getLogger("tests.echo")

    def __init__(self, *, patience: float = inf, **options: Any) -> None:
        super().__init__(**{"sweep_interval": 0.01, **options})
        self.patience = patience
        self.heard: asyncio.Queue[tuple[bytes, Peer, bool]] = asyncio.Queue()
        self.gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.live = Live()
        self.worked: list[str] = []

    def connection(self, loop: asyncio.AbstractEventLoop) -> Echo:
        return Echo(self, loop, Lines(loop.time() + self.patience))

    async def work(self) -> None:
        try:
            await self.gate
            self.worked.append("done")
        except asyncio.CancelledError:
            self.worked.append("cancelled")
            raise


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, line: bytes) -> bytes:
        self.writer.write(line + b"\n")
        return await self.reader.readline()

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


Listen = Callable[..., Awaitable[tuple[EchoListener, Callable[[], Awaitable[Client]]]]]


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    """Starts listeners, and connects clients to them; all end with the test."""
    async with AsyncExitStack() as stack:

        async def started(**options: Any) -> tuple[EchoListener, Callable[[], Awaitable[Client]]]:
            listener = EchoListener(**options)
            stack.push_async_callback(listener.stop, 0)
            _, port = await listener.start("127.0.0.1", 0)

            async def connect() -> Client:
                client = Client(*await asyncio.open_connection("127.0.0.1", port))
                stack.push_async_callback(client.close)
                return client

            return listener, connect

        yield started


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of the listener."""
    return [record.getMessage() for record in caplog.records if record.name == EchoListener.logger.name]


async def test_who_is_there_and_who_has_gone(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tests.echo")
    listener, connect = await listen()
    client = await connect()
    assert await client.says(b"secret") == b"secret\n"
    assert await listener.heard.get() == (b"secret", Peer(Transport.MQTT, "127.0.0.1"), False)
    assert (listener.connections, listener.admission.waiting) == (1, 1)
    await client.close()
    await listener._unused.wait()
    assert (listener.connections, listener.admission.waiting) == (0, 0)
    assert messages(caplog) == ["127.0.0.1: the client is gone"]


async def test_one_too_many(listen: Listen) -> None:
    listener, connect = await listen(max_connections=1)
    first = await connect()
    assert await first.says(b"x") == b"x\n"
    assert await (await connect()).reader.read() == b""
    assert (listener.connections, listener.refused) == (1, 1)
    await first.close()
    await listener._unused.wait()
    assert await (await connect()).says(b"y") == b"y\n"


async def test_who_is_not_let_in_leaves_room_for_others(listen: Listen) -> None:
    listener, connect = await listen(admission=Admission(1, 1))
    first, crowded = await connect(), await connect()
    for client, is_crowded in ((first, False), (crowded, True)):
        await client.says(b"hello")
        assert (await listener.heard.get())[2] is is_crowded
    first.writer.write(b"in\n")
    await listener.heard.get()
    third = await connect()
    await third.says(b"hello")
    assert (await listener.heard.get())[2] is False
    for client in (crowded, first, third):
        await client.close()
    await listener._unused.wait()
    assert (listener.admission.waiting, listener.live.closed) == (0, 1)


async def test_the_last_words_arrive_although_more_was_sent(listen: Listen) -> None:
    listener, connect = await listen()
    client = await connect()
    client.writer.write(b"in\nbye\n" + b"x" * 1_000_000)
    assert await client.reader.read() == b"bye\n"
    assert listener.live.closed == 1
    assert listener.connections == 1  # until it closes, too
    await client.close()
    await listener._unused.wait()
    assert listener.live.closed == 1


async def test_who_does_not_close_is_cut_off(listen: Listen) -> None:
    listener, connect = await listen(close_timeout=0.01)
    client = await connect()
    assert await client.says(b"bye") == b"bye\n"
    await listener._unused.wait()


async def test_who_sends_no_more_is_closed(listen: Listen) -> None:
    listener, connect = await listen()
    client = await connect()
    client.writer.write(b"in\nx\n")
    client.writer.write_eof()
    assert await client.reader.read() == b"x\n"
    await listener._unused.wait()
    assert listener.live.closed == 1


async def test_one_timer_for_all_time_limits(listen: Listen) -> None:
    listener, connect = await listen(patience=0.01)
    clients = [await connect() for _ in range(3)]
    for client in clients:
        assert await client.reader.read() == b"too late\n"
        await client.close()
    await listener._unused.wait()


async def test_who_does_not_read_is_cut_off(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tests.echo")
    listener, connect = await listen(write_timeout=0.01)
    client = await connect()
    cast("asyncio.Transport", client.writer.transport).pause_reading()

    async def send() -> None:
        while True:
            client.writer.write(b"x" * 65_535 + b"\n")
            await client.writer.drain()

    with pytest.raises(ConnectionError):
        await send()
    await listener._unused.wait()
    assert messages(caplog) == ["127.0.0.1: the client does not read"]


async def test_a_taken_address(listen: Listen) -> None:
    listener, _ = await listen()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await listener.start(*taken.getsockname())
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert await listener.start("", 0, sock=socket.socket(fileno=socket.dup(bound.fileno()))) == bound.getsockname()


async def test_a_wrapped_one_is_told_to_abort_its_handshakes() -> None:
    aborted: list[bool] = []

    class Wrapped:
        def __init__(self, make: MakeProtocol) -> None:
            self.make = make

        def __call__(self) -> asyncio.BaseProtocol:
            return self.make()

        def abort(self) -> None:
            aborted.append(True)

    listener = EchoListener()
    _, port = await listener.start("127.0.0.1", 0, wrap=Wrapped)
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    assert await client.says(b"x") == b"x\n"
    await client.close()
    await listener.stop(0)
    assert aborted == [True]


# The end


async def test_stop_waits_for_what_is_in_flight(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    listener, connect = await listen()
    client = await connect()
    for line in (b"in", b"wait", b"work"):
        client.writer.write(line + b"\n")
        assert (await listener.heard.get())[0] == line
    stopping = asyncio.create_task(listener.stop(30))
    assert await client.reader.readline() == b"the end\n"
    assert await client.reader.read() == b""
    await client.close()
    with pytest.raises(ConnectionRefusedError):
        await connect()
    assert not stopping.done()
    assert listener.live.closed == 1
    listener.gate.set_result(None)
    await stopping
    assert (listener.worked, listener.undecided, listener.connections) == (["done"], 0, 0)
    assert messages(caplog) == []


async def test_stop_does_not_wait_for_ever(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    listener, connect = await listen()
    client, silent = await connect(), await connect()
    for line in (b"wait", b"work"):
        client.writer.write(line + b"\n")
        assert (await listener.heard.get())[0] == line
    await silent.says(b"x")
    await listener.stop(0.01)
    assert listener.worked == ["cancelled"]
    assert listener.connections == 0
    assert messages(caplog) == ["2 requests were not answered before the end"]
    for each in (client, silent):
        assert await each.reader.read() == b"the end\n"
