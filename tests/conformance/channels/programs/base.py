"""What the programs have in common: where the server is, what the device presents, what came of it."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.server import Server

TIME_LIMIT = 90.0
"""Seconds for what must come; nothing waits for what must not."""

WEAK_CLIENT = Path(__file__).with_name("weak-client.cnf")
"""OpenSSL's configuration for a client with a weak certificate: for many of them TLS 1.3 has no signatures."""


_files = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run of a case happens: the server, the address that its devices come from, a directory for files."""

    server: Server
    address: str
    directory: Path
    tool: Callable[[str], str]

    def file(self, name: str, content: bytes) -> Path:
        """A new file of this run."""
        self.directory.mkdir(exist_ok=True)
        path = self.directory / f"{name}-{next(_files)}"
        path.write_bytes(content)
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """What a device presents. certificate: files with its chain and its key. patience: seconds that it waits at most
    for a handshake with a key, which fails without a word.
    """

    token: str = field(default="", repr=False)
    client_id: str = ""
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    certificate: tuple[Path, Path] | None = None
    identity: str = ""
    key: str = field(default="", repr=False)
    gnutls: bool = False
    weak: bool = False
    patience: int = 60

    @property
    def environment(self) -> dict[str, str]:
        """Of the client's process."""
        return os.environ | ({"OPENSSL_CONF": str(WEAK_CLIENT)} if self.weak else {})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a message, as `rendering.code` says it, and the text that came with it."""

    code: str
    text: str = ""


class Listener(Protocol):
    """A device that hears of its shared attributes."""

    async def next(self) -> str:
        """What it is told next."""


class Client(Protocol):
    """A device on one channel."""

    async def come(self) -> Answer:
        """Be let in."""

    async def send(self, feature: str, payload: bytes) -> Answer:
        """One message."""

    async def ask(self, client: str | None, shared: str | None) -> Answer:
        """A request for attributes."""

    async def provision(self, payload: bytes) -> Answer:
        """A provision request."""

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        """Hear of changed shared attributes, from when this returns."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a program said."""

    code: int
    output: str
    error: str


async def run(*command: str, input_: bytes = b"", environment: dict[str, str] | None = None) -> Done:
    """Run a program to its end."""
    async with started(*command, environment=environment) as process:
        async with asyncio.timeout(TIME_LIMIT):
            output, error = await process.communicate(input_)
        return Done(process.returncode or 0, output.decode(errors="replace"), error.decode(errors="replace"))


@asynccontextmanager
async def started(
    *command: str, environment: dict[str, str] | None = None, stderr: int = asyncio.subprocess.PIPE
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that is ended with the block."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env=environment,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Lines:
    """The lines that a program prints as it goes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def next(self, wanted: Callable[[str], Any]) -> str:
        """The next line that is wanted. Raises AssertionError when the program ends before."""
        assert self._process.stdout is not None
        passed = []
        async with asyncio.timeout(TIME_LIMIT):
            while line := (await self._process.stdout.readline()).decode(errors="replace"):
                if wanted(line):
                    return line.rstrip("\n")
                passed.append(line)
        raise AssertionError(f"the program has ended: {''.join(passed)}")
