"""Processes of the run, what they cost, what must be installed. What is started here is ended here, by its id."""

import ctypes
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
BUILD = FOLDER / "build"
AMQTT_PYTHON = FOLDER / ".venv/bin/python"

START_LIMIT = 60.0
STOP_LIMIT = 60.0

_PR_SET_PDEATHSIG = 1
_TICKS = os.sysconf("SC_CLK_TCK")
_libc = ctypes.CDLL(None)

_PROGRAMS = {"mosquitto": "mosquitto", "gcc": "gcc", "taskset": "util-linux"}
_COAP_SERVERS = ("coap-server-notls", "coap-server", "coap-server-openssl")


class Broken(Exception):  # noqa: N818
    """Something of the run does not do what it must: the message says what."""


class Processes:
    """The run's processes; those left at the end are ended in the reverse order, also when it is interrupted."""

    def __init__(self, folder: Path) -> None:
        """folder: where their logs go."""
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        *command: object,
        environment: Mapping[str, str] | None = None,
        core: int | None = None,
        output: int | None = None,
        input_: int | None = subprocess.DEVNULL,
        log: str = "",
    ) -> subprocess.Popen[bytes]:
        """Start a program, on one core if one is given. It dies with us, and gets no Ctrl-C but from us."""
        words = [str(word) for word in command]
        name = log or Path(words[0]).name
        if core is not None:
            words = ["taskset", "-c", str(core), *words]
        with self.log_file(name).open("ab") as file:
            process = subprocess.Popen(
                words,
                stdin=input_,
                stdout=file if output is None else output,
                stderr=file,
                env=dict(os.environ if environment is None else environment),
                start_new_session=True,
                preexec_fn=_die_with_parent,  # there are no threads here
                cwd=ROOT,
            )
        self._running.append(process)
        return process

    def log(self, name: str) -> str:
        """The last lines that a program wrote."""
        return "\n".join(self.log_file(name).read_text(errors="replace").splitlines()[-20:])

    def log_file(self, name: str) -> Path:
        """All that a program wrote, and those of its name before it."""
        return self._folder / f"{name}.log"

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """End one as an operator does, by force if it must be; its exit code."""
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        if process.poll() is None:
            process.terminate()
        try:
            code = process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        self._running.remove(process)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(tuple(self._running)):
            self.end(process)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let signals unwind the run, also where a shell has had Ctrl-C ignored."""

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_until(condition: Callable[[], bool], what: str, limit: float = START_LIMIT, pause: float = 0.005) -> None:
    """Poll. Raises Broken when it takes too long."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise Broken(f"{what}: not within {limit:.0f} s")
        time.sleep(pause)


def accepts(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port(type_: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody has just now, for servers that cannot choose one themselves."""
    with socket.socket(type=type_) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Lap:
    """What a process and its children, also those that have ended meanwhile, take from the cores."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._begun = time.monotonic()
        self._before = cpu_seconds(pid)

    def cores(self) -> float:
        """Cores in use, on average, since the lap began."""
        return (cpu_seconds(self._pid) - self._before) / (time.monotonic() - self._begun)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, tb: TracebackType | None) -> None:
        return None


def family(pid: int) -> list[int]:
    """A process and all that came of it."""
    found = [pid]
    for each in found:
        for thread in threads(each):
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def threads(pid: int) -> list[Path]:
    """Where the kernel tells of a process' threads; none of one that has ended."""
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


@contextmanager
def pinned(pid: int, core: int) -> Iterator[None]:
    """Have a process, its children and those that it starts meanwhile on one core."""
    anywhere = os.sched_getaffinity(0)
    try:
        for each in family(pid):
            with suppress(ProcessLookupError):  # it has ended just now
                os.sched_setaffinity(each, {core})
        yield
    finally:
        for each in family(pid):
            with suppress(ProcessLookupError):  # it has ended just now
                os.sched_setaffinity(each, anywhere)


class EndedLap:
    """What programs that were waited for since it began have taken."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._before = _ended_seconds()

    def cores(self) -> float:
        """Cores in use, on average."""
        return (_ended_seconds() - self._before) / (time.monotonic() - self._begun)


def _ended_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cpu_seconds(pid: int) -> float:
    """That a process and its children have used, and those they have waited for (proc(5): utime to cstime)."""
    ticks = 0
    for each in family(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def resident(pid: int, *, shared_once: bool = False) -> int:
    """Bytes of memory that a process and its children hold; what they share counts for each, or once."""
    kind = "Pss:" if shared_once else "Rss:"
    total = 0
    for each in family(pid):
        with suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
                if line.startswith(kind):
                    total += int(line.split()[1]) * 1024
    return total


def find(*names: str) -> str | None:
    """A program of the system, also where daemons are."""
    for name in names:
        if path := shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin"):
            return path
    return None


def coap_server() -> str | None:
    """The program of libcoap."""
    return find(*_COAP_SERVERS)


def missing(*, amqtt: bool = True) -> list[str]:
    """What is to be installed, and how. amqtt: whether it is needed."""
    packages = [package for program, package in _PROGRAMS.items() if find(program) is None]
    if coap_server() is None:
        packages.append("libcoap3-bin")
    if find("gcc") and not _has_header("openssl/ssl.h"):
        packages.append("libssl-dev")
    if find("gcc") and not _has_header("math.h"):
        packages.append("libc6-dev")
    wanted = [f"apt-get install {' '.join(packages)}"] if packages else []
    if amqtt and not AMQTT_PYTHON.exists():
        wanted.append("make bench (which installs aMQTT into benchmarks/.venv)")
    if len(os.sched_getaffinity(0)) < 2:
        wanted.append("a second core")
    return wanted


def _has_header(name: str) -> bool:
    done = subprocess.run(
        ("gcc", "-E", "-x", "c", "-"), input=f"#include <{name}>\n".encode(), capture_output=True, check=False
    )
    return done.returncode == 0


def build() -> None:
    """Compile what is older than its source."""
    BUILD.mkdir(exist_ok=True)
    folder = FOLDER / "generators"
    shared = (folder / "load.h").stat().st_mtime
    programs: dict[str, Sequence[str]] = {
        "http_load": ("-lm",),
        "coap_load": ("-lm",),
        "mqtt_load": ("-lm", "-lssl", "-lcrypto"),
        "slow_fdatasync.so": ("-shared", "-fPIC", "-ldl"),
    }
    for name, flags in programs.items():
        source, target = folder / f"{Path(name).stem}.c", BUILD / name
        if target.exists() and target.stat().st_mtime > max(source.stat().st_mtime, shared):
            continue
        done = subprocess.run(
            ("gcc", "-O2", "-Wall", "-o", target, source, *flags), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Broken(f"{source} cannot be compiled:\n{done.stderr}")
