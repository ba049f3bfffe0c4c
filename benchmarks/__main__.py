"""The command: `make bench` and `make bench-full`.

    python -m benchmarks [--full] [--rounds N] [--seconds S] [--only SECTION …] [--publish]

Everything runs on loopback, in a temporary directory, and ends with the run. Exit code 0: all that was to be measured
was; whether marks are reached is in the table and in results.json.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks import machine, report
from benchmarks.bench import Bench, Stage
from benchmarks.machine import Processes
from benchmarks.product import has_workers
from benchmarks.sections import growth, handshakes, importing, provisioning, sessions, slow_disk, soak, starting, storm

QUICK = ("provisioning", "exchange", "tls", "import", "connect", "memory", "start", "slow-disk")
FULL = (*QUICK, "import-million", "storm", "growth", "soak")

_OF_THEIR_OWN = {"exchange", "slow-disk", "growth"}
"""Sections that need no Postgres, or have another one."""
_OF_KNOWN_DEVICES = {"import", "import-million", "connect", "memory"}


def main() -> int:
    """Measure, write, print."""
    arguments = _arguments()
    console = Console(width=max(Console().width, 150))
    if arguments.publish:
        run, results, plots = report.read(arguments.results)
        report.publish(results, plots, run)
        return 0
    chosen = arguments.only or (FULL if arguments.full else QUICK)
    if wanted := machine.missing(amqtt="exchange" in chosen):
        sys.exit("missing: " + "; ".join(wanted))
    machine.build()
    with machine.ended_by_signals(), tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # mosquitto, started by root, reads its configuration as a user of its own
        with Processes(folder) as processes:
            workers = has_workers() and not arguments.one_process
            bench = Bench(processes, folder, arguments.rounds, arguments.seconds, workers)
            _run(bench, chosen)
            results = report.finish(bench.results)
            report.write(arguments.results, results, bench.plots, _about(arguments), bench.series)
    report.show(results, console)
    for fault in bench.broken:
        console.print(f"broken: {fault}", style="red", highlight=False, markup=False)
    return 1 if bench.broken else 0


def _run(bench: Bench, chosen: Collection[str]) -> None:
    """Every chosen section."""

    def attempt(name: str, section: Callable[[], object]) -> None:
        if name in chosen:
            bench.attempt(name, section)

    attempt("exchange", lambda: sessions.exchange(bench))
    if not set(chosen) <= _OF_THEIR_OWN:
        bench.attempt("Postgres", lambda: _on_one_postgres(bench, chosen, attempt))
    attempt("slow-disk", lambda: slow_disk.measure(bench))
    attempt("growth", lambda: growth.measure(bench))


def _on_one_postgres(bench: Bench, chosen: Collection[str], attempt: Callable[..., None]) -> None:
    with bench.cluster("main") as stage:
        attempt("provisioning", lambda: provisioning.measure(bench, stage))
        attempt("tls", lambda: handshakes.measure(bench, stage))
        attempt("start", lambda: starting.measure(bench, stage))
        if not _OF_KNOWN_DEVICES.isdisjoint(chosen):
            bench.attempt("known devices", lambda: _known_devices(bench, stage, attempt))
        attempt("storm", lambda: storm.measure(bench, stage))
        attempt("soak", lambda: soak.measure(bench, stage))


def _known_devices(bench: Bench, stage: Stage, attempt: Callable[..., None]) -> None:
    """The sections that import devices, or need those that are imported."""
    names = ["known", "known_two"] if bench.workers else ["known"]
    for name in names:
        stage.database(name)
    products = [stage.product(name) for name in names]
    attempt("import", lambda: importing.measure(bench, stage, products[0]))
    attempt("import-million", lambda: importing.million(bench, stage))
    tokens = importing.devices_with_tokens(bench, *products)
    attempt("connect", lambda: sessions.connect(bench, stage, tokens))
    attempt("memory", lambda: sessions.memory(bench, stage, tokens))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="storms, growth, import of a million and soak, too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each contender in each round")
    parser.add_argument("--only", nargs="+", choices=FULL, metavar="SECTION", help=", ".join(FULL))
    parser.add_argument("--one-process", action="store_true", help="leave two processes out")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    parser.add_argument("--publish", action="store_true", help="put results.json into docs/performance.md")
    return parser.parse_args()


def _about(arguments: argparse.Namespace) -> dict[str, object]:
    commit = subprocess.run(
        ("git", "rev-parse", "--short", "HEAD"), capture_output=True, text=True, check=False, cwd=machine.ROOT
    ).stdout.strip()
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit or "unknown",
        "machine": f"{len(os.sched_getaffinity(0))} × {_processor()}, Linux {platform.release()}",
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
