"""Rows of a CSV, read as a stream and bounded: between one row and the next, who reads them does nothing else."""

import csv
from collections.abc import Iterable, Iterator
from typing import Final

MAX_CHARACTERS: Final = 1 << 20
"""Of a row."""

MAX_BLANK_ROWS: Final = 5_000
"""Of a file. They are passed over, so that nobody has a turn while they are read."""


class RowTooLong(csv.Error):
    """A row has more characters than it may."""


class RowTooWide(csv.Error):
    """A row has more cells than it may."""


class TooManyBlankRows(csv.Error):
    """There is next to nothing in the file."""


class Rows:
    """The rows of a file, one by one; those without anything in them are left out.

    columns: cells that a row may have. line: the first one's number. spaces: whether cells of white space alone are
    empty.
    """

    def __init__(
        self,
        lines: Iterable[str],
        columns: int,
        *,
        line: int = 1,
        spaces: bool = False,
        delimiter: str = ",",
        skip_initial_space: bool = False,
    ) -> None:
        self._columns = columns
        self._line = line
        self._spaces = spaces
        self._characters = 0
        self._reader = csv.reader(
            self._bounded(lines), delimiter=delimiter, skipinitialspace=skip_initial_space, strict=True
        )

    def header(self) -> list[str]:
        """The first row, whatever is in it. Raises csv.Error."""
        return self._next()

    def __iter__(self) -> Iterator[tuple[int, list[str] | csv.Error]]:
        """The others, each with the line where it begins; they end with a fault, as nobody knows where the next is."""
        blank = 0
        while True:
            line = self._reader.line_num + self._line
            try:
                cells = self._next()
            except StopIteration:
                return
            except csv.Error as fault:
                yield line, fault
                return
            if any(map(str.strip, cells) if self._spaces else cells):
                yield line, cells
                continue
            blank += 1
            if blank > MAX_BLANK_ROWS:
                yield line, TooManyBlankRows(f"more than {MAX_BLANK_ROWS:,} rows are blank: delete them")
                return

    def _next(self) -> list[str]:
        self._characters = 0
        cells = next(self._reader)
        if len(cells) > self._columns:
            raise RowTooWide(f"{len(cells)} columns where {self._columns} are allowed")
        return cells

    def _bounded(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            self._characters += len(line)
            if self._characters > MAX_CHARACTERS:
                raise RowTooLong(f"longer than {MAX_CHARACTERS:,} characters: a quotation mark may be missing")
            yield line
