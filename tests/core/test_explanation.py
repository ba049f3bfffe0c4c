import itertools
import re
import shlex
from typing import Any

import pytest
import typer

from provserver.cli.app import cli
from provserver.core import explanation
from provserver.core.decision import Reason
from provserver.core.explanation import ADVICE, Subject, Word
from provserver.errors import Outcome

REASONS: list[Reason | Word] = [*Reason, *Word]


def outcome(reason: Reason | Word) -> Outcome:
    if isinstance(reason, Reason):
        return reason.outcome
    return Outcome[reason.name] if reason.name in Outcome.__members__ else Outcome.SUCCESS


def test_every_reason_is_explained_and_no_other() -> None:
    assert set(ADVICE) == set(REASONS)
    assert not {each.name for each in Word} & {each.name for each in Reason}


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.name)
def test_each_has_words_and_commands_that_there_are(reason: Reason | Word) -> None:
    told = explanation.explain(outcome(reason), reason, Subject("a profile", "it's 1"))

    assert told.happened
    assert told.why
    assert told.advice.endswith(".")
    assert len(told.commands) == len(ADVICE[reason].commands)
    for command in told.commands:
        words = shlex.split(command)
        assert "{" not in command
        if words[0] == "provserver":
            check(words[1:])
        else:
            assert words[0] in ("openssl", "date")


def check(words: list[str]) -> None:
    """Whether the command line has such a command, and such options."""
    command: Any = typer.main.get_command(cli)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    options = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize(("outcome", "rehearsed"), list(itertools.product(Outcome, [False, True])))
def test_every_outcome_has_words(outcome: Outcome, rehearsed: bool) -> None:
    told = explanation.explain(outcome, Word.GRANTED, Subject(), rehearsed=rehearsed)
    assert told.happened.startswith("A device ")
    assert ("would" in told.happened) == rehearsed
    assert re.fullmatch(r"[245]\.\d\d", told.told.coap)


def test_names_are_quoted_for_a_shell() -> None:
    subject = Subject("p", "$(reboot) '\";")
    told = explanation.explain(Outcome.FAILURE, Reason.ALREADY_PROVISIONED, subject)
    assert shlex.split(told.commands[0]) == ["provserver", "device", "rearm", "$(reboot) '\";"]


def test_commands_whose_names_are_not_known_are_left_out() -> None:
    told = explanation.explain(Outcome.FAILURE, Reason.NOT_PRE_PROVISIONED, Subject(profile="p"))
    assert told.commands == ["provserver device import devices.csv --profile p"]


def test_what_the_device_is_told_is_what_it_is_sent() -> None:
    told = explanation.told(Outcome.NOT_FOUND, Reason.SECRET_WRONG)
    assert (told.status, told.message) == ("NOT_FOUND", "Provision data was not found!")
    assert (told.http, told.coap) == (200, "4.00")
    told = explanation.told(Outcome.INVALID, Word.INVALID, "token must be a string!")
    assert told.message == "token must be a string!"
    assert explanation.told(Outcome.INVALID, Reason.NONCE_MALFORMED).message == f"{Reason.NONCE_MALFORMED.text}!"
    told = explanation.told(Outcome.UNDECODABLE, Word.UNDECODABLE)
    assert (told.status, told.message, told.mqtt) == (None, None, "no reply; MQTT 5: reason code 0x99")


def test_a_recorded_reason_is_read_again() -> None:
    assert [explanation.read(each.name) for each in REASONS] == REASONS
    assert explanation.read(None) is Word.GRANTED
    with pytest.raises(KeyError):
        explanation.read("OF_ANOTHER_VERSION")
