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
"""Where commits are slow, more devices wait at a time: of both, pgbench with its best number of clients up to this."""

FEW = 64
"""As many as elsewhere, in a row of its own."""


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
                f"pgbench, {clients}": partial(pgbench, stage.cluster, "reference", clients, round(bench.seconds) or 1)
                for clients in (*PGBENCH_CLIENTS, CLIENTS)
            }
            for name, product in products.items():
                for clients in (FEW, CLIENTS):
                    asked = load.http(product.port("http"), clients)
                    contenders[f"{name}, {clients}"] = partial(
                        asked.run, server=product.pid, postgres=stage.cluster.pid, seconds=bench.seconds
                    )
            stage.cluster.delay(microseconds)
            rounds = bench.take_turns(f"fdatasync +{label}", contenders)
            stage.cluster.delay(0)
            what = f"fdatasync +{label.replace('ms', ' ms')}"
            for id_, clients in ((f"http_slow_{label}", CLIENTS), (f"http_slow_{label}_few", FEW)):
                allowed = [each for each in (*PGBENCH_CLIENTS, CLIENTS) if each <= clients]
                ours = {name: rounds[f"{name}, {clients}"] for name in products}
                chosen = max(ours, key=lambda name: rates(ours[name]).median)
                note = f"{chosen}, {clients} clients"
                bench.results.append(
                    result(
                        id_,
                        f"HTTP provisions, {what}" + (f", {FEW} clients" if clients == FEW else ""),
                        rates(ours[chosen]),
                        "provisions/s",
                        reference=rates(best(rounds, [f"pgbench, {each}" for each in allowed])),
                        reference_name=f"pgbench, best of {'/'.join(map(str, allowed))} clients, on the same disk",
                        note=". ".join(filter(None, (note, caution(ours[chosen])))),
                        cpu=cores(ours[chosen]),
                    )
                )
            groups[what] = {name: rates(each).median for name, each in rounds.items()}
        bench.plots["slow-disk"] = svg.bars("HTTP provisions per second on slower disks, and clients", groups)
