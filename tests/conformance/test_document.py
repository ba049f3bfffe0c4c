"""The page that shows the matrix is the one that the data makes."""

from tests.conformance.document import PAGE, document


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text() == document(), "run: python -m tests.conformance.document"
