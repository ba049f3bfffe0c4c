"""A server of the bench: what it logs may break a run, and what its processes take is counted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.machine import Broken, EndedLap, Processes, cpu_seconds, pinned, resident
from benchmarks.product import Product, is_fault

ERROR = json.dumps({"event": "a provision statement failed", "level": "error"})
STACK = json.dumps({"event": "odd", "level": "warning", "exception": "File …"})


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (json.dumps({"event": "serving: no error", "level": "info"}), False),
        (json.dumps({"event": "look", "level": "warning"}), False),
        (json.dumps({"event": "it is over", "level": "critical"}), True),
        (ERROR, True),
        (STACK, True),
        ("Traceback (most recent call last):", True),
        ("not a record", False),
        ("17", False),
    ],
)
def test_what_is_a_fault(line: str, fault: bool) -> None:
    assert is_fault(line) is fault


def test_a_server_has_the_faults_of_its_own_start(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.log_file("serve-data").write_text(f"{ERROR}\n")  # of a server before it
        product = Product(processes, tmp_path / "data")
        product.start()
        try:
            assert product.faults() == []
            with processes.log_file("serve-data").open("a") as file:
                file.write(f"{STACK}\n{ERROR}\n")
            assert product.faults() == [STACK, ERROR]
        finally:
            with pytest.raises(Broken, match="logged 2 errors, the first"):
                product.stop()


def test_what_ended_programs_took_is_counted() -> None:
    lap = EndedLap()
    subprocess.run((sys.executable, "-c", "sum(range(3_000_000))"), check=True)
    assert lap.cores() > 0


def test_a_process_is_pinned_meanwhile(tmp_path: Path) -> None:
    anywhere = os.sched_getaffinity(0)
    core = max(anywhere)
    with Processes(tmp_path) as processes:
        process = processes.start("sleep", 60)
        with pinned(process.pid, core):
            assert os.sched_getaffinity(process.pid) == {core}
        assert os.sched_getaffinity(process.pid) == anywhere


def test_memory_that_is_shared_can_be_counted_once() -> None:
    assert 0 < resident(os.getpid(), shared_once=True) <= resident(os.getpid())
    assert cpu_seconds(os.getpid()) > 0
