import pytest

from provserver.admin.console.reasons import said
from tests.admin.console.conftest import Visitor


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Expected `str` of length >= 1", "it must not be empty"),
        ("Expected `str` of length >= 12", "it must have 12 characters at least"),
        ("Expected `str` of length <= 255", "it may have 255 characters at most"),
        ("Expected `int` >= 1", "it must be 1 or more"),
        ("Expected `int`, got `str`", "it must be a whole number"),
        ("Expected `str` matching regex '^[a-z]*$'", "it has characters that are not taken here"),
        ("Invalid enum value 'zz'", "it must be one of those that there are to choose from"),
        ("Object missing required field `seq`", "seq is missing"),
        ("the name is taken", "the name is taken"),
    ],
)
def test_reasons_are_in_plain_words(reason: str, words: str) -> None:
    assert said(reason) == words


async def test_what_cannot_be_read_is_told_without_jargon(visitor: Visitor) -> None:
    for path in ("/attempts?address=nowhere", "/attempts?since=soon", "/jobs?state=odd", "/audit?since=soon"):
        for part in (False, True):
            page = await visitor.get(path, part=part)
            assert page.status == 400
            assert "Expected" not in page.text
            assert "RFC" not in page.text
            assert "enum" not in page.text
    assert "192.0.2.7" in (await visitor.get("/attempts?address=nowhere", part=True)).text


async def test_no_page_sends_people_to_a_shell_for_a_list(visitor: Visitor) -> None:
    for path in ("/devices/nope", "/devices?profile=nope"):
        page = await visitor.get(path)
        assert (page.status, "Look in the list of" in page.text) == (404, True)
        assert "provserver device" not in page.text
        assert "provserver profile" not in page.text
