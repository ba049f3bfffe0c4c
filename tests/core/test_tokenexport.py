import csv
import io
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import tokenexport
from provserver.core.tokenexport import COLUMNS, FileNames, OpenedToken, safe_name

TOKEN = OpenedToken(
    id=UUID(int=7),
    number=42,
    auth_token="A" * 32,
    qr_token="sqr_" + "B" * 32,
    payload="sqr_" + "B" * 32 + "+1",
    organization_number=1,
    organization_name="Maker",
    profile_name="Meter",
    template_id="TMPL123456789",
    status="UNCLAIMED",
    created_at=datetime(2026, 11, 22, 11, 44, 30, 999, tzinfo=UTC),
    name=None,
    metadata={},
)


def token(**changes: Any) -> OpenedToken:
    return TOKEN._replace(**changes)


def read(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))


# CSV


def test_the_first_column_is_what_scripts_look_for() -> None:
    data = tokenexport.encode([tokenexport.header(["IMEI", "Größe"])])

    assert data.decode() == (
        "Device Token,QR Token,Template,Template ID,Organization,Status,Created,Number,Device Name,IMEI,Größe\r\n"
    )


def test_a_row_has_all_of_a_token() -> None:
    made = token(name="Pump 1", metadata={"IMEI": "490154203237518", "other": "x"})

    assert tokenexport.row(made, ["IMEI", "MAC"]) == [
        *("A" * 32, "sqr_" + "B" * 32, "Meter", "TMPL123456789", "Maker", "UNCLAIMED", "2026-11-22T11:44:30Z"),
        *("42", "Pump 1", "490154203237518", ""),
    ]


def test_times_are_utc() -> None:
    made = token(created_at=datetime(2026, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=2))))

    assert tokenexport.row(made, [])[6] == "2025-12-31T23:00:00Z"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_cell_is_a_formula(start: str) -> None:
    evil = start + 'HYPERLINK("http://x","y")'
    made = token(name=evil, profile_name=evil, organization_name=evil, metadata={evil: evil})

    head, cells = read(tokenexport.encode([tokenexport.header([evil]), tokenexport.row(made, [evil])]))
    assert head[-1] == "'" + evil
    assert [cells[place] for place in (2, 4, 8, 9)] == ["'" + evil] * 4
    assert not any(cell.startswith(start) for cell in cells)


def test_tokens_are_as_they_are() -> None:
    """A device takes an AuthToken of exactly 32 characters."""
    made = token(auth_token="-" + "A" * 31)

    assert tokenexport.row(made, [])[:2] == [made.auth_token, made.qr_token]


def test_a_field_that_is_called_as_a_column_does_not_take_its_place() -> None:
    made = token(metadata={"Device Token": "x", "Status": "y"})

    head = tokenexport.header(["Device Token", "Status"])
    assert len(set(head)) == len(head)
    found = dict(zip(head, tokenexport.row(made, ["Device Token", "Status"]), strict=True))
    assert found["Device Token"] == made.auth_token
    assert found["Status"] == "UNCLAIMED"
    assert found["Device Token (metadata)"] == "x"
    assert found["Status (metadata)"] == "y"


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text(), max_size=4))
def test_whatever_metadata_holds_is_read_back(metadata: dict[str, str]) -> None:
    metadata = {field: value.encode(errors="ignore").decode() for field, value in metadata.items()}
    fields = list(metadata)

    head, cells = read(
        tokenexport.encode([tokenexport.header(fields), tokenexport.row(token(metadata=metadata), fields)])
    )

    assert len(head) == len(cells) == len(COLUMNS) + len(fields)
    for cell, value in zip(cells[len(COLUMNS) :], metadata.values(), strict=True):
        assert cell in (value, "'" + value)
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_an_opened_token_is_not_shown_by_accident() -> None:
    assert repr(TOKEN) == "<OpenedToken 42>"


# Names of files


def test_files_are_named_by_number() -> None:
    assert FileNames().name(TOKEN) == "42"


def test_files_are_named_by_a_field_or_else_by_number() -> None:
    names = FileNames("Serial")

    assert names.name(token(metadata={"Serial": "S-1"})) == "S-1"
    assert names.name(token(number=43)) == "43"
    assert names.name(token(number=44, metadata={"Serial": " . "})) == "44"


def test_no_name_is_there_twice() -> None:
    names = FileNames("Serial")
    values = ["a", "a (2)", "a", "A", "ａ", "é", "e\u0301", "6", "", "straße", "STRASSE", "x" * 200, "x" * 201]

    made = [names.name(token(number=number, metadata={"Serial": value})) for number, value in enumerate(values)]

    assert made[:4] == ["a", "a (2)", "a (2) (2)", "A (3)"]
    assert len({unicodedata.normalize("NFC", each).casefold() for each in made}) == len(values)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("S-0001", "S-0001"),
        ("AA:BB:CC:00:11:22", "AA_BB_CC_00_11_22"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..\\..\\x", "_.._x"),
        ("/etc/passwd", "_etc_passwd"),
        ("C:\\x", "C__x"),
        ("..", ""),
        (".", ""),
        (".hidden", "hidden"),
        ("end. . ", "end"),
        ("a\0b\nc", "a b c"),
        ("a\u202egnp.exe", "a gnp.exe"),
        ("CON", "_CON"),
        ("con.txt", "_con.txt"),
        ("COM1", "_COM1"),
        ("LPT¹", "_LPT¹"),
        ("console", "console"),
        ("-rf", "_-rf"),
        ('a<b>c|d?e*f"g', "a_b_c_d_e_f_g"),
        ("Zähler 7", "Zähler 7"),
        ("ü" * 100, "ü" * 60),
        ("", ""),
    ],
)
def test_names_are_safe(text: str, name: str) -> None:
    assert safe_name(text) == name


@given(st.text())
def test_any_text_makes_a_safe_name_or_none(text: str) -> None:
    name = safe_name(text)

    assert safe_name(name) == name
    assert len(name.encode()) <= 121
    assert not set(name) & set('/\\:*?"<>|\0')
    assert name.isprintable() or not name
    assert not name.startswith((".", "-", " "))
    assert not name.endswith((".", " "))


@given(st.lists(st.text(st.sampled_from("aA (1)2é\u0301./:"), max_size=8), max_size=40))
def test_any_values_make_unique_names(values: list[str]) -> None:
    names = FileNames("Serial")

    made = [names.name(token(number=number, metadata={"Serial": value})) for number, value in enumerate(values)]

    assert len({unicodedata.normalize("NFC", each).casefold() for each in made}) == len(values)
    assert all(made)
