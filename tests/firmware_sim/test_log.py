import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from firmware_sim.log import SerialLog, mask


class Clock:
    def __init__(self) -> None:
        self._ticks: Iterator[float] = iter((0.0, 0.012, 1.5))

    def __call__(self) -> float:
        return next(self._ticks)


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


def test_lines_look_like_a_serial_monitor(output: io.StringIO) -> None:
    log = SerialLog(Console(file=output), clock=Clock())
    log.info("boot", "up")
    log.warning("coap", "no answer")
    assert output.getvalue() == "I (12) boot: up\nW (1500) coap: no answer\n"


def test_a_line_is_never_wrapped_nor_marked_up(output: io.StringIO) -> None:
    SerialLog(Console(file=output, width=20), clock=Clock()).failure("x", "[bold]" + "y" * 100)
    assert output.getvalue() == "E (12) x: [bold]" + "y" * 100 + "\n"


def test_terminal_codes_from_a_server_are_shown_not_obeyed(output: io.StringIO) -> None:
    SerialLog(Console(file=output), clock=Clock()).failure("x", "a\x1b[2J\r\nb\u202e")
    assert output.getvalue() == "E (12) x: a\\x1b[2J\\r\\nb\\u202e\n"


def test_silent() -> None:
    SerialLog(None).info("boot", "up")


@pytest.mark.parametrize(
    ("value", "masked"), [("abcdefghijkl", "abcd…"), ("abcdefghijk", "…"), ("abc", "…"), ("", "…")]
)
def test_mask(value: str, masked: str) -> None:
    assert mask(value) == masked


def test_secrets_are_masked_unless_asked_for() -> None:
    basic = {"clientId": "c" * 12, "userName": None, "password": "p" * 12}
    assert SerialLog(None).secret(basic) == "clientId cccc…, password pppp…"
    assert SerialLog(None, show=True).secret(basic) == "clientId cccccccccccc, password pppppppppppp"
