"""Every case on every transport it concerns, against a real server process; and every row by some case."""

import re
from pathlib import Path

import pytest

from tests.conformance.bench import Bench
from tests.conformance.cases import CASES
from tests.conformance.model import Case, Transport
from tests.conformance.play import play
from tests.conformance.rows import ROWS, SECTIONS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("case", "transport"),
    [
        pytest.param(case, transport, id=f"{case.id}-{transport.name.lower()}")
        for case in CASES
        for transport in case.transports
    ],
)
async def test_case(bench: Bench, case: Case, transport: Transport) -> None:
    await play(bench, case, transport)


def test_every_row_is_cited() -> None:
    cited = {row for case in CASES for row in case.rows}
    assert sorted(row.id for row in ROWS.values() if row.required and row.id not in cited) == []


def test_every_citation_is_a_row() -> None:
    assert [(case.id, row) for case in CASES for row in case.rows if row not in ROWS] == []


def test_rows_for_later_are_not_cited() -> None:
    assert [(case.id, row) for case in CASES for row in case.rows if ROWS[row].later] == []


def test_rows_held_elsewhere_are_held() -> None:
    for row in ROWS.values():
        if row.elsewhere:
            file, _, test = row.elsewhere.partition("::")
            assert f"def {test}(" in (ROOT / file).read_text(), row.id


def test_ids_are_in_order() -> None:
    ids = [case.id for case in CASES]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z0-9]+/[a-z0-9.-]+", id_) for id_ in ids)
    assert {row.id.partition("/")[0] for row in ROWS.values()} == set(SECTIONS)
