import re
import zlib

import pytest

from provserver.core.labels import SHEETS, Label, pdf
from tests import qrcodes


def label(number: int, *lines: str) -> Label:
    return Label(f"sqr_{number:032}+1", lines or (f"Meter {number}", f"No. {number}"))


def page_count(document: bytes) -> int:
    (count,) = re.findall(rb"/Count (\d+)", document)
    return int(count)


def texts(document: bytes) -> list[str]:
    """What is written, in its order, as PDF escapes it."""
    found: list[str] = []
    for stream in re.findall(rb"stream\n(.*?)\nendstream", document, re.DOTALL):
        try:
            content = zlib.decompress(stream)
        except zlib.error:
            continue
        found += (each.decode("cp1252") for each in re.findall(rb"\((.*)\) Tj", content))
    return found


@pytest.mark.parametrize(("count", "pages"), [(1, 1), (21, 1), (22, 2), (50, 3)])
def test_21_labels_fill_a_page(count: int, pages: int) -> None:
    made = pdf([label(number) for number in range(count)], SHEETS["L7160"])

    assert made.startswith(b"%PDF-")
    assert page_count(made) == pages
    painted = qrcodes.pages(made, 210, 297)
    assert len(painted) == pages
    read = [text for page in painted for text in qrcodes.read(page)]
    assert sorted(read) == sorted(label(number).payload for number in range(count))


def test_a_roll_has_a_label_a_page() -> None:
    made = pdf([label(number) for number in range(3)], SHEETS["62x29"])

    assert page_count(made) == 3
    assert b"/MediaBox [0 0 175.75 82.20]" in made
    assert [qrcodes.read(page) for page in qrcodes.pages(made, 62, 29)] == [
        [label(number).payload] for number in range(3)
    ]


def test_labels_are_where_the_sheet_has_them() -> None:
    corners = [SHEETS["L7160"].corner(place) for place in range(21)]

    assert corners[0] == (7.21, 15.15)
    assert corners[1] == pytest.approx((7.21 + 66.04, 15.15))
    assert corners[3] == pytest.approx((7.21, 15.15 + 38.1))
    assert corners[20][0] + 63.5 == pytest.approx(210 - 7.21)
    assert corners[20][1] + 38.1 == pytest.approx(297 - 15.15)
    assert SHEETS["L7160"].corner(21) == corners[0]


def test_lines_are_written_beside_the_code() -> None:
    made = pdf([label(1, "Meter 1", "No. 1", "", "IMEI: 490154203237518")], SHEETS["L7160"])

    assert texts(made) == ["Meter 1", "No. 1", "IMEI: 490154203237518"]


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("Zähler € 7", "Zähler € 7"),
        ("水表 7", "?? 7"),
        ("a\nb\u202e\0c", "a b  c"),
        ("(ET) \\ Tj", "\\(ET\\) \\\\ Tj"),
        ("{nb}", "{nb}"),
        ("**bold** __x__ --y--", "**bold** __x__ --y--"),
    ],
)
def test_whatever_a_line_holds_is_only_written(line: str, written: str) -> None:
    made = pdf([label(1, line)] * 2, SHEETS["L7160"])

    assert texts(made) == [written] * 2


@pytest.mark.parametrize("line", ["W" * 255, "i" * 255, "Ü" * 40])
def test_a_line_that_is_too_long_is_cut(line: str) -> None:
    (written,) = texts(pdf([label(1, line)], SHEETS["62x29"]))

    assert written.endswith("…")
    assert line.startswith(written[:-1])
    assert len(written) > 8


def test_a_label_may_have_no_text() -> None:
    made = pdf([Label("sqr_x", ("", ""))], SHEETS["62x29"])

    assert texts(made) == []
    assert qrcodes.read(qrcodes.pages(made, 62, 29)[0]) == ["sqr_x"]


def test_a_label_is_not_shown_by_accident() -> None:
    assert repr(label(1)) == "<Label>"
