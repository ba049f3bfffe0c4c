"""mosquitto, the broker of Debian, as a peer of ours."""

import asyncio
import base64
import hashlib
import itertools
import os
import signal
import socket
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import aiomqtt

_ROUNDS = 101
_CONNECT = b"\x10\x0c\0\4MQTT\4\2\0\x3c\0\0"


class Broker:
    """mosquitto; `options`: lines of its configuration."""

    def __init__(self, program: str, directory: Path, *options: str) -> None:
        self._program = program
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        # Bound, and not listening: nobody else is lent the port, before it starts or while it is down; mosquitto, which
        # reuses addresses as well, may bind it.
        reserved = socket.socket()
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        self.port: int = reserved.getsockname()[1]
        weakref.finalize(self, reserved.close)
        self._log = directory / "mosquitto.log"
        self._admissions = itertools.count(1)

    @classmethod
    def guarded(cls, program: str, directory: Path) -> Self:
        """One that takes nobody but those that `admit` names."""
        users, rules = directory / "users", directory / "rules"
        users.touch(mode=0o600)
        rules.touch(mode=0o600)
        return cls(program, directory, "allow_anonymous false", f"password_file {users}", f"acl_file {rules}")

    async def start(self) -> None:
        """Returns once it serves: one that only listens so far would be ended by a SIGHUP."""
        configuration = self._directory / "mosquitto.conf"
        told = ["log_type error", "log_type warning", "log_type subscribe"]
        user = ["user root"] if os.geteuid() == 0 else []
        lines = [f"listener {self.port} 127.0.0.1", *told, *self._options, *user]
        configuration.write_text("\n".join(lines) + "\n")
        with self._log.open("ab") as log:
            command = [self._program, "-c", str(configuration)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220 - it takes no time
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
                await asyncio.sleep(0.01)
                continue
            with suppress(ConnectionError):
                writer.write(_CONNECT)
                async with asyncio.timeout(60):
                    await reader.read(1)  # whatever it answers, or that it hangs up: over TLS, say
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            return

    async def admit(self, users: Mapping[str, str], rules: Mapping[str, Sequence[str]]) -> None:
        """Take these from now on, and nobody else: names with passwords, names with lines of an access control list.

        Returns once it is so.
        """
        assert self._process is not None
        sign = f"admission-{next(self._admissions)}"
        entries = [f"{name}:{_hashed(password)}" for name, password in {**users, sign: sign}.items()]
        (self._directory / "users").write_text("\n".join(entries) + "\n")
        parts = ["\n".join((f"user {name}", *lines)) for name, lines in rules.items()]
        (self._directory / "rules").write_text("\n\n".join(parts) + "\n")
        self._process.send_signal(signal.SIGHUP)
        while True:
            try:
                async with aiomqtt.Client("127.0.0.1", self.port, username=sign, password=sign):
                    return
            except aiomqtt.MqttError:
                assert self._process.poll() is None, self._log.read_text()
                await asyncio.sleep(0.01)

    async def subscribed_to(self, filter_: str) -> None:
        """Returns once somebody has subscribed to it: before, what is published is nobody's."""
        while not any(line.endswith(f" {filter_}") for line in self._log.read_text().splitlines()):
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()
            await asyncio.sleep(0.01)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def subscribed(self, **options: Any) -> aiomqtt.Client:
        return aiomqtt.Client("127.0.0.1", self.port, **options)


def _hashed(password: str) -> str:
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS)
    return f"$7${_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"
