"""Provisions a second on disks that take their time: fdatasync slowed by 1 and 4 ms, for us and for pgbench alike."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from benchmarks import load, svg
from benchmarks.bench import Bench, best, caution, cores, rates
from benchmarks.load import PGBENCH_CLIENTS, Measurement, pgbench
from benchmarks.results import result

DELAYS = {"1ms": 1000, "4ms": 4000}
CLIENTS = 256
"""Where commits are slow, more devices wait at a time. pgbench is given its best number of 4, 16 and 64."""


def measure(bench: Bench) -> None:
    """On a Postgres of its own, into which the shim is preloaded."""
    with bench.cluster("slow", slowed=True) as stage, ExitStack() as stack:
        products = {"one process": stack.enter_context(stage.product("one", stage.database("one")))}
        if bench.workers:
            products["two processes"] = stack.enter_context(stage.product("two", stage.database("two"), workers=2))
        stage.database("reference")
        groups: dict[str, dict[str, float]] = {}
        for label, microseconds in DELAYS.items():
            contenders: dict[str, Callable[[], Measurement]] = {
                f"pgbench {clients}": partial(pgbench, stage.cluster, "reference", clients, round(bench.seconds) or 1)
                for clients in PGBENCH_CLIENTS
            }
            for name, product in products.items():
                asked = load.http(product.port("http"), CLIENTS)
                contenders[name] = partial(
                    asked.run, server=product.pid, postgres=stage.cluster.pid, seconds=bench.seconds
                )
            stage.cluster.delay(microseconds)
            rounds = bench.take_turns(f"fdatasync +{label}", contenders)
            stage.cluster.delay(0)
            reference = rates(best(rounds, [f"pgbench {clients}" for clients in PGBENCH_CLIENTS]))
            chosen = max(products, key=lambda name: rates(rounds[name]).median)
            bench.results.append(
                result(
                    f"http_slow_{label}",
                    f"HTTP provisions, fdatasync +{label.replace('ms', ' ms')}",
                    rates(rounds[chosen]),
                    "provisions/s",
                    reference=reference,
                    reference_name="pgbench, best of 4/16/64 clients, on the same disk",
                    note=". ".join(filter(None, (f"{chosen}, {CLIENTS} clients", caution(rounds[chosen])))),
                    cpu=cores(rounds[chosen]),
                )
            )
            groups[f"fdatasync +{label.replace('ms', ' ms')}"] = {
                name: rates(each).median for name, each in rounds.items()
            }
        bench.plots["slow-disk"] = svg.bars("HTTP provisions per second on slower disks", groups)
