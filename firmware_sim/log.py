"""A device's serial monitor: one line per event, as ESP-IDF prints them, with secrets masked."""

import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.text import Text

_STYLES = {"I": "", "W": "yellow", "E": "bold red"}
_MASKED_FROM = 12
_SHOWN = 4


def mask(secret: str) -> str:
    """Four characters to tell values apart by; none of a value too short to spare them."""
    return f"{secret[:_SHOWN]}…" if len(secret) >= _MASKED_FROM else "…"


class SerialLog:
    """Writes `I (12) flash: empty` lines: level (I, W, E), milliseconds since power-on, tag, text.

    console None writes nowhere. show: print credentials in clear.
    """

    def __init__(
        self, console: Console | None, *, show: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._show = show
        self._clock = clock
        self._power_on = clock()

    def info(self, tag: str, text: str) -> None:
        """What went as it should."""
        self._line("I", tag, text)

    def warning(self, tag: str, text: str) -> None:
        """What the device copes with."""
        self._line("W", tag, text)

    def failure(self, tag: str, text: str) -> None:
        """Why the device stops."""
        self._line("E", tag, text)

    def secret(self, value: str | Mapping[str, str | None]) -> str:
        """A credential as this log may show it."""
        if isinstance(value, str):
            return value if self._show else mask(value)
        return ", ".join(f"{name} {self.secret(part)}" for name, part in value.items() if part)

    def _line(self, level: str, tag: str, text: str) -> None:
        if self._console is None:
            return
        milliseconds = round((self._clock() - self._power_on) * 1000)
        # What a server says is printed as text, whatever terminal codes it contains.
        printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        line = Text(f"{level} ({milliseconds}) {tag}: {printable}", style=_STYLES[level])
        self._console.print(line, soft_wrap=True)
