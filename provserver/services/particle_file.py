"""Static tokens for Particle devices from exported CSV files, with the record of who has which in a file beside them.

The record holds no token, only digests of them (they are random, so nothing is found out from that). It grows by
lines, each on the disk before the ledger gets the token: a run that is killed leaves a record to go on with.
"""

import fcntl
import hashlib
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

import msgspec
from msgspec import Struct

from provserver.core import particlefile
from provserver.core.particle import Device, Field, Place, Token, named_by
from provserver.core.particlefile import FileToken, InvalidFile
from provserver.errors import Conflict, Invalid, Misconfigured, NotFound

State = Literal["reserved", "written", "given_up"]

MAX_TOKENS = 1_000_000


class _Head(Struct, frozen=True, forbid_unknown_fields=True):
    """The first line: whose devices they are."""

    url: str
    org: str
    product: str
    ledger: str
    version: Literal[1] = 1


class _Line(Struct, frozen=True, forbid_unknown_fields=True):
    """What became of a token, a digest."""

    device: str
    token: str
    state: State
    at: datetime


class FileTokens:
    """See `particle_delivery.Tokens`. Use it as a context. Raises Invalid, Misconfigured, Conflict.

    keep: whether anything is to be recorded; else the record is only read. That a token of a file was never in a device
    is not known: so ledgers are looked through before one is given.
    """

    certain = False

    def __init__(self, files: Sequence[Path], bindings: Path, place: Place, *, keep: bool = True) -> None:
        self._path = bindings
        self._keep = keep
        self._head = _Head(place.url, place.org, place.product, place.ledger)
        self._rows = _read_all(files)
        self._latest: dict[str, _Line] = {}
        self._of_device: dict[str, str] = {}
        self._descriptor = -1
        self._is_begun = False

    def __enter__(self) -> Self:
        try:
            if self._keep:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                os.fchmod(self._descriptor, 0o600)
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._load(self._path.read_bytes() if self._keep or self._path.exists() else b"")
        except BlockingIOError:
            self._close()
            raise Conflict(f"Another run has {self._path} just now. Wait until it is done.") from None
        except OSError as fault:
            self._close()
            raise Misconfigured(f"{self._path} cannot be used: {fault.strerror}.") from None
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """See `Tokens`: the file is locked as long as it is open."""
        yield

    async def held(self, devices: Sequence[str]) -> Mapping[str, Token]:
        """See `Tokens`."""
        return {device: self._token(self._of_device[device]) for device in devices if device in self._of_device}

    async def revoked(self, devices: Sequence[str]) -> Collection[str]:
        """See `Tokens`."""
        given_up = {line.device for line in self._latest.values() if line.state == "given_up"}
        return given_up.intersection(devices) - self._of_device.keys()

    async def matching(self, devices: Sequence[Device]) -> Mapping[str, Sequence[Token]]:
        """See `Tokens`."""
        naming: dict[tuple[Field, str], list[str]] = defaultdict(list)
        for digest, (row, _) in self._rows.items():
            for field, name in row.names.items():
                naming[field, name].append(digest)
        found: dict[str, list[Token]] = {}
        for device in devices:
            for field in Field:
                value = named_by(device, field)
                if value is not None and (digests := naming.get((field, value))):
                    found[device.id] = [self._token(digest) for digest in digests]
                    break
        return found

    async def free(self, count: int, *, exported: bool = False) -> Sequence[Token]:  # noqa: ARG002 - all are
        """See `Tokens`: in the order of the files and their rows."""
        found: list[Token] = []
        for digest, (row, _) in self._rows.items():
            if len(found) == count:
                break
            if not row.names and digest not in self._latest:
                found.append(self._token(digest))
        return found

    async def lacking(self) -> str:
        """See `Tokens`."""
        return "no token of the files is left for it: name another export with --csv"

    async def identify(self, values: Sequence[str]) -> Mapping[str, Token]:
        """See `Tokens`: also those that the record has and the files have not."""
        digests = {value: _digest(value) for value in values}
        return {
            value: self._token(digest)
            for value, digest in digests.items()
            if digest in self._rows or digest in self._latest
        }

    async def bind(self, pairs: Sequence[tuple[Token, str]]) -> bool:
        """See `Tokens`."""
        if any(token.id in self._latest or device in self._of_device for token, device in pairs):
            return False
        self._append(_line(device, token.id, "reserved") for token, device in pairs)
        return True

    async def open(self, token: Token) -> str:
        """See `Tokens`."""
        try:
            return self._rows[token.id][0].token
        except KeyError:
            raise NotFound(
                f"The token of {token.label} is in none of the files. Name all files that tokens were taken from."
            ) from None

    async def written(self, token: Token, device: str) -> None:
        """See `Tokens`."""
        if self._latest[token.id].state != "written":
            self._append([_line(device, token.id, "written")])

    async def give_up(self, token: Token, device: str) -> bool:
        """See `Tokens`."""
        self._append([_line(device, token.id, "given_up")])
        return True

    def _token(self, digest: str) -> Token:
        line, row = self._latest.get(digest), self._rows.get(digest)
        label = f"{row[1]}:{row[0].line}" if row is not None else f"the record, sha256:{digest[:8]}"
        if line is None:
            return Token(digest, label)
        return Token(digest, label, line.device, written=line.state == "written", given_up=line.state == "given_up")

    def _load(self, content: bytes) -> None:
        whole, _, torn = content.rpartition(b"\n")
        if torn and self._keep:  # by whatever killed the run that wrote it: it had not yet had its effect
            os.ftruncate(self._descriptor, len(content) - len(torn))
        if not whole:  # whose record it is is said with the first token, when the product is known to be there
            return
        self._is_begun = True
        first, *rest = whole.split(b"\n")
        try:
            head = msgspec.json.decode(first, type=_Head)
            lines = [msgspec.json.decode(line, type=_Line) for line in rest]
        except msgspec.DecodeError:
            raise Misconfigured(f"{self._path} is no record of tokens. Name another file with --bindings.") from None
        if head != self._head:
            raise Misconfigured(
                f"{self._path} is the record of the product {head.product!r} and its ledger {head.ledger!r}. "
                "Name another file with --bindings."
            )
        for line in lines:
            self._apply(line)

    def _append(self, lines: Iterable[_Line]) -> None:
        lines = list(lines)
        head = [] if self._is_begun else [self._head]
        self._write(b"".join(msgspec.json.encode(line) + b"\n" for line in [*head, *lines]))
        self._is_begun = True
        for line in lines:
            self._apply(line)

    def _apply(self, line: _Line) -> None:
        self._latest[line.token] = line
        if line.state != "given_up":
            self._of_device[line.device] = line.token
        elif self._of_device.get(line.device) == line.token:
            del self._of_device[line.device]

    def _write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError as fault:
            raise Misconfigured(f"{self._path} cannot be written: {fault.strerror}.") from None

    def _close(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1


def _read_all(files: Sequence[Path]) -> dict[str, tuple[FileToken, str]]:
    """All rows by the digest of their token, each with its file's name, in the order of the names. Raises Invalid."""
    found: dict[str, tuple[FileToken, str]] = {}
    for file in sorted(_in_folders(files), key=lambda each: (each.name, str(each))):
        before = len(found)
        try:
            with file.open(encoding="utf-8", newline="") as lines:
                for row in particlefile.read(lines):
                    digest = _digest(row.token)
                    if digest in found:
                        earlier, name = found[digest]
                        raise Invalid(
                            f"{file}, line {row.line}: the token is in {name}, line {earlier.line}, too. "
                            "Remove one of them: two devices must not have one token."
                        )
                    found[digest] = row, file.name
                    if len(found) > MAX_TOKENS:
                        raise Invalid(f"More than {MAX_TOKENS:,} tokens: divide the files.")
        except InvalidFile as fault:
            raise Invalid(f"{file}: {fault}.") from None
        except UnicodeDecodeError:
            raise Invalid(f"{file} is not UTF-8: save it as CSV in UTF-8.") from None
        except OSError as fault:
            raise Misconfigured(f"{file} cannot be read: {fault.strerror}.") from None
        if len(found) == before:
            raise Invalid(f"{file} has no token: below the row that names the columns there is nothing.")
    return found


def _in_folders(files: Sequence[Path]) -> Iterator[Path]:
    """The files, and of a folder all that are called .csv. Raises Invalid."""
    for file in files:
        if not file.is_dir():
            yield file
        elif inside := sorted(each for each in file.iterdir() if each.suffix.lower() == ".csv"):
            yield from inside
        else:
            raise Invalid(f"There is no .csv file in the folder {file}.")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def _line(device: str, token: str, state: State) -> _Line:
    return _Line(device, token, state, datetime.now(UTC))
