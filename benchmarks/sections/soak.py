"""Ten minutes at half of peak, on all transports at once: whether memory stays flat, and nothing fails."""

import subprocess
import time
from contextlib import ExitStack
from statistics import median

from benchmarks import svg
from benchmarks.bench import Bench, Stage, middle
from benchmarks.load import KEY, SECRET, Measurement, measurement
from benchmarks.machine import BUILD, Broken, Lap, resident
from benchmarks.results import Result, slope
from benchmarks.sections.provisioning import TRANSPORTS

SECONDS = 600.0
_PAUSE = 5.0
_SETTLED = 0.5
"""Of the time: what is kept for a while (CoAP's answers, 247 s) is full by then."""


def measure(bench: Bench, stage: Stage, seconds: float = SECONDS) -> None:
    """Each transport at a sixth of its own peak, so that together they are at half of what the machine can."""
    stage.database("soak")
    with stage.product("soak") as product, ExitStack() as stack:  # one process, as the peaks are one's
        loads = {}
        for transport, asked in TRANSPORTS.items():
            load = asked(product.port(transport))
            process = bench.processes.start(
                *(BUILD / load.generator, "--port", load.port, *load.options, "--clients", 512),
                *("--key", KEY, "--secret", SECRET, "--prefix", f"soak-{transport}"),
                *("--rate", bench.peaks[transport] / 6, "--seconds", seconds, "--warmup", 0),
                output=subprocess.PIPE,
                log="soak",
            )
            stack.callback(bench.processes.end, process)
            loads[transport] = process
        laps = Lap(product.pid), Lap(stage.cluster.pid)
        times, server, postgres = [], [], []
        begun = time.monotonic()
        while any(process.poll() is None for process in loads.values()):
            times.append((time.monotonic() - begun) / 60)
            server.append(resident(product.pid) / 2**20)
            postgres.append(resident(stage.cluster.pid, shared_once=True) / 2**20)
            if len(times) % 12 == 0:
                bench.say(f"soak: {times[-1]:.1f} min, server {server[-1]:.0f} MiB, Postgres {postgres[-1]:.0f}")
            if time.monotonic() - begun > seconds + 60:
                raise Broken("the load generators do not end")
            time.sleep(_PAUSE)
        measured: dict[str, Measurement] = {}
        for transport, process in loads.items():
            assert process.stdout is not None
            measured[transport] = measurement(process.stdout.read().decode())
        used = {"server": laps[0].cores(), "postgres": laps[1].cores()}
        cpu = middle([{"load": sum(each.load_cpu for each in measured.values())} | used])
        memory = {"server": server, "postgres": postgres}
        # Before the server ends: what it has logged may break the soak, and is no reason to lose what was measured.
        _results(bench, measured, times, memory, cpu)
        bench.plots["soak"] = svg.lines("Resident memory at half of peak (MiB)", "minutes", times, memory)
        faults = product.faults()
        note = f"the first: {faults[0][:200]}" if faults else ""
        bench.results.append(Result("soak_logged", "errors that the server logged in the soak", len(faults), note=note))


def _results(
    bench: Bench,
    measured: dict[str, Measurement],
    times: list[float],
    memory: dict[str, list[float]],
    cpu: dict[str, float],
) -> None:
    failed = sum(each.failed for each in measured.values())
    done = sum(each.done for each in measured.values())
    latencies = ", ".join(f"{transport} p99 {each.p99:.1f} ms" for transport, each in measured.items())
    bench.results.append(
        Result("soak_failed", "requests that failed in the soak", failed, note=f"of {done:,}", cpu=cpu)
    )
    if (first := int(len(times) * _SETTLED)) < len(times) - 2:
        window = max(len(times) // 10, 1)
        for name, whose, figures in (
            ("soak_memory", "server's", memory["server"]),
            ("soak_memory_postgres", "Postgres'", memory["postgres"]),
        ):
            early, late = median(figures[first : first + window]), median(figures[-window:])
            growth = f"{slope(times[first:], figures[first:]) * 1024:+.0f} KiB a minute"
            bench.results.append(
                Result(
                    name,
                    f"{whose} resident memory at the end of the soak ÷ at half time",
                    late,
                    "MiB",
                    early,
                    "at half time",
                    late / early,
                    note=f"{growth}; {latencies}" if name == "soak_memory" else growth,
                    cpu=cpu,
                )
            )
    bench.say(f"soak: {done:,} done, {failed} failed; {latencies}")
