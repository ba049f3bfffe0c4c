"""Processes of our programs that need not load their code first: that takes longer than most of them run.

One process has loaded a program, and forks for each that is to run. All else is as with `python -m provserver`:
arguments, environment, directory, input, output, signals, exit code, and the end with the terminal's Ctrl-C.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_MESSAGE = 1 << 20
_STREAMS = 3


class Process:
    """A process that was forked for us: as a subprocess.Popen, though its parent is another.

    It is told to end (SIGTERM) when we are gone, and is a zombie until poll() or wait() has told how it ended.
    """

    def __init__(self, line: socket.socket, pid: int, arguments: Sequence[str]) -> None:
        self.args = arguments
        self.pid = pid
        self.returncode: int | None = None
        self._line = line
        self._asking = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        if self.returncode is None and self._asking.acquire(blocking=False):  # else another thread waits, so it runs
            try:
                if self.returncode is None and select.select([self._line], [], [], 0)[0]:
                    self._hear()
            finally:
                self._asking.release()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same once it has ended. Raises subprocess.TimeoutExpired."""
        with self._asking:
            if self.returncode is None:
                if not select.select([self._line], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(list(self.args), timeout or 0.0)
                self._hear()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing if it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _hear(self) -> None:
        """How it ended, and let go of it."""
        code = int(self._line.recv(_MESSAGE))
        self._line.send(b".")
        assert self._line.recv(_MESSAGE) == b""
        self._line.close()
        self.returncode = code


class Program:
    """The process that has loaded a package, and forks; it ends with the one that started it.

    app: where its commands are, "module:name". options: of its interpreter.
    """

    def __init__(self, package: str, app: str, *options: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix=package)
        self._address = str(Path(self._directory.name) / "socket")
        held, self._hold = os.pipe()  # ours is closed when we end, however that is
        ready, told = os.pipe()
        code = f"from {__name__} import serve; serve({package!r}, {app!r}, {self._address!r}, {told}, {held})"
        command = [sys.executable, *options, "-c", code]
        # No terminal: Python asks but once, when it begins, how its output is to be buffered.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(told, held)
        )
        self._package = package
        os.close(held)
        os.close(told)
        assert os.read(ready, 1), f"{package} cannot be loaded"
        os.close(ready)
        atexit.register(self._end)

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        stdout: int,
        stderr: int,
        stdin: int | None = None,
    ) -> Process:
        """Run a command, its streams on files that are open here; without stdin there is nothing to read."""
        nothing = os.open(os.devnull, os.O_RDONLY)
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            line.connect(self._address)
            message = json.dumps([list(arguments), dict(environment), str(Path.cwd())]).encode()
            socket.send_fds(line, [message], [nothing if stdin is None else stdin, stdout, stderr])
            return Process(line, int(line.recv(_MESSAGE)), [self._package, *arguments])
        except BaseException:
            line.close()
            raise
        finally:
            os.close(nothing)

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], input_: str | None, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Raises subprocess.TimeoutExpired."""
        with (
            tempfile.TemporaryFile("w+") as given,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            given.write(input_ or "")
            given.seek(0)
            process = self.start(arguments, environment, out.fileno(), err.fileno(), given.fileno())
            try:
                code = process.wait(timeout)
            except BaseException as fault:
                process.kill()
                process.wait()
                for each in (out, err):
                    each.seek(0)
                    fault.add_note(each.read()[-5000:])
                raise
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(process.args, code, out.read(), err.read())

    def _end(self) -> None:
        os.close(self._hold)
        self._process.wait()
        self._directory.cleanup()


@functools.cache
def provserver() -> Program:
    """The server and its commands."""
    return Program("provserver", "provserver.cli.app:cli")


@functools.cache
def firmware_sim() -> Program:
    """The simulator, whose warnings are errors."""
    return Program("firmware_sim", "firmware_sim.cli:app", "-W", "error")


def serve(package: str, app: str, address: str, told: int, held: int) -> None:
    """Fork for whoever connects to a Unix socket, until the other end of `held` is closed."""
    gc.disable()
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    import typer.main

    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(pkgutil.resolve_name(app))
    main, name = sys.modules[f"{package}.cli"].main, package.replace("_", "-")
    gc.freeze()
    gc.enable()
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those that were forked
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who has answered is waited for by nobody
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen(64)
        os.write(told, b".")
        os.close(told)
        while held not in select.select([listening.fileno(), held], [], [])[0]:
            line, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                os.close(held)
                _answer(line, name, main, interrupt)
            line.close()


def _answer(line: socket.socket, name: str, main: Callable[[], None], interrupt: Any) -> None:
    """Fork once more, and tell how that process has ended."""
    message, streams, _, _ = socket.recv_fds(line, _MESSAGE, _STREAMS)
    arguments, environment, directory = json.loads(message)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        line.close()
        signal.signal(signal.SIGINT, interrupt)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(directory)
        sys.argv = [name, *arguments]
        main()
        sys.exit()
    for stream in streams:  # whoever reads what it says is to see the end of it
        os.close(stream)
    ended = os.pidfd_open(pid)
    with suppress(ConnectionError):  # who asked is gone
        line.send(str(pid).encode())
        if ended in select.select([ended, line.fileno()], [], [])[0]:
            how = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            assert how is not None
            code = how.si_status if how.si_code == os.CLD_EXITED else -how.si_status
            line.send(str(code).encode())
            line.recv(1)
    signal.pidfd_send_signal(ended, signal.SIGTERM)  # nothing, if it has ended
    os.waitpid(pid, 0)
    os._exit(0)
