"""What rounds come to: medians, paired ratios, whether a mark is reached. Pure arithmetic."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TypeVar

Measured = TypeVar("Measured")

BUSY = 0.9
"""Of a core: a load generator that took more may have been what limited."""


NOT_MEASURED = "not in this run"


@dataclass(frozen=True, slots=True)
class Mark:
    """What a result must come to: at least, or at most, so much.

    of: "ratio" or "value", which of the two is judged.
    """

    name: str
    what: str
    bound: float
    at_least: bool = True
    of: str = "ratio"

    def reached(self, figure: float) -> bool:
        """Whether the figure, as it is printed, is good enough."""
        return figure >= self.bound if self.at_least else figure <= self.bound

    @property
    def text(self) -> str:
        """As the table has it."""
        return f"{'≥' if self.at_least else '≤'} {self.bound:,g}"


@dataclass(frozen=True, slots=True)
class Series:
    """One figure for each round, in the order of the rounds."""

    figures: tuple[float, ...]

    @classmethod
    def of(cls, figures: Iterable[float]) -> "Series":
        """From any iterable; there must be one at least."""
        return cls(tuple(figures))

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.figures)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest."""
        return min(self.figures), max(self.figures)

    def over(self, reference: "Series") -> "Series":
        """Ratios within the rounds: what disturbs a round disturbs both."""
        return Series.of(ours / theirs for ours, theirs in zip(self.figures, reference.figures, strict=True))


@dataclass(frozen=True, slots=True)
class Result:
    """One line of `results.json`.

    spread: least and greatest of the ratio if there is one, else of the value. cpu: cores in use, of "load", "server"
    and "postgres". reference: what it is compared with, in the same unit. note: what one must know to read it, or why
    there is nothing.
    """

    name: str
    what: str
    value: float | None = None
    unit: str = ""
    reference: float | None = None
    reference_name: str = ""
    ratio: float | None = None
    mark: float | None = None
    reached: bool | None = None
    spread: tuple[float, float] | None = None
    note: str = ""
    cpu: Mapping[str, float] = field(default_factory=dict)

    def judged(self, mark: Mark) -> "Result":
        """With the mark that it has to reach."""
        figure = self.ratio if mark.of == "ratio" else self.value
        reached = None if figure is None else mark.reached(figure)
        return replace(self, mark=mark.bound, reached=reached)


def result(
    name: str,
    what: str,
    series: Series,
    unit: str,
    *,
    reference: Series | None = None,
    reference_name: str = "",
    note: str = "",
    cpu: Mapping[str, float] | None = None,
) -> Result:
    """The median, over the reference's if there is one."""
    if reference is None:
        return Result(name, what, series.median, unit, spread=series.spread, note=note, cpu=cpu or {})
    ratios = series.over(reference)
    return Result(
        name,
        what,
        series.median,
        unit,
        reference.median,
        reference_name,
        ratios.median,
        spread=ratios.spread,
        note=note,
        cpu=cpu or {},
    )


def missing(name: str, what: str, why: str) -> Result:
    """A line for what was not measured."""
    return Result(name, what, note=why)


def judge(results: Sequence[Result], marks: Sequence[Mark]) -> list[Result]:
    """Each result with its mark; a mark without a result gets a line that says so, at its place."""
    by_name = {each.name: each for each in results}
    marked = {mark.name for mark in marks}
    lines = [by_name.get(mark.name, missing(mark.name, mark.what, NOT_MEASURED)).judged(mark) for mark in marks]
    return lines + [each for each in results if each.name not in marked]


def in_turns(contenders: Mapping[str, Callable[[], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """Every contender once in each round, each round beginning with another one, so that none always has the lead."""
    measured: dict[str, list[Measured]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        first = number * len(names) // rounds if rounds else 0
        for name in names[first:] + names[:first]:
            measured[name].append(contenders[name]())
    return measured


def slope(times: Sequence[float], figures: Sequence[float]) -> float:
    """By how much the figures grow in a unit of time (least squares)."""
    return statistics.linear_regression(times, figures).slope


def as_json(results: Sequence[Result]) -> list[dict[str, object]]:
    """For `results.json`: every line has every member."""
    return [asdict(each) for each in results]
