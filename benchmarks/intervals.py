"""What a long run looked like, interval by interval: whose the cores were, how fast the machine was, what Postgres did.

The intervals are those of the generators' reports (`--every`): whole multiples of so many seconds of CLOCK_MONOTONIC.
What is watched costs some milliseconds of CPU in each.
"""

import asyncio
import json
import os
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Self

import asyncpg

from benchmarks.machine import cpu_seconds, family, resident, threads

Figures = dict[str, float]
"""Of one interval, by name; what the machine does not tell is not there."""

_PAUSE = 0.5
_LOOPS, _TURNS = 8, 10_000
_PAGE = b"\0" * 8192

_GROUP = 'group="provision"'

_POSTGRES = """
SELECT (SELECT wal_bytes FROM pg_stat_wal)::float8 AS wal_bytes,
    (SELECT wal_fpi FROM pg_stat_wal)::float8 AS full_pages,
    (SELECT num_done FROM pg_stat_checkpointer)::float8 AS checkpoints,
    (SELECT buffers_written FROM pg_stat_checkpointer)::float8 AS checkpoint_buffers,
    (SELECT coalesce(sum(writes), 0) FROM pg_stat_io WHERE object = 'wal' AND context = 'init')::float8 AS wal_files,
    (SELECT coalesce(sum(writes), 0) FROM pg_stat_io
        WHERE object = 'relation' AND backend_type = 'client backend')::float8 AS own_writes,
    (SELECT coalesce(sum(extends), 0) FROM pg_stat_io WHERE object = 'relation')::float8 AS extensions,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker')::float8 AS vacuums
"""
"""Counters since the start of Postgres (18), and vacuums now. wal_files: new ones, filled with zeros, not used again.
own_writes: pages that a backend wrote itself, as no buffer was free."""
_NOW = {"vacuums"}


class Reference:
    """The machine's speed by fixed things that have nothing to do with what is measured: a little, again and again."""

    def __init__(self, folder: Path) -> None:
        """folder: on the disk that Postgres writes to."""
        self._file = os.open(folder / "reference", os.O_RDWR | os.O_CREAT, 0o600)
        self._taken: dict[str, list[float]] = {"loop": [], "fdatasync": [], "late": []}

    def wait_until(self, end: float, alive: Callable[[], bool]) -> bool:
        """Until that time of the monotonic clock, and measure meanwhile; False when nothing is alive any more."""
        while (left := end - time.monotonic()) > 0:
            if not alive():
                return False
            wanted = time.monotonic() + min(left, _PAUSE)
            time.sleep(min(left, _PAUSE))
            self._taken["late"].append((time.monotonic() - wanted) * 1000)
            self._take()
        return True

    def _take(self) -> None:
        loops = []
        for _ in range(_LOOPS):  # the first ones of a core that was asleep are slower
            begun, total = time.thread_time(), 0
            for number in range(_TURNS):
                total += number
            loops.append((time.thread_time() - begun) * 1000)
        self._taken["loop"].append(min(loops))
        begun = time.perf_counter()
        os.pwrite(self._file, _PAGE, 0)
        os.fdatasync(self._file)
        self._taken["fdatasync"].append((time.perf_counter() - begun) * 1000)

    def figures(self) -> Figures:
        """Milliseconds since the last call, medians and greatest: `loop`, the CPU that a loop in Python takes,
        of some in a row the least; `fdatasync`, of 8 kB; `late`, by how much a sleeper was woken too late.
        """
        if not self._taken["loop"]:
            self._take()
            self._taken["late"].append(0.0)
        figures = {f"{name}_ms": median(taken) for name, taken in self._taken.items()}
        figures |= {f"{name}_max_ms": max(taken) for name, taken in self._taken.items()}
        for taken in self._taken.values():
            taken.clear()
        return figures

    def close(self) -> None:
        """The file stays."""
        os.close(self._file)


class Observer:
    """Looks at a server, its Postgres and the machine; each look tells of the time since the one before.

    server, postgres: processes. metrics: a URL of the server's. database_url: of a superuser, who sees all.
    """

    def __init__(self, server: int, postgres: int, folder: Path, database_url: str, metrics: str) -> None:
        self._server, self._postgres, self._metrics = server, postgres, metrics
        self._reference = Reference(folder)
        self._runner = asyncio.Runner()
        self._connection = self._runner.run(asyncpg.connect(database_url))
        self._at = time.monotonic()
        self._before = self._counters()

    def wait(self, every: float, alive: Callable[[], bool]) -> int | None:
        """Until the end of an interval, whose number is told; None: nothing is alive any more."""
        number = int(time.monotonic() / every) + 1
        return number if self._reference.wait_until(number * every, alive) else None

    def look(self) -> Figures:
        """Shares and cores are of the time since the last look; what is not a rate is as it is now."""
        now, counters = time.monotonic(), self._counters()
        took = now - self._at
        grown = {name: value - self._before[name] for name, value in counters.items()}
        self._at, self._before = now, counters
        figures = {f"{name}_cores": grown[name] / took for name in ("server", "postgres")}
        figures |= {
            name: grown[name] / took for name in ("steal", "busy", "io_stalled", "server_waited") if name in grown
        }
        figures |= {name: grown[name] for name in grown if name.startswith("pg_")}
        figures["wal_mb_per_second"] = figures.pop("pg_wal_bytes") / took / 1e6
        groups = grown["groups"] or 1.0
        figures |= {"group_ms": grown["group_seconds"] / groups * 1000, "group_items": grown["group_items"] / groups}
        figures |= {"server_mib": resident(self._server) / 2**20}
        figures |= {"postgres_mib": resident(self._postgres, shared_once=True) / 2**20}
        return figures | self._now | self._reference.figures()

    def _counters(self) -> Figures:
        counters = {"server": cpu_seconds(self._server), "postgres": cpu_seconds(self._postgres)}
        counters |= machine_counters() | {"server_waited": waited(self._server)}
        told = self._runner.run(self._connection.fetchrow(_POSTGRES))
        counters |= {f"pg_{name}": value for name, value in told.items() if name not in _NOW}
        with urllib.request.urlopen(self._metrics, timeout=30) as answer:
            exposed = exposition(answer.read().decode())
        for name, metric in (
            ("groups", "provserver_group_seconds_count"),
            ("group_seconds", "provserver_group_seconds_sum"),
            ("group_items", "provserver_group_items_sum"),
        ):
            counters[name] = exposed[f"{metric}{{{_GROUP}}}"]
        self._now = {
            "group_waiting": exposed[f"provserver_group_waiting{{{_GROUP}}}"],
            "vacuums": told["vacuums"],
        }
        return counters

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, tb: TracebackType | None) -> None:
        with self._runner:
            self._runner.run(self._connection.close())
        self._reference.close()


def machine_counters(proc: Path = Path("/proc")) -> Figures:
    """Seconds: of all cores together, stolen by the host, and in use; and in which something waited for a disk."""
    ticks = os.sysconf("SC_CLK_TCK")
    first = (proc / "stat").read_text().partition("\n")[0].split()
    user, nice, system, _, _, irq, softirq, steal = map(int, first[1:9])
    figures = {"steal": steal / ticks, "busy": (user + nice + system + irq + softirq) / ticks}
    pressure = proc / "pressure/io"
    if pressure.exists():  # kernels without PSI have none
        figures["io_stalled"] = int(pressure.read_text().split("total=", 1)[1].split()[0]) / 1e6
    return figures


def waited(pid: int) -> float:
    """Seconds that threads of a process and its children were ready to run, but had no core."""
    total = 0
    for each in family(pid):
        for thread in threads(each):
            try:
                total += int((thread / "schedstat").read_text().split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended just now
    return total / 1e9


def exposition(text: str) -> Figures:
    """Values by name and labels, as they are written."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def report(text: str, every: float) -> dict[int, Figures]:
    """What a generator reported, by number of the interval; of the first and last one, which may be shorter, too."""
    lines = [json.loads(line) for line in text.splitlines()]
    return {round(line["at"] / every): line for line in lines}
