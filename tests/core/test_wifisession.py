from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from provserver.core.board import trouble
from provserver.core.wifisession import OPEN, WifiSession, WifiState, is_client, is_word, said


def session(**changes: Any) -> WifiSession:
    begin = datetime(2026, 11, 22, tzinfo=UTC)
    given: dict[str, Any] = dict.fromkeys(WifiSession.__struct_fields__) | {"id": UUID(int=1), "started_at": begin}
    return WifiSession(**given | changes)


def test_a_session_takes_as_long_as_it_takes() -> None:
    begin = datetime(2026, 11, 22, tzinfo=UTC)
    assert session().duration is None
    assert session(ended_at=begin + timedelta(seconds=12.5)).duration == 12.5


def test_two_states_are_no_end() -> None:
    assert set(WifiState) - set(OPEN) == {"SUCCESS", "FAILED", "CANCELED", "EXPIRED"}


@pytest.mark.parametrize("text", ["", "Word", "two words", "a\n", "é", "x" * 65, "a-b"])
def test_what_is_no_word(text: str) -> None:
    assert not is_word(text)


def test_words_and_clients() -> None:
    assert is_word("hw_info_tmpl_not_found")
    assert is_word("x" * 64)
    assert is_client("cli")
    assert is_client("my-app_2")
    assert not is_client("x" * 33)
    assert not is_client("a\n")


@pytest.mark.parametrize("code", [0, 700, 701, 702, 703, 704, 705, 710, 711, 712, 720, 721, 722, 723, 730, 731, 732])
def test_every_error_of_a_board_is_told_in_words(code: int) -> None:
    word = trouble(code).word
    found = said(word)

    assert found is not None, word
    assert found.what.endswith(".")
    assert found.remedy.endswith(".")
    assert "--" not in found.what + found.remedy  # which only the command line has


def test_a_word_of_the_phone_side_alone_says_nothing_more() -> None:
    assert said("app_closed") is None
    assert said(None) is None
