import json
import logging
from collections.abc import Iterator

import pytest

from provserver import observability
from provserver.errors import Misconfigured
from tests.transports.test_http import PEERS, logging_as_serve_does


@pytest.fixture
def restored() -> Iterator[None]:
    """Whatever is set up is undone."""
    with logging_as_serve_does():
        yield


def records(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    out, err = capsys.readouterr()
    assert out == ""  # stdout is for what a command prints
    return [json.loads(line) for line in err.splitlines()]


@pytest.mark.usefixtures("restored")
def test_a_record_is_one_line_of_json_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    observability.set_up("info", "json")

    logging.getLogger("provserver.http").warning("two\nlines of %s", "ü\x1b[31m", extra={"port": 80})

    (record,) = records(capsys)
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "event": "two\nlines of ü\x1b[31m",
        "level": "warning",
        "logger": "provserver.http",
        "port": 80,
    }


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(("level", "kept"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_a_level_keeps_what_is_as_grave(capsys: pytest.CaptureFixture[str], level: str, kept: int) -> None:
    observability.set_up(level, "json")

    for each in ("error", "warning", "info", "debug"):
        getattr(logging.getLogger("provserver.x"), each)(each)

    assert [record["event"] for record in records(capsys)] == ["error", "warning", "info", "debug"][:kept]


@pytest.mark.usefixtures("restored")
def test_a_fault_of_ours_has_its_stack_trace_in_its_record(capsys: pytest.CaptureFixture[str]) -> None:
    observability.set_up("info", "json")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logging.getLogger("provserver.http").exception("a request failed")

    (record,) = records(capsys)
    assert "ZeroDivisionError" in record["exception"]


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("logger", PEERS)
@pytest.mark.parametrize(("level", "kept"), [("debug", 4), ("info", 0), ("warning", 0), ("error", 0)])
def test_a_fault_of_a_peer_is_for_debugging_and_without_its_bytes(
    capsys: pytest.CaptureFixture[str], logger: str, level: str, kept: int
) -> None:
    """Whoever can reach a listener could fill the disk otherwise, and put there what it likes."""
    observability.set_up(level, "json")
    log = logging.getLogger(logger)
    try:
        raise ValueError("pl4nted")
    except ValueError:
        log.exception("pl4nted")
        log.exception("pl4nted %s", "pl4nted")
    log.warning("a warning")
    log.info("an info")

    found = records(capsys)
    assert [record["level"] for record in found] == ["debug"] * kept
    assert "pl4nted" not in str(found)
    assert all("exception" not in record for record in found)
    assert [record["event"] for record in found if "ValueError" in record["event"]] == [
        f"{logger}: a request could not be read (ValueError)"
    ] * (kept // 2)


@pytest.mark.usefixtures("restored")
def test_the_libraries_below_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    observability.set_up("debug", "json")

    logging.getLogger("asyncio").info("loop")
    logging.getLogger("asyncpg.pool").warning("away")

    assert records(capsys) == []


@pytest.mark.usefixtures("restored")
def test_a_record_is_for_people_on_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    observability.set_up("info", "console")

    logging.getLogger("provserver").info("serving: %s", "http 127.0.0.1:80")

    _, err = capsys.readouterr()
    assert "serving: http 127.0.0.1:80" in err
    assert "\x1b[" not in err  # colours are for terminals
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("restored")
def test_what_is_no_terminal_gets_json(capsys: pytest.CaptureFixture[str]) -> None:
    observability.set_up("info", "auto")

    logging.getLogger("provserver").info("a")

    assert records(capsys)[0]["event"] == "a"


@pytest.mark.usefixtures("restored")
def test_setting_up_twice_says_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        observability.set_up("info", "json")

    logging.getLogger("provserver").info("a")

    assert len(records(capsys)) == 1


@pytest.mark.parametrize(
    ("level", "format_", "message"),
    [
        ("loud", "json", "log_level must be one of debug, info, warning, error, not 'loud'"),
        ("INFO", "json", "log_level"),
        ("info", "xml", "log_format must be one of auto, console, json, not 'xml'"),
    ],
)
def test_another_level_or_format_is_refused_with_the_fix(level: str, format_: str, message: str) -> None:
    before = logging.getLogger().handlers[:]

    with pytest.raises(Misconfigured, match=message):
        observability.set_up(level, format_)

    assert logging.getLogger().handlers == before
