"""The result file and the table of the documentation."""

import io
import json
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.marks import CONDITIONS, MARKS
from benchmarks.results import Mark, Result

RUN = {"at": "2030-01-01 00:00 UTC", "commit": "abc", "machine": "2 × CPU", "rounds": 3, "seconds": 2.0}
RESULTS = report.finish(
    [
        Result(
            "http",
            "HTTP",
            24_000.0,
            "provisions/s",
            20_000.0,
            "pgbench",
            1.2,
            spread=(1.1, 1.3),
            cpu={"load": 0.4, "postgres": 1.256},
        ),
        Result("p99_http", "p99", 12.0, "ms", spread=(11.0, 13.0)),
        Result("other", "Other | thing", 5.0, "s", note="a note", cpu={"server": 0.3}),
    ]
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    report.write(file, RESULTS, {"plot": "<svg/>"}, RUN, {"soak": [{"minutes": 0.5, "steal": 0.25}]})
    run, results, plots = report.read(file)
    assert (run, plots) == (RUN, {"plot": "<svg/>"})
    assert [(each.name, each.ratio, each.reached) for each in results] == [
        (each.name, each.ratio, each.reached) for each in RESULTS
    ]
    assert json.loads(file.read_text())["series"] == {"soak": [{"minutes": 0.5, "steal": 0.25}]}


def test_the_table_has_the_marks_and_whether_they_are_reached() -> None:
    lines = report.markdown(RESULTS, {"latency": ""}, RUN).splitlines()
    row = next(line for line in lines if line.startswith(f"| {MARKS[0].what} |"))
    assert (
        row
        == f"| {MARKS[0].what} | 24,000 provisions/s | 20,000 | 1.2 | 1.1 to 1.3 | ≥ 1.2 | yes | 0.40 / – / 1.26 |  |"
    )
    assert next(line for line in lines if "p99 at half of peak, HTTP" in line).endswith("| ≤ 10 | no |  |  |")
    assert next(line for line in lines if "at 5 M" in line).endswith("| ≥ 0.85 |  |  | not in this run |")
    assert "| Other / thing | 5 s |  |  |  | – / 0.30 / – | a note |" in lines
    assert "![latency](performance/latency.svg)" in lines
    assert sum(line.startswith("| ") for line in lines) >= len(MARKS) + len(CONDITIONS)


def test_the_terminal_shows_every_mark() -> None:
    console = Console(file=io.StringIO(), width=250)
    report.show(RESULTS, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(mark.what in text for mark in (*MARKS, *CONDITIONS))
    assert "reached" in text
    assert text.count(report.CORES) == 3
    assert "0.40 / – / 1.26" in text
    assert "– / 0.30 / –" in text


def test_shares_of_marks() -> None:
    least, most = Mark("a", "", 2.0), Mark("a", "", 10.0, at_least=False, of="value")
    assert report.share(Result("a", "", ratio=3.0), least) == 1.5
    assert report.share(Result("a", "", 20.0), most) == 0.5
    assert report.share(Result("a", ""), least) is None


def test_publishing_replaces_what_is_between_the_comments(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{report.BEGIN}\nyesterday\n{report.END}\nafter\n")
    report.publish(RESULTS, {"latency": "<svg/>"}, RUN, page)
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n2030-01-01")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "yesterday" not in text
    assert (tmp_path / "performance/latency.svg").read_text() == "<svg/>"
    assert (tmp_path / "performance/reach.svg").exists()
    report.publish(RESULTS, {}, RUN, page)
    assert page.read_text().count(report.BEGIN) == 1
