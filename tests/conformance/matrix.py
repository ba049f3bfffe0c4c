"""The matrix that a run prints: case by transport."""

from collections.abc import Iterator, Mapping

from tests.conformance.model import Transport

Cell = tuple[str, Transport]

_MARKS = {"passed": "ok", "failed": "FAIL", "error": "FAIL", "skipped": "skip"}


class Matrix:
    """The outcome of each cell that has run."""

    def __init__(self) -> None:
        self._cells: dict[Cell, str] = {}

    def record(self, cell: Cell, outcome: str) -> None:
        """Note an outcome of pytest's; a failure stays one."""
        if self._cells.get(cell) != "failed":
            self._cells[cell] = outcome

    @property
    def empty(self) -> bool:
        return not self._cells

    @property
    def failed(self) -> bool:
        return "failed" in self._cells.values()

    def lines(self) -> Iterator[str]:
        """Header, a line for each case, totals."""
        rows: dict[str, dict[Transport, str]] = {}
        for (case, transport), outcome in self._cells.items():
            rows.setdefault(case, {})[transport] = _MARKS[outcome]
        width = max(map(len, rows))
        yield _line("", {transport: transport.value for transport in Transport}, width)
        for case, marks in rows.items():
            yield _line(case, marks, width)
        totals = {
            transport: f"{sum(marks.get(transport) == 'ok' for marks in rows.values())}"
            f"/{sum(transport in marks for marks in rows.values())}"
            for transport in Transport
        }
        yield _line(f"{len(rows)} cases", totals, width)


def _line(head: str, marks: Mapping[Transport, str], width: int) -> str:
    return f"{head:<{width}}" + "".join(f"  {marks.get(transport, '-'):<10}" for transport in Transport).rstrip()
