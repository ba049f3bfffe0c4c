import os
import subprocess
import sys

import pytest

from benchmarks import intervals, machine
from benchmarks.machine import cpu_seconds, family, pinned, threads


@pytest.fixture
def ended() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_family_is_a_process_and_all_that_came_of_it() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        parent, child = family(process.pid)
        assert parent == process.pid
        assert f"/proc/{child}/task/{child}" in map(str, threads(child))
        assert cpu_seconds(parent) >= cpu_seconds(child)
        process.communicate(b"\n")


def test_who_has_ended_is_nobody(ended: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a backend of Postgres does between one look and the next."""
    assert threads(ended) == []
    assert family(ended) == [ended]
    assert (cpu_seconds(ended), intervals.waited(ended)) == (0, 0)
    monkeypatch.setattr(machine, "family", lambda _: [ended])
    with pinned(ended, min(os.sched_getaffinity(0))):
        pass
