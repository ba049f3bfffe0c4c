"""How long the server takes from its start until every listener accepts."""

from benchmarks.bench import Bench, Stage, middle
from benchmarks.machine import Lap, cpu_seconds
from benchmarks.product import Product
from benchmarks.results import Series, result

TIMES = 5


def measure(bench: Bench, stage: Stage) -> None:
    """On a database that is up and migrated; and from nothing, on the embedded one, then part of the server."""
    cold: list[float] = []
    embedded: list[float] = []
    cpu: dict[str, list[dict[str, float]]] = {"start_cold": [], "start_embedded": []}
    stage.database("starting")
    for number in range(TIMES):
        product = stage.product("starting")
        lap = Lap(stage.cluster.pid)
        cold.append(product.start())
        cpu["start_cold"].append({"server": cpu_seconds(product.pid) / cold[-1], "postgres": lap.cores()})
        product.stop()
        product = Product(bench.processes, bench.folder / f"from-nothing-{number}")
        embedded.append(product.start())
        cpu["start_embedded"].append({"server": cpu_seconds(product.pid) / embedded[-1]})
        product.stop()
    for name, what, took in (
        ("start_cold", "start to ready, database up and migrated", cold),
        ("start_embedded", "start to ready with the embedded database, from nothing", embedded),
    ):
        bench.say(f"{what}: {Series.of(took).median:.2f} s")
        bench.results.append(result(name, what, Series.of(took), "s", cpu=middle(cpu[name])))
