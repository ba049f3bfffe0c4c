import base64
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import credentials as building
from provserver.core import signing
from provserver.core import x509 as certificates
from provserver.core.chain import Trust, read
from provserver.core.decision import Reason, Refusal
from provserver.core.model import CertificateAuthority, Credentials, SigningRequest
from provserver.core.pki import make_authority
from provserver.core.signing import InvalidIssuer, Issuer, import_issuer, issue, load_issuer, read_request
from tests.pki import Authority, days, new_key, usages
from tests.requests import body, csr, p256, text

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def random(length: int) -> bytes:
    return b"\x7f" * length


@cache
def issuer(lifetime: timedelta = timedelta(days=3650)) -> Issuer:
    key = p256()
    return Issuer(make_authority("Devices", key, 7, NOW, lifetime).certificate, key)


def reason(verdict: object) -> Reason | None:
    return verdict.reason if isinstance(verdict, Refusal) else None


def issued(name: str = "sensor-1", lifetime: timedelta | None = None, of: Issuer | None = None) -> x509.Certificate:
    wanted = read_request(text(csr()))
    assert isinstance(wanted, SigningRequest)
    given_ = issue(of or issuer(), wanted, name, lifetime, NOW, random)
    assert isinstance(given_, Credentials)
    return x509.load_pem_x509_certificate(str(given_.value).encode())


# --- requests


@pytest.mark.parametrize("form", [text, body, lambda r: text(r).replace("BEGIN CERT", "BEGIN NEW CERT")])
def test_a_request_is_read_in_pem_and_base64(form: object) -> None:
    key = p256()
    read_ = read_request(form(csr(key)))  # type: ignore[operator]
    assert isinstance(read_, SigningRequest)
    assert read_.common_name == "sensor-1"
    assert signing._spki(key.public_key()) == read_.public_key


@pytest.mark.parametrize("kind", ["p224", "p384", "p521", "k256", "bp256", "rsa1024", "rsa2048", "ed25519"])
def test_the_key_must_be_p256(kind: str) -> None:
    assert reason(read_request(text(csr(kind)))) is Reason.CSR_KEY


def test_the_signature_must_be_by_the_key() -> None:
    ours, theirs = csr(p256()), csr(p256())
    der = ours.public_bytes(Encoding.DER)
    forged = der.replace(ours.signature, theirs.signature)
    if len(ours.signature) != len(theirs.signature):
        forged = der[:-1] + bytes([der[-1] ^ 1])
    assert reason(read_request(base64.b64encode(forged).decode())) is Reason.CSR_SIGNATURE


def test_somebody_elses_key_cannot_be_asked_for() -> None:
    mine, victim = p256(), p256()
    der = csr(mine).public_bytes(Encoding.DER)
    swapped = der.replace(signing._spki(mine.public_key()), signing._spki(victim.public_key()))
    assert swapped != der
    assert reason(read_request(base64.b64encode(swapped).decode())) is Reason.CSR_SIGNATURE


ODD = {
    "CA:TRUE": (x509.BasicConstraints(ca=True, path_length=None), True),
    "CA:TRUE, not critical": (x509.BasicConstraints(ca=True, path_length=3), False),
    "keyCertSign": (usages("key_cert_sign"), True),
    "cRLSign": (usages("digital_signature", "crl_sign"), True),
    "serverAuth": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
    "both": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), False),
    "any usage": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False),
    "DNS name": (x509.SubjectAlternativeName([x509.DNSName("admin.example.com")]), False),
    "e-mail": (x509.SubjectAlternativeName([x509.RFC822Name("root@example.com")]), False),
    "no constraints": (x509.NameConstraints([x509.DNSName("")], None), True),
    "issuer's": (x509.IssuerAlternativeName([x509.DNSName("ca.example.com")]), False),
    "OCSP": (x509.OCSPNoCheck(), False),
    "unknown": (x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),
}


@pytest.mark.parametrize("extension", ODD.values(), ids=ODD)
def test_odd_extensions_are_refused(extension: tuple[x509.ExtensionType, bool]) -> None:
    assert reason(read_request(text(csr(extensions=[extension])))) is Reason.CSR_EXTENSION


def test_what_the_certificate_says_anyhow_may_be_asked_for() -> None:
    key = p256()
    harmless = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usages("digital_signature"), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]
    assert isinstance(read_request(text(csr(key, extensions=harmless))), SigningRequest)


def test_a_huge_request_is_not_even_decoded() -> None:
    huge = x509.SubjectAlternativeName([x509.DNSName(f"{n}.example.com") for n in range(1000)])
    assert reason(read_request(text(csr(extensions=[(huge, False)])))) is Reason.CSR_TOO_LARGE
    assert reason(read_request("A" * 10_000_000)) is Reason.CSR_TOO_LARGE


@pytest.mark.parametrize("nonsense", ["", "hello", "AAAA", "-----BEGIN CERTIFICATE REQUEST-----", "MIIB\0", "é"])
def test_nonsense_is_refused(nonsense: str) -> None:
    assert reason(read_request(nonsense)) is Reason.CSR_MALFORMED


def test_what_follows_a_request_is_refused() -> None:
    der = csr().public_bytes(Encoding.DER) + b"\x00"
    assert reason(read_request(base64.b64encode(der).decode())) is Reason.CSR_MALFORMED


_GOOD = csr().public_bytes(Encoding.DER)


@given(at=st.integers(0, len(_GOOD) - 1), flip=st.integers(1, 255))
def test_one_wrong_byte_never_yields_another_certificate(at: int, flip: int) -> None:
    broken = bytearray(_GOOD)
    broken[at] ^= flip
    verdict = read_request(base64.b64encode(bytes(broken)).decode())
    assert isinstance(verdict, Refusal)


@given(st.binary(max_size=2000))
def test_any_bytes_are_judged_without_a_fault(content: bytes) -> None:
    assert isinstance(read_request(base64.b64encode(content).decode()), Refusal)


@given(st.text(max_size=200))
def test_any_text_is_judged_without_a_fault(content: str) -> None:
    assert isinstance(read_request(content), Refusal)
    signing.common_name(content)


# --- what is issued


def test_a_certificate_is_a_devices_and_nothing_else() -> None:
    certificate = issued()
    extensions = certificate.extensions
    assert certificate.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sensor-1")])
    assert certificate.issuer == issuer().certificate.subject
    assert extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(False, None)
    assert extensions.get_extension_for_class(x509.BasicConstraints).critical
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    above = issuer().certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    named = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert named.key_identifier == above.digest
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert len(extensions) == 5
    assert certificate.serial_number.bit_length() == 158
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)


def test_its_dates_are_the_profiles_and_within_its_issuers() -> None:
    assert issued().not_valid_after_utc == NOW + timedelta(days=365)
    assert issued(lifetime=timedelta(days=30)).not_valid_after_utc == NOW + timedelta(days=30)
    short = issuer(timedelta(days=10))
    assert issued(of=short).not_valid_after_utc == short.certificate.not_valid_after_utc
    assert issued().not_valid_before_utc <= NOW


def test_the_credentials_are_found_by_what_the_device_presents() -> None:
    wanted = read_request(text(csr()))
    assert isinstance(wanted, SigningRequest)
    given_ = issue(issuer(), wanted, "sensor-1", None, NOW, random)
    assert isinstance(given_, Credentials)
    leaf, above = x509.load_pem_x509_certificates(str(given_.value).encode())
    assert above == issuer().certificate
    presented = certificates.text_of(leaf.public_bytes(Encoding.DER))
    assert given_.id == building.certificate(presented).id
    assert certificates.public_key(str(given_.value)) == wanted.public_key
    assert certificates.expires_at(str(given_.value)) == leaf.not_valid_after_utc
    assert certificates.common_name(str(given_.value)) == "sensor-1"


def test_a_chain_verifier_accepts_it() -> None:
    authority = CertificateAuthority(issuer().certificate.public_bytes(Encoding.DER))
    chain = read([issued().public_bytes(Encoding.DER)])
    assert not isinstance(chain, Refusal)
    assert not isinstance(Trust([authority]).verify(chain, NOW), Refusal)


def test_a_name_that_no_certificate_can_have_is_refused() -> None:
    wanted = read_request(text(csr()))
    assert isinstance(wanted, SigningRequest)
    assert isinstance(issue(issuer(), wanted, "ü" * 64, None, NOW, random), Credentials)
    assert reason(issue(issuer(), wanted, "x" * 65, None, NOW, random)) is Reason.NAME_TOO_LONG


def test_an_expired_ca_issues_nothing() -> None:
    wanted = read_request(text(csr()))
    assert isinstance(wanted, SigningRequest)
    later = NOW + timedelta(days=4000)
    assert reason(issue(issuer(), wanted, "sensor-1", None, later, random)) is Reason.ISSUER_EXPIRED


# --- CAs


def test_a_ca_is_imported_with_those_above_it() -> None:
    root = Authority.root("Root")
    factory = root.intermediate("Factory", path_length=0)
    made = import_issuer((factory.pem + root.pem).encode(), factory.key_pem.encode(), days(0))
    assert made.chain == (factory.der,)  # the root is what is trusted, not what is presented
    again = load_issuer(made.chain, signing.private_bytes(made))
    assert again.certificate == factory.certificate
    assert again.chain == made.chain


ROOT = Authority.root("Root")
WRONG = {
    "no certificate": (b"nonsense", ROOT.key_pem.encode()),
    "no key": (ROOT.pem.encode(), b"nonsense"),
    "another's key": (ROOT.pem.encode(), Authority.root("Other").key_pem.encode()),
    "a device's": ((leaf := ROOT.leaf()).pem.encode(), leaf.key_pem.encode()),
    "P-384": ((large := Authority.root("Large", key="p384")).pem.encode(), large.key_pem.encode()),
    "expired": ((old := Authority.root("Old", not_after=days(-1))).pem.encode(), old.key_pem.encode()),
    "not its issuer": ((ROOT.pem + Authority.root("Other").pem).encode(), ROOT.key_pem.encode()),
    "too many": (ROOT.pem.encode() * 5, ROOT.key_pem.encode()),
}


@pytest.mark.parametrize("files", WRONG.values(), ids=WRONG)
def test_what_is_no_ca_is_refused(files: tuple[bytes, bytes]) -> None:
    with pytest.raises(InvalidIssuer):
        import_issuer(*files, days(0))


def test_a_key_of_another_kind_is_not_loaded() -> None:
    with pytest.raises(InvalidIssuer):
        import_issuer(ROOT.pem.encode(), _pem(new_key("ed25519")), days(0))


def _pem(key: object) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined,no-any-return]
