import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core.accounts import checked_email, checked_name
from provserver.errors import Invalid


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("ann@example.com", "ann@example.com"),
        ("  Ann.O'Neil+tag@Mail.EXAMPLE.com ", "ann.o'neil+tag@mail.example.com"),
        ("admin@localhost", "admin@localhost"),
        ("u\u0308ber@ma\u0308il.de", "über@mäil.de"),
        ("ÜBER@MÄIL.DE", "über@mäil.de"),
        (f"{'a' * 64}@b.c", f"{'a' * 64}@b.c"),
    ],
)
def test_an_address_is_kept_in_one_form(given_: str, kept: str) -> None:
    assert checked_email(given_) == kept
    assert checked_email(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ann",
        "@example.com",
        "ann@",
        "a b@example.com",
        "a@b@example.com",
        "ann@example..com",
        "ann@.example.com",
        "ann@example.com.",
        "ann@-example.com",
        "ann@exa mple.com",
        "ann@example.com\nBcc: eve@example.com",
        "ann\0@example.com",
        "ann@example.com,eve@example.com",
        '"ann"@example.com',
        "<ann@example.com>",
        f"{'a' * 65}@example.com",
        f"ann@{'a.' * 130}com",
        "\ud800@example.com",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="not an e-mail address"):
        checked_email(text)


@given(st.text())
def test_whatever_is_taken_stays_what_it_is(text: str) -> None:
    try:
        email = checked_email(text + "@example.com")
    except Invalid:
        return
    assert checked_email(email) == email
    assert email.isprintable()
    assert not any(character.isspace() for character in email)


def test_a_long_line_of_almost_an_address_is_refused_at_once() -> None:
    with pytest.raises(Invalid):
        checked_email("a@" + "a-" * 500_000)


def test_names_are_trimmed_and_normalised() -> None:
    assert checked_name("  Cafe\u0301 ", "An organization") == "Café"


@pytest.mark.parametrize(("name", "fix"), [(" ", "A key needs"), ("a" * 256, "255"), ("a\nb", "line"), ("\0", "shown")])
def test_names_that_cannot_be_kept_are_refused(name: str, fix: str) -> None:
    with pytest.raises(Invalid, match=fix):
        checked_name(name, "A key")
