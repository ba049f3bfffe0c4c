"""A device's non-volatile memory: what survives a power cut."""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Protocol

import msgspec

from firmware_sim import power
from firmware_sim.errors import FlashError
from firmware_sim.request import Request


class Credentials(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What the server granted, as `Reply` names it."""

    credentials_type: str
    credentials_value: str | dict[str, str | None]
    device_name: str | None = None
    device_id: str | None = None


class Next(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The key that the next certificate is to be for, PEM, and the request that asks for it."""

    csr: str
    private_key: str


class Memory(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Everything a device remembers.

    request: what it asked or is about to ask, nonce included. private_key: PEM, of the certificate in it.
    sequence_numbers: OSCORE's below this one may have been used. answer_key: base64url of the private key that answers
    are sealed to, as a repeat must name the same. next: saved before it is asked with. dev_nonces, join_nonces:
    LoRaWAN's below these may have been used.
    """

    request: Request | None = None
    private_key: str | None = None
    credentials: Credentials | None = None
    sequence_numbers: int = 0
    answer_key: str | None = None
    next: Next | None = None
    dev_nonces: int = 0
    join_nonces: int = 0


class Flash(Protocol):
    """Where a device keeps its Memory. After `write` returns, `read` gives that or something newer."""

    async def read(self) -> Memory:
        """The last Memory written; an empty one for a new device. Raises FlashError."""

    async def write(self, memory: Memory) -> None:
        """Replace everything at once or, on FlashError, nothing."""


class VolatileFlash:
    """Forgets everything at the end of the process: for fleets, and for a quick try."""

    def __init__(self) -> None:
        self._memory = Memory()

    async def read(self) -> Memory:
        """The last Memory written."""
        return self._memory

    async def write(self, memory: Memory) -> None:
        """Replace everything."""
        self._memory = memory


class FileFlash:
    """A JSON file, mode 0600, replaced atomically: a power cut leaves the old content or the new one.

    One device at a time may use the file. The directory must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    async def read(self) -> Memory:
        """The file's content; an empty Memory if there is no file."""
        return await asyncio.to_thread(self._read)

    async def write(self, memory: Memory) -> None:
        """Write, sync, rename over the old file, sync the directory."""
        await asyncio.to_thread(self._write, memory)

    def erase(self) -> None:
        """Back to how the device left the factory."""
        try:
            self.path.unlink(missing_ok=True)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise FlashError(f"cannot erase {self.path}: {error.strerror}") from error

    def _read(self) -> Memory:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Memory)
        except FileNotFoundError:
            return Memory()
        except OSError as error:
            raise FlashError(f"cannot read {self.path}: {error.strerror}") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise FlashError(f"{self.path} is corrupted ({error}); --erase starts over") from None

    def _write(self, memory: Memory) -> None:
        replace_file(self.path, msgspec.json.format(msgspec.json.encode(memory), indent=2) + b"\n")


def replace_file(path: Path, content: bytes) -> None:
    """Write, sync, rename over the old file, sync the directory; mode 0600. Raises FlashError."""
    # One fixed name: what a cut leaves behind is overwritten by the next write instead of piling up.
    fresh = path.with_name(f".{path.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        power.reached("flash written")
        fresh.replace(path)
        power.reached("flash replaced")
        _sync_directory(path.parent)
    except OSError as error:
        raise FlashError(f"cannot write {path}: {error.strerror}") from error


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return  # a directory cannot be opened there
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
