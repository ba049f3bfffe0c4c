"""Ten minutes at half of peak, on all transports at once: whether memory stays flat, and nothing fails.

What the machine, the server and Postgres did in each interval is kept, so that one in which devices waited says why.
"""

import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median

from benchmarks import svg
from benchmarks.bench import Bench, Stage, middle, rates
from benchmarks.intervals import Figures, Observer, report
from benchmarks.load import KEY, SECRET, Measurement, measurement
from benchmarks.machine import BUILD, Broken, Lap
from benchmarks.product import Product
from benchmarks.results import Result, in_turns, slope
from benchmarks.sections.provisioning import NAMES, TRANSPORTS

SECONDS = 600.0
EVERY = 5.0
_SETTLED = 0.5
"""Of the time: what is kept for a while (CoAP's answers, 247 s) is full by then."""


_TOLD = ("done", "p50", "p99", "max", "backlog", "waiting")
"""By the generators, of each transport (`generators/load.h`)."""

_PARTS = ("server", "postgres", "load", "other")
"""Of what is on the cores; "other": not of this run, but for what watches."""

_UNUSUAL = {"pg_checkpoints": "checkpoints", "pg_wal_files": "writes of new WAL files", "vacuums": "vacuums"}


def measure(bench: Bench, stage: Stage, seconds: float = SECONDS) -> None:
    """Each transport at a sixth of its own peak, so that together they are at half of what the machine can.

    Peaks are taken on the same server, right before; and again right after, when there are more devices.
    """
    stage.database("soak")
    with stage.product("soak", metrics=True) as product:  # one process
        before = _peaks(bench, stage, product, bench.rounds)
        measured, intervals, cpu = _soak(
            bench, stage, product, {name: peak / 6 for name, peak in before.items()}, seconds
        )
        # Before the server ends: what it has logged may break the soak, and is no reason to lose what was measured.
        bench.series["soak"] = intervals
        bench.plots["soak"] = plot(intervals)
        _memory(bench, intervals, cpu)
        _latency(bench, measured, intervals, cpu)
        faults = product.faults()
        note = f"the first: {faults[0][:200]}" if faults else ""
        bench.results.append(Result("soak_logged", "errors that the server logged in the soak", len(faults), note=note))
        _compare(bench, before, _peaks(bench, stage, product, 1))


def _peaks(bench: Bench, stage: Stage, product: Product, rounds: int) -> dict[str, float]:
    """Provisions a second of closed loops, by transport."""
    contenders = {
        transport: partial(
            asked(product.port(transport)).run, server=product.pid, postgres=stage.cluster.pid, seconds=bench.seconds
        )
        for transport, asked in TRANSPORTS.items()
    }
    return {name: rates(each).median for name, each in in_turns(contenders, rounds).items()}


def _soak(
    bench: Bench, stage: Stage, product: Product, wanted: Mapping[str, float], seconds: float
) -> tuple[dict[str, Measurement], list[Figures], dict[str, float]]:
    """What each generator printed, what each whole interval was like, and the cores in use."""
    with ExitStack() as stack:
        loads, reports = {}, {}
        for transport, asked in TRANSPORTS.items():
            load, reports[transport] = asked(product.port(transport)), bench.folder / f"soak-{transport}.report"
            loads[transport] = process = bench.processes.start(
                *(BUILD / load.generator, "--port", load.port, *load.options, "--clients", 512),
                *("--key", KEY, "--secret", SECRET, "--prefix", f"soak-{transport}"),
                *("--rate", wanted[transport], "--seconds", seconds, "--warmup", 0),
                *("--report", reports[transport], "--every", EVERY),
                output=subprocess.PIPE,
                log="soak",
            )
            stack.callback(bench.processes.end, process)
        laps = Lap(product.pid), Lap(stage.cluster.pid)
        database_url = stage.cluster.database("soak", superuser=True)
        metrics = f"http://{product.addresses['metrics']}/metrics"
        watched: dict[int, Figures] = {}
        begun = time.monotonic()
        with Observer(product.pid, stage.cluster.pid, bench.folder, database_url, metrics) as observer:
            while (
                number := observer.wait(EVERY, lambda: any(each.poll() is None for each in loads.values()))
            ) is not None:
                minutes = (number * EVERY - begun) / 60
                watched[number] = figures = {"minutes": minutes} | observer.look()
                if len(watched) % 12 == 0:
                    memory = f"server {figures['server_mib']:.0f} MiB, Postgres {figures['postgres_mib']:.0f}"
                    bench.say(f"soak: {minutes:.1f} min, {memory}")
                if time.monotonic() - begun > seconds + 60:
                    raise Broken("the load generators do not end")
        measured: dict[str, Measurement] = {}
        for transport, process in loads.items():
            assert process.stdout is not None
            measured[transport] = measurement(process.stdout.read().decode())
        used = {"server": laps[0].cores(), "postgres": laps[1].cores()}
        cpu = middle([{"load": sum(each.load_cpu for each in measured.values())} | used])
        told = {transport: report(file.read_text(), EVERY) for transport, file in reports.items()}
    return measured, joined(watched, told), cpu


def joined(watched: Mapping[int, Figures], told: Mapping[str, Mapping[int, Figures]]) -> list[Figures]:
    """Of each interval all that is known; without the first, in which the generators began, and what no one told of."""
    numbers = [number for number in sorted(watched) if all(number in lines for lines in told.values())][1:]
    intervals = []
    for number in numbers:
        figures = dict(watched[number])
        load = 0.0
        for transport, lines in told.items():
            line = lines[number]
            figures |= {
                f"{transport}_{name}": line[name] for name in ("done", "p50", "p99", "max", "backlog", "waiting")
            }
            load += line["cpu_seconds"] - lines.get(number - 1, line)["cpu_seconds"]
        figures["load_cores"] = load / EVERY
        ours = figures["server_cores"] + figures["postgres_cores"] + figures["load_cores"]
        figures["other_cores"] = max(figures["busy"] - ours, 0.0)
        intervals.append({name: round(value, 4) for name, value in figures.items()})
    return intervals


def _memory(bench: Bench, intervals: Sequence[Figures], cpu: dict[str, float]) -> None:
    if (first := int(len(intervals) * _SETTLED)) >= len(intervals) - 2:
        return
    window = max(len(intervals) // 10, 1)
    times = [each["minutes"] for each in intervals[first:]]
    for name, whose, part in (("soak_memory", "server's", "server"), ("soak_memory_postgres", "Postgres'", "postgres")):
        figures = [each[f"{part}_mib"] for each in intervals]
        early, late = median(figures[first : first + window]), median(figures[-window:])
        bench.results.append(
            Result(
                name,
                f"{whose} resident memory at the end of the soak ÷ at half time",
                late,
                "MiB",
                early,
                "at half time",
                late / early,
                note=f"{slope(times, figures[first:]) * 1024:+.0f} KiB a minute",
                cpu=cpu,
            )
        )


def _latency(
    bench: Bench, measured: Mapping[str, Measurement], intervals: Sequence[Figures], cpu: dict[str, float]
) -> None:
    failed = sum(each.failed for each in measured.values())
    done = sum(each.done for each in measured.values())
    latencies = ", ".join(f"{NAMES[transport]} p99 {each.p99:.1f} ms" for transport, each in measured.items())
    note = f"of {done:,}; {latencies}; {told_of_worst(intervals)}"
    bench.results.append(Result("soak_failed", "requests that failed in the soak", failed, note=note, cpu=cpu))
    bench.say(f"soak: {done:,} done, {failed} failed; {latencies}")


def told_of_worst(intervals: Sequence[Figures]) -> str:
    """The interval in which devices waited longest, in figures, beside the middle ones of all."""
    if not intervals:
        return "too short for intervals"
    transport = max(TRANSPORTS, key=lambda name: max(each[f"{name}_p99"] for each in intervals))
    one = max(intervals, key=lambda each: each[f"{transport}_p99"])
    usual = {name: median(each[name] for each in intervals) for name in one}

    def times(name: str) -> str:
        return f"{one[name] / (usual[name] or 1.0):.1f}"

    waited = f"{NAMES[transport]} p99 {one[f'{transport}_p99']:,.0f} ms (usually {usual[f'{transport}_p99']:.1f})"
    backlog = sum(one[f"{name}_backlog"] for name in TRANSPORTS)
    cores = ", ".join(f"{part} {one[f'{part}_cores']:.2f}" for part in _PARTS)
    said = [
        f"worst {EVERY:.0f} s, at {one['minutes']:.1f} min: {waited}, backlog {backlog:,.0f}",
        f"cores: {cores}, stolen {one['steal']:.2f}",
        f"the server waited for one {one['server_waited']:.0%} of the time",
        f"reference: loop {times('loop_ms')} ×, fdatasync {times('fdatasync_ms')} × its median",
        f"the longest fdatasync {one['fdatasync_max_ms']:,.0f} ms (usually {usual['fdatasync_max_ms']:.1f})",
        f"a sleeper woken {one['late_max_ms']:.0f} ms late",
        f"a group {one['group_ms']:.1f} ms (usually {usual['group_ms']:.1f})",
    ]
    if "io_stalled" in one:
        said.append(f"disk waited for {one['io_stalled']:.0%} of the time (usually {usual['io_stalled']:.0%})")
    for name, what in _UNUSUAL.items():
        if one[name]:
            said.append(f"{one[name]:.0f} {what}")
    return "; ".join(said)


def _compare(bench: Bench, before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """Whether the machine with its database could still do at the end what it could at the beginning."""
    for transport, name in NAMES.items():
        bench.results.append(
            Result(
                f"soak_peak_{transport}",
                f"{name} provisions right after the soak ÷ right before",
                after[transport],
                "provisions/s",
                before[transport],
                "right before",
                after[transport] / before[transport],
                note="one process",
            )
        )


def plot(intervals: Sequence[Figures]) -> str:
    """Latency, cores, the reference, memory; dashed: checkpoints."""
    marks = [each["minutes"] for each in intervals if each["pg_checkpoints"]]

    def series(names: Mapping[str, str]) -> dict[str, list[float]]:
        return {label: [each[name] for each in intervals] for label, name in names.items()}

    def times_median(names: Mapping[str, str]) -> dict[str, list[float]]:
        return {
            label: [figure / (median(figures) or 1.0) for figure in figures] for label, figures in series(names).items()
        }

    p99 = series({name: f"{transport}_p99" for transport, name in NAMES.items()})
    cores = {part: f"{part}_cores" for part in _PARTS} | {"stolen": "steal"}
    reference = {"loop in Python": "loop_ms", "longest fdatasync": "fdatasync_max_ms"}
    memory = {"server": "server_mib", "postgres": "postgres_mib"}
    return svg.panels(
        f"Soak at half of peak, each {EVERY:.0f} s",
        "minutes",
        [each["minutes"] for each in intervals],
        [
            svg.Panel("p99 (ms); dashed: checkpoints end", p99, logarithmic=True, marks=marks),
            svg.Panel("cores", series(cores)),
            svg.Panel("reference, outside of server and Postgres (1: its median)", times_median(reference)),
            svg.Panel("resident memory (MiB)", series(memory)),
        ],
    )
