"""What every section of the run has in hand."""

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.load import Measurement
from benchmarks.machine import Broken, Processes
from benchmarks.postgres import Cluster
from benchmarks.product import Product
from benchmarks.results import BUSY, Result, Series, in_turns, missing

Rounds = Mapping[str, Sequence[Measurement]]


@dataclass
class Bench:
    """The run. rounds, seconds: of every comparison. folder: for all that it leaves on disk, and loses at its end.

    workers: whether two processes are measured, too. plots: what is drawn, by name.
    series: of long runs, what each interval was like. broken: what could not be measured, and why.
    """

    processes: Processes
    folder: Path
    rounds: int
    seconds: float
    workers: bool
    results: list[Result] = field(default_factory=list)
    plots: dict[str, str] = field(default_factory=dict)
    series: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Tell who watches."""
        print(f"{time.monotonic() - self.begun:6.0f} s  {text}", file=sys.stderr, flush=True)

    def attempt(self, name: str, section: Callable[[], object]) -> bool:
        """Run a section; whether it came to its end. One that does not takes nothing else with it."""
        self.say(f"== {name}")
        try:
            section()
        except Exception as fault:  # whatever it is: what was measured before is kept
            self.say(f"{name} is broken: {fault}")
            if not isinstance(fault, Broken):
                traceback.print_exception(fault)
            why = f"{type(fault).__name__}: {fault}" if not isinstance(fault, Broken) else str(fault)
            self.results.append(missing(f"broken_{name}", name, f"broken: {why[:200]}"))
            self.broken.append(f"{name}: {why}")
            return False
        return True

    def take_turns(
        self, title: str, contenders: Mapping[str, Callable[[], Measurement]], rounds: int | None = None
    ) -> Rounds:
        """Every contender in every round, of so many if the run's do not do; says what came of them."""
        measured = in_turns(contenders, rounds or self.rounds)
        for name, each in measured.items():
            cpu = ", ".join(f"{part} {value:.2f}" for part, value in cores(each).items())
            self.say(f"{title}: {name:<20} {median(m.rate for m in each):>10,.0f}/s   cores: {cpu}")
        return measured

    @contextmanager
    def cluster(self, name: str, *, slowed: bool = False) -> Iterator["Stage"]:
        """A Postgres with the database `blank`, migrated and with a profile."""
        with Cluster(self.processes, self.folder / name, slowed=slowed) as cluster:
            stage = Stage(self, cluster, name)
            with stage.product("blank", cluster.create("blank")) as product:
                product.make_profile()
            yield stage


@dataclass
class Stage:
    """A Postgres, and servers on it that share their keys, so that databases can be copied."""

    bench: Bench
    cluster: Cluster
    name: str

    def database(self, name: str) -> str:
        """A copy of `blank`; its DSN."""
        return self.cluster.create(name, "blank")

    def product(
        self,
        name: str,
        database_url: str = "",
        *,
        workers: int = 1,
        tls: bool = False,
        metrics: bool = False,
        core: int | None = None,
    ) -> Product:
        """A server, not started yet, on one of the databases."""
        url = database_url or self.cluster.database(name)
        return Product(
            self.bench.processes,
            self.bench.folder / f"{self.name}-{name}-{workers}{'-tls' if tls else ''}",
            url,
            workers=workers,
            tls=tls,
            metrics=metrics,
            core=core,
            keys=self.bench.folder / f"{self.name}.keys.json",
        )


def rates(measured: Sequence[Measurement]) -> Series:
    """Of each round."""
    return Series.of(each.rate for each in measured)


def cores(measured: Sequence[Measurement]) -> dict[str, float]:
    """What was in use, in the median."""
    return middle(
        [{"load": each.load_cpu, "server": each.server_cpu, "postgres": each.postgres_cpu} for each in measured]
    )


def middle(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each part; without those of which nothing is known."""
    parts = {part: median(each[part] for each in measured) for part in measured[0]}
    return {part: round(value, 2) for part, value in parts.items() if value > 0}


def best(rounds: Rounds, names: Iterable[str]) -> Sequence[Measurement]:
    """Of each round that of the contender that did most."""
    return [max(each, key=lambda one: one.rate) for each in zip(*(rounds[name] for name in names), strict=True)]


def caution(ours: Sequence[Measurement], reference: Sequence[Measurement] = ()) -> str:
    """Whether a load generator, not what it loads, may have been what limited."""
    said = []
    for measured, what in ((ours, ""), (reference, " on the reference")):
        if measured and (took := cores(measured).get("load", 0.0)) > BUSY:
            said.append(f"the load generator took {took:.2f} of a core{what}: a lower bound")
    return ". ".join(said)
