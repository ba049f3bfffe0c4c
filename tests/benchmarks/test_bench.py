"""What sections share: a broken one takes nothing with it, and CPU is told of those that were measured."""

from pathlib import Path

import asyncpg
import pytest

from benchmarks import __main__ as command
from benchmarks.bench import Bench, best, caution, cores, middle, rates
from benchmarks.load import Measurement
from benchmarks.machine import Broken, Processes
from benchmarks.results import Result
from benchmarks.sections import growth, sessions, slow_disk


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Processes(tmp_path), tmp_path, rounds=2, seconds=1.0, workers=False)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Broken("nobody answers"), "nobody answers"),
        (asyncpg.InvalidCatalogNameError("no such database"), "InvalidCatalogNameError: no such database"),
        (asyncpg.InterfaceError("the connection is closed"), "InterfaceError: the connection is closed"),
        (OSError("no space"), "OSError: no space"),
    ],
)
def test_a_section_that_breaks_takes_nothing_else_with_it(bench: Bench, fault: Exception, told: str) -> None:
    def section() -> None:
        bench.results.append(Result("before", "Before", 1.0))
        raise fault

    assert not bench.attempt("first", section)
    assert bench.attempt("second", lambda: bench.results.append(Result("after", "After", 2.0)))
    assert [(each.name, each.note) for each in bench.results] == [
        ("before", ""),
        ("broken_first", f"broken: {told}"),
        ("after", ""),
    ]
    assert bench.broken == [f"first: {told}"]


def test_a_run_that_is_to_end_ends(bench: Bench) -> None:
    def interrupted() -> None:
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        bench.attempt("first", interrupted)


def test_a_postgres_that_does_not_start_leaves_the_sections_without_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise asyncpg.CannotConnectNowError("the database system is starting up")

    monkeypatch.setattr(Bench, "cluster", refused)
    monkeypatch.setattr(sessions, "exchange", lambda _: bench.results.append(Result("exchange", "", 1.0)))
    monkeypatch.setattr(slow_disk, "measure", lambda _: bench.results.append(Result("slow", "", 2.0)))
    monkeypatch.setattr(growth, "measure", lambda _: bench.results.append(Result("growth", "", 3.0)))
    command._run(bench, command.FULL)
    assert [each.name for each in bench.results] == ["exchange", "broken_Postgres", "slow", "growth"]
    assert bench.broken == ["Postgres: CannotConnectNowError: the database system is starting up"]


def test_the_best_is_chosen_in_each_round() -> None:
    rounds = {name: [Measurement(rate) for rate in figures] for name, figures in (("a", (1, 9)), ("b", (5, 2)))}
    rounds["c"] = [Measurement(100), Measurement(100)]
    assert rates(best(rounds, ["a", "b"])).figures == (5, 9)


def test_cores_are_medians_without_what_is_not_known() -> None:
    measured = [Measurement(1.0, load_cpu=load, server_cpu=0.5) for load in (0.1, 0.9, 0.2)]
    assert cores(measured) == {"load": 0.2, "server": 0.5}
    assert middle([{"server": 0.125}, {"server": 0.375}]) == {"server": 0.25}


def test_a_busy_generator_is_told_of_on_whichever_side_it_was() -> None:
    busy, idle = [Measurement(1.0, load_cpu=0.95)], [Measurement(1.0, load_cpu=0.5)]
    assert caution(idle, idle) == ""
    assert caution(busy) == caution(busy, idle) == "the load generator took 0.95 of a core: a lower bound"
    assert caution(idle, busy) == "the load generator took 0.95 of a core on the reference: a lower bound"
