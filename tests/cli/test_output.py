import json
import os
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from provserver.cli import output
from provserver.errors import (
    Conflict,
    Invalid,
    Misconfigured,
    NotFound,
    ProvserverError,
    Refused,
    TooManyRequests,
    Unavailable,
)


@pytest.mark.parametrize(("fault", "code"), [(Refused, 1), (Misconfigured, 3), (Unavailable, 4)])
def test_an_error_is_said_on_stderr_with_its_exit_code(
    fault: type[ProvserverError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert output.report(fault("It is [so]. Do :that:.")) == code

    assert capsys.readouterr() == ("", "error: It is [so]. Do :that:.\n")


def test_every_error_has_an_exit_code_of_its_own() -> None:
    assert set(output.EXIT_CODES) == set(ProvserverError.__subclasses__())
    assert len({0, 2, *output.EXIT_CODES.values()}) == len(output.EXIT_CODES) + 2


def test_json_is_one_value(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"id": UUID(int=1), "at": datetime(2026, 1, 1, tzinfo=UTC), "none": None, "ü": [1.5, True]})

    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "id": "00000000-0000-0000-0000-000000000001",
        "at": "2026-01-01T00:00:00Z",
        "none": None,
        "ü": [1.5, True],
    }
    assert (out[-2:], err) == ("}\n", "")


@pytest.mark.parametrize("values", [[], [1], [{"a": "\n"}, {"b": "]"}]])
async def test_an_array_has_an_element_a_line(values: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    async def each() -> AsyncIterator[object]:
        for value in values:
            yield value

    await output.print_json_array(each())

    out, _ = capsys.readouterr()
    assert json.loads(out) == values
    assert len(out.splitlines()) == len(values) + 2


async def test_elements_are_printed_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    async def each() -> AsyncIterator[int]:
        yield 1
        assert "1" in capsys.readouterr().out
        yield 2

    await output.print_json_array(each())

    assert capsys.readouterr().out == ",\n 2\n]\n"


async def test_an_array_that_cannot_be_had_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async def none() -> AsyncIterator[int]:
        raise Refused("no")
        yield

    with pytest.raises(Refused):
        await output.print_json_array(none())

    assert capsys.readouterr().out == ""


def test_an_object_has_a_member_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    objects = [{"k": "v", "n": None}, {"k": [1, 2]}]
    output.print_object(
        {"a": None, "long name": True, "c": [1, "x", []], "d": {"k": "v"}, "e": [], "f": 1.5, "g": objects}
    )

    assert capsys.readouterr().out.splitlines() == [
        "a          -",
        "long name  yes",
        "c          1, x, -",
        "d          k=v",
        "e          -",
        "f          1.5",
        "g          k=v n=-",
        "           k=1, 2",
    ]


@pytest.mark.parametrize("value", ["a\x1b[31mb", "a\u009b31mb", "a\nb", "a\u202eb", "a\rb", "a\x07b"])
def test_nothing_that_is_printed_steers_the_terminal(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    output.print_object({"name": value, "nested": {"name": value}})
    output.print_table(["NAME"], [[value]])
    output.say(value)
    output.report(Refused(value))

    out, err = capsys.readouterr()
    printed = (out + err).replace("\n", "")
    assert printed.isprintable()
    assert printed.count("\N{REPLACEMENT CHARACTER}") >= 4
    assert len((out + err).splitlines()) == 6


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("a", quiet=True)

    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("fault", [NotFound("no"), Conflict("no"), TooManyRequests("no", 1)])
def test_every_refusal_ends_with_1(fault: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    assert output.report(fault) == 1
    assert capsys.readouterr().err == "error: no\n"


def test_what_is_wrong_where_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert output.report(Invalid("Not so.", [{"field": "name", "reason": "too\nlong"}])) == 1

    assert capsys.readouterr().err == "error: Not so.\n  field=name reason=too\N{REPLACEMENT CHARACTER}long\n"


async def items() -> AsyncIterator[dict[str, object]]:
    yield {"name": "a", "createdAt": "2026-11-22T03:19:09.544723Z", "more": 1}
    yield {"name": "b\x1b[31m", "createdAt": None}


async def test_a_list_is_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    await output.print_list(items(), {"NAME": "name", "MADE": "createdAt"}, json=False)
    head, first, second = capsys.readouterr().out.splitlines()
    assert (head.split(), first.split()) == (["NAME", "MADE"], ["a", "2026-11-22", "03:19:09"])
    assert second.split() == ["b\N{REPLACEMENT CHARACTER}[31m", "-"]

    await output.print_list(items(), {"NAME": "name"}, json=True)
    assert json.loads(capsys.readouterr().out) == [item async for item in items()]


async def chunks(*parts: bytes, fault: Exception | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if fault is not None:
        raise fault


async def test_a_file_is_its_owners_alone_and_whole(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("old")
    file.chmod(0o644)
    told: list[int] = []

    assert await output.save(file, chunks(b"ab", b"c"), lambda done, _: told.append(done)) == 3

    assert (file.read_bytes(), file.stat().st_mode & 0o777, told) == (b"abc", 0o600, [2, 3])
    assert [each.name for each in os.scandir(tmp_path)] == ["f"]


async def test_what_breaks_off_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("old")

    with pytest.raises(Unavailable):
        await output.save(file, chunks(b"ab", fault=Unavailable("no")), lambda _, __: None)

    assert file.read_text() == "old"
    assert [each.name for each in os.scandir(tmp_path)] == ["f"]


async def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="none/f cannot be written: No such file or directory"):
        await output.save(tmp_path / "none" / "f", chunks(b"ab"), lambda _, __: None)


def test_progress_is_for_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        with output.progress("tokens", quiet=quiet) as told:
            told(1, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_is_shown_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    for unit, count in (("tokens", "1,500 tokens"), ("bytes", "1.5/3.0 kB")):
        with output.progress(unit) as told:
            told(1500, 3000)
        out, err = capsys.readouterr()
        assert out == ""
        assert count in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
        assert "50%" in err


async def test_a_long_cell_is_cut_for_people_alone(capsys: pytest.CaptureFixture[str]) -> None:
    async def items() -> AsyncIterator[dict[str, Any]]:
        yield {"action": "key.created", "detail": {"permissions": ["device:read"] * 50}}

    columns = {"ACTION": "action", "DETAIL": "detail"}
    await output.print_list(items(), columns, json=False, cut={"DETAIL"})
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= len("key.created  ") + output.MAX_CELL
    assert "…" in shown
    await output.print_list(items(), columns, json=True, cut={"DETAIL"})
    assert capsys.readouterr().out.count("device:read") == 50
