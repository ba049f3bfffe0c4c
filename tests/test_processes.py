"""A program that is forked is one that was started: to itself, and to who starts it."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import processes
from tests.processes import Process

STARTER = """
import os, sys
from tests import processes
nothing = os.open(os.devnull, os.O_WRONLY)
process = processes.firmware_sim().start(sys.argv[1:], os.environ, nothing, nothing)
print(process.pid, flush=True)
process.wait()
"""


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Where nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        yield listening


def words(silent: socket.socket) -> list[str]:
    """Of a command that waits for an answer."""
    where = f"127.0.0.1:{silent.getsockname()[1]}"
    return ["device", "--transport", "http", "--server", where, "--timeout", "300", "--key", "k", "--secret", "s"]


def asked(silent: socket.socket, pid: int) -> socket.socket:
    """Its connection, once it has asked and does nothing but wait: before that it still opens and closes files."""
    asks, _ = silent.accept()
    asks.settimeout(60)
    assert asks.recv(1)
    while (state := Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]) != "S":
        assert state in "RD", state
    return asks


@pytest.fixture
def held(silent: socket.socket) -> Iterator[Process]:
    with Path(os.devnull).open("wb") as nothing:
        process = processes.firmware_sim().start(words(silent), os.environ, nothing.fileno(), nothing.fileno())
    try:
        with asked(silent, process.pid):
            yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("arguments", ["--help", "db nothing", "profile list", "token show 1 --json", "serve --http x"])
def test_it_says_what_a_python_of_its_own_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {"COLUMNS": "77", "PROVSERVER_DATA_DIR": "here"}
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'provserver'; import provserver.__main__"]

    own = subprocess.run([*command, *arguments.split()], env=environment, capture_output=True, text=True, check=False)
    forked = processes.provserver().run(arguments.split(), environment, None, 60)

    assert own.stdout + own.stderr
    assert (forked.returncode, forked.stdout, forked.stderr) == (own.returncode, own.stdout, own.stderr)


def looks(pid: int) -> dict[str, object]:
    """What of a process its starter decides."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    names = ("SigBlk", "SigIgn", "SigCgt", "Umask", "Groups", "NoNewPrivs", "Cpus_allowed")
    files = (path.readlink().name.partition(":")[0] for path in Path(f"/proc/{pid}/fd").iterdir())
    where = Path(f"/proc/{pid}/cwd").readlink(), os.getpgid(pid), os.getsid(pid), os.getpriority(os.PRIO_PROCESS, pid)
    limits = Path(f"/proc/{pid}/limits").read_text()
    return {name: status[name] for name in names} | {"files": sorted(files), "where": where, "limits": limits}


def test_it_looks_as_a_process_of_its_starter(held: Process, silent: socket.socket) -> None:
    command = [sys.executable, "-W", "error", "-m", "firmware_sim", *words(silent)]
    nothing = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing) as own:
        try:
            with asked(silent, own.pid):
                assert looks(held.pid) == looks(own.pid)
        finally:
            own.kill()


def test_how_it_ended_is_told(held: Process) -> None:
    assert held.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        held.wait(0)
    held.kill()

    assert held.wait(60) == held.poll() == held.returncode == -signal.SIGKILL
    assert not Path(f"/proc/{held.pid}").exists()
    held.terminate()  # whom?


def test_an_interrupt_ends_it_with_130(held: Process) -> None:
    held.send_signal(signal.SIGINT)

    assert held.wait(60) == 130


def test_it_is_there_until_somebody_hears_how_it_ended(held: Process) -> None:
    end = os.pidfd_open(held.pid)
    os.kill(held.pid, signal.SIGKILL)
    assert select.select([end], [], [], 60)[0]
    os.close(end)
    assert Path(f"/proc/{held.pid}/stat").read_text().split()[2] == "Z"

    assert held.wait(60) == -signal.SIGKILL
    assert not Path(f"/proc/{held.pid}").exists()


def test_it_ends_with_its_starter(silent: socket.socket) -> None:
    command = [sys.executable, "-c", STARTER, *words(silent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        end = os.pidfd_open(pid)
        try:
            asks, _ = silent.accept()
        finally:
            starter.kill()
        with asks:
            assert select.select([end], [], [], 60)[0]
        os.close(end)
