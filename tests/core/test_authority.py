import contextlib
import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import authority
from provserver.core.authority import MAX_AUTHORITIES, AuthorityFacts, InvalidAuthority
from provserver.core.chain import Chain, read
from provserver.core.model import CertificateAuthority
from tests import pki
from tests.chains import CONSTRAINED, DEVICE, FACTORY, OTHER, ROOT, RSA_ROOT, SHORT_ROOT
from tests.pki import Authority, days

NOW = pki.now()
ED_ROOT = Authority.root(key="ed25519")


def pem_of(crl: bytes) -> bytes:
    return x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM)


def held(*authorities: Authority) -> tuple[CertificateAuthority, ...]:
    return tuple(CertificateAuthority(each.der) for each in authorities)


# CAs


@pytest.mark.parametrize("ca", [ROOT, FACTORY, RSA_ROOT, SHORT_ROOT, CONSTRAINED], ids=str)
def test_a_ca_is_read_from_pem_and_der(ca: Authority) -> None:
    around = f"Bag Attributes\n{ca.pem}{ca.key_pem}".encode()

    for file in (ca.pem.encode(), ca.der, around):
        assert authority.read_authorities([file], NOW) == held(ca)


def test_several_are_kept_in_their_order() -> None:
    assert authority.read_authorities([OTHER.der, ROOT.der, FACTORY.der], NOW) == held(OTHER, ROOT, FACTORY)
    many = [Authority.root(f"CA {n}").der for n in range(MAX_AUTHORITIES + 1)]
    assert len(authority.read_authorities(many[:-1], NOW)) == MAX_AUTHORITIES
    with pytest.raises(InvalidAuthority, match="16 CAs at most"):
        authority.read_authorities(many, NOW)


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (DEVICE.der, "basicConstraints"),
        (pki.self_signed("s", ca=False).der, "CN=s cannot be a profile's CA: it is no CA's: its basicConstraints"),
        (Authority.root("Old", not_before=days(-3), not_after=days(-1)).der, "CN=Old .*: it has expired"),
        (Authority.root(not_before=days(1)).der, "it is not valid yet"),
        (ED_ROOT.der, r"RSA, P-256, P-384 or P-521 \(Ed25519 can be a device's only\)"),
        (Authority.root(key="k256").der, "must be RSA, P-256"),
        (Authority.root(key="rsa1024").der, "RSA needs 2048 bits"),
        (Authority.root(key="p224").der, "weak"),
        (Authority.root(key_usage=pki.usages("crl_sign")).der, "keyCertSign"),
        (Authority.root(eku=[pki.SERVER_AUTH]).der, "clientAuth"),
        (Authority.root(excluded=[x509.DirectoryName(pki.name("x"))]).der, "name constraints that cannot be checked"),
        (b"", "no certificate, neither as PEM nor as DER"),
        (b"\0garbage", "no certificate"),
        (ROOT.key_pem.encode(), "no certificate"),
        (ROOT.pem.encode()[:200], "no certificate"),
        (ROOT.crl(), "no certificate"),
        (b"0" * 30_000, "larger than 24576 bytes"),
        ((FACTORY.pem + ROOT.pem).encode(), "has 2 certificates. Give the CA that is to be trusted alone"),
    ],
    ids=range(18),
)
def test_what_is_no_ca_is_refused_with_the_reason(file: bytes, why: str) -> None:
    with pytest.raises(InvalidAuthority, match=why):
        authority.read_authorities([OTHER.der, file], NOW)


def test_a_ca_is_there_once() -> None:
    with pytest.raises(InvalidAuthority, match="CN=Root is there twice"):
        authority.read_authorities([ROOT.der, OTHER.der, pki.renewed(ROOT).der], NOW)


def test_a_renewed_ca_is_recognised_and_a_namesake_is_not() -> None:
    (root, renewed, namesake) = held(ROOT, pki.renewed(ROOT), Authority.root())

    assert authority.identity(root) == authority.identity(renewed) != authority.identity(namesake)
    assert authority.subject_digest(root) == authority.subject_digest(renewed) == authority.subject_digest(namesake)


def test_a_ca_is_found_by_what_it_issued() -> None:
    chain = read(DEVICE.chain)
    assert isinstance(chain, Chain)

    assert chain.issuers == {authority.subject_digest(each) for each in held(FACTORY, ROOT)}


@given(st.binary(max_size=300), st.integers(0, len(ROOT.der) - 1), st.integers(0, 255))
def test_nothing_else_is_raised(garbage: bytes, position: int, byte: int) -> None:
    der = bytearray(ROOT.der)
    der[position] = byte
    for file in (garbage, bytes(der)):
        with contextlib.suppress(InvalidAuthority):
            assert authority.read_authorities([file], NOW)


# Revocation lists


def test_a_list_goes_to_the_ca_that_signed_it() -> None:
    by_root, by_other = ROOT.crl(FACTORY), OTHER.crl()
    trusted = held(FACTORY, ROOT, OTHER)

    expected = (None, by_root, by_other)
    for files in ([by_root, by_other], [pem_of(by_other) + pem_of(by_root)], [pem_of(by_other), by_root]):
        assert tuple(each.crl for each in authority.with_crls(trusted, files, NOW)) == expected
    assert authority.with_crls(trusted, [], NOW) == trusted


def test_a_newer_list_takes_the_place_of_an_older() -> None:
    old = ROOT.crl(this_update=days(-2), number=4)
    again = ROOT.crl(this_update=days(-1), number=5)
    (with_old,) = authority.with_crls(held(ROOT), [old], NOW)
    (with_new,) = authority.with_crls([with_old], [again], NOW)

    assert with_new.crl == again
    assert authority.with_crls([with_new], [again], NOW) == (with_new,)
    with pytest.raises(InvalidAuthority, match="of CN=Root is older than the one that the profile has"):
        authority.with_crls([with_new], [old], NOW)
    with pytest.raises(InvalidAuthority, match="older"):
        authority.with_crls([with_new], [ROOT.crl(this_update=days(-1), number=4)], NOW)


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def scope(**how: bool) -> x509.IssuingDistributionPoint:
    given_ = {
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(
        full_name=[x509.UniformResourceIdentifier("http://example.com/crl")],
        relative_name=None,
        only_some_reasons=None,
        **(given_ | how),
    )


@pytest.mark.parametrize(
    ("crl", "why"),
    [
        (b"", "no revocation list, neither as PEM nor as DER"),
        (b"garbage", "no revocation list"),
        (ROOT.der, "no revocation list"),
        (ROOT.pem.encode(), "no revocation list"),
        (pem_of(ROOT.crl())[:80], "no revocation list"),
        (Authority.root("Stranger").crl(), "not signed by a CA of the profile. Add the CA that signed it with --ca"),
        (Authority.root().crl(), "not signed by a CA of the profile"),  # the name alone is not enough
        (ROOT.crl(this_update=days(-9), next_update=days(-1)), "of CN=Root cannot be used: it is past its nextUpdate"),
        (ROOT.crl(this_update=days(1)), "not valid before"),
        (ROOT.crl(extensions=[(x509.DeltaCRLIndicator(1), True)]), "delta"),
        (ROOT.crl(extensions=[(scope(indirect_crl=True), True)]), "indirect"),
        (ROOT.crl(extensions=[(UNKNOWN, True)]), r"critical extension that is not understood \(1.2.3.4\)"),
        (ROOT.crl(DEVICE, entry_extensions=[(UNKNOWN, True)]), "critical extension that is not understood"),
    ],
    ids=range(13),
)
def test_a_list_that_cannot_be_used_is_refused_with_the_reason(crl: bytes, why: str) -> None:
    with pytest.raises(InvalidAuthority, match=why):
        authority.with_crls(held(OTHER, ROOT), [crl], NOW)


def test_a_ca_whose_key_usage_does_not_allow_it_signs_no_list() -> None:
    root = Authority.root(key_usage=pki.usages("key_cert_sign"))

    with pytest.raises(InvalidAuthority, match="cRLSign"):
        authority.with_crls(held(root), [root.crl()], NOW)


def test_a_list_may_say_where_it_comes_from_and_why() -> None:
    reason = x509.CRLReason(x509.ReasonFlags.key_compromise)
    crl = ROOT.crl(DEVICE, extensions=[(scope(only_contains_ca_certs=True), True)], entry_extensions=[(reason, False)])

    assert authority.with_crls(held(ROOT), [crl], NOW)[0].crl == crl


# What is shown


def test_a_ca_is_shown() -> None:
    (plain,) = held(ROOT)
    (revoking,) = authority.with_crls([plain], [ROOT.crl(DEVICE, FACTORY)], NOW)

    assert authority.facts(plain) == AuthorityFacts(
        "CN=Root", ROOT.certificate.fingerprint(pki.SHA256).hex(), ROOT.certificate.not_valid_after_utc
    )
    shown = authority.facts(revoking)
    assert (shown.subject, shown.revoked) == ("CN=Root", 2)
    assert shown.crl_this_update is not None
    assert shown.crl_next_update is not None
    assert shown.crl_this_update < NOW < shown.crl_next_update


def test_the_operator_is_warned_in_time() -> None:
    shown = authority.facts(authority.with_crls(held(ROOT), [ROOT.crl()], NOW)[0])

    def warned(at: dt.datetime) -> str:
        return " ".join(shown.warnings(at))

    assert warned(NOW) == ""
    assert "past its nextUpdate" in warned(days(8))
    assert "expires on" in warned(days(340))
    assert "has expired" in warned(days(366))
    assert "expires on" not in warned(days(366))
