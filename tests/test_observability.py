import json
import logging
import string
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provserver import observability
from provserver.core import ids
from provserver.errors import Misconfigured, Unavailable
from provserver.observability import REDACTED, redacted
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
@pytest.mark.parametrize("format_", ["json", "console"])
def test_the_words_of_a_fault_are_kept_only_where_they_are_ours(
    capsys: pytest.CaptureFixture[str], format_: str
) -> None:
    """Postgres' DETAIL quotes rows, others quote what they were given."""
    observability.set_up("info", format_)
    row = "detn4lp"[::-1]  # stacks show the lines of our source
    try:
        try:
            raise ValueError(f"Key (name)=({row}) already exists.")
        except ValueError as fault:
            raise ExceptionGroup(row, [Unavailable("Postgres is away."), KeyError(row)]) from fault
    except ExceptionGroup:
        logging.getLogger("provserver.x").exception("it failed")

    _, err = capsys.readouterr()
    assert "pl4nted" not in err
    for kept in ("it failed", "ValueError", "ExceptionGroup", "KeyError", "Unavailable: Postgres is away."):
        assert kept in err
    assert "test_the_words_of_a_fault" in err  # where


TOKENS = st.binary(min_size=64, max_size=64).map(lambda drawn: ids.token(lambda size: (drawn * size)[:size]))
WORDS = st.text(string.ascii_letters + string.digits + "+/=~-_.", min_size=8, max_size=60).filter(
    lambda text: len(text.strip("-_.=~+/")) > 7
)
KEY = "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----"
CLOSED = st.sampled_from(["", " ", "\n", "'", '"', ",", ")", "; then"])

SECRETS: dict[str, st.SearchStrategy[tuple[str, str]]] = {
    "a device's token": TOKENS.map(lambda token: (token, token)),
    "a key in hex": st.binary(min_size=16, max_size=64).map(lambda key: (key.hex(), key.hex())),
    "an API key": TOKENS.map(lambda token: (f"psk_{token}-{token}", token)),
    "a QR token": TOKENS.map(lambda token: (f"sqr_{token[:22]}", token[:22])),
    "a private key": WORDS.map(lambda word: (KEY.format(word), word)),
    "a private key that is cut off": WORDS.map(lambda word: (KEY.format(word)[:-20], word)),
    "a password in a URL": WORDS.map(
        lambda word: (f"mqtt://user:{word.replace('/', '')}@host/x", word.replace("/", ""))
    ),
    "a member of JSON": WORDS.map(lambda word: (json.dumps({"provisionDeviceSecret": word}), word)),
    "a member that is JSON's own": WORDS.map(lambda word: (repr({"password": word}), word)),
    "a setting": WORDS.map(lambda word: (f"PASSWORD={word}", word)),
    "a header": WORDS.map(lambda word: (f"Authorization: Bearer {word}", word)),
}


@pytest.mark.parametrize("kind", SECRETS)
@given(data=st.data())
def test_what_looks_like_a_secret_is_taken_out(kind: str, data: st.DataObject) -> None:
    before, after = data.draw(CLOSED), data.draw(CLOSED)
    shown, secret = data.draw(SECRETS[kind])

    cleaned = redacted(f"before {before}{shown}{after} after")

    assert secret not in cleaned
    assert REDACTED in cleaned
    assert cleaned.startswith("before ")


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("format_", ["json", "console"])
def test_no_record_holds_a_secret_wherever_it_stands(capsys: pytest.CaptureFixture[str], format_: str) -> None:
    observability.set_up("info", format_)
    log = logging.getLogger("provserver.x")
    token = "Pl4nted" + "a1" * 12 + "z"
    assert len(token) == 32

    log.info("a token: %s", token)
    log.info("a URL: %s", "https://u:pl4nted@h/")
    log.info("named", extra={"accessToken": "pl4nted", "password": 12_345_678, "nested": {"secret": ["pl4nted"]}})
    log.info("deep", extra={"several": [token, {"x": f"psk_{token}"}], "other": KeyError(token)})

    _, err = capsys.readouterr()
    assert "l4nted" not in err
    assert "12345678" not in err
    assert err.count(REDACTED) >= 7


@given(st.text(string.ascii_letters + " .,:;-()%/", max_size=200))
@example("worker 1 (pid 4242) has ended, exit code -9")
@example("serving: http 127.0.0.1:8080, mqtt [::1]:1883")
@example("provision requests wait for the database: Postgres is not available: ConnectionResetError.")
@example("device 019ab3f2-7c1e-7d40-9d0a-5f0e7a1b2c3d was refused: token unknown")
def test_what_people_write_stays(text: str) -> None:
    if all(len(word) < 32 for word in text.replace("-", " ").split()):
        assert redacted(text) == text


def test_redacting_twice_changes_nothing() -> None:
    line: Any = redacted('{"token": "abc\\"def", "n": 1} password=x&y=2')
    assert line == redacted(line) == '{"token": "[redacted]", "n": 1} password=[redacted]&y=2'


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
