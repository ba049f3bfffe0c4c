"""The lock on a data directory: the kernel's, hence never stale, with a note on who holds it."""

import fcntl
import os
from pathlib import Path

import msgspec


class Holder(msgspec.Struct):
    """What the lock file says of whoever holds it, or was killed holding it: then it tells what is left."""

    pid: int
    role: str
    socket_dir: str
    ready: bool = False

    def __str__(self) -> str:
        what = "`provserver serve`" if self.role == "serve" else "a provserver command"
        return f"{what} (pid {self.pid})"


class DataDirLock:
    """The kernel's lock on `<data_dir>/lock`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object has it."""
        return self._fd is not None

    def take(self) -> bool:
        """Take the lock if it is free. Raises OSError where the file cannot be made."""
        fd = open_for_owner(self._path, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def holder(self) -> Holder | None:
        """What the file says; None while it is empty or being written."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Holder)
        except msgspec.DecodeError:
            return None

    def record(self, holder: Holder | None) -> None:
        """Write who we are; None when nothing is left to clear."""
        assert self._fd is not None  # noqa: S101
        os.ftruncate(self._fd, 0)
        if holder is not None:
            os.pwrite(self._fd, msgspec.json.encode(holder), 0)

    def release(self) -> None:
        """Let others have it; again is harmless."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def open_for_owner(path: Path, flags: int) -> int:
    """A descriptor of `path`, made 0600 if need be and given to its directory's owner if root made it."""
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    directory = path.parent.stat()
    if os.geteuid() == 0 and directory.st_uid != os.fstat(fd).st_uid:
        os.fchown(fd, directory.st_uid, directory.st_gid)
    return fd
