"""Where phones reach a device, on real sockets."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from firmware_sim import access_point
from firmware_sim.access_point import AccessPoint
from firmware_sim.address import Address
from firmware_sim.errors import WrongUsage
from firmware_sim.softap import Request

ANYWHERE = Address("127.0.0.1", 0)


@dataclass
class Host:
    """Answers with the path; `/silent`: not at all; `/slow`: once the gate is open."""

    asked: list[str] = field(default_factory=list)
    calls: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def joined(self) -> None:
        self.calls.put_nowait("joined")

    async def answer(self, request: Request) -> bytes | None:
        self.asked.append(request.path)
        self.calls.put_nowait(request.path)
        if request.path == "/slow":
            await self.gate.wait()
        return None if request.path == "/silent" else request.path.encode()


@pytest.fixture
async def host() -> Host:
    return Host()


@pytest.fixture
async def air() -> AsyncIterator[AccessPoint]:
    made = AccessPoint(ANYWHERE)
    yield made
    await made.release()


class Phone:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def ask(self, path: str, *more: str) -> None:
        for each in (path, *more):
            self.writer.write(f"GET {each} HTTP/1.1\r\nConnection: keep-alive\r\n\r\n".encode())

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def phone(air: AccessPoint) -> AsyncIterator[Phone]:
    assert air.address
    reader, writer = await asyncio.open_connection(air.address.host, air.address.port)
    try:
        yield Phone(reader, writer)
    finally:
        writer.close()


async def told(air: AccessPoint, path: str) -> bytes:
    async with phone(air) as who:
        who.ask(path)
        return await who.reader.read()


async def test_it_is_open_or_refuses(air: AccessPoint, host: Host) -> None:
    for path in ("/first", "/again"):
        with pytest.raises(ConnectionRefusedError):
            await told(air, path)
        air.open(host.joined, host.answer)
        air.open(host.joined, host.answer)  # it is
        assert await told(air, path) == path.encode()
        await air.close()
        await air.close()
    assert host.asked == ["/first", "/again"]


async def test_nobody_reaches_one_without_an_address(host: Host) -> None:
    air = AccessPoint(None)
    air.open(host.joined, host.answer)
    assert air.address is None
    await air.release()


async def test_a_request_a_connection(air: AccessPoint, host: Host) -> None:
    air.open(host.joined, host.answer)
    async with phone(air) as who:
        who.ask("/one", "/two")
        assert await who.reader.read() == b"/one"
    assert await told(air, "/silent") == b""
    assert host.asked == ["/one", "/silent"]


async def test_one_client_at_a_time(air: AccessPoint, host: Host) -> None:
    air.open(host.joined, host.answer)
    async with phone(air) as first:
        assert await host.calls.get() == "joined"
        async with phone(air) as second:
            second.ask("/second")
            first.ask("/first")
            assert await second.reader.read() == b"/second"
        assert await first.reader.read() == b"/first"
    assert host.asked == ["/first", "/second"]


async def test_in_the_smallest_pieces(air: AccessPoint, host: Host) -> None:
    air.open(host.joined, host.answer)
    async with phone(air) as who:
        for byte in b"GET /pieces HTTP/1.1\r\n\r\n":
            who.writer.write(bytes((byte,)))
            await asyncio.sleep(0)
        assert await who.reader.read() == b"/pieces"


async def test_who_says_nothing_or_nonsense_makes_room(
    air: AccessPoint, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_point, "DATA_WAIT", 0.01)
    air.open(host.joined, host.answer)
    async with phone(air) as silent:
        assert await silent.reader.read() == b""
    monkeypatch.setattr(access_point, "DATA_WAIT", 60.0)  # else it might be hung up on before it has spoken
    async with phone(air) as other:
        other.writer.write(b"hello\r\n\r\n")
        assert await other.reader.read() == b""
    assert host.asked == []


@pytest.mark.parametrize("leave", [lambda who: who.writer.close(), Phone.reset], ids=["closes", "resets"])
async def test_a_client_that_goes_away(air: AccessPoint, host: Host, leave: Callable[[Phone], None]) -> None:
    air.open(host.joined, host.answer)
    async with phone(air) as before:
        before.writer.write(b"GET /half")
        assert await host.calls.get() == "joined"
        leave(before)
    async with phone(air) as during:
        during.ask("/slow")
        while await host.calls.get() != "/slow":
            pass
        leave(during)
    host.gate.set()
    assert await told(air, "/next") == b"/next"


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """All that are made here."""
    made: list[socket.socket] = []
    bound = access_point.bound

    def kept(family: int, host: str, port: int) -> socket.socket:
        made.append(bound(family, host, port))
        return made[-1]

    monkeypatch.setattr(access_point, "bound", kept)
    return made


@pytest.mark.parametrize("when", ["before it begins", "while nobody calls", "while somebody does", "in an answer"])
async def test_closing_leaks_nothing(sockets: list[socket.socket], host: Host, when: str) -> None:
    air = AccessPoint(ANYWHERE)
    air.open(host.joined, host.answer)
    assert air.address
    with socket.socket() as client:
        if when != "before it begins":
            await asyncio.sleep(0)
        if when in ("while somebody does", "in an answer"):
            client.connect((air.address.host, air.address.port))
        if when == "in an answer":
            client.sendall(b"GET /slow HTTP/1.1\r\n\r\n")
            while await host.calls.get() != "/slow":
                pass
        await air.close()
        with pytest.raises(ConnectionRefusedError):
            await told(air, "/")
    await air.release()
    assert len(sockets) == 2
    assert {each.fileno() for each in sockets} == {-1}


async def test_two_devices_do_not_share_a_port(air: AccessPoint, host: Host) -> None:
    assert air.address
    with pytest.raises(OSError, match="in use"), socket.socket() as stranger:
        stranger.bind((air.address.host, air.address.port))
    other = AccessPoint(air.address)  # nobody listens there yet
    air.open(host.joined, host.answer)
    with pytest.raises(OSError, match="in use"):
        AccessPoint(air.address)
    with pytest.raises(WrongUsage, match=f"cannot listen on {air.address}: .*in use"):
        other.open(host.joined, host.answer)
    await other.release()
    assert await told(air, "/mine") == b"/mine"
