import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core.particle import Field
from provserver.core.particlefile import InvalidFile, read

TOKENS = [f"{number:032d}" for number in range(3)]


def rows(text: str) -> list[tuple[str, int, dict[Field, str]]]:
    return [tuple(row) for row in read(io.StringIO(text, newline=""))]  # type: ignore[misc]


def test_it_reads_an_export_in_every_form() -> None:
    first, second, third = TOKENS
    assert rows(
        f"\ufeffDevice Token;Particle Device ID\r\n{first};E00F\r\n\r\n;;\r\n{second};\r\n".replace(";;", "; ")
    ) == [
        (first, 2, {Field.DEVICE_ID: "e00f"}),
        (second, 5, {}),
    ]
    assert rows(f"QR Token,Device Token,ICCID,Serial\nsqr_x,{third},'89,P1\n") == [
        (third, 2, {Field.ICCID: "89", Field.SERIAL: "p1"})
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("Token\nx\n", "'Device Token'"),
        ("Device Token,Device Token\n", "'Device Token'"),
        ("Device Token\nshort\n", "line 2"),
        (f"Device Token,Serial\n{TOKENS[0]}\n", "line 2: 1 cells"),
        (f'Device Token\n"{TOKENS[0]}\n', "line 2"),
    ],
)
def test_what_is_wrong_is_said_without_what_it_is(text: str, reason: str) -> None:
    with pytest.raises(InvalidFile, match=reason) as raised:
        rows(text)
    assert "short" not in str(raised.value)


@given(st.text())
def test_nothing_else_comes_of_any_text(text: str) -> None:
    try:
        for row in read(io.StringIO(text, newline="")):
            assert row.token not in repr(row)
    except InvalidFile:
        pass
