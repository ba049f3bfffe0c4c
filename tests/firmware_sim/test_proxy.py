import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.address import Address
from firmware_sim.proxy import (
    HELD_BACK,
    RETRANSMISSION,
    Conditions,
    DatagramProxy,
    Proxy,
    StreamProxy,
    before,
    judged,
)
from firmware_sim.transports import TransportName

chances = st.floats(0, 1)


@given(st.builds(Conditions, loss=chances, duplication=chances, reordering=chances, breaks=chances), st.randoms())
def test_what_becomes_of_anything(conditions: Conditions, chance: Random) -> None:
    arrivals = conditions.datagram(chance)
    assert len(arrivals) <= 2
    assert set(arrivals) <= {0.0, HELD_BACK}
    segment = conditions.segment(chance)
    assert len(segment) <= 1
    assert set(segment) <= {0.0, RETRANSMISSION}


def test_no_conditions_change_nothing() -> None:
    assert Conditions().datagram(Random()) == Conditions().segment(Random()) == [0.0]


def test_each_condition_is_met() -> None:
    chance = Random()
    assert Conditions(loss=1).datagram(chance) == []
    assert Conditions(loss=1).segment(chance) == [RETRANSMISSION]  # TCP sends it again
    assert Conditions(duplication=1).datagram(chance) == [0.0, 0.0]
    assert Conditions(duplication=1, reordering=1).segment(chance) == [0.0]
    assert Conditions(reordering=1).datagram(chance) == [HELD_BACK]
    assert Conditions(breaks=1).segment(chance) == []
    assert Conditions(breaks=1).datagram(chance) == [0.0]
    assert 0.1 <= Conditions(delay=(0.1, 0.2)).datagram(chance)[0] <= 0.2


def test_a_delay_backwards() -> None:
    with pytest.raises(ValueError, match="at least, at most"):
        Conditions(delay=(2, 1))


def test_the_loss_of_many_is_as_asked() -> None:
    lossy, chance = Conditions(loss=0.25), Random(7)
    lost = sum(not lossy.datagram(chance) for _ in range(10_000))
    assert 2200 < lost < 2800


class Echo(asyncio.DatagramProtocol):
    """Answers each datagram with what it got and from where."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data + b" from " + addr[0].encode(), addr)


class Inbox(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.arrived: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, _: object) -> None:
        self.arrived.put_nowait(data)


@pytest.fixture
async def udp() -> AsyncIterator[Address]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    yield Address(*transport.get_extra_info("sockname"))
    transport.close()


@pytest.fixture
async def tcp() -> AsyncIterator[Address]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("peername")[0]
        while line := await reader.readline():
            writer.write(line.strip() + b" from " + host.encode() + b"\n")
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield Address(*server.sockets[0].getsockname())


class Device:
    """A UDP device."""

    def __init__(self, transport: asyncio.DatagramTransport, inbox: Inbox) -> None:
        self.transport = transport
        self.inbox = inbox

    async def ask(self, data: bytes) -> bytes:
        self.transport.sendto(data)
        return await self.inbox.arrived.get()


async def device(proxy: Proxy) -> Device:
    address = (proxy.address.host, proxy.address.port)
    transport, inbox = await asyncio.get_running_loop().create_datagram_endpoint(Inbox, remote_addr=address)
    return Device(transport, inbox)


async def test_datagrams_go_to_the_server_and_back_to_who_asked(udp: Address) -> None:
    async with DatagramProxy(udp) as proxy:
        first, second = await device(proxy), await device(proxy)
        for number in range(3):
            assert await first.ask(b"a%d" % number) == b"a%d from 127.0.0.1" % number
            assert await second.ask(b"b%d" % number) == b"b%d from 127.0.0.1" % number
        first.transport.close()
        second.transport.close()


async def test_the_server_sees_the_source_that_was_asked_for(udp: Address, tcp: Address) -> None:
    async with DatagramProxy(udp, source="127.0.0.2") as datagrams, StreamProxy(tcp, source="127.0.0.3") as streams:
        one = await device(datagrams)
        assert await one.ask(b"x") == b"x from 127.0.0.2"
        one.transport.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", streams.address.port)
        writer.write(b"x\n")
        assert await reader.readline() == b"x from 127.0.0.3\n"
        writer.close()


async def test_lost_doubled_and_late_datagrams(udp: Address) -> None:
    fates: list[Sequence[float]] = [(), (0.0, 0.001)]

    def judge(data: bytes, to_device: bool) -> Sequence[float]:
        return (0.0,) if to_device or data == b"plain" else fates.pop(0)

    async with DatagramProxy(udp, judge) as proxy:
        one = await device(proxy)
        one.transport.sendto(b"lost")
        assert await one.ask(b"twice") == b"twice from 127.0.0.1"
        assert await one.inbox.arrived.get() == b"twice from 127.0.0.1"
        assert await one.ask(b"plain") == b"plain from 127.0.0.1"
        assert dict(proxy.counts) == {"datagrams lost": 1, "datagrams doubled": 1, "datagrams late": 1}
        one.transport.close()


async def test_an_answer_that_is_overtaken(udp: Address) -> None:
    held = iter([0.05])

    def judge(_: bytes, to_device: bool) -> Sequence[float]:
        return (next(held, 0.0) if to_device else 0.0,)

    async with DatagramProxy(udp, judge) as proxy:
        one = await device(proxy)
        one.transport.sendto(b"first")
        assert await one.ask(b"second") in (b"second from 127.0.0.1", b"first from 127.0.0.1")
        await one.inbox.arrived.get()
        one.transport.close()


async def test_a_cut_drops_datagrams_until_it_is_over(udp: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off = asyncio.Event()

    def ask(proxy: DatagramProxy, data: bytes, device: object) -> None:
        received(proxy, data, device)
        if data == b"meanwhile":
            cut_off.set()

    received = DatagramProxy._ask
    monkeypatch.setattr(DatagramProxy, "_ask", ask)
    async with DatagramProxy(udp) as proxy:
        one = await device(proxy)
        assert await one.ask(b"before") == b"before from 127.0.0.1"
        await proxy.cut()
        one.transport.sendto(b"meanwhile")
        await cut_off.wait()
        await proxy.restore()
        assert await one.ask(b"after") == b"after from 127.0.0.1"
        one.transport.close()


async def test_no_more_devices_are_known_than_a_nat_knows(udp: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firmware_sim.proxy.PEERS", 2)
    async with DatagramProxy(udp) as proxy:
        devices = [await device(proxy) for _ in range(4)]
        for each in (*devices, devices[0]):
            assert await each.ask(b"x") == b"x from 127.0.0.1"
        assert len(proxy._inner) == 2
        for each in devices:
            each.transport.close()


async def assert_broken(reader: asyncio.StreamReader) -> None:
    """Ended, one way or another, without a word."""
    with contextlib.suppress(ConnectionError):
        assert await reader.readline() == b""


async def test_a_stream_passes_to_its_last_byte(tcp: Address) -> None:
    async with StreamProxy(tcp) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.address.port)
        for number in range(3):
            writer.write(b"%d\n" % number)
            assert await reader.readline() == b"%d from 127.0.0.1\n" % number
        writer.close()
        await writer.wait_closed()


async def test_what_the_server_says_before_it_closes_arrives() -> None:
    async def farewell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 500_000)
        writer.close()

    server = await asyncio.start_server(farewell, "127.0.0.1", 0)
    address = Address(*server.sockets[0].getsockname())
    async with server, StreamProxy(address, lambda _bytes, _to_device: (0.001,)) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.address.port)
        assert len(await reader.read(-1)) == 500_000
        assert proxy.counts["segments late"] > 0
        writer.close()


async def test_a_connection_breaks_at_a_segment(tcp: Address) -> None:
    async with StreamProxy(tcp, lambda _bytes, to_device: () if to_device else (0.0,)) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.address.port)
        writer.write(b"x\n")
        await assert_broken(reader)
        assert proxy.counts["connections broken"] == 1
        writer.close()


async def test_a_cut_resets_connections_and_the_port_stays(tcp: Address) -> None:
    async with StreamProxy(tcp) as proxy:
        port = proxy.address.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x\n")
        await reader.readline()
        await proxy.cut()
        await assert_broken(reader)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(OSError, match="in use"), socket.socket() as stranger:
            stranger.bind(("127.0.0.1", port))
        writer.close()
        await proxy.restore()
        assert proxy.address.port == port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"y\n")
        assert await reader.readline() == b"y from 127.0.0.1\n"
        writer.close()


async def test_a_server_that_is_not_there_is_a_connection_that_breaks(free_port: int) -> None:
    async with StreamProxy(Address("127.0.0.1", free_port)) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.address.port)
        await assert_broken(reader)
        writer.close()


@pytest.mark.parametrize("name", list(TransportName))
def test_each_transport_has_its_kind(name: TransportName) -> None:
    kind = DatagramProxy if name.startswith("coap") else StreamProxy
    assert type(before(name, Address("127.0.0.1", 1))) is kind
    arrivals = judged(name, Conditions(loss=1), Random())(b"", False)
    assert arrivals == ([] if name.startswith("coap") else [RETRANSMISSION])
