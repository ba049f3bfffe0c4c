import csv
from collections.abc import Iterable, Iterator
from itertools import chain, count, repeat

import pytest

from provserver.core import csvrows
from provserver.core.csvrows import Rows, RowTooLong, RowTooWide, TooManyBlankRows


def read(lines: Iterable[str], *, spaces: bool = False) -> list[tuple[int, list[str] | csv.Error]]:
    return list(Rows(lines, 3, spaces=spaces))


def faults(lines: Iterable[str]) -> list[tuple[int, type]]:
    return [(line, type(found)) for line, found in read(lines) if isinstance(found, csv.Error)]


def test_rows_are_told_with_their_lines_and_blank_ones_are_none() -> None:
    assert read(["a,b\n", "\n", ",\n", '"c\n', 'd"\n', " \n", "e\n"]) == [
        (1, ["a", "b"]),
        (4, ["c\nd"]),
        (6, [" "]),
        (7, ["e"]),
    ]
    assert read([" ,\t\n", "e\n"], spaces=True) == [(2, ["e"])]


def test_a_header_is_the_first_row_whatever_is_in_it() -> None:
    rows = Rows(["\n", "a\n"], 3, line=7)
    assert rows.header() == []
    assert list(rows) == [(8, ["a"])]


@pytest.mark.parametrize("blank", ["\n", ",,\n", '""\n'])
def test_nobody_waits_for_a_file_of_blank_rows(blank: str) -> None:
    assert faults(chain(["a\n"], repeat(blank))) == [(csvrows.MAX_BLANK_ROWS + 2, TooManyBlankRows)]
    assert not faults(chain(["a\n"], repeat(blank, csvrows.MAX_BLANK_ROWS)))


def test_blank_rows_are_counted_however_they_are_scattered() -> None:
    def scattered() -> Iterator[str]:
        for number in count():
            yield from ("\n", f"{number}\n")

    assert faults(scattered()) == [(2 * csvrows.MAX_BLANK_ROWS + 1, TooManyBlankRows)]


@pytest.mark.parametrize(
    "lines",
    [["x" * csvrows.MAX_CHARACTERS + "\n"], chain(['"'], repeat("x\n")), chain(['"x\n'], repeat('","x\n'))],
    ids=["a line", "a cell", "lines that are one row"],
)
def test_nobody_waits_for_a_row_without_an_end(lines: Iterable[str]) -> None:
    assert [line for line, _ in faults(chain(["a\n"], lines))] == [2]


def test_a_row_is_as_long_and_as_wide_as_it_may_be() -> None:
    cell = "x" * 100_000
    assert faults(["a\n", *repeat(f"{cell},{cell}\n", 12)]) == []  # each for itself
    assert faults(["a\n", "1,2,3,4\n", "b\n"]) == [(2, RowTooWide)]
    assert faults(["a\n", "x" * csvrows.MAX_CHARACTERS + "\n", "b\n"]) == [(2, RowTooLong)]
