"""Files that commands send on."""

import os
import shlex
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from provserver.admin.client import Client, Query
from provserver.cli import output
from provserver.errors import Misconfigured, Refused

CHUNK = 1 << 16


async def import_(api: Client, path: str, file: Path, query: Query, *, quiet: bool) -> dict[str, Any]:
    """Have the rows of a CSV file imported, `-` being standard input; the report. Raises Refused.

    Who watches is shown how far it is: then a job does it, which can be asked.
    """
    watched = output.is_watched(quiet=quiet)
    with output.progress("bytes", quiet=quiet) as told, _reading(file, told) as content:
        report: dict[str, Any] = await api.upload(path, content, query={**query, "asJob": watched or None})
    if watched:
        with output.progress("rows", quiet=quiet) as told:
            report = await api.finished(report["job"], told)
    return report


@contextmanager
def _reading(file: Path, progress: Callable[[int, int | None], None]) -> Iterator[AsyncIterator[bytes]]:
    """What a file holds, as it is read. progress: told the bytes, and of how many, where that is known."""
    piped = str(file) == "-"
    try:
        opened = open(0 if piped else file, "rb", closefd=not piped)  # noqa: SIM115 - closed below
        total = os.fstat(opened.fileno()).st_size or None
    except OSError as fault:
        raise Refused(f"{file} cannot be read: {fault.strerror}.") from None
    with opened as content:
        yield _chunks(content, lambda done: progress(done, total))


async def _chunks(content: BinaryIO, progress: Callable[[int], None]) -> AsyncIterator[bytes]:
    done = 0
    while chunk := content.read(CHUNK):
        yield chunk
        done += len(chunk)
        progress(done)


def secret(file: Path, *, blanks: bool = False) -> str:
    """What a text file holds that nobody but its owner may read. Raises Misconfigured.

    blanks: those at its ends belong to it, but for the line's end.
    """
    try:
        with file.open() as opened:
            if os.fstat(opened.fileno()).st_mode & 0o077:
                raise Misconfigured(f"{file} can be read by others: chmod 600 {shlex.quote(str(file))}")
            return opened.read().strip("\r\n" if blanks else None)
    except (OSError, UnicodeDecodeError) as fault:
        raise Misconfigured(f"{file} cannot be read: {fault}.") from None


def text(file: Path) -> str:
    """What a text file holds. Raises Misconfigured."""
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as fault:
        raise Misconfigured(f"{file} cannot be read: {fault}.") from None
