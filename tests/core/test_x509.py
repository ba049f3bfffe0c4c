import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.core import x509
from tests.chains import DEVICE

HEADER, FOOTER = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("", ""),
        ("MIIB", "MIIB"),
        (f"{HEADER}\nMIIB\nCgKC\n{FOOTER}\n", "MIIBCgKC"),
        (f"{HEADER}\r\nMIIB\r\nCgKC\r\n{FOOTER}\r\n", "MIIBCgKC"),
        (f"{HEADER}\rMIIB\r{FOOTER}", "MIIB"),
        (f"{HEADER}MIIB{FOOTER}", "MIIB"),
        (f"{HEADER}\nMIIB\n{FOOTER}\n{HEADER}\nMIIC\n{FOOTER}\n", "MIIBMIIC"),
        (f"{HEADER}\n{FOOTER}\n", ""),
        (" MI IB\t=", " MI IB\t="),
        ("MI\v\f\0\x85\u2028IB", "MI\v\f\0\x85\u2028IB"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIB", "-----BEGIN RSA PRIVATE KEY-----MIIB"),
        ("-----begin certificate-----\nMIIB", "-----begin certificate-----MIIB"),
        ("----BEGIN CERTIFICATE----MIIB", "----BEGIN CERTIFICATE----MIIB"),
        ("testHash", "testHash"),
    ],
)
def test_normalise_strips_header_footer_and_line_breaks_and_nothing_else(text: str, normalised: str) -> None:
    assert x509.normalise(text) == normalised


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\r\n-", exclude_categories=["Cs"])))
def test_text_without_them_stays_as_it_is(text: str) -> None:
    assert x509.normalise(text) == text


@settings(deadline=None)
@given(st.lists(st.text("ABab01+/= \t", max_size=64), max_size=5), st.sampled_from(["\n", "\r\n", "\r", ""]))
def test_how_a_body_was_wrapped_does_not_matter(lines: list[str], newline: str) -> None:
    pem = newline.join((HEADER, *lines, FOOTER, ""))
    assert x509.normalise(pem) == "".join(lines)
    assert x509.fingerprint(pem) == x509.fingerprint("".join(lines))


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("test_clientId|test_username", "b9f1b0bf238dddae689babba0a210fe42bc97ddb07620b5a07d7208dd5528db2"),
        ("testHash", "57f6600424d6553263f1f32e0117012894a36fbf07e3e9c3c556272f86b7d985"),
        ("", "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"),
        (f"{HEADER}\n{FOOTER}", "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"),
        (f"{HEADER}\r\ntest\r\nHash\r\n{FOOTER}", "57f6600424d6553263f1f32e0117012894a36fbf07e3e9c3c556272f86b7d985"),
    ],
)
def test_fingerprint_vectors(text: str, digest: str) -> None:
    assert x509.fingerprint(text) == digest


def test_the_fingerprint_is_of_the_utf_8_text() -> None:
    assert x509.fingerprint("é ") == hashlib.sha3_256("é ".encode()).hexdigest()


def test_what_tls_presents_and_a_canonical_pem_are_the_same_text() -> None:
    assert x509.text_of(DEVICE.der) == x509.normalise(DEVICE.pem)
    assert x509.fingerprint(x509.text_of(DEVICE.der)) == x509.fingerprint(DEVICE.pem)


def test_a_certificate_says_when_it_was_issued() -> None:
    assert (
        x509.issued_at(DEVICE.pem)
        == x509.issued_at(x509.text_of(DEVICE.der))
        == DEVICE.certificate.not_valid_before_utc
    )


@settings(deadline=None)
@given(st.text() | st.binary(max_size=200).map(x509.text_of))
def test_what_is_no_certificate_was_never_issued(text: str) -> None:
    assert x509.issued_at(text) is None
