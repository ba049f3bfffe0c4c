"""The access point's name server: datagrams written by hand, garbage, and a socket."""

import asyncio
import socket
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.address import Address
from firmware_sim.board import Generation
from firmware_sim.config_store import VolatileStore
from firmware_sim.dns import CHIP, answer, own_address, served
from firmware_sim.edgent_state import State
from tests.firmware_sim.test_wifi_device import GOOD, PlayedServer, living, made, opened

NAME = b"\x05blynk\x05setup\x00"
A = b"\x00\x01\x00\x01"
AAAA = b"\x00\x1c\x00\x01"
ANY = b"\x00\xff\x00\x01"
ASKED = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
TOLD = b"\x12\x34\x85\x00\x00\x01\x00\x01\x00\x00\x00\x00"
NOTHING = b"\x12\x34\x85\x00\x00\x01\x00\x00\x00\x00\x00\x00"
FAILED = b"\x12\x34\x81\x02\x00\x01\x00\x00\x00\x00\x00\x00"
RECORD = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xc0\xa8\x04\x01"


def with_head(*words: int) -> bytes:
    return b"".join(word.to_bytes(2) for word in words) + NAME + A


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (NAME + A, TOLD + NAME + A + RECORD),
        (b"\x05bLYnk\x05SetuP\x00" + A, TOLD + b"\x05bLYnk\x05SetuP\x00" + A + RECORD),
        (NAME + ANY, TOLD + NAME + ANY + RECORD),
        (NAME + AAAA, NOTHING + NAME + AAAA),
        (NAME + A + b"what comes after it", TOLD + NAME + A + RECORD),
    ],
    ids=["A", "capitals", "any", "AAAA", "more"],
)
def test_the_device_has_one_name(question: bytes, said: bytes) -> None:
    assert answer(ASKED + question, CHIP) == said


def test_the_address_is_the_access_points() -> None:
    said = answer(ASKED + NAME + A, IPv4Address("10.1.2.3"))
    assert said
    assert said.endswith(b"\x00\x04\x0a\x01\x02\x03")


def test_who_wants_no_recursion_and_knows_later_extensions_is_answered_as_well() -> None:
    options = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"
    asked = b"\xff\xff\x00\x20\x00\x01\x00\x00\x00\x00\x00\x01" + NAME + A + options
    assert answer(asked, CHIP) == b"\xff\xff\x84\x00\x00\x01\x00\x01\x00\x00\x00\x00" + NAME + A + RECORD


@pytest.mark.parametrize(
    "question",
    [
        b"\x07example\x03com\x00" + A,
        b"\x03www\x05blynk\x05setup\x00" + A,
        b"\x05blynk\x00" + A,
        b"\x0bblynk.setup\x00" + A,
        b"\x00" + A,
        (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\x00" + A,
        NAME + b"\x00\x01\x00\x03",
    ],
    ids=["another", "below", "above", "one-label", "root", "longest", "chaos"],
)
def test_it_fails_for_all_others(question: bytes) -> None:
    assert answer(ASKED + question, CHIP) == FAILED + question


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        ASKED[:11],
        ASKED,
        ASKED + NAME[:-1],
        ASKED + NAME[:4],
        ASKED + NAME + A[:3],
        ASKED + b"\xc0\x0c" + A,
        ASKED + b"\x05blynk\xc0\x0c" + A,
        ASKED + b"\x40" + b"a" * 64 + b"\x00" + A,
        ASKED + (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\x00" + A,
        with_head(0x1234, 0x8100, 1, 0, 0, 0),
        with_head(0x1234, 0x2900, 1, 0, 0, 0),
        with_head(0x1234, 0x0100, 0, 0, 0, 0),
        with_head(0x1234, 0x0100, 2, 0, 0, 0),
        with_head(0x1234, 0x0100, 1, 1, 0, 0),
        with_head(0x1234, 0x0100, 1, 0, 1, 0),
        TOLD + NAME + A + RECORD,
    ],
)
def test_what_is_no_question_is_dropped(datagram: bytes) -> None:
    assert answer(datagram, CHIP) is None


@given(st.one_of(st.binary(), st.binary().map(lambda rest: ASKED + rest), st.binary().map(lambda r: ASKED + NAME + r)))
def test_garbage_does_no_harm(datagram: bytes) -> None:
    said = answer(datagram, CHIP)
    if said is not None:
        assert said[:2] == datagram[:2]
        assert said[2] & 0x80
        question = said[12:].removesuffix(RECORD)
        assert datagram[12:].startswith(question)
        assert len(said) <= 512


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=3), st.binary(min_size=4, max_size=4))
def test_a_question_comes_back_with_its_answer(labels: list[bytes], kind: bytes) -> None:
    question = b"".join(len(label).to_bytes() + label for label in labels) + b"\x00" + kind
    said = answer(ASKED + question, CHIP)
    assert said
    assert said.startswith((FAILED + question, TOLD + question, NOTHING + question))


@pytest.mark.parametrize(
    ("access_point", "told"),
    [
        ("127.0.0.1:80", "192.168.4.1"),
        ("0.0.0.0:80", "192.168.4.1"),
        ("[::1]:80", "192.168.4.1"),
        ("board.local:80", "192.168.4.1"),
        ("10.1.2.3:80", "10.1.2.3"),
    ],
)
def test_the_address_is_one_that_others_reach_or_the_chips(access_point: str, told: str) -> None:
    assert str(own_address(Address.parse(access_point, 80))) == told
    assert own_address(None) == CHIP


class Phone(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, _: object) -> None:
        self.heard.put_nowait(data)


async def phone_at(where: Address) -> tuple[asyncio.DatagramTransport, Phone]:
    return await asyncio.get_running_loop().create_datagram_endpoint(Phone, remote_addr=(where.host, where.port))


def told_of(is_open: Callable[[], bool], looks: "asyncio.Queue[bool]") -> Callable[[], bool]:
    def look() -> bool:
        looks.put_nowait(is_open())
        return is_open()

    return look


async def test_it_is_there_as_long_as_the_access_point() -> None:
    looks: asyncio.Queue[bool] = asyncio.Queue()
    device = made(PlayedServer(), VolatileStore(), Generation.CLASSIC)
    look = told_of(lambda: device.access_point_open, looks)
    async with served(Address("127.0.0.1", 0), CHIP, look) as where, living(device):
        transport, phone = await phone_at(where)
        await opened(device)
        transport.sendto(b"no question")
        transport.sendto(ASKED + NAME + A)
        assert await phone.heard.get() == TOLD + NAME + A + RECORD
        assert (await looks.get(), await looks.get()) == (True, True)
        device.submit(GOOD)
        await device.wait(State.RUNNING)
        transport.sendto(ASKED + NAME + A)
        assert await looks.get() is False
        device.reset()
        await device.wait(State.WAIT_CONFIG)
        await opened(device)
        transport.sendto(b"\xab\xcd" + ASKED[2:] + NAME + AAAA)
        assert await phone.heard.get() == b"\xab\xcd" + NOTHING[2:] + NAME + AAAA
        transport.close()


async def test_a_port_that_is_taken() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="in use"):
            async with served(Address("127.0.0.1", taken.getsockname()[1]), CHIP, lambda: True):
                pytest.fail("two on one port")
