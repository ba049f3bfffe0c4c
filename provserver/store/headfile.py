"""The newest signed head of the audit's chain, outside the database: who has only that cannot take it back to then."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from provserver.core.auditchain import Head
from provserver.errors import Misconfigured

_MAX_SIZE = 4096


@dataclass(frozen=True, slots=True)
class HeadFile:
    """A file for one head, as `provserver audit head --json` prints it: mode 0600, there as a whole or not at all."""

    path: Path

    def read(self) -> Head | None:
        """The head that is kept; None where there is none yet. Raises Misconfigured."""
        try:
            with self.path.open() as file:
                content = json.loads(file.read(_MAX_SIZE))
            at = datetime.fromisoformat(content["time"])
            if type(content["seq"]) is not int or at.tzinfo is None:
                raise ValueError
            return Head(content["seq"], bytes.fromhex(content["mac"]), at, bytes.fromhex(content["signature"]))
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise Misconfigured(f"{self.path} cannot be read: {fault.strerror}.") from None
        except (ValueError, TypeError, KeyError):
            raise Misconfigured(
                f"{self.path} is not what the server keeps there. Put a copy of it back, or remove it: it is made anew."
            ) from None

    def keep(self, head: Head) -> None:
        """Keep a head, unless one that is as new is kept. Raises Misconfigured."""
        kept = self.read()
        if kept is None or kept.seq < head.seq:
            self.replace(head)

    def replace(self, head: Head) -> None:
        """Keep a head, whatever was kept. Raises Misconfigured."""
        content = {
            "seq": head.seq,
            "mac": head.mac.hex(),
            "time": head.at.isoformat(),
            "signature": head.signature.hex(),
        }
        self._change(lambda: self._write(json.dumps(content, indent=2) + "\n"))

    def remove(self) -> None:
        """Keep none. Raises Misconfigured."""
        self._change(lambda: self.path.unlink(missing_ok=True))

    def _write(self, content: str) -> None:
        unfinished = self.path.with_name(f".{self.path.name}.{os.urandom(8).hex()}")
        try:
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "w") as file:
                directory = self.path.parent.stat()
                if os.geteuid() == 0 and directory.st_uid != 0:  # a command that root ran: the server reads it too
                    os.fchown(fd, directory.st_uid, directory.st_gid)
                file.write(content)
                file.flush()
                os.fsync(fd)
            unfinished.replace(self.path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _change(self, change: Callable[[], None]) -> None:
        try:
            change()
        except OSError as fault:
            raise Misconfigured(
                f"{self.path} cannot be written: {fault.strerror}. It keeps the audit's newest head: make its "
                "directory writable."
            ) from None
