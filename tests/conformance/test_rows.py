"""What the two matrices are to show: every row by some case."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conformance import cases, rows
from tests.conformance.channels.cases import CASES as CHANNEL_CASES
from tests.conformance.channels.rows import ROWS as CHANNEL_ROWS
from tests.conformance.channels.rows import SECTIONS as CHANNEL_SECTIONS
from tests.conformance.rows import Row

ROOT = Path(__file__).parents[2]

ROWS = rows.ROWS | CHANNEL_ROWS
CITED = {row: case.id for case in cases.CASES for row in case.rows}
CITED |= {row: case.id for case in CHANNEL_CASES for row in case.rows}


def test_every_row_is_cited() -> None:
    assert sorted(row.id for row in ROWS.values() if row.required and row.id not in CITED) == []


def test_every_citation_is_a_row() -> None:
    assert [(case, row) for row, case in CITED.items() if row not in ROWS] == []


def test_rows_for_later_are_not_cited() -> None:
    assert [(case, row) for row, case in CITED.items() if ROWS[row].later] == []


def test_rows_held_elsewhere_are_held() -> None:
    for row in ROWS.values():
        if row.elsewhere:
            file, _, test = row.elsewhere.partition("::")
            assert f"def {test}(" in (ROOT / file).read_text(), row.id


@pytest.mark.parametrize(
    ("ids", "of", "sections"),
    [
        ([case.id for case in cases.CASES], rows.ROWS, rows.SECTIONS),
        ([case.id for case in CHANNEL_CASES], CHANNEL_ROWS, CHANNEL_SECTIONS),
    ],
    ids=["provisioning", "channels"],
)
def test_ids_are_in_order(ids: list[str], of: Mapping[str, Row], sections: Mapping[str, str]) -> None:
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z0-9-]+/[a-z0-9.-]+", id_) for id_ in ids)
    assert {row.partition("/")[0] for row in of} == set(sections)
