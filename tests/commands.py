"""Commands of the server in processes of their own that need not load its code first: that takes longer than most do.

One process has loaded it, and forks for each command. All else is as with `python -m provserver`: arguments,
environment, directory, input, output, exit code.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_LOADED = ("provserver.cli", "provserver.workspace", "provserver.admin.api", "provserver.admin.build", "asyncpg")
_MESSAGE = 1 << 20
_STREAMS = 3


class Commands:
    """The process that forks; it ends with the one that started it."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="commands")
        self._address = str(Path(self._directory.name) / "socket")
        held, self._hold = os.pipe()  # ours is closed when we end, however that is
        ready, told = os.pipe()
        code = f"from {__name__} import serve; serve({self._address!r}, {told}, {held})"
        self._process = subprocess.Popen([sys.executable, "-c", code], pass_fds=(told, held))
        os.close(held)
        os.close(told)
        assert os.read(ready, 1)
        os.close(ready)
        atexit.register(self._end)

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], input_: str | None, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Raises subprocess.TimeoutExpired."""
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line,
            tempfile.TemporaryFile("w+") as given,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            given.write(input_ or "")
            given.seek(0)
            line.connect(self._address)
            message = json.dumps([list(arguments), dict(environment), str(Path.cwd())]).encode()
            socket.send_fds(line, [message], [given.fileno(), out.fileno(), err.fileno()])
            line.settimeout(timeout)
            pid = int(line.recv(_MESSAGE))
            try:
                status = int(line.recv(_MESSAGE))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(["provserver", *arguments], timeout) from None
            out.seek(0)
            err.seek(0)
            code = os.waitstatus_to_exitcode(status)
            return subprocess.CompletedProcess(["provserver", *arguments], code, out.read(), err.read())

    def _end(self) -> None:
        os.close(self._hold)
        self._process.wait()
        self._directory.cleanup()


@functools.cache
def commands() -> Commands:
    """Those of this run."""
    return Commands()


def serve(address: str, told: int, held: int) -> None:
    """Fork for whoever connects to a Unix socket, until the other end of `held` is closed."""
    for name in _LOADED:
        importlib.import_module(name)
    import typer.main

    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(sys.modules["provserver.cli.app"].cli)
    gc.freeze()
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
                _answer(line)
            line.close()


def _answer(line: socket.socket) -> None:
    """Fork once more, and tell how that process has ended."""
    message, streams, _, _ = socket.recv_fds(line, _MESSAGE, _STREAMS)
    arguments, environment, directory = json.loads(message)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        line.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(directory)
        sys.argv = ["provserver", *arguments]
        sys.modules["provserver.cli"].main()
        sys.exit()
    line.send(str(pid).encode())
    line.send(str(os.waitpid(pid, 0)[1]).encode())
    os._exit(0)
