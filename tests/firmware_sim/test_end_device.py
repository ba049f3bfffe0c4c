"""The LoRaWAN end device, against a network server that knows the root keys which were registered."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.address import Address
from firmware_sim.end_device import EndDevice
from firmware_sim.errors import BadReply, FlashError, NoAnswer
from firmware_sim.flash import FileFlash, Memory, VolatileFlash
from firmware_sim.forwarder import Forwarder, transmitted
from firmware_sim.log import SerialLog
from firmware_sim.lorawan import MAX_NONCE, Identity
from firmware_sim.retry import Retry
from tests.firmware_sim.test_cli import Result, simulate
from tests.support.gateway import GatewayServer
from tests.support.things_stack import ThingsStack

DEV_EUI, JOIN_EUI = "0018B20000000101", "70B3D57ED0000010"
APP_KEY, NWK_KEY = "2B7E151628AED2A6ABF7158809CF4F3C", "3B7E151628AED2A6ABF7158809CF4F3D"
GATEWAY = bytes.fromhex("B827EB0000000001")
KEY = ("meters", "meter-1")


def registered(stack: ThingsStack, version: str = "MAC_V1_0_3", **more: Any) -> None:
    stack.application("meters")
    stack.given(
        "all",
        "meters",
        {
            "ids": {"device_id": "meter-1", "dev_eui": DEV_EUI, "join_eui": JOIN_EUI},
            "root_keys": {"app_key": {"key": APP_KEY}, "nwk_key": {"key": NWK_KEY}},
            "supports_join": True,
            "lorawan_version": version,
            "lorawan_phy_version": "PHY_V1_0_3_REV_A",
            "frequency_plan_id": "EU_863_870_TTN",
        }
        | more,
    )


@pytest.fixture
async def stack() -> AsyncIterator[ThingsStack]:
    async with ThingsStack() as made:
        yield made


@pytest.fixture
async def server(stack: ThingsStack) -> AsyncIterator[GatewayServer]:
    async with GatewayServer(stack) as made:
        yield made
        assert not made.errors


def identity(version: str = "MAC_V1_0_3", app_key: str = APP_KEY) -> Identity:
    new = version == "MAC_V1_1"
    keys = (bytes.fromhex(app_key), bytes.fromhex(NWK_KEY) if new else None)
    return Identity(bytes.fromhex(DEV_EUI), bytes.fromhex(JOIN_EUI), *keys, counts=new or version == "MAC_V1_0_4")


def device(forwarder: Forwarder, who: Identity, flash: FileFlash | VolatileFlash | None = None) -> EndDevice:
    return EndDevice(who, flash or VolatileFlash(), forwarder, SerialLog(None), Retry(1))


def forwarder(server: GatewayServer, window: float = 10.0) -> Forwarder:
    return Forwarder(Address.parse(server.address, 0), GATEWAY, 10.0, window=window, rssi=-71, snr=7.25)


@pytest.mark.parametrize("version", ["MAC_V1_0", "MAC_V1_0_3", "MAC_V1_0_4", "MAC_V1_1"])
async def test_a_device_joins_and_is_heard(stack: ThingsStack, server: GatewayServer, version: str) -> None:
    registered(stack, version)
    async with forwarder(server) as air:
        who = device(air, identity(version))
        session = await who.join()
        assert session.address.hex().upper() == server.joins[0].address
        for payload in (b"\x01\x02", b"", bytes(50)):
            await who.send(session, payload, 7)
        await server.seen(uplinks=3)
    assert [(each.device_id, each.f_port, each.f_cnt, each.payload) for each in server.uplinks] == [
        ("meter-1", 7, n, payload) for n, payload in enumerate((b"\x01\x02", b"", bytes(50)))
    ]
    assert server.transmitted == ["NONE"]
    assert not server.refused


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"root_keys": {"app_key": {"key": NWK_KEY}}}, "MIC"),
        ({"root_keys": {}}, "no root key"),
        ({"supports_join": False}, "supports_join"),
        ({"lorawan_version": "MAC_V1_1"}, "MIC"),
        ({"frequency_plan_id": ""}, "no band"),
        ({"ids": {"device_id": "meter-1", "dev_eui": DEV_EUI, "join_eui": "70B3D57ED0000011"}}, "unknown to ns"),
    ],
)
async def test_a_device_that_is_not_registered_so_is_not_let_in(
    stack: ThingsStack, server: GatewayServer, change: dict[str, Any], reason: str
) -> None:
    registered(stack, **change)
    async with forwarder(server, 0.05) as air:
        with pytest.raises(NoAnswer, match="no join accept"):
            await device(air, identity()).join()
    await server.seen(refused=1)
    assert [(each.dev_eui, each.reason) for each in server.refused] == [(DEV_EUI, reason)]
    assert not server.joins


@pytest.mark.parametrize("component", ["js", "ns"])
async def test_each_component_must_have_it(stack: ThingsStack, server: GatewayServer, component: str) -> None:
    registered(stack)
    stack.devices[component].clear()  # type: ignore[index]
    async with forwarder(server, 0.05) as air:
        with pytest.raises(NoAnswer):
            await device(air, identity()).join()
    await server.seen(refused=1)
    assert server.refused[0].reason == f"unknown to {component}"


async def test_a_counting_device_remembers_its_nonces(
    stack: ThingsStack, server: GatewayServer, tmp_path: Path
) -> None:
    registered(stack, "MAC_V1_1")
    flash = FileFlash(tmp_path / "flash.json")
    async with forwarder(server) as air:
        for joins in (1, 2):
            await device(air, identity("MAC_V1_1"), flash).join()
            assert await flash.read() == Memory(dev_nonces=joins, join_nonces=joins + 1)
    async with forwarder(server, 0.05) as air:
        with pytest.raises(NoAnswer):
            await device(air, identity("MAC_V1_1")).join()  # it has forgotten
    await server.seen(refused=1)
    assert server.refused[0].reason == "DevNonce"


async def test_a_device_whose_nonces_are_used_up_does_not_ask(server: GatewayServer) -> None:
    flash = VolatileFlash()
    await flash.write(Memory(dev_nonces=MAX_NONCE + 1))
    async with forwarder(server) as air:
        with pytest.raises(FlashError):
            await device(air, identity("MAC_V1_1"), flash).join()


async def test_an_accept_that_was_recorded_is_not_taken(stack: ThingsStack, server: GatewayServer) -> None:
    registered(stack, "MAC_V1_1")
    flash = VolatileFlash()
    await flash.write(Memory(join_nonces=100))
    async with forwarder(server, 0.05) as air:
        with pytest.raises(NoAnswer):
            await device(air, identity("MAC_V1_1"), flash).join()
    assert server.joins


async def test_nobody_listens(free_port: int) -> None:
    air = Forwarder(Address("127.0.0.1", free_port), GATEWAY, 5.0)
    with pytest.raises(NoAnswer):
        async with air:
            pass


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"txpk":{}}',
        b'{"txpk":{"data":"AA==","size":2,"modu":"LORA","ipol":true}}',
        b'{"txpk":{"data":"AA==","size":1,"modu":"FSK","ipol":true}}',
        b'{"txpk":{"data":"AA==","size":1,"modu":"LORA","ipol":false}}',
    ],
)
def test_a_downlink_that_cannot_be_sent(body: bytes) -> None:
    with pytest.raises(BadReply):
        transmitted(body)
    assert transmitted(b'{"txpk":{"data":"AA==","size":1,"modu":"LORA","ipol":true}}') == b"\0"


@given(st.one_of(st.binary(), st.from_regex(rb'\{"txpk":\{("(data|size|modu|ipol)":("[A-Z=]*"|true|1|\[\]),?)*\}\}')))
def test_whatever_comes_as_a_downlink_is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(BadReply):
        transmitted(body)


async def command(*arguments: str) -> Result:
    return await asyncio.to_thread(simulate, "lorawan", *arguments)


async def test_the_command(stack: ThingsStack, server: GatewayServer, tmp_path: Path) -> None:
    registered(stack, "MAC_V1_1")
    key_file = tmp_path / "keys"
    key_file.write_text(f"{APP_KEY}\n{NWK_KEY}\n")
    common = ("--device-eui", DEV_EUI, "--join-eui", JOIN_EUI, "--key-file", str(key_file), "--json")
    options = ("--gateway", server.address, *common)
    new = ("--lorawan-version", "1.1", "--flash", str(tmp_path / "flash"))
    done = await command(*options, *new, "--payload", "0102", "--port", "9", "--rssi", "-80")
    assert done.code == 0, done.stderr
    assert done.json == {"status": "joined", "deviceAddress": server.joins[0].address, "attempts": 1, "uplinks": 1}
    await server.seen(uplinks=1)
    assert (server.uplinks[0].f_port, server.uplinks[0].payload) == (9, b"\x01\x02")
    key_file.write_text(f"{NWK_KEY}\n{APP_KEY}\n")
    done = await command(*options, *new, "--attempts", "1", "--window", "0.05")
    assert (done.code, done.json["status"]) == (3, "unreachable")
    assert APP_KEY not in done.stdout + done.stderr
    for wrong in (("--device-eui", "0018"), ("--payload", "0"), ("--gateway", ":1"), ("--lorawan-version", "1.2")):
        assert (await command(*options, *wrong)).code == 2
    key_file.write_text(APP_KEY)
    assert (await command(*options, *new)).code == 2
