"""A real `provserver serve` in a process of its own, on free ports, for tests and the demo."""

import atexit
import functools
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests import processes
from tests.processes import Process

START_LIMIT = 120.0
STOP_LIMIT = 60.0
COMMAND_LIMIT = 120.0
LIMIT = 120.0
"""Seconds after which what is waited for is taken never to be."""

MODES = {
    "two-workers": {"PROVSERVER_WORKERS": "2"},
    "no-front": {"PROVSERVER_HTTP_FRONT": "false", "PROVSERVER_COAP_FRONT": "false"},
    "no-coap-front": {"PROVSERVER_COAP_FRONT": "false"},
}
"""What PROVSERVER_TEST_MODE may name, several with commas between: options of every server that tests start."""

UNLIMITED = {"PROVSERVER_GUESS_INTERVAL": "0", "PROVSERVER_REPEAT_INTERVAL": "0"}
"""As all tests ask from one address, and many guess."""

PLAIN = ("http", "mqtt", "coap", "admin")
SECURE = ("https", "mqtts", "coaps")


class CommandFailed(Exception):  # noqa: N818
    """A command of the CLI ended with another exit code than 0; .code and .message hold what it said."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"exit code {code}: {message}")
        self.code = code
        self.message = message


def mode() -> dict[str, str]:
    """The environment of servers in the mode of this run; what a test passes itself goes before."""
    names = filter(None, os.environ.get("PROVSERVER_TEST_MODE", "").split(","))
    return {name: value for each in names for name, value in MODES[each].items()}


def children(pid: int) -> list[int]:
    """What a process has forked, oldest first: a server with workers its database's, the admin API's, the workers."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(holds: Callable[[], bool], what: str) -> None:
    """Look until something holds that nobody tells of; what: of another process, in words."""
    end = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"not after {LIMIT} s: {what}")
        time.sleep(0.002)


def quiet_port() -> int:
    """A free port that the kernel lends to no client; other processes of the run look for theirs elsewhere."""
    first = 20_000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 12 * 1_000
    while True:
        port = random.randrange(first, first + 1_000)
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            try:
                stream.bind(("127.0.0.1", port))
                datagram.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@functools.cache
def _cluster() -> Path | None:
    """A Postgres cluster with a server's database, its schema up to date and nothing else in it, to be copied.

    None where it belongs to another user, who must own the copies too.
    """
    directory = Path(tempfile.mkdtemp(prefix="cluster"))
    atexit.register(shutil.rmtree, directory)
    made = processes.provserver().run(
        ["db", "upgrade", "--data-dir", str(directory)], os.environ | mode(), None, COMMAND_LIMIT
    )
    if made.returncode:
        raise CommandFailed(made.returncode, made.stderr)
    cluster = directory / "postgres"
    return None if cluster.is_symlink() or cluster.stat().st_uid != os.geteuid() else cluster


class Server:
    """Starts, stops and kills the server; the addresses are "host:port".

    tls: with a development CA, and the listeners that need it. env: beside what the mode of the run demands.
    fresh: as an operator starts it, from nothing, with a Python of its own. Else, which is far quicker, it is forked
    from one that has the code loaded, and an embedded Postgres begins with a copy of a database that was made before.
    """

    def __init__(
        self,
        data_dir: Path,
        *options: str,
        env: dict[str, str] | None = None,
        tls: bool = False,
        fresh: bool = False,
    ) -> None:
        self.data_dir = data_dir
        self.options = options
        self.ca = data_dir / "tls" / "ca.pem"
        self._names = PLAIN + SECURE if tls else PLAIN
        self.env = os.environ | mode() | UNLIMITED | {"PROVSERVER_LOG_FORMAT": "json"} | (env or {})
        self.log_file = data_dir.with_name(data_dir.name + ".log")
        self.addresses: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | Process | None = None
        self._fresh = fresh
        self._ready_file = data_dir.with_name(data_dir.name + ".ready.json")

    @property
    def http(self) -> str:
        return self.addresses["http"]

    @property
    def mqtt(self) -> str:
        return self.addresses["mqtt"]

    @property
    def coap(self) -> str:
        return self.addresses["coap"]

    @property
    def devices(self) -> dict[str, str]:
        """The addresses that devices use."""
        return {name: address for name, address in self.addresses.items() if name != "admin"}

    @property
    def admin(self) -> str:
        return self.addresses["admin"]

    @property
    def https(self) -> str:
        return self.addresses["https"]

    @property
    def mqtts(self) -> str:
        return self.addresses["mqtts"]

    @property
    def coaps(self) -> str:
        return self.addresses["coaps"]

    @property
    def log(self) -> str:
        """What it has written to stderr and stdout so far, over all its starts."""
        return self.log_file.read_text()

    def start(self, *, restartable: bool = False) -> Self:
        """Start it, again on the addresses it had before; returns once every listener accepts.

        restartable: on ports below those that the kernel lends to clients, so that none takes one in between.
        """
        self._ready_file.unlink(missing_ok=True)
        if "https" in self._names and not self.ca.exists():
            self.cli("ca", "init")
        if restartable and not self.addresses:
            ports: set[int] = set()
            while len(ports) < len(self._names):
                ports.add(quiet_port())
            self.addresses = {name: f"127.0.0.1:{port}" for name, port in zip(self._names, ports, strict=True)}
        listeners = {name: self.addresses.get(name, "127.0.0.1:0") for name in self._names}
        command = ["serve", *self._data, "--ready-file", str(self._ready_file)]
        for name, address in listeners.items():
            command += [f"--{name}", address]
        command += self.options
        self._furnish()
        with self.log_file.open("ab") as log:
            if self._fresh:
                command = [sys.executable, "-m", "provserver", *command]
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env)
            else:
                self.process = processes.provserver().start(command, self.env, log.fileno(), log.fileno())
        deadline = time.monotonic() + START_LIMIT
        while not self._ready_file.exists():
            if (code := self.process.poll()) is not None:
                raise CommandFailed(code, self.log)
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"not ready after {START_LIMIT} s: {self.log}")
            time.sleep(0.01)
        self.addresses = json.loads(self._ready_file.read_text())
        return self

    def stop(self) -> int:
        """End it as an operator does; returns the exit code. One that does not end is killed, and its log is shown."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired as fault:
            self.kill()
            fault.add_note(self.log)
            raise

    def kill(self) -> None:
        """End it as a power cut does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)  # so that it starts nobody again
        ends = [os.pidfd_open(pid) for pid in (children(self.process.pid) if self._supervised else ())]
        self.process.kill()
        self.process.wait()
        for end in ends:  # its workers would answer what is under way first
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(end, signal.SIGKILL)
            select.select([end], [], [])
            os.close(end)

    def cli(self, *arguments: str, input_: str | None = None) -> Any:
        """Run a command on the server's database; returns the JSON it prints. Raises CommandFailed."""
        done = self.run(*arguments, "--json", input_=input_)
        if done.returncode:
            raise CommandFailed(done.returncode, done.stderr + done.stdout)
        return json.loads(done.stdout)

    def run(self, *arguments: str, input_: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command on the server's database as it is."""
        return processes.provserver().run([*arguments, *self._data], self.env, input_, COMMAND_LIMIT)

    def _furnish(self) -> None:
        """Put the copy of a cluster where there would be made one."""
        cluster = self.data_dir / "postgres"
        own = "--database-url" in self.options or self.env.get("PROVSERVER_DATABASE_URL")
        if not self._fresh and not own and not cluster.exists() and (made := _cluster()) is not None:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", str(made), str(cluster)], check=True)

    @property
    def _supervised(self) -> bool:
        return "--workers" in self.options or self.env.get("PROVSERVER_WORKERS", "1") != "1"

    @property
    def _data(self) -> Sequence[str]:
        return ("--data-dir", str(self.data_dir))

    def __enter__(self) -> Self:
        started = self.process is not None and self.process.poll() is None
        return self if started else self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
