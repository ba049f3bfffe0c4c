"""A device that speaks Improv Wi-Fi on a serial port."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from provserver.adapters.serial_port import SerialPort, serial_port
from provserver.core import improv as codec
from provserver.core.board import Board, Report, WifiNetwork, strongest
from provserver.core.edgent import Settings
from provserver.core.improv import (
    BAUD,
    CLOUD,
    INFO,
    LAST_ERROR,
    NO_ERROR,
    SCAN,
    UNKNOWN_COMMAND,
    WIFI,
    Decoder,
    ErrorState,
    Packet,
    Result,
)
from provserver.errors import Refused

PATIENCE = 3.0
"""Seconds that an answer may take: a board that the port has reset must be up again by the last try."""

SCAN_PATIENCE = 30.0
"""Seconds that it may take to look for networks."""

TRIES = 3

_NOT_CONNECTED = 701


class _Silent(Refused):
    """No answer has come."""


class Improv:
    """A port that is open: a `Way` of `services.inject`. patience: seconds that an answer may take."""

    def __init__(self, port: SerialPort, patience: float = PATIENCE) -> None:
        self._port = port
        self._patience = patience
        self._decoder = Decoder()
        self._packets: list[Packet] = []

    async def board(self) -> Board:
        """See `Way`."""
        texts = await self._texts(INFO)
        return codec.board(texts, await self._last_error(0))

    async def networks(self) -> Sequence[WifiNetwork]:
        """See `Way`."""
        await self._port.send(codec.command(SCAN))
        found: list[WifiNetwork] = []
        try:
            async with asyncio.timeout(max(self._patience, SCAN_PATIENCE)):
                while isinstance(answer := await self._answer(SCAN), Result) and answer.texts:
                    found.append(codec.network(answer.texts))
        except TimeoutError:
            raise self._silent() from None
        return strongest(found)

    async def configure(self, settings: Settings) -> None:
        """See `Way`."""
        taken = await self._asked(codec.cloud(settings), CLOUD)
        if isinstance(taken, ErrorState):
            raise Refused(
                f"The firmware on {self._port.path} takes no token: it knows Improv's own commands alone. Give it its "
                "token by `provserver eol`, or use another --way."
                if taken.code == UNKNOWN_COMMAND
                else f"The firmware on {self._port.path} found its token, its host or its port invalid."
            )
        await self._port.send(codec.wifi(settings))

    async def outcome(self) -> Report:
        """See `Way`."""
        answer = await self._answer(WIFI)
        if isinstance(answer, Result):
            return Report(online=True)
        return Report(online=False, last_error=await self._last_error(_NOT_CONNECTED))

    async def _last_error(self, otherwise: int) -> int:
        """Why it could not connect the last time; otherwise, if it does not tell."""
        try:
            answer = await self._asked(codec.command(LAST_ERROR), LAST_ERROR, tries=1)
        except _Silent:  # some pass over what they do not know
            return otherwise
        if isinstance(answer, Result) and answer.texts and answer.texts[0].isdecimal():
            return int(answer.texts[0])
        return otherwise

    async def _texts(self, number: int) -> tuple[str, ...]:
        answer = await self._asked(codec.command(number), number)
        if isinstance(answer, ErrorState):
            raise Refused(f"The unit on {self._port.path} speaks Improv, but does not say what it is.")
        return answer.texts

    async def _asked(self, question: bytes, number: int, tries: int = TRIES) -> Result | ErrorState:
        """The answer to a command. To give it again does no harm. Raises Refused."""
        for _ in range(tries):
            self._packets = []
            self._decoder.feed(self._port.taken())
            await self._port.send(question)
            try:
                async with asyncio.timeout(self._patience):
                    return await self._answer(number)
            except TimeoutError:
                continue
        raise self._silent()

    async def _answer(self, number: int) -> Result | ErrorState:
        """The next that answers a command: a result of its own, or an error."""
        while True:
            while self._packets:
                match self._packets.pop(0):
                    case Result(command=command) as result if command == number:
                        return result
                    case ErrorState(code) as error if code != NO_ERROR:
                        return error
            self._packets = self._decoder.feed(await self._port.read())

    def _silent(self) -> "_Silent":
        return _Silent(
            f"The unit on {self._port.path} does not answer. See that it is powered, that its firmware has Improv on "
            "this port, and that --baud is right."
        )


@asynccontextmanager
async def improv(path: Path, baud: int = BAUD, patience: float = PATIENCE) -> AsyncIterator[Improv]:
    """The device on a serial port, for this process alone. Raises Refused."""
    async with serial_port(path, baud) as port:
        yield Improv(port, patience)
