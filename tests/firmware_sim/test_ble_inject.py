import asyncio
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.address import Address
from firmware_sim.ble_inject import MAX_MESSAGE, Asked, Connect, Effect, Peripheral, Reboot, Reset, Scan, served
from firmware_sim.log import SerialLog
from firmware_sim.onboarding import Settings
from firmware_sim.wifi_networks import Network
from tests.support.wifi_board import IDENTITY, WifiBoard, failure

TOKEN = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
SET = {"t": "set", "if": "wifi", "ssid": "Home", "pass": "secret", "blynk": TOKEN, "host": "iot.example.com"}
SILENT = SerialLog(None)


def ask(peripheral: Peripheral, **members: object) -> list[Effect]:
    return peripheral.receive(json.dumps(members).encode())


def said(effects: list[Effect]) -> list[dict[str, object]]:
    return [json.loads(effect) for effect in effects if isinstance(effect, bytes)]


def ready(**settings: object) -> Peripheral:
    peripheral = Peripheral(IDENTITY)
    ask(peripheral, **(SET | settings))
    return peripheral


def test_who_it_is() -> None:
    effects = ask(Peripheral(IDENTITY), t="info")

    assert effects[0] == Asked()
    assert said(effects) == [
        {
            "t": "info",
            "vendor": "Blynk",
            "tmpl_id": "TMPL2feLBENZh",
            "fw_type": "TMPL2feLBENZh",
            "fw_ver": "1.2.3",
            "name": "Blynk Meter-8DCF",
            "uid": "7f1a4c1e-3d5b-4a8e-9a53-6f2b1d9c0e77",
        }
    ]
    assert "uid" not in said(ask(Peripheral(replace(IDENTITY, uid=None)), t="info"))[0]


def test_which_networks_it_can_join() -> None:
    assert [each["t"] for each in said(ask(Peripheral(IDENTITY), t="ifs"))] == ["ifs_start", "if", "ifs_end"]


def test_weak_and_hidden_networks_are_not_told_and_thirty_at_most() -> None:
    peripheral = Peripheral(IDENTITY)
    effects = ask(peripheral, t="scan")
    networks = [
        Network(""),
        Network("far", rssi=-91),
        *(Network(str(number), bssid="02:00:00:00:00:01") for number in range(40)),
    ]
    told = [json.loads(message) for message in peripheral.scanned(networks)]

    assert said(effects) == [{"t": "scan_start"}]
    assert effects[1:] == [Scan()]
    assert told[0] == {"t": "scan", "ssid": "0", "bssid": "02:00:00:00:00:01", "rssi": -50, "sec": "WPA2", "ch": 6}
    assert [each["t"] for each in told] == ["scan"] * 30 + ["scan_end"]


def test_settings_are_kept_until_it_is_to_connect() -> None:
    peripheral = ready()
    assert said(ask(peripheral, t="set", ssid="Other", save=1)) == [{"t": "set_ok"}]
    effects = ask(peripheral, t="connect")

    assert said(effects) == [{"t": "connecting"}]
    assert effects[1:] == [Connect(Settings("Other", "secret", TOKEN, "iot.example.com", save=True))]


def test_a_fixed_address_is_taken() -> None:
    fixed = {"ip": "192.168.0.9", "mask": "255.255.255.0", "gw": "192.168.0.1", "dns": "9.9.9.9", "dns2": "1.1.1.1"}
    [_, connect] = ask(ready(**fixed, port=8443), t="connect")

    assert isinstance(connect, Connect)
    got = connect.settings
    assert (got.ip, got.mask, got.gateway, got.dns, got.dns2) == tuple(fixed.values())
    assert got.port is None  # the firmware ignores it


def test_what_it_does_not_know_is_told_and_what_it_knows_taken() -> None:
    peripheral = Peripheral(IDENTITY)

    assert said(ask(peripheral, **SET, colour="blue")) == [{"t": "set_fail"}]
    assert said(ask(peripheral, t="connect")) == [{"t": "connecting"}]


@pytest.mark.parametrize("wrong", [{"blynk": TOKEN[1:]}, {"ssid": ""}, {"if": "eth"}, {"if": None}])
def test_it_does_not_connect_without_what_it_needs(wrong: dict[str, object]) -> None:
    effects = ask(ready(**wrong), t="connect")

    assert effects == [b'{"t":"connect_fail","msg":"configuration invalid"}']


def test_it_forgets_and_starts_anew() -> None:
    assert ask(Peripheral(IDENTITY), t="reset") == [Reset(), b'{"t":"reset_ok"}']
    assert ask(Peripheral(IDENTITY), t="reboot") == [Reboot()]


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "wrong format"),
        (b"[]", "wrong format"),
        (b"\xff{}", "wrong format"),
        (b'{"t":"info"', "wrong format"),
        (b"[" * 500, "wrong format"),
        (b"{}", "invalid command"),
        (b'{"t":["info"]}', "invalid command"),
        (b'{"t":"ota_start"}', "invalid command"),
    ],
)
def test_what_it_does_not_understand_is_told(message: bytes, why: str) -> None:
    assert said(Peripheral(IDENTITY).receive(message)) == [{"t": "error", "msg": why}]


def test_how_far_it_is_is_told_once_and_only_of_its_own_try() -> None:
    peripheral = ready()
    assert peripheral.changed("CONNECTING_NET", 0) == []
    ask(peripheral, t="connect")
    states = ["SWITCH_TO_STA", "CONNECTING_NET", "CONNECTING_NET", "CONNECTING_CLOUD", "RUNNING", "WAIT_CONFIG"]
    told = [json.loads(message)["s"] for state in states for message in peripheral.changed(state, 0)]

    assert told == ["connecting_net", "connecting_cloud", "connected"]


@pytest.mark.parametrize(
    ("last_error", "message"),
    [
        (700, {"t": "connect_fail", "msg": "configuration invalid"}),
        (701, {"t": "net_fail", "reason": "timeout"}),
        (722, {"t": "net_fail", "reason": "invalid_credentials"}),
        (702, {"t": "cloud_fail", "reason": "timeout"}),
        (711, {"t": "cloud_fail", "reason": "invalid_certificate"}),
        (799, {"t": "net_fail", "reason": "generic"}),
    ],
)
def test_why_it_failed_is_told_once(last_error: int, message: dict[str, object]) -> None:
    peripheral = ready()
    ask(peripheral, t="connect")
    told = [each for state, code in failure(last_error) for each in peripheral.changed(state, code)]

    assert json.loads(told[-1]) == message
    assert sum(b"_fail" in each for each in told) == 1


words = st.sampled_from(["info", "ifs", "scan", "set", "connect", "reset", "reboot", "ota", 3, None])
values = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())
members = st.dictionaries(st.sampled_from(["if", "ssid", "pass", "blynk", "host", "save", "dns", "x"]), values)


@given(st.lists(st.tuples(words, members) | st.binary()))
def test_no_message_is_an_error_and_each_is_answered(messages: list[tuple[object, dict[str, object]] | bytes]) -> None:
    peripheral = Peripheral(IDENTITY)
    for message in messages:
        raw = message if isinstance(message, bytes) else json.dumps(message[1] | {"t": message[0]}).encode()
        effects = peripheral.receive(raw)

        assert effects
        for effect in effects:
            if isinstance(effect, Connect):
                assert len(effect.settings.token) == 32
                assert effect.settings.ssid


# --- on its socket


def frame(message: bytes) -> bytes:
    return len(message).to_bytes(2) + message


async def read(reader: asyncio.StreamReader) -> dict[str, object]:
    found: dict[str, object] = json.loads(await reader.readexactly(int.from_bytes(await reader.readexactly(2))))
    return found


async def test_a_message_may_come_in_pieces() -> None:
    async with served(Address("127.0.0.1", 0), WifiBoard(), SILENT) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        for byte in frame(b'{"t":"reset"}') + frame(b'{"t":"ifs"}'):
            writer.write(bytes((byte,)))
            await writer.drain()
        answers = [await read(reader) for _ in range(4)]
        writer.close()

    assert [answer["t"] for answer in answers] == ["reset_ok", "ifs_start", "if", "ifs_end"]


@pytest.mark.parametrize("broken", [(MAX_MESSAGE + 1).to_bytes(2), b"\0\0"])
async def test_what_ble_could_not_carry_ends_the_connection(broken: bytes) -> None:
    async with served(Address("127.0.0.1", 0), WifiBoard(), SILENT) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(broken)

        assert await reader.read() == b""
        writer.close()


async def test_it_is_there_for_one_phone_at_a_time_and_for_the_next_then() -> None:
    async with served(Address("127.0.0.1", 0), WifiBoard(), SILENT) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(frame(b'{"t":"reset"}'))
        await read(reader)
        second, other = await asyncio.open_connection(address.host, address.port)
        assert await second.read() == b""
        writer.write_eof()
        assert await reader.read() == b""
        third, last = await asyncio.open_connection(address.host, address.port)
        last.write(frame(b'{"t":"reset"}'))

        assert (await read(third))["t"] == "reset_ok"
        for each in (writer, other, last):
            each.close()


async def test_a_device_that_runs_is_not_there() -> None:
    board = WifiBoard(state="RUNNING")
    async with served(Address("127.0.0.1", 0), board, SILENT) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)

        assert await reader.read() == b""
        writer.close()


async def test_the_end_of_the_device_is_the_end_of_the_connection() -> None:
    board = WifiBoard()
    async with served(Address("127.0.0.1", 0), board, SILENT) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(frame(b'{"t":"reset"}'))
        await read(reader)

    assert await reader.read() == b""
    writer.close()
    assert board._watching == []


async def test_a_device_that_loses_its_power_is_gone() -> None:
    board = WifiBoard()
    async with served(Address("127.0.0.1", 0), board, SILENT) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(frame(b'{"t":"reset"}'))
        await read(reader)
        assert board.phones == 1
        board.become("OFF")

        assert await reader.read() == b""
        writer.close()
    assert board.phones == 0


def test_a_try_that_is_broken_off_has_failed() -> None:
    peripheral = ready()
    ask(peripheral, t="connect")
    before = peripheral.changed("WAIT_CONFIG", 0)
    peripheral.changed("CONNECTING_NET", 0)

    assert before == []
    assert peripheral.changed("WAIT_CONFIG", 0) == [b'{"t":"net_fail","reason":"generic"}']
