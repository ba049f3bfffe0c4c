from pathlib import Path

import pytest

from tests.security.clauses import CLAUSES, Clause
from tests.security.document import PAGE, document

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: f"{clause.source} {clause.clause}")
def test_what_a_clause_names_is_there(clause: Clause) -> None:
    for module in clause.modules:
        assert (ROOT / "provserver" / module).is_file(), module
    for test in clause.tests:
        file, _, name = test.partition("::")
        content = (ROOT / "tests" / file).read_text()
        assert f"def {name or 'test_'}" in content, test


def test_the_page_is_what_the_clauses_say() -> None:
    assert PAGE.read_text() == document()
