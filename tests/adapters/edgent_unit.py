"""A unit with Edgent's console, on a pseudo-terminal: strict about what it is told, and failing on demand.

It is a thread of its own, as a unit is no part of the program that talks to it.
"""

import json
import os
import pty
import re
import select
import termios
import threading
import tty
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Self

TOKEN = re.compile(rb"[A-Za-z0-9_\-]{32}")


class Failure(Enum):
    """What goes wrong."""

    NONE = auto()
    SILENT = auto()  # from the start
    SILENT_AFTER_CONNECT = auto()
    NOISY_ONCE = auto()  # what it takes first is not what was sent
    NOISY = auto()
    BABBLING = auto()
    UNPLUGGED = auto()  # in the middle of the token
    RESTARTING = auto()  # after it has taken the token
    REFUSING = auto()
    NO_CONSOLE = auto()
    NOT_JSON = auto()


class EdgentUnit:
    """Runs while the context lasts. older: with the console of WiFi firmware. tokens: what it was told, in order."""

    def __init__(
        self, template_id: str = "TMPL2feLBENZh", failure: Failure = Failure.NONE, *, older: bool = False
    ) -> None:
        self.template_id = template_id
        self.failure = failure
        self.older = older
        self.told: list[list[str]] = []
        self.faults: list[str] = []
        self.asked_to_connect = threading.Event()
        self._line = bytearray()
        self._noise = failure in (Failure.NOISY, Failure.NOISY_ONCE)

    @property
    def path(self) -> Path:
        return Path(self._name)

    @property
    def tokens(self) -> list[str]:
        return [words[0] for words in self.told]

    def __enter__(self) -> Self:
        self._file, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self._name = os.ttyname(self._slave)
        self._end, self._ender = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._ender)
        self._thread.join()
        os.close(self._end)
        if self.failure is not Failure.UNPLUGGED:
            os.close(self._file)
            os.close(self._slave)

    def _run(self) -> None:
        if self.failure is Failure.BABBLING:
            self._say(b"\xff\x00}{" * 20)
        while True:
            ready, _, _ = select.select([self._file, self._end], [], [])
            if self._end in ready:
                return
            for byte in os.read(self._file, 256):
                self._take(byte)
                if self.failure is Failure.UNPLUGGED and len(self._line) > 20:
                    os.close(self._slave)
                    os.close(self._file)
                    return

    def _take(self, byte: int) -> None:
        if self.failure is Failure.SILENT:
            return
        if byte not in b"\r\n":
            self._line.append(byte)
            shown = byte ^ 1 if self._noise and len(self._line) == 12 else byte
            self._say(bytes((shown,)))
            return
        words = split(bytes(self._line))
        if self._noise and len(self._line) > 12:
            self._noise = self.failure is Failure.NOISY
        self._line.clear()
        if not words:
            return
        self._check_port()
        self._say(b"\r\n")
        self._do(words[0].decode(), words[1:])
        self._say(b">")

    def _do(self, command: str, words: list[bytes]) -> None:
        if self.failure is Failure.NO_CONSOLE:
            self._say(b"Command not found.\r\n")
        elif command == "devinfo":
            self._say(self._devinfo())
        elif command == "connect":
            self._connect(words)
        else:
            self._say(b"Command not found.\r\n")

    def _devinfo(self) -> bytes:
        if self.failure is Failure.NOT_JSON:
            return b'{"name":"a "quoted" name","tmpl_id":\n[1]\n'
        about = {"name": "Blynk Meter-8DCF", "board": "Meter", "tmpl_id": self.template_id}
        about |= {"fw_type": self.template_id, "fw_ver": "1.2.3"}
        return b"[1234] a line of the log\r\n" + json.dumps(about).encode() + b"\n"

    def _connect(self, words: list[bytes]) -> None:
        self.asked_to_connect.set()
        if not words or not TOKEN.fullmatch(words[0]):
            self._answer(False, "invalid token size")
        elif self.older and len(words) < 2:
            self._answer(False, "invalid arguments. expected: <auth> <ssid> <pass>")
        elif self.failure is Failure.REFUSING:
            self._answer(False, f"no room for {words[0].decode()}")
        else:
            self.told.append([word.decode() for word in words])
            if self.failure is not Failure.SILENT_AFTER_CONNECT:
                self._answer(True, "trying to connect...")
            if self.failure is Failure.RESTARTING:
                self._say(b"ets Jul 29 2019 12:21:46\r\n\r\nrst:0x1 (POWERON_RESET),boot:0x13\r\n")

    def _answer(self, ok: bool, message: str) -> None:
        if self.older:
            self._say(json.dumps({"status": "OK" if ok else "error", "msg": message}).encode() + b"\n")
        else:
            self._say((message.capitalize() if ok else f"Error: {message}").encode() + b"\n")

    def _say(self, data: bytes) -> None:
        os.write(self._file, data)

    def _check_port(self) -> None:
        """Whether the other end has set its port as the unit's is: what a pseudo-terminal would forgive."""
        iflag, oflag, cflag, lflag, ispeed, ospeed, _ = termios.tcgetattr(self._slave)
        if (iflag, oflag, lflag) != (0, 0, 0):
            self.faults.append("the port is not raw")
        if cflag & (termios.CSIZE | termios.PARENB | termios.CSTOPB | termios.HUPCL) != termios.CS8:
            self.faults.append("the port is not 8N1, or hangs up")
        if {ispeed, ospeed} != {termios.B115200}:
            self.faults.append("the port is not at 115200 baud")


def split(line: bytes) -> list[bytes]:
    """The words of a command line, as the console of the firmware reads it."""
    return [re.sub(rb"\\(x..|.)", _unescaped, word, flags=re.DOTALL) for word in line.split()]


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes.fromhex(code[1:].decode()) if len(code) == 3 else code
