"""Ten minutes at half of peak, on all transports at once: whether memory stays flat, and nothing fails."""

import subprocess
import time
from contextlib import ExitStack
from statistics import median

from benchmarks import svg
from benchmarks.bench import Bench, Stage
from benchmarks.load import KEY, SECRET, Measurement, measurement
from benchmarks.machine import BUILD, Broken, resident
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
        times, server, postgres = [], [], []
        begun = time.monotonic()
        while any(process.poll() is None for process in loads.values()):
            times.append((time.monotonic() - begun) / 60)
            server.append(resident(product.pid) / 2**20)
            postgres.append(resident(stage.cluster.pid) / 2**20)
            if len(times) % 12 == 0:
                bench.say(f"soak: {times[-1]:.1f} min, server {server[-1]:.0f} MiB")
            if time.monotonic() - begun > seconds + 60:
                raise Broken("the load generators do not end")
            time.sleep(_PAUSE)
        measured: dict[str, Measurement] = {}
        for transport, process in loads.items():
            assert process.stdout is not None
            measured[transport] = measurement(process.stdout.read().decode())
    _results(bench, measured, times, server)
    bench.plots["soak"] = svg.lines("Resident memory at half of peak (MiB)", "minutes", times, {"server": server})


def _results(bench: Bench, measured: dict[str, Measurement], times: list[float], server: list[float]) -> None:
    failed = sum(each.failed for each in measured.values())
    done = sum(each.done for each in measured.values())
    latencies = ", ".join(f"{transport} p99 {each.p99:.1f} ms" for transport, each in measured.items())
    bench.results.append(Result("soak_failed", "requests that failed in the soak", failed, note=f"of {done:,}"))
    if (first := int(len(times) * _SETTLED)) < len(times) - 2:
        window = max(len(times) // 10, 1)
        early, late = median(server[first : first + window]), median(server[-window:])
        bench.results.append(
            Result(
                "soak_memory",
                "server's resident memory at the end of the soak ÷ at half time",
                late,
                "MiB",
                early,
                "at half time",
                late / early,
                note=f"{slope(times[first:], server[first:]) * 1024:+.0f} KiB a minute; {latencies}",
            )
        )
    bench.say(f"soak: {done:,} done, {failed} failed; {latencies}")
