"""A serial port: 8 data bits, no parity, one stop bit, bytes as they are."""

import asyncio
import fcntl
import os
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from provserver.errors import Refused

READ = 4096
MAX_UNREAD = 65_536
"""Bytes that are kept while nobody reads; of more, the last."""


class SerialPort:
    """A port that is open. What comes is kept until it is taken."""

    def __init__(self, file: int, path: Path) -> None:
        self.path = path
        self._file = file
        self._received = bytearray()
        self._news = asyncio.Event()
        self._gone = False

    def taken(self) -> bytes:
        """What has come and was not taken yet."""
        data = bytes(self._received)
        self._received.clear()
        return data

    async def read(self) -> bytes:
        """The same, once there is any. Raises Refused."""
        while not self._received:
            if self._gone:
                raise self._is_gone()
            self._news.clear()
            await self._news.wait()
        return self.taken()

    async def send(self, data: bytes) -> None:
        """Write all of it, however slow the port is. Raises Refused."""
        loop = asyncio.get_running_loop()
        while data:
            try:
                data = data[os.write(self._file, data) :]
            except BlockingIOError:
                writable = asyncio.Event()
                loop.add_writer(self._file, writable.set)
                try:
                    await writable.wait()
                finally:
                    loop.remove_writer(self._file)
            except OSError:
                self._lost()
                raise self._is_gone() from None

    def receive(self) -> None:
        """Take what has come; called by the loop."""
        try:
            data = os.read(self._file, READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._received += data
            del self._received[:-MAX_UNREAD]
        else:
            self._lost()
        self._news.set()

    def _lost(self) -> None:
        self._gone = True
        asyncio.get_running_loop().remove_reader(self._file)

    def _is_gone(self) -> Refused:
        return Refused(f"{self.path} is gone: the unit or its cable was unplugged.")


@asynccontextmanager
async def serial_port(path: Path, baud: int) -> AsyncIterator[SerialPort]:
    """The port, for this process alone. Raises Refused."""
    file = _open(path, baud)
    loop = asyncio.get_running_loop()
    try:
        port = SerialPort(file, path)
        loop.add_reader(file, port.receive)
        yield port
    finally:
        loop.remove_reader(file)
        os.close(file)


def _open(path: Path, baud: int) -> int:
    speed = getattr(termios, f"B{baud}", None)
    if not speed:
        raise Refused(f"{baud} baud is no speed of serial ports. The usual one is 115200.")
    try:
        file = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as fault:
        raise Refused(f"{path} cannot be opened: {fault.strerror}.") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _set_up(file, speed)
    except BlockingIOError:
        os.close(file)
        raise Refused(f"Another program has {path} open. Close it first.") from None
    except (OSError, termios.error):
        os.close(file)
        raise Refused(f"{path} is no serial port.") from None
    return file


def _set_up(file: int, speed: int) -> None:
    """Raw, 8N1, no flow control, and no hang-up at the end: that would reset many a board, which then forgets."""
    *_, characters = termios.tcgetattr(file)
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    control = termios.CS8 | termios.CREAD | termios.CLOCAL
    termios.tcsetattr(file, termios.TCSANOW, [0, 0, control, 0, speed, speed, characters])
    termios.tcflush(file, termios.TCIOFLUSH)
