"""Blynk.Inject over BLE, on a TCP socket in BLE's place: a phone to one device.

A write to RX, and a notification of TX, is two bytes of length (big-endian) and so many bytes. A program with a radio
carries them over one to one; the simulator has the other end.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from provserver.core import bleinject
from provserver.core.bleinject import (
    MAX_MESSAGE,
    WIFI,
    Connecting,
    Event,
    Failed,
    Fault,
    Interfaces,
    Listener,
    Networks,
    NotTaken,
    Status,
    Taken,
)
from provserver.core.board import Board, Report, WifiNetwork
from provserver.core.edgent import Settings
from provserver.errors import Refused

PATIENCE = 10.0
"""Seconds that the device may take to be there, and to answer."""

SCAN_PATIENCE = 30.0
"""Seconds that it may take to look for networks."""

Answer = TypeVar("Answer")


class BleInject:
    """A connection to a device that waits to be set up: a `Way` of `services.inject`. patience: seconds."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, where: str, patience: float = PATIENCE
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._where = where
        self._patience = patience
        self._listener = Listener()

    async def board(self) -> Board:
        """See `Way`."""
        return await self._ask(bleinject.info(), Board)

    async def networks(self) -> Sequence[WifiNetwork]:
        """See `Way`."""
        found = await self._ask(bleinject.scan(), Networks, Fault, patience=max(self._patience, SCAN_PATIENCE))
        return found.found if isinstance(found, Networks) else ()

    async def configure(self, settings: Settings) -> None:
        """See `Way`."""
        kinds = await self._ask(bleinject.interfaces(), Interfaces)
        if WIFI not in kinds.names:
            raise Refused(f"The device at {self._where} has no WiFi that could be set up.")
        if isinstance(await self._ask(bleinject.hand_over(settings), Taken, NotTaken), NotTaken):
            raise Refused(
                f"The firmware at {self._where} does not know all that it was sent. Bring it up to date, or use its "
                "access point: --way softap."
            )
        begun = await self._ask(bleinject.connect(), Connecting, Failed)
        if isinstance(begun, Failed):
            raise Refused(
                f"The device at {self._where} found its settings invalid. See that its firmware takes tokens of 32 "
                "characters, and that the network has a name."
            )

    async def outcome(self) -> Report:
        """See `Way`."""
        with suppress(Refused):  # a radio that BLE and WiFi share may drop the one for the other: the server tells
            while True:
                match await self._next():
                    case Status("connected"):
                        return Report(online=True)
                    case Status("error"):
                        return Report(online=False)
                    case Failed(last_error):
                        return Report(online=False, last_error=last_error)
        never: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        return await never

    async def _ask(self, question: bytes, *answers: type[Answer], patience: float | None = None) -> Answer:
        """The first answer of one of these kinds. Raises Refused."""
        await self._send(question)
        try:
            async with asyncio.timeout(patience or self._patience):
                while True:
                    event = await self._next()
                    if isinstance(event, answers):
                        return event
                    if isinstance(event, Fault):
                        raise Refused(f"The device at {self._where} does not understand. Is it Blynk's firmware?")
        except TimeoutError:
            raise Refused(f"The device at {self._where} does not answer. See that it waits to be set up.") from None

    async def _send(self, message: bytes) -> None:
        if len(message) > MAX_MESSAGE:
            raise Refused(f"The settings are more than the {MAX_MESSAGE} bytes that BLE carries. Use shorter names.")
        self._writer.write(len(message).to_bytes(2) + message)
        with suppress(OSError):  # which reading tells
            await self._writer.drain()

    async def _next(self) -> Event:
        """The next event. Raises Refused when there is none to come."""
        while True:
            try:
                size = int.from_bytes(await self._reader.readexactly(2))
                message = await self._reader.readexactly(size)
            except (asyncio.IncompleteReadError, OSError):
                raise Refused(
                    f"The connection to {self._where} has ended: the device is out of reach, has restarted, or does "
                    "not wait to be set up. Hold its button until its LED blinks quickly."
                ) from None
            if (event := self._listener.receive(message)) is not None:
                return event


@asynccontextmanager
async def ble_inject(host: str, port: int, patience: float = PATIENCE) -> AsyncIterator[BleInject]:
    """A connection to the device behind a socket. Raises Refused."""
    where = f"{host}:{port}"
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        raise Refused(f"Nothing is there at {where}. See that the device is on, or its bridge runs.") from None
    try:
        yield BleInject(reader, writer, where, patience)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
