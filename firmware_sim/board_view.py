"""A WiFi device on a terminal: its LED, its button, its access point and its log."""

import asyncio
import contextlib
import io
import os
import sys
from collections import deque
from collections.abc import Iterator

from rich.color import Color
from rich.color_triplet import ColorTriplet
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from firmware_sim.button import Hold
from firmware_sim.wifi_device import WifiDevice

KEYS = "b hold, let go   j/l phone joins, leaves   r reboot   p power   q quit"
_FRAME = 0.05  # seconds
_LINES = 14
_KEYS = 64  # at once


class LastLines(io.StringIO):
    """A file that keeps its last lines, for a log to be shown in."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=_LINES)

    def write(self, text: str) -> int:
        """Whole lines, as a console writes them."""
        self.lines.extend(text.rstrip("\n").split("\n") if text.strip() else [])
        return len(text)


class BoardView:
    """What is drawn, and what keys do. lines: of its log. phone: how its access point is called."""

    def __init__(self, device: WifiDevice, lines: LastLines) -> None:
        self._device = device
        self._lines = lines
        self.quitting = asyncio.Event()

    def key(self, key: str) -> None:
        """A key was pressed."""
        device = self._device
        match key:
            case "b" if device.button.pressed:
                device.release()
            case "b":
                device.press()
            case "j":
                device.joined()
            case "l":
                device.left()
            case "r":
                device.reboot()
            case "p" if device.state == "OFF":
                device.power_on()
            case "p":
                device.power_off()
            case "q":
                self.quitting.set()
            case _:
                pass

    def draw(self) -> RenderableType:
        """The board as it is now."""
        device = self._device
        light = device.light
        facts = Table.grid(padding=(0, 2))
        facts.add_row(
            "LED", Text("●", style=_dimmed(light.colour, light.brightness(device.in_state))), Text(str(light))
        )
        held = "held" if device.button.pressed else Hold.UP
        where = device.access_point if device.access_point_open else None
        facts.add_row(
            "state", "", Text(f"{device.state}{f', last error {device.last_error}' * bool(device.last_error)}")
        )
        facts.add_row("access point", "", Text(f"{device.board.name} at {where}" if where else "closed"))
        facts.add_row("phone", "", Text("joined" if device.phone else "none"))
        facts.add_row("button", "", Text(held))
        facts.add_row("server", "", Text(f"{device.connections} connections, {device.boots} boots"))
        log = Text("\n".join(self._lines.lines), no_wrap=True, overflow="ellipsis")  # the newest stay in sight
        return Group(
            Panel(facts, title=Text(device.board.template_name), subtitle=Text(KEYS)),
            Panel(log, title="serial monitor"),
        )

    async def show(self, console: Console) -> None:
        """Draw it until somebody quits."""
        with keys(self.key), Live(self.draw(), console=console, screen=True, auto_refresh=False) as live:
            while not self.quitting.is_set():
                live.update(self.draw(), refresh=True)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_FRAME):
                        await self.quitting.wait()


@contextlib.contextmanager
def keys(pressed: object) -> Iterator[None]:
    """Have each key on the terminal told; nothing where there is none."""
    if sys.stdin is None or not sys.stdin.isatty() or not callable(pressed):
        yield
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()
    tty.setcbreak(descriptor)

    def typed() -> None:
        came = b""
        with contextlib.suppress(OSError):
            came = os.read(descriptor, _KEYS)
        if not came:  # the terminal is gone
            loop.remove_reader(descriptor)
        for key in came.decode(errors="replace"):
            pressed(key)

    loop.add_reader(descriptor, typed)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        with contextlib.suppress(termios.error):  # it is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _dimmed(colour: str, brightness: float) -> Style:
    full = Color.parse(colour).get_truecolor()
    return Style(color=Color.from_triplet(ColorTriplet(*(round(part * brightness) for part in full))))
