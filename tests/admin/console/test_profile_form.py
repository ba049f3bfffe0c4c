"""Forms of profiles as the admin API takes them, and back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.admin.console import profile_form
from provserver.admin.console.page import Form
from provserver.admin.problem import Malformed
from provserver.core.model import ClonePolicy, NameSource, ProvisionStrategy, ReprovisionPolicy
from tests.pki import Authority

SETTINGS = [
    ("name", " meter "),
    ("strategy", "DISABLED"),
    ("reprovisionPolicy", "deny"),
    ("clonePolicy", "report"),
    ("lifetimeUnit", "86400"),
]


def field(name: str, type_: str = "text", unique: str = "no", options: str = "", default: str = "") -> Any:
    values = {"Name": name, "Type": type_, "Unique": unique, "Options": options, "Default": default}
    return [(f"field{column}", value) for column, value in values.items()]


def stream(name: str, pin: str, type_: str = "double", low: str = "", high: str = "") -> Any:
    values = {"Name": name, "Pin": pin, "Type": type_, "Minimum": low, "Maximum": high}
    return [(f"stream{column}", value) for column, value in values.items()]


def wrong(fault: pytest.ExceptionInfo[Malformed]) -> list[tuple[Any, Any]]:
    return [(each["in"], each["field"]) for each in fault.value.errors]


def test_whatever_there_is_to_choose_has_its_words() -> None:
    assert set(profile_form.STRATEGIES) == set(ProvisionStrategy)
    assert set(profile_form.POLICIES) == set(ReprovisionPolicy)
    assert set(profile_form.CLONES) == set(ClonePolicy)
    assert set(profile_form.NAMES_FROM) == set(NameSource)


def test_settings_are_what_the_form_has() -> None:
    sent = [*SETTINGS, ("lifetime", "90"), ("approval", "on"), ("accept", "on")]

    assert profile_form.settings(Form(sent)) == {
        "name": "meter",
        "strategy": "DISABLED",
        "reprovisionPolicy": "deny",
        "acceptUnprovenRepeats": True,
        "twoSidedClaim": False,
        "approval": True,
        "clonePolicy": "report",
        "credentialsLifetime": 90 * 86_400,
    }


def test_what_a_form_does_not_ask_for_is_left_out() -> None:
    assert profile_form.settings(Form([("name", "meter")])) == {
        "name": "meter",
        "acceptUnprovenRepeats": False,
        "twoSidedClaim": False,
        "approval": False,
        "credentialsLifetime": 0,
    }


@pytest.mark.parametrize(
    ("lifetime", "unit", "field_"), [("1", "x", "lifetimeUnit"), ("1", "7", "lifetimeUnit"), ("x", "60", "lifetime")]
)
def test_a_lifetime_is_a_number_of_units(lifetime: str, unit: str, field_: str) -> None:
    with pytest.raises(Malformed) as fault:
        profile_form.settings(Form([("lifetime", lifetime), ("lifetimeUnit", unit)]))
    assert wrong(fault) == [("body", field_)]


@given(st.integers(min_value=1, max_value=36_525 * 86_400))
def test_a_lifetime_that_is_shown_is_sent_again(seconds: int) -> None:
    number, unit = profile_form.lifetime_shown(seconds)
    sent = Form([("lifetime", number), ("lifetimeUnit", str(unit))])

    assert profile_form.settings(sent)["credentialsLifetime"] == seconds


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, ("", 86_400)), (90, ("90", 1)), (120, ("2", 60)), (7_200, ("2", 3_600)), (172_800, ("2", 86_400))],
)
def test_a_lifetime_is_shown_in_its_largest_unit(seconds: int, shown: tuple[str, int]) -> None:
    assert profile_form.lifetime_shown(seconds) == shown


def test_rows_of_fields() -> None:
    sent = [
        *field("Serial", unique="yes", options="left over"),
        *field(""),
        *field("Model", "list", options="A\n\n B, C \n", default="A"),
    ]

    found = profile_form.fields(Form(sent))

    assert found == [
        {"name": "Serial", "type": "text", "unique": True, "options": [], "default": ""},
        {"name": "Model", "type": "list", "unique": False, "options": ["A", "B, C"], "default": "A"},
    ]
    shown = profile_form.field_rows({"metadataFields": found})
    assert [each["options"] for each in shown] == ["", "A\nB, C"]
    again = [pair for each in shown for pair in field(each["name"], each["type"], "no", each["options"])]
    assert profile_form.fields(Form(again))[1]["options"] == ["A", "B, C"]


def test_rows_of_datastreams() -> None:
    sent = [*stream("Temperature", "v0", low="-40", high="85.5"), *stream("", ""), *stream("", "v1", "string")]

    assert profile_form.datastreams(Form(sent)) == [
        {"name": "Temperature", "pin": "V0", "type": "double", "minimum": -40.0, "maximum": 85.5},
        {"name": "", "pin": "V1", "type": "string", "minimum": None, "maximum": None},
    ]


@pytest.mark.parametrize("column", ["Minimum", "Maximum"])
def test_a_bound_is_a_number(column: str) -> None:
    low, high = ("low", "") if column == "Minimum" else ("", "1,5")
    with pytest.raises(Malformed) as fault:
        profile_form.datastreams(Form(stream("T", "V0", low=low, high=high)))
    assert wrong(fault) == [("body", f"stream{column}")]


@pytest.mark.parametrize("missing", range(5))
def test_rows_that_are_not_complete_are_refused(missing: int) -> None:
    row = field("Serial")
    del row[missing]
    with pytest.raises(Malformed, match="not complete"):
        profile_form.fields(Form([*field("Model"), *row]))


def test_how_a_name_is_found() -> None:
    assert profile_form.naming(Form([("nameFrom", "cn"), ("namePattern", " ")])) == {
        "nameFrom": "cn",
        "namePattern": "(.*)",
        "allowCreate": False,
    }
    sent = [("nameFrom", "san-dns"), ("namePattern", "x(.*)"), ("allowCreate", "on")]
    assert profile_form.naming(Form(sent)) == {"nameFrom": "san-dns", "namePattern": "x(.*)", "allowCreate": True}


def test_files_are_told_apart() -> None:
    first, second = (Authority.root(name).pem.strip() for name in ("One", "Two"))

    assert profile_form.files("") == profile_form.files(" \n\n ") == []
    assert profile_form.files(f"# comment\n{first}\n{second}") == [first, second, "# comment"]
    assert profile_form.files("MIIB\nAQI=\n\nMIIC") == ["MIIB\nAQI=", "MIIC"]
    assert profile_form.files(f"MIIB\n{first}\nMIIC") == [first, "MIIB", "MIIC"]
