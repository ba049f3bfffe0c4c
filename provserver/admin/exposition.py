"""What is counted, in Prometheus' text format."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from provserver import metrics
from provserver.metrics import Page, Process

__all__ = ["CONTENT_TYPE", "Exposition"]

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


class Exposition(Collector):
    """Collects the numbers of all processes, and what the kernel says of them. database_up: set by who looked."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.database_up = False

    def collect(self) -> Iterator[Metric]:
        """Every family, as it stands now."""
        build = GaugeMetricFamily("provserver_build_info", "What runs.", labels=("version", "python"))
        build.add_metric((version("provserver"), platform.python_version()), 1)
        yield build
        yield GaugeMetricFamily("provserver_database_up", "Whether Postgres takes writes now.", self.database_up)
        totals = self._page.totals()
        for family, values in zip(metrics.FAMILIES, totals.values, strict=True):
            made: Metric
            if family.kind == "histogram":
                made = HistogramMetricFamily(family.name, family.help, labels=family.labels)
                bounds = (*map(str, family.bounds), "+Inf")
                for labels, numbers in values.items():
                    made.add_metric(labels, list(zip(bounds, accumulate(numbers[:-1]), strict=True)), numbers[-1])
            else:
                of_kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
                made = of_kind(family.name, family.help, labels=family.labels)
                for labels, (number,) in values.items():
                    made.add_metric(labels, number)
            yield made
        yield from _of_processes(totals.processes)

    def parts(self) -> Iterator[bytes]:
        """The text, a family at a time, so that whoever else has work to do in this process can do it in between."""
        for metric in self.collect():
            yield generate_latest(_One(metric))


class _One(Collector):
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def _of_processes(processes: tuple[Process, ...]) -> Iterator[Metric]:
    label = ("process",)
    up = GaugeMetricFamily("provserver_process_up", "Whether the process runs.", labels=label)
    memory = GaugeMetricFamily("provserver_process_resident_memory_bytes", "Resident memory.", labels=label)
    cpu = CounterMetricFamily("provserver_process_cpu_seconds_total", "User and system time.", labels=label)
    started = GaugeMetricFamily("provserver_process_start_time_seconds", "When it began (Unix time).", labels=label)
    boot = _boot_time()
    for name, pid in processes:
        try:
            # After the command's name, which may have blanks and brackets: proc_pid_stat(5) from field 3 on.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() if pid else None
        except OSError:
            fields = None
        runs = fields is not None and fields[0] not in "ZX"
        up.add_metric((name,), int(runs))
        if fields is not None and runs:
            cpu.add_metric((name,), (int(fields[11]) + int(fields[12])) / _TICKS)
            started.add_metric((name,), boot + int(fields[19]) / _TICKS)
            memory.add_metric((name,), int(fields[21]) * _PAGE_SIZE)
    yield from (up, memory, cpu, started)


def _boot_time() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
