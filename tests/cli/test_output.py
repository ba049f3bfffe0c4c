import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest

from provserver.cli import output
from provserver.errors import Misconfigured, ProvserverError, Refused, Unavailable


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
