"""The packet forwarder against a UDP socket that says what the test wants (Semtech's protocol, version 2)."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from firmware_sim.address import Address
from firmware_sim.errors import BadReply, NoAnswer
from firmware_sim.forwarder import PULL_ACK, PULL_DATA, PULL_RESP, PUSH_ACK, PUSH_DATA, TX_ACK, Forwarder, transmitted

EUI = bytes.fromhex("0102030405060708")
ACKS = {PULL_DATA: PULL_ACK, PUSH_DATA: PUSH_ACK}
FRAME = b"\x20frame"


class Server(asyncio.DatagramProtocol):
    """Acknowledges, except what is in `mute`; keeps what came as (kind, token, EUI, body)."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[tuple[int, bytes, bytes, bytes]] = asyncio.Queue()
        self.mute: set[int] = set()
        self.noise: list[bytes] = []
        self.gateway: tuple[Any, ...] = ()
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, address: tuple[Any, ...]) -> None:
        assert data[0] == 2
        token, kind, self.gateway = data[1:3], data[3], address
        self.came.put_nowait((kind, token, data[4:12], data[12:]))
        for each in self.noise:
            self.send(each)
        if kind in ACKS and kind not in self.mute:
            self.send(b"\x02" + token + bytes([ACKS[kind]]))

    def send(self, datagram: bytes) -> None:
        assert self.transport is not None
        self.transport.sendto(datagram, self.gateway)

    def downlink(self, body: bytes, token: bytes = b"\xab\xcd") -> None:
        self.send(b"\x02" + token + bytes([PULL_RESP]) + body)


def packet(frame: bytes = FRAME, **members: object) -> bytes:
    """A downlink's body, as a network server sends it."""
    fields = {"imme": True, "freq": 868.1, "modu": "LORA", "datr": "SF7BW125", "ipol": True, "size": len(frame)}
    return json.dumps({"txpk": fields | {"data": base64.b64encode(frame).decode()} | members}).encode()


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Server, Address]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    try:
        yield server, Address(*transport.get_extra_info("sockname"))
    finally:
        transport.close()


async def test_it_asks_for_downlinks_and_hands_over_what_is_in_the_air() -> None:
    async with listening() as (server, address), Forwarder(address, EUI, 60, rssi=-91, snr=-3.5) as air:
        assert (await server.came.get())[::2] == (PULL_DATA, EUI)
        for n in (1, 2):
            await air.heard(FRAME)
            kind, _, eui, body = await server.came.get()
            assert (kind, eui) == (PUSH_DATA, EUI)
            (heard,) = json.loads(body)["rxpk"]
            assert base64.b64decode(heard["data"]) == FRAME
            assert (heard["size"], heard["rssi"], heard["lsnr"], heard["stat"]) == (len(FRAME), -91, -3.5, 1)
            assert heard["tmst"] == n * 10_000_000


async def test_downlinks_come_in_their_order_and_are_acknowledged() -> None:
    async with listening() as (server, address), Forwarder(address, EUI, 60) as air:
        await server.came.get()
        server.downlink(packet(b"first"), b"\x00\x01")
        server.downlink(packet(b"second"), b"\x00\x02")
        assert [await air.downlink() for _ in range(2)] == [b"first", b"second"]
        for token in (b"\x00\x01", b"\x00\x02"):
            assert await server.came.get() == (TX_ACK, token, EUI, b'{"txpk_ack":{"error":"NONE"}}')


async def test_what_cannot_be_sent_is_said_and_is_no_downlink() -> None:
    async with listening() as (server, address), Forwarder(address, EUI, 60) as air:
        await server.came.get()
        server.downlink(packet(size=1))
        server.downlink(packet(b"good"))
        assert await air.downlink() == b"good"
        said = [json.loads((await server.came.get())[3])["txpk_ack"]["error"] for _ in range(2)]
        assert said == ["TX_FREQ", "NONE"]


async def test_a_downlink_for_what_was_asked_before_is_forgotten() -> None:
    async with listening() as (server, address), Forwarder(address, EUI, 60) as air:
        await server.came.get()
        server.downlink(packet(b"late"))
        await server.came.get()  # it has it
        await air.heard(FRAME)
        server.downlink(packet(b"in time"))
        assert await air.downlink() == b"in time"


async def test_what_is_no_answer_of_the_protocol_is_passed_over() -> None:
    async with listening() as (server, address):
        server.noise = [b"", b"\x02", b"\x01\x00\x00\x04", b"\x02\x00\x00\x63", b"\x02\x00\x00\x01"]
        async with Forwarder(address, EUI, 60) as air:
            await air.heard(FRAME)


async def test_a_server_that_does_not_acknowledge() -> None:
    async with listening() as (server, address):
        async with Forwarder(address, EUI, 60) as air:
            server.mute = {PULL_DATA, PUSH_DATA}
            air._timeout = 0.02
            with pytest.raises(NoAnswer):
                await air.heard(FRAME)
        with pytest.raises(NoAnswer):
            await Forwarder(address, EUI, 0.02).__aenter__()


async def test_no_downlink_in_time() -> None:
    async with listening() as (_, address), Forwarder(address, EUI, 60, window=0.01) as air:
        with pytest.raises(NoAnswer):
            await air.downlink()


async def test_nobody_listens() -> None:
    async with listening() as (_, address):
        pass
    with pytest.raises(NoAnswer):
        await Forwarder(address, EUI, 60).__aenter__()


async def test_a_server_that_goes_away_is_noticed_at_once() -> None:
    async with listening() as (server, address), Forwarder(address, EUI, 60) as air:
        assert server.transport is not None
        server.transport.close()
        await asyncio.sleep(0)
        with pytest.raises(NoAnswer):
            await air.heard(FRAME)
        with pytest.raises(NoAnswer):
            await air.downlink()


def test_the_frame_of_a_downlink() -> None:
    assert transmitted(packet()) == FRAME
    for body in (
        b"",
        b"[]",
        b"{}",
        b'{"txpk":7}',
        b"\xff",
        packet(size=7),
        packet(modu="FSK"),
        packet(ipol=False),
        packet(data=7),
        packet(data="*"),
    ):
        with pytest.raises(BadReply):
            transmitted(body)


async def test_frames_that_wait_at_once_have_tokens_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter((b"aa", b"bb", b"bb", b"cc"))
    monkeypatch.setattr("firmware_sim.forwarder.secrets.token_bytes", lambda _: next(drawn))
    async with listening() as (server, address), Forwarder(address, EUI, 60) as air:
        await server.came.get()
        server.mute.add(PUSH_DATA)
        waiting = [asyncio.create_task(air.heard(FRAME)) for _ in range(2)]
        tokens = [(await server.came.get())[1] for _ in waiting]
        for token in tokens:
            server.send(b"\x02" + token + bytes([PUSH_ACK]))
        await asyncio.gather(*waiting)
    assert tokens == [b"bb", b"cc"]
