"""The file that holds the set-up link: for its owner alone, there as a whole or not at all."""

import os
from pathlib import Path

from provserver.errors import Misconfigured

_MAX_SIZE = 4096


def write(path: Path, link: str) -> None:
    """Write a link, in place of one that is there, mode 0600. Raises Misconfigured."""
    unfinished = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        try:
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "w") as file:
                os.fchmod(fd, 0o600)
                directory = path.parent.stat()
                if os.geteuid() == 0 and directory.st_uid != 0:
                    os.fchown(fd, directory.st_uid, directory.st_gid)
                file.write(f"{link}\n")
                file.flush()
                os.fsync(fd)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as fault:
        raise Misconfigured(f"{path} cannot be written: {fault.strerror}. Make its directory writable.") from None


def read(path: Path) -> str | None:
    """The link that is there; None when there is none that can be read, or others may have read it."""
    try:
        with path.open() as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                return None
            return file.read(_MAX_SIZE).strip()
    except (OSError, ValueError):
        return None


def remove(path: Path) -> None:
    """Remove the link, if there is one. Raises Misconfigured."""
    try:
        path.unlink(missing_ok=True)
    except OSError as fault:
        raise Misconfigured(f"{path} cannot be removed: {fault.strerror}. Remove it.") from None
