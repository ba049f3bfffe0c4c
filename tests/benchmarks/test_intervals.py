"""What is told of each interval of a long run: from a real server, its Postgres, a real load, and this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import load, machine
from benchmarks.bench import Bench
from benchmarks.intervals import Observer, Reference, exposition, machine_counters, report, waited
from benchmarks.machine import Processes

EVERY = 2.0
"""Seconds: longer than a machine that has other work, or its disk, keeps the generator from writing a line."""


def test_what_the_kernel_tells_of_the_cores(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    numbers = [number * ticks for number in (1, 2, 4, 1000, 1000, 8, 16, 32, 1000, 1000)]
    (tmp_path / "stat").write_text(f"cpu  {' '.join(map(str, numbers))}\ncpu0 {' '.join(map(str, numbers))}\n")
    assert machine_counters(tmp_path) == {"busy": 31.0, "steal": 32.0}
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure/io").write_text(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
    )
    assert machine_counters(tmp_path)["io_stalled"] == 2.5


def test_who_works_waits_for_cores_more_and_more() -> None:
    # One without a family: who ends meanwhile takes along what he has waited, a backend of the run's Postgres say.
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as worker:
        try:
            before, busy = waited(worker.pid), machine_counters()["busy"]
            end = time.thread_time() + 0.1
            while time.thread_time() < end:
                pass
            assert waited(worker.pid) >= before >= 0
            assert machine_counters()["busy"] > busy
        finally:
            worker.kill()


def test_metrics_are_read_as_they_are_written() -> None:
    text = '# HELP a A.\n# TYPE a counter\na_total 3.0\nb{c="d e",f="g"} 1e+06\n'
    assert exposition(text) == {"a_total": 3.0, 'b{c="d e",f="g"}': 1_000_000.0}


def test_lines_of_a_report_have_the_number_of_their_interval() -> None:
    lines = [{"at": 100.0, "p99": 1.0}, {"at": 105.0, "p99": 2.0}]
    assert report("\n".join(map(json.dumps, lines)), 5.0) == {20: lines[0], 21: lines[1]}
    assert report("", 5.0) == {}


def test_the_reference_is_measured_while_it_is_waited(tmp_path: Path) -> None:
    reference = Reference(tmp_path)
    try:
        assert reference.wait_until(time.monotonic() + 0.01, lambda: True)
        figures = reference.figures()
        assert 0 < figures["loop_ms"] <= figures["loop_max_ms"]
        assert 0 < figures["fdatasync_ms"] <= figures["fdatasync_max_ms"]
        assert 0 <= figures["late_ms"] <= figures["late_max_ms"]
        assert not reference.wait_until(time.monotonic() + 3600, lambda: False)
        assert figures.keys() == reference.figures().keys()  # also of an interval in which nothing was taken
    finally:
        reference.close()


@pytest.mark.skipif(machine.find("gcc") is None, reason="the load generators are compiled")
def test_a_server_under_load_is_observed(tmp_path: Path) -> None:
    machine.build()
    tmp_path.chmod(0o755)
    file = tmp_path / "report"
    with Processes(tmp_path) as processes:
        bench = Bench(processes, tmp_path, rounds=1, seconds=1.0, workers=False)
        with bench.cluster("main") as stage:
            database_url = stage.cluster.database("blank", superuser=True)
            with stage.product("blank", metrics=True) as product:
                metrics = f"http://{product.addresses['metrics']}/metrics"
                with Observer(product.pid, stage.cluster.pid, tmp_path, database_url, metrics) as observer:
                    asked = load.http(product.port("http"))
                    measured = asked.run(
                        *("--rate", 200, "--report", file, "--every", EVERY),
                        server=product.pid,
                        seconds=2 * EVERY,
                        warmup=0,
                    )
                    figures = observer.look()
                    assert observer.wait(EVERY, lambda: False) is None
                    number = observer.wait(EVERY, lambda: True)
    assert number is not None
    assert number * EVERY <= time.monotonic()
    assert figures["server_cores"] > 0
    assert figures["postgres_cores"] > 0
    assert figures["busy"] >= figures["steal"] >= 0
    assert figures["group_ms"] > 0
    assert figures["group_items"] >= 1
    assert figures["group_waiting"] >= 0  # as it was told last
    assert figures["wal_mb_per_second"] > 0
    assert figures["pg_extensions"] > 0
    assert min(figures["server_mib"], figures["postgres_mib"]) > 1
    lines = report(file.read_text(), EVERY)
    numbers = sorted(lines)
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert len(numbers) >= 3  # two whole ones, and a part at each end
    assert sum(each["done"] for each in lines.values()) >= measured.done
    assert lines[numbers[-1]]["backlog"] == lines[numbers[-1]]["failed"] == 0
    assert max(each["max"] for each in lines.values()) == measured.max
    cpu = [lines[each]["cpu_seconds"] for each in numbers]
    assert cpu == sorted(cpu)
