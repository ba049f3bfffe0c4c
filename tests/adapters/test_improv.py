import asyncio
import os
import pty
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from firmware_sim.improv import served
from firmware_sim.log import SerialLog
from firmware_sim.wifi_networks import Network
from provserver.adapters.improv import Improv, improv
from provserver.core.board import Report
from provserver.core.edgent import Settings
from provserver.errors import Refused
from tests.support.wifi_board import SUCCESS, WifiBoard, failure

AUTH = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
SETTINGS = Settings(AUTH, "iot.example.com", 8443, "Home", "secret word")
PATIENT, IMPATIENT = 30, 0.05


def packet(kind: int, body: bytes) -> bytes:
    unsummed = b"IMPROV\x01" + bytes((kind, len(body))) + body
    return unsummed + bytes((sum(unsummed) & 0xFF,))


@contextmanager
def unit(answer: Callable[[int], bytes]) -> Iterator[Path]:
    """One that answers each command, by its number."""
    far, near = pty.openpty()
    tty.setraw(near)
    loop = asyncio.get_running_loop()

    def receive() -> None:
        for command in os.read(far, 1024).split(b"IMPROV\x01")[1:]:
            os.write(far, answer(command[2]))

    loop.add_reader(far, receive)
    try:
        yield Path(os.ttyname(near))
    finally:
        loop.remove_reader(far)
        os.close(far)
        os.close(near)


async def test_from_the_first_look_to_success_with_a_wrong_password_between() -> None:
    networks = [Network("Home", rssi=-40), Network("Home", rssi=-80), Network("Café", rssi=-60, sec="OPEN")]
    board = WifiBoard(networks, [failure(722), SUCCESS], last_error=701)
    async with served(board, SerialLog(None)) as path, improv(path, patience=PATIENT) as way:
        found = await way.board()
        seen = await way.networks()
        await way.configure(SETTINGS)
        wrong = await way.outcome()
        await way.configure(SETTINGS)
        right = await way.outcome()

    assert (found.name, found.template_id, found.last_error) == ("Blynk Meter-8DCF", "TMPL2feLBENZh", 701)
    assert [(each.ssid, each.rssi, each.security) for each in seen] == [("Home", -40, "unknown"), ("Café", -60, "OPEN")]
    assert wrong == Report(online=False, last_error=722)
    assert right == Report(online=True)
    assert [(each.token, each.host, each.port) for each in board.configured] == [(AUTH, "iot.example.com", 8443)] * 2


async def test_firmware_that_knows_improv_s_own_commands_alone() -> None:
    def answer(command: int) -> bytes:
        name = b"\x07ESPHome\x012\x05ESP32\x07Kitchen"
        info = packet(2, b"\x00") + packet(4, bytes((3, len(name))) + name)
        return info if command == 3 else packet(2, b"\x02")

    with unit(answer) as path:
        async with improv(path, patience=PATIENT) as way:
            found = await way.board()
            with pytest.raises(Refused, match="takes no token") as refused:
                await way.configure(SETTINGS)

    assert (found.name, found.last_error) == ("Kitchen", 0)
    assert AUTH not in str(refused.value)


async def test_a_token_that_a_unit_does_not_take() -> None:
    with unit(lambda _: packet(2, b"\x01")) as path:
        async with improv(path, patience=PATIENT) as way:
            with pytest.raises(Refused, match="found its token, its host or its port invalid"):
                await way.configure(SETTINGS)
            with pytest.raises(Refused, match="does not say what it is"):
                await way.board()
            assert await way.networks() == []


async def test_a_unit_that_is_still_booting_is_asked_again() -> None:
    asked: list[int] = []
    ways: list[Improv] = []

    def answer(command: int) -> bytes:
        asked.append(command)
        ways[0]._patience = PATIENT  # but for the first try
        return b"rst:0x1 (POWERON_RESET)\n" if len(asked) == 1 else packet(4, bytes((command, 2)) + b"\x01x")

    with unit(answer) as path:
        async with improv(path, patience=1) as way:
            ways.append(way)
            assert (await way.board()).firmware_type == "x"

    assert asked[:2] == [3, 3]


async def test_a_unit_that_passes_over_what_it_does_not_know() -> None:
    ways: list[Improv] = []

    def answer(command: int) -> bytes:
        ways[0]._patience = IMPATIENT  # from now on: it has answered what it knows
        return b"" if command == 0xF1 else packet(4, bytes((command, 2)) + b"\x01x")

    with unit(answer) as path:
        async with improv(path, patience=PATIENT) as way:
            ways.append(way)
            assert (await way.board()).last_error == 0


async def test_a_unit_that_does_not_answer() -> None:
    with unit(lambda _: b"login: ") as path:
        async with improv(path, patience=IMPATIENT) as way:
            with pytest.raises(
                Refused, match=r"does not answer\. See that it is powered, that its firmware has Improv"
            ):
                await way.board()


async def test_a_unit_that_does_not_say_why() -> None:
    with unit(lambda command: packet(2, b"\x02" if command == 0xF1 else b"\x03")) as path:
        async with improv(path, patience=PATIENT) as way:
            await way._port.send(b"IMPROV\x01\x03\x01\x01")

            assert await way.outcome() == Report(online=False, last_error=701)
