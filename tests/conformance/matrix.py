"""A matrix that a run prints: case by column."""

from collections.abc import Iterator, Mapping, Sequence

Cell = tuple[str, str]
"""A case's id, and the column."""

_MARKS = {"passed": "ok", "failed": "FAIL", "error": "FAIL", "skipped": "skip"}


class Matrix:
    """The outcome of each cell that has run."""

    def __init__(self, title: str, columns: Sequence[str]) -> None:
        self.title = title
        self._columns = columns
        self._cells: dict[tuple[int, Cell], str] = {}

    def record(self, number: int, cell: Cell, outcome: str) -> None:
        """Note an outcome of pytest's; a failure stays one. number: cells are printed in this order."""
        if self._cells.get((number, cell)) != "failed":
            self._cells[number, cell] = outcome

    @property
    def empty(self) -> bool:
        return not self._cells

    @property
    def failed(self) -> bool:
        return "failed" in self._cells.values()

    def lines(self) -> Iterator[str]:
        """Header, a line for each case, totals."""
        rows: dict[str, dict[str, str]] = {}
        for (_, (case, column)), outcome in sorted(self._cells.items()):
            rows.setdefault(case, {})[column] = _MARKS[outcome]
        width = max(map(len, rows))
        yield self._line("", {column: column for column in self._columns}, width)
        for case, marks in rows.items():
            yield self._line(case, marks, width)
        totals = {
            column: f"{sum(marks.get(column) == 'ok' for marks in rows.values())}"
            f"/{sum(column in marks for marks in rows.values())}"
            for column in self._columns
        }
        yield self._line(f"{len(rows)} cases", totals, width)

    def _line(self, head: str, marks: Mapping[str, str], width: int) -> str:
        cells = (f"  {marks.get(column, '-'):<{max(7, len(column))}}" for column in self._columns)
        return (f"{head:<{width}}" + "".join(cells)).rstrip()
