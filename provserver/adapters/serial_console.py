"""The console of a unit on a serial port: Edgent's commands, 8 data bits, no parity, one stop bit.

The console repeats each character that it takes, which is how a command is read back: a unit that repeats something
else has got something else. What a unit says goes into no message, as it repeats its token.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from provserver.adapters.serial_port import SerialPort, serial_port
from provserver.core.edgent import BAUD, Settings, connect_line
from provserver.errors import Refused

PATIENCE = 3.0
"""Seconds that an answer may take: a board that the port has reset must be up again by the last try."""

TRIES = 3
MAX_LINE = 4096

Answer = TypeVar("Answer")
_BOOTS = (b"rst:0x", b"rst cause:")
"""What the chips' own loaders say first."""

MAX_BOOT = max(map(len, _BOOTS))


@dataclass(frozen=True, slots=True)
class Board:
    """What a unit says it is."""

    name: str
    board: str
    template_id: str
    firmware_type: str
    firmware_version: str


class SerialConsole:
    """A console that is open; one command at a time. patience: seconds that an answer may take."""

    def __init__(self, port: SerialPort, patience: float = PATIENCE) -> None:
        self._port = port
        self._path = port.path
        self._patience = patience
        self._received = bytearray()
        self._recent = b""
        self._restarted = False

    async def board(self) -> Board:
        """Which board it is. Raises Refused."""
        return await self._tried("devinfo", _board)

    async def connect(self, settings: Settings) -> None:
        """Hand the settings over, and see that they have arrived. Raises Refused, InvalidSettings.

        Firmware keeps them in memory until it has reached the server with them.
        """
        before = await self.board()
        self._heard(self._port.taken())
        self._restarted, self._recent = False, b""
        reply = await self._tried(connect_line(settings), _reply)
        if not reply.accepted:
            reason = "" if settings.auth in reply.message else f": {reply.message}"
            raise Refused(f"The unit on {self._path} does not take its token{reason}.")
        if settings.ssid and not reply.structured:
            raise Refused(
                f"The firmware on {self._path} takes no SSID, and has taken it for a host. "
                "Leave --ssid out, and give --host."
            )
        if await self.board() != before or self._restarted:
            raise Refused(f"The unit on {self._path} has restarted since it got its token. Look at its power.")

    async def _tried(self, command: str, judge: Callable[[bytes], Answer | None]) -> Answer:
        """The answer to a command. To give it again does no harm: it is the same for the same unit."""
        failure = "does not answer"
        for _ in range(TRIES):
            try:
                async with asyncio.timeout(self._patience):
                    answer = await self._asked(command.encode(), judge)
            except TimeoutError:
                continue
            if answer is not None:
                return answer
            failure = "answers, but what it repeats is not what was sent"
        raise Refused(
            f"The unit on {self._path} {failure}. See that it is powered, that its firmware has a console, "
            "and that --baud is right."
        )

    async def _asked(self, command: bytes, judge: Callable[[bytes], Answer | None]) -> Answer | None:
        """The answer, or None when the command was not repeated as it was sent."""
        self._heard(self._port.taken())
        self._received.clear()
        await self._port.send(b"\n")  # ends what may be on the line already
        await self._port.send(command + b"\n")
        repeated = False
        while True:
            line = (await self._line()).strip().lstrip(b">").strip()
            if line == command:
                repeated = True
            elif repeated and line == b"Command not found.":
                raise Refused(f"The firmware on {self._path} has no command {command.split()[0].decode()!r}.")
            elif (answer := judge(line)) is not None:
                return answer if repeated else None

    async def _line(self) -> bytes:
        while b"\n" not in self._received:
            del self._received[:-MAX_LINE]
            self._heard(await self._port.read())
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received[:] = rest
        return line

    def _heard(self, data: bytes) -> None:
        self._received += data
        self._recent = self._recent[-MAX_BOOT:] + data  # which a new command does not clear
        self._restarted |= any(boot in self._recent for boot in _BOOTS)


@asynccontextmanager
async def serial_console(path: Path, baud: int = BAUD, patience: float = PATIENCE) -> AsyncIterator[SerialConsole]:
    """The console on a serial port, for this process alone. Raises Refused."""
    async with serial_port(path, baud) as port:
        yield SerialConsole(port, patience)


@dataclass(frozen=True, slots=True)
class _Reply:
    accepted: bool
    structured: bool
    message: str


def _members(line: bytes) -> dict[str, str] | None:
    if not line.startswith(b"{"):
        return None
    try:
        members = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return {str(key): str(value) for key, value in members.items()} if isinstance(members, dict) else None


def _board(line: bytes) -> Board | None:
    members = _members(line)
    if members is None or "tmpl_id" not in members:
        return None
    return Board(*(members.get(key, "") for key in ("name", "board", "tmpl_id", "fw_type", "fw_ver")))


def _reply(line: bytes) -> _Reply | None:
    """What `connect` answers: an object of older firmware, or a line of newer."""
    members = _members(line)
    if members is not None and "status" in members:
        return _Reply(members["status"].upper() == "OK", True, members.get("msg", "no reason given"))
    text = line.decode("ascii", "replace")
    if text == "Trying to connect...":
        return _Reply(True, False, text)
    return _Reply(False, False, text) if text.startswith(("Error:", "Usage:")) else None
