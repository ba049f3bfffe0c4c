"""How long the server takes from its start until every listener accepts."""

from benchmarks.bench import Bench, Stage
from benchmarks.product import Product
from benchmarks.results import Series, result

TIMES = 5


def measure(bench: Bench, stage: Stage) -> None:
    """On a database that is up and migrated; and from nothing, on the embedded one."""
    cold, embedded = [], []
    stage.database("starting")
    for number in range(TIMES):
        product = stage.product("starting")
        cold.append(product.start())
        product.stop()
        product = Product(bench.processes, bench.folder / f"from-nothing-{number}")
        embedded.append(product.start())
        product.stop()
    for name, what, took in (
        ("start_cold", "start to ready, database up and migrated", cold),
        ("start_embedded", "start to ready with the embedded database, from nothing", embedded),
    ):
        bench.say(f"{what}: {Series.of(took).median:.2f} s")
        bench.results.append(result(name, what, Series.of(took), "s"))
