import asyncio
import os
import tty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.improv import Connect, Effect, Scan, Service, networks_found, served
from firmware_sim.log import SerialLog
from firmware_sim.onboarding import Settings
from firmware_sim.wifi_networks import Network
from tests.support.wifi_board import SUCCESS, WifiBoard, failure

TOKEN = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
HOME = b"\x04Home\x06secret"
SILENT = SerialLog(None)


def packet(kind: int, body: bytes) -> bytes:
    unsummed = b"IMPROV\x01" + bytes((kind, len(body))) + body
    return unsummed + bytes((sum(unsummed) & 0xFF,))


def rpc(command: int, data: bytes = b"") -> bytes:
    return packet(3, bytes((command, len(data))) + data)


def result(command: int, data: bytes = b"") -> bytes:
    return packet(4, bytes((command, len(data))) + data)


FINE, INVALID, UNKNOWN, UNABLE = (packet(2, bytes((code,))) for code in range(4))
CLOUD = b"\x20" + TOKEN.encode() + b"\x0fiot.example.com\x048443"


def test_its_state() -> None:
    ready, busy, done = (WifiBoard(state=each) for each in ("WAIT_CONFIG", "CONNECTING_CLOUD", "RUNNING"))

    assert Service(ready).receive(rpc(2)) == [FINE, packet(1, b"\x02")]
    assert Service(busy).receive(rpc(2)) == [FINE, packet(1, b"\x03")]
    assert Service(done).receive(rpc(2)) == [FINE, packet(1, b"\x04"), result(2)]


def test_who_it_is() -> None:
    board = WifiBoard()

    assert Service(board).receive(rpc(3)) == [
        FINE,
        result(3, b"\x0dTMPL2feLBENZh\x051.2.3\x05ESP32\x10Blynk Meter-8DCF"),
    ]
    assert board.did == ["asked"]


def test_which_networks_it_sees() -> None:
    assert Service(WifiBoard()).receive(rpc(4)) == [FINE, Scan()]
    assert networks_found([Network("Home", rssi=-40), Network(""), Network("Café", rssi=-70, sec="OPEN")]) == [
        result(4, b"\x04Home\x03-40\x03YES"),
        result(4, b"\x05Caf\xc3\xa9\x03-70\x02NO"),
        result(4),
    ]


def test_token_and_host_come_before_the_network() -> None:
    service = Service(WifiBoard())

    assert service.receive(rpc(0xF0, CLOUD)) == [FINE, result(0xF0)]
    assert service.receive(rpc(1, HOME)) == [
        FINE,
        Connect(Settings("Home", "secret", TOKEN, "iot.example.com", 8443)),
    ]


def test_without_a_token_no_network_is_of_use() -> None:
    assert Service(WifiBoard()).receive(rpc(1, HOME)) == [FINE, UNABLE]


def test_a_device_that_has_a_token_takes_a_new_network_from_anybody() -> None:
    assert Service(WifiBoard(token=TOKEN)).receive(rpc(1, HOME)) == [FINE, Connect(Settings("Home", "secret", TOKEN))]


def test_it_tries_one_network_at_a_time() -> None:
    service = Service(WifiBoard(token=TOKEN))
    service.receive(rpc(1, HOME))

    assert service.receive(rpc(1, HOME)) == [FINE, UNABLE]


def test_why_it_could_not_connect() -> None:
    assert Service(WifiBoard(last_error=720)).receive(rpc(0xF1)) == [FINE, result(0xF1, b"\x03720")]


@pytest.mark.parametrize(
    ("command", "data"),
    [
        (1, b""),
        (1, b"\x04Home"),
        (1, b"\x00\x06secret"),
        (1, b"\x04Home\x09secret"),
        (1, b"\x04Home\x06secret\x00"),
        (1, b"\x01\xff\x00"),
        (0xF0, b""),
        (0xF0, b"\x05short\x00\x00"),
        (0xF0, b"\x20" + TOKEN.encode() + b"\x00"),
        (0xF0, b"\x20" + TOKEN.encode() + b"\x00\x0565536"),
        (0xF0, b"\x20" + TOKEN.encode() + b"\x00\x01x"),
    ],
)
def test_data_that_it_cannot_read(command: int, data: bytes) -> None:
    assert Service(WifiBoard(token=TOKEN)).receive(rpc(command, data)) == [FINE, INVALID]


def test_what_it_does_not_know() -> None:
    service = Service(WifiBoard())

    assert service.receive(rpc(5)) == [FINE, UNKNOWN]
    assert service.receive(packet(4, b"\x03\x00")) == []
    assert service.receive(b"log line\nIMIMPROV\x02" + rpc(2)) == [FINE, packet(1, b"\x02")]


@pytest.mark.parametrize("broken", [rpc(2)[:-1] + b"\x00", packet(3, b"\x02"), packet(3, b"\x02\x01")])
def test_a_damaged_packet_is_told_and_the_next_one_taken(broken: bytes) -> None:
    assert Service(WifiBoard()).receive(broken + rpc(2)) == [INVALID, FINE, packet(1, b"\x02")]


def test_what_came_of_a_network() -> None:
    service = Service(WifiBoard(token=TOKEN))
    service.receive(rpc(1, HOME))
    failed = [each for state, code in failure(722) for each in service.changed(state, code)]
    service.receive(rpc(1, HOME))
    succeeded = [each for state, code in SUCCESS for each in service.changed(state, code)]
    later = service.changed("CONNECTING_NET", 0)

    assert failed == [packet(1, b"\x03"), packet(1, b"\x03"), UNABLE, packet(1, b"\x02"), packet(1, b"\x02")]
    assert succeeded == [packet(1, b"\x03")] * 3 + [packet(1, b"\x04"), result(1)]
    assert later == [packet(1, b"\x03")]


streams = st.lists(
    st.binary(max_size=30)
    | st.builds(rpc, st.integers(0, 255), st.binary(max_size=80))
    | st.builds(packet, st.integers(0, 255), st.binary(max_size=80))
)


@given(streams, st.data())
def test_a_stream_is_read_alike_however_it_is_cut(stream: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(stream)
    at_once = Service(WifiBoard()).receive(whole)
    service, in_pieces = Service(WifiBoard()), list[Effect]()
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        in_pieces += service.receive(whole[:size])
        whole = whole[size:]

    assert in_pieces == at_once
    assert len(service._line) < 266


async def test_its_serial_port_is_a_pseudo_terminal() -> None:
    board = WifiBoard()
    async with served(board, SILENT) as path:
        port = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(port)
        received = b""
        for question, answer in ((rpc(4), result(4)), (rpc(0xF0, CLOUD) + rpc(1, HOME), result(1))):
            os.write(port, question)
            while answer not in received:
                received += await asyncio.to_thread(os.read, port, 1024)
        os.close(port)

    assert board.configured == [Settings("Home", "secret", TOKEN, "iot.example.com", 8443)]
    assert result(4, b"\x04Home\x03-50\x03YES") + b"\n" in received
    assert packet(1, b"\x04") + b"\n" in received
    assert board._watching == []


async def test_a_port_that_nobody_reads_stops_nothing() -> None:
    board = WifiBoard()
    async with served(board, SILENT) as path:
        port = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(port)
        for _ in range(2000):
            board.become("WAIT_CONFIG")
        board.become("RUNNING")
        os.close(port)

    assert board.state == "RUNNING"


def test_a_try_that_is_broken_off_has_failed() -> None:
    service = Service(WifiBoard(token=TOKEN))
    service.receive(rpc(1, HOME))
    before = service.changed("CONFIGURING", 0)
    during = service.changed("CONNECTING_NET", 0)
    after = service.changed("WAIT_CONFIG", 0)

    assert (before, during, after) == ([packet(1, b"\x02")], [packet(1, b"\x03")], [UNABLE, packet(1, b"\x02")])


def test_a_power_cut_leaves_nothing_of_a_try() -> None:
    board = WifiBoard()
    service = Service(board)
    service.receive(rpc(0xF0, CLOUD))
    assert isinstance(service.receive(rpc(1, HOME))[-1], Connect)
    service.receive(packet(3, b"\x01")[:-2])  # the beginning of one more
    assert service.changed("OFF", 0) == []
    assert service.receive(rpc(1, HOME)) == [FINE, UNABLE]  # its token is gone
    service.receive(rpc(0xF0, CLOUD))
    assert isinstance(service.receive(rpc(1, HOME))[-1], Connect)
