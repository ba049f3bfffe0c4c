"""What a run leaves: the table on the terminal, `results.json`, plots, and the table of docs/performance.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import svg
from benchmarks.machine import FOLDER, ROOT
from benchmarks.marks import CONDITIONS, MARKS
from benchmarks.results import NOT_MEASURED, Mark, Result, as_json, judge

RESULTS = FOLDER / "results.json"
PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- results: python -m benchmarks --publish -->", "<!-- end of results -->"

CORES = "cores: load / server / Postgres"

_MOST = 3.0
"""Times the mark that the overview shows."""


def finish(results: Sequence[Result]) -> list[Result]:
    """In the order of the marks, each judged."""
    return judge(results, (*MARKS, *CONDITIONS))


def write(
    path: Path,
    results: Sequence[Result],
    plots: Mapping[str, str],
    run: Mapping[str, object],
    series: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
) -> None:
    """All that a later reader or `publish` needs. run: when, where and how. series: intervals of long runs."""
    content = {"run": dict(run), "results": as_json(results), "series": series or {}, "plots": dict(plots)}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> tuple[dict[str, Any], list[Result], dict[str, str]]:
    """What `write` wrote."""
    content = json.loads(path.read_text())
    names = {each.name for each in fields(Result)}
    results = [Result(**{name: value for name, value in row.items() if name in names}) for row in content["results"]]
    return content["run"], results, content["plots"]


def show(results: Sequence[Result], console: Console) -> None:
    """The marks with what was reached, then all else."""
    by_name = {each.name: each for each in results}
    for title, marks in (("Reach", MARKS), ("Conditions", CONDITIONS)):
        table = Table(title=title, title_justify="left")
        for heading in ("what", "measured", "reference", "ratio", "min to max", "mark", "reached", CORES):
            table.add_column(heading, justify="left" if heading == "what" else "right")
        for mark in marks:
            table.add_row(
                mark.what,
                *_cells(by_name[mark.name]),
                mark.text,
                _verdict(by_name[mark.name]),
                _cores(by_name[mark.name]),
            )
        console.print(table)
    table = Table(title="Also measured", title_justify="left")
    for heading in ("what", "measured", "reference", "ratio", "min to max", CORES, "note"):
        table.add_column(heading, justify="right" if heading not in {"what", "note"} else "left")
    for each in _others(results):
        table.add_row(each.what, *_cells(each), _cores(each), each.note)
    console.print(table)
    for mark in (*MARKS, *CONDITIONS):
        if (note := by_name[mark.name].note) and note != NOT_MEASURED:
            console.print(f"{mark.what}: {note}", style="dim", highlight=False)


def publish(results: Sequence[Result], plots: Mapping[str, str], run: Mapping[str, Any], page: Path = PAGE) -> None:
    """Put the results into docs/performance.md, between its two comments, and the plots beside it."""
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    for name, text in (dict(plots) | {"reach": overview(results)}).items():
        (folder / f"{name}.svg").write_text(text)
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{markdown(results, plots, run)}{END}{after}")


def markdown(results: Sequence[Result], plots: Mapping[str, str], run: Mapping[str, Any]) -> str:
    """The tables, and the plots that there are."""
    by_name = {each.name: each for each in results}
    lines = [
        f"{run['at']}, commit {run['commit']}, {run['machine']}; {run['rounds']} rounds of {run['seconds']} s.",
        "",
    ]
    lines += [
        f"| what | measured | reference | ratio | min to max | mark | reached | {CORES} | |",
        "|---|--:|--:|--:|--:|--:|---|---|---|",
    ]
    for mark in (*MARKS, *CONDITIONS):
        each = by_name[mark.name]
        lines.append(_row(mark.what, *_cells(each), mark.text, _verdict(each), _cores(each), each.note))
    lines += [
        "",
        f"| also measured | measured | reference | ratio | min to max | {CORES} | |",
        "|---|--:|--:|--:|--:|---|---|",
    ]
    lines += [_row(each.what, *_cells(each), _cores(each), each.note) for each in _others(results)]
    lines += ["", *(f"![{name}](performance/{name}.svg)" for name in ("reach", *plots)), "", ""]
    return "\n".join(lines)


def overview(results: Sequence[Result]) -> str:
    """How much of each mark there is; 1 is reached."""
    by_name = {each.name: each for each in results}
    shares: dict[str, dict[str, float]] = {}
    for mark in MARKS:
        if (each := share(by_name[mark.name], mark)) is not None:
            shares[mark.name.replace("_", " ")] = {"": min(each, _MOST)}
    return svg.bars(f"Of the mark (1 is reached; {_MOST:g} and more shown as {_MOST:g})", shares, mark=1.0)


def share(each: Result, mark: Mark) -> float | None:
    """How much of the mark a result is: 1 or more when it is reached."""
    figure = each.ratio if mark.of == "ratio" else each.value
    if figure is None or figure <= 0:
        return None
    return figure / mark.bound if mark.at_least else mark.bound / figure


def _others(results: Sequence[Result]) -> list[Result]:
    marked = {mark.name for mark in (*MARKS, *CONDITIONS)}
    return [each for each in results if each.name not in marked]


def _cells(each: Result) -> tuple[str, str, str, str]:
    value = f"{_figure(each.value)} {each.unit}".strip() if each.value is not None else "–"
    spread = f"{_figure(each.spread[0])} to {_figure(each.spread[1])}" if each.spread else ""
    return value, _figure(each.reference), _figure(each.ratio), spread


def _figure(value: float | None) -> str:
    return "" if value is None else svg.number_text(value)


def _verdict(each: Result) -> str:
    return "" if each.reached is None else "yes" if each.reached else "no"


def _cores(each: Result) -> str:
    """Of ours: what was in use meanwhile; a dash where a part is not there."""
    if not each.cpu:
        return ""
    figures = (each.cpu.get(part) for part in ("load", "server", "postgres"))
    return " / ".join("–" if figure is None else f"{figure:.2f}" for figure in figures)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
