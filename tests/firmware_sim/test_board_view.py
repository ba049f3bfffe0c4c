"""What is shown of a WiFi device, and what keys do."""

import asyncio
import io
import os
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from io import FileIO
from typing import Any

import pytest
from rich.console import Console

from firmware_sim.address import Address
from firmware_sim.board import Board, Generation
from firmware_sim.board_view import KEYS, BoardView, LastLines, keys
from firmware_sim.config_store import VolatileStore
from firmware_sim.edgent_state import State
from firmware_sim.led import Light, light
from firmware_sim.log import SerialLog
from firmware_sim.wifi_device import WifiDevice
from tests.firmware_sim.test_wifi_device import GOOD, PlayedServer, living, made, opened

ANYWHERE = Address("127.0.0.1", 0)


def drawn(view: BoardView) -> list[str]:
    """On a terminal of the usual size."""
    console = Console(file=io.StringIO(), width=80, height=24, color_system=None)
    with console.capture() as captured:
        console.print(view.draw())
    return captured.get().splitlines()


def facts(view: BoardView) -> dict[str, str]:
    rows = [line.strip("│ ").split("  ", 1) for line in drawn(view)[1:7]]
    return {name: value.strip(" ●") for name, value in rows}


@pytest.fixture
async def device() -> AsyncIterator[WifiDevice]:
    """Without power yet."""
    off = made(PlayedServer(), VolatileStore(), Generation.CLASSIC, ANYWHERE, 0.01)
    yield off
    await off.give_up_port()


async def test_from_power_on_to_the_server(device: WifiDevice) -> None:
    view = BoardView(device, LastLines())
    off = {
        "LED": "off",
        "state": "OFF",
        "access point": "closed",
        "phone": "none",
        "button": "up",
        "server": "0 connections, 0 boots",
    }
    assert facts(view) == off
    async with living(device):
        await opened(device)
        name = device.board.name
        waiting = off | {
            "LED": "blue 50/500",
            "state": "WAIT_CONFIG",
            "access point": f"{name} at {device.access_point}",
            "server": "0 connections, 1 boots",
        }
        assert facts(view) == waiting
        view.key("j")
        assert facts(view) == waiting | {"phone": "joined"}
        view.key("l")
        assert facts(view) == waiting
        device.submit(GOOD)
        await device.wait(State.RUNNING)
        running = {"LED": "teal breathing 5000", "state": "RUNNING", "server": "1 connections, 1 boots"}
        assert facts(view) == off | running
    assert facts(view)["state"] == "OFF"


class Posing(WifiDevice):
    """In any state it is told to be."""

    posed: State = State.OFF
    error = 0

    @property
    def state(self) -> State:
        return self.posed

    @property
    def last_error(self) -> int:
        return self.error

    @property
    def light(self) -> Light:
        return light(self.hardware.generation, self.posed, self.button.hold(0.0))

    @property
    def in_state(self) -> float:
        return 0.3


@pytest.mark.parametrize("generation", Generation)
async def test_every_state_and_why_it_could_not_connect(generation: Generation) -> None:
    nothing: Any = None
    board = Board(bytes(6), "TMPL1", "Garage [red]door[/red]", generation)
    device = Posing(board, VolatileStore(), nothing, nothing, SerialLog(None))
    view = BoardView(device, LastLines())
    for state in State:
        device.posed, device.error = state, 0
        shown = facts(view)
        assert (shown["state"], shown["LED"]) == (state, str(device.light))
        device.error = 701
        assert facts(view)["state"] == f"{state}, last error 701"
    assert "Garage [red]door[/red]" in drawn(view)[0]
    for shown_as in ("held", "up"):
        view.key("b")
        assert facts(view)["button"] == shown_as


async def test_all_keys_and_the_newest_lines_are_in_sight(device: WifiDevice) -> None:
    lines = LastLines()
    lines.write("\n")
    assert list(lines.lines) == []
    for number in range(40):
        lines.write(f"I ({number}) wifi: {'long ' * 30}\n")
    shown = drawn(BoardView(device, lines))
    assert len(shown) <= 24
    assert KEYS in "\n".join(shown)
    assert any("I (39)" in line for line in shown)
    assert not any("I (20)" in line for line in shown)


# Keys


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FileIO, int]]:
    """A pseudo-terminal as standard input: the person's side, and ours."""
    persons, ours = os.openpty()
    person = FileIO(persons, "wb")
    stdin = os.fdopen(ours, closefd=False)
    monkeypatch.setattr(sys, "stdin", stdin)
    yield person, ours
    stdin.close()
    os.close(ours)
    person.close()


async def test_several_keys_at_once(terminal: tuple[FileIO, int]) -> None:
    person, ours = terminal
    before = termios.tcgetattr(ours)
    pressed: asyncio.Queue[str] = asyncio.Queue()
    with keys(pressed.put_nowait):
        assert not termios.tcgetattr(ours)[3] & (termios.ICANON | termios.ECHO)
        person.write("bj\x1b[Aé\x04q".encode())
        heard = ""
        while not heard.endswith("q"):
            heard += await pressed.get()
        assert heard.startswith("bj\x1b[A")
        person.write(b"r")
        assert await pressed.get() == "r"
    assert termios.tcgetattr(ours) == before
    person.write(b"b\n")
    await asyncio.sleep(0)
    assert pressed.empty()


async def test_a_terminal_that_goes_away(terminal: tuple[FileIO, int], monkeypatch: pytest.MonkeyPatch) -> None:
    person, ours = terminal
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    gone = asyncio.Event()
    looks = 0

    def read(descriptor: int, size: int) -> bytes:
        nonlocal looks
        if descriptor == ours:  # others in this process read, too
            looks += 1
            gone.set()
        return read_really(descriptor, size)

    read_really = os.read
    monkeypatch.setattr(os, "read", read)
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        with keys(lambda _: None):
            person.close()
            await gone.wait()
            for _ in range(10):
                await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert (looks, complaints) == (1, [])


@pytest.mark.parametrize("stdin", [None, io.StringIO("bjq")], ids=["closed", "a file"])
async def test_no_terminal_has_no_keys(monkeypatch: pytest.MonkeyPatch, stdin: io.StringIO | None) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    with keys(pytest.fail):
        await asyncio.sleep(0)


async def test_it_is_shown_until_somebody_quits(terminal: tuple[FileIO, int], device: WifiDevice) -> None:
    person, _ = terminal

    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            if not self.getvalue():  # keys that come before may or may not be thrown away
                person.write(b"bq")
            return super().write(text)

    shown = Screen()
    view = BoardView(device, LastLines())
    await view.show(Console(file=shown, width=80, height=24, force_terminal=True))
    assert device.button.pressed
    assert "Garage" in shown.getvalue()
